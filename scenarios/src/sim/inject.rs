//! Brings the plan's faults about, ends them, and heals everything when the safety phase is over.

use super::fault::{Fault, FaultEvent, Lines, Point, Target, Ways, When};
use super::machine::Role;
use super::plan::{Plan, Salted};
use super::queue::{Event, Mend};
use super::weather::PAGE_SIZE;
use super::world::World;
use ft_protocol::ids::VmId;
use shared_mem::control::CONTROL_BYTES;
use shared_mem::lossy::LossyMemory;
use shared_mem::mem::{AccessError, PoolRead, PoolWrite};
use shared_mem::numbers::{Epoch, Offset};
use std::sync::atomic::Ordering;

/// Where in a journal its commit word lies.
pub(crate) const WORD_AT: Offset = Offset::new(64);

/// Which faults wait for which step.
#[derive(Debug)]
pub(crate) struct Injector {
    /// Faults that wait for a step, with how often it must still be done.
    waiting: Vec<(Point, u32, usize)>,
    /// Faults that came due in the present event.
    due: Vec<usize>,
    /// Faults that had an effect.
    pub(crate) injected: u32,
}

impl Injector {
    pub(crate) fn new(plan: &Plan) -> Self {
        let waiting = plan.faults.iter().enumerate().filter_map(|(index, event)| match event.when {
            When::After { step, nth } => Some((step, nth, index)),
            When::At { .. } => None,
        });
        Self { waiting: waiting.collect(), due: Vec::new(), injected: 0 }
    }

    pub(crate) fn reached(&mut self, point: Point) {
        for (waits_for, left, index) in &mut self.waiting {
            if *waits_for == point && *left > 0 {
                *left -= 1;
                if *left == 0 {
                    self.due.push(*index);
                }
            }
        }
    }
}

impl World {
    pub(crate) fn schedule_faults(&mut self) {
        for index in 0..self.plan.faults.len() {
            if let FaultEvent { when: When::At { us }, .. } = self.plan.faults[index] {
                self.schedule(us * 1_000, Event::Fault(index));
            }
        }
    }

    /// Faults that wait for what was just done, and processes that died of what they just did.
    pub(crate) fn after_event(&mut self) {
        while let Some(index) = self.injector.due.pop() {
            self.inject(index);
        }
        self.bury(Target::Controller);
        for host in 0..self.hosts.len() {
            self.bury(host_target(host));
        }
        self.check();
    }

    pub(crate) fn inject(&mut self, index: usize) {
        if self.healed {
            return;
        }
        let fault = self.plan.faults[index].fault;
        self.injector.injected += 1;
        self.tell(|| format!("fault {index}: {fault:?}"));
        self.apply_fault(fault);
    }

    pub(crate) fn apply_fault(&mut self, fault: Fault) {
        match fault {
            Fault::Kill { who, lines, restart_us } => {
                if let Some(target) = self.resolve(who) {
                    self.kill(target, lines, Some(restart_us));
                }
            }
            Fault::DieInPool { who, accesses, lines, restart_us } => {
                if let Some(target) = self.resolve(who) {
                    let actor = self.actor_mut(target);
                    if actor.alive && !actor.cache.is_dead() {
                        actor.disturbed = true;
                        actor.cache.die_after(accesses);
                        actor.doom = Some(super::actor::Doom { lines, restart_us });
                    }
                }
            }
            Fault::HangVcpu { vm, for_us } => self.hang_vcpu(VmId::new(vm), for_us),
            Fault::Upgrade { host } => {
                if let Some(process) = self.hosts.get_mut(usize::from(host)) {
                    process.upgraded = true;
                    self.kill(Target::Host(host), Lines::Kept, None);
                }
            }
            Fault::Delete { vm, again } => self.request_delete(VmId::new(vm), again),
            Fault::Stop { who, for_us } => self.slow_down(who, for_us, Mend::Continue, |actor| actor.stopped = true),
            Fault::Continue { who } => {
                if let Some(target) = self.resolve(who) {
                    self.mend(Mend::Continue(target));
                }
            }
            Fault::Slow { who, factor, for_us } => {
                self.slow_down(who, for_us, Mend::Hurry, |actor| actor.slowness = factor.max(1));
            }
            Fault::JumpClock { who, by_us } => {
                if let Some(target) = self.resolve(who) {
                    self.actor_mut(target).disturbed = true;
                    self.actor_mut(target).skew_ns += by_us * 1_000;
                }
            }
            Fault::CutPool { who, accesses, for_us } => self.cut_pool(who, accesses, for_us),
            Fault::StallLink { who, ways, for_us } => self.stall_link(who, ways, for_us),
            Fault::CloseLink { who } => {
                if let Some(Target::Host(host)) = self.resolve(who)
                    && let Some(link) = self.hosts[usize::from(host)].link
                {
                    self.close_link(link, true);
                    self.delay_joining(usize::from(host));
                }
            }
            Fault::StallClient { for_us } => {
                if let Some(link) = self.client.link {
                    self.stall(link, Ways::Both, for_us);
                }
            }
            Fault::CloseClient => {
                if let Some(link) = self.client.link {
                    self.close_link(link, true);
                }
            }
            Fault::PauseClient { for_us } => self.client.paused_until_ns = self.now_ns + for_us * 1_000,
            Fault::Corrupt { vm, salt } => self.corrupt(VmId::new(vm), salt),
            Fault::FlipControl { vm, salt } => self.flip_control(VmId::new(vm), salt),
            Fault::Switchover { vm, to } => _ = self.request_switchover(VmId::new(vm), to),
            Fault::Drain { host } => _ = self.request_drain(host),
            Fault::SetMode { vm, mode } => _ = self.request_mode(VmId::new(vm), mode),
            Fault::FillPool { for_us } => {
                self.pool.full = true;
                self.schedule(for_us * 1_000, Event::Mend(Mend::Drain));
            }
        }
    }

    fn slow_down(
        &mut self,
        who: Target,
        for_us: u64,
        mend: fn(Target) -> Mend,
        change: impl FnOnce(&mut super::actor::Actor),
    ) {
        if let Some(target) = self.resolve(who)
            && self.actor_mut(target).alive
        {
            change(self.actor_mut(target));
            self.actor_mut(target).disturbed = true;
            self.schedule(for_us * 1_000, Event::Mend(mend(target)));
        }
    }

    /// Hangs the thread of a VM's primary, wherever that is.
    fn hang_vcpu(&mut self, vm: VmId, for_us: Option<u64>) {
        let Some(Target::Host(index)) = self.resolve(Target::Primary(vm.get())) else { return };
        let host = usize::from(index);
        let process = &mut self.hosts[host];
        let found = process.machines.iter_mut().find(|machine| machine.vm == vm);
        let Some(machine) = found.filter(|_| process.actor.alive) else { return };
        process.actor.disturbed = true;
        if let Role::Primary(primary) = &mut machine.role {
            primary.hung = true;
            let mend = Mend::Unhang { host, machine: machine.number };
            if let Some(us) = for_us {
                self.schedule(us * 1_000, Event::Mend(mend));
            }
        }
    }

    fn cut_pool(&mut self, who: Target, accesses: u64, for_us: u64) {
        if let Some(Target::Host(host)) = self.resolve(who) {
            let host = usize::from(host);
            let actor = &mut self.hosts[host].actor;
            if actor.alive && actor.doom.is_none() {
                actor.disturbed = true;
                actor.cache.die_after(accesses);
                self.schedule(for_us * 1_000, Event::Mend(Mend::Reconnect(host)));
            }
        }
    }

    fn stall_link(&mut self, who: Target, ways: Ways, for_us: u64) {
        if let Some(Target::Host(host)) = self.resolve(who)
            && let Some(link) = self.hosts[usize::from(host)].link
        {
            self.stall(link, ways, for_us);
            self.hosts[usize::from(host)].actor.held_up |= ways != Ways::FromController;
            self.delay_joining(usize::from(host));
        }
    }

    /// A host that was not welcomed yet cannot beat.
    fn delay_joining(&mut self, host: usize) {
        let process = &mut self.hosts[host];
        process.actor.disturbed |= !process.beats();
    }

    fn stall(&mut self, link: usize, ways: Ways, for_us: u64) {
        let until_ns = self.now_ns + for_us * 1_000;
        let link = &mut self.links[link];
        if ways != Ways::FromController {
            link.to_controller.stalled_until_ns = until_ns.max(link.to_controller.stalled_until_ns);
        }
        if ways != Ways::ToController {
            link.from_controller.stalled_until_ns = until_ns.max(link.from_controller.stalled_until_ns);
        }
    }

    /// Flips a bit of the open journal: in its header or its commit word, or in a record that is committed and waits for
    /// its application.
    fn corrupt(&mut self, vm: VmId, salt: u64) {
        let Some(partition) = self.pool.partition(vm) else { return };
        let Some(journal) = partition.journals.iter().rfind(|journal| !journal.reserved) else { return };
        let Some((committed, applied)) = self.checker.unapplied(vm, journal.generation) else { return };
        let memory = journal.memory.through(&self.checker.auditor);
        let at = match Salted::of(salt) {
            Salted::Header => Offset::new((salt >> 8) % 8 * 8),
            Salted::Word => WORD_AT,
            Salted::Record if committed <= applied => return,
            Salted::Record => {
                let epoch = applied + 1 + (salt >> 4) % (committed - applied);
                let slot = partition.geometry.slot_at(Epoch::new(epoch));
                let Ok(within) = byte_of_record(&memory, (slot, partition.geometry.slot_bytes), salt >> 8) else {
                    return;
                };
                self.checker.corrupted(vm, ft_protocol::Epoch::new(epoch));
                slot.plus(within / 8 * 8)
            }
        };
        let Ok(word) = memory.load_u64(at, Ordering::Relaxed) else { return };
        if at == WORD_AT && shared_mem::CommitWord::decode(word).is_err() {
            // The second flip may undo the first: whole records that a seal has counted meanwhile are then lost again.
            self.checker.corrupted(vm, ft_protocol::Epoch::new(committed));
        }
        flip(&memory, at, salt >> 32);
    }

    /// Flips a bit of the control block, in what means something. One at a time: two might hit both copies of a word. While a
    /// controller that died between two stores has left the copy behind its word, none: what it had begun would be undone.
    fn flip_control(&mut self, vm: VmId, salt: u64) {
        let Some(partition) = self.pool.partition(vm) else { return };
        let memory = partition.control.through(&self.checker.auditor);
        let (mut block, half) = ([0; 512], CONTROL_BYTES / 2);
        let (first, second) = block.split_at_mut(256);
        if memory.read(Offset::ZERO, first).and_then(|()| memory.read(Offset::new(half), second)).is_err()
            || first != second
        {
            return;
        }
        let line = salt % 4 * 64;
        let within = if line == 0 { (salt >> 3) % 8 * 8 } else { 0 };
        let copy = (salt >> 2) % 2 * half;
        flip(&memory, Offset::new(copy + line + within), salt >> 32);
    }

    /// Whom a fault hits now.
    pub(crate) fn resolve(&self, who: Target) -> Option<Target> {
        let holds = |vm: u16, primary: bool| {
            let vm = VmId::new(vm);
            self.hosts.iter().position(|host| {
                host.machines
                    .iter()
                    .any(|machine| machine.vm == vm && matches!(machine.role, Role::Primary(_)) == primary)
            })
        };
        match who {
            Target::Controller => Some(Target::Controller),
            Target::Host(host) => (usize::from(host) < self.hosts.len()).then_some(who),
            Target::Primary(vm) => holds(vm, true).map(host_target),
            Target::Secondary(vm) => holds(vm, false).map(host_target),
        }
    }
}

/// Flips a bit, durably.
fn flip(memory: &LossyMemory, at: Offset, bit: u64) {
    let flipped = memory.load_u64(at, Ordering::Relaxed).map(|word| word ^ 1 << (bit % 64));
    let stored = flipped.and_then(|word| memory.store_u64(at, word, Ordering::Relaxed));
    let durable = stored.and_then(|()| memory.flush(at, 8)).and_then(|()| memory.fence());
    assert!(durable.is_ok(), "the auditor is never cut off");
}

/// Where in its slot a byte of a record lies: in the header, or anywhere behind it.
/// An earlier flip may have hit the length that the record says: what lies beyond its slot is another record.
fn byte_of_record(memory: &LossyMemory, (slot, slot_bytes): (Offset, u64), salt: u64) -> Result<u64, AccessError> {
    let total_bytes = memory.load_u64(slot.plus(48), Ordering::Relaxed)?.min(slot_bytes);
    let body_bytes = total_bytes.saturating_sub(PAGE_SIZE);
    Ok(if salt.is_multiple_of(4) || body_bytes == 0 { (salt >> 2) % 64 } else { PAGE_SIZE + (salt >> 2) % body_bytes })
}

pub(crate) fn host_target(host: usize) -> Target {
    Target::Host(u16::try_from(host).unwrap_or(0))
}
