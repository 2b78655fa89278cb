//! The checkers: they know the one true history and look at the pool with their own eyes.
//!
//! They learn from the drivers only what was attempted (which record was written for which epoch) and what was claimed
//! (this epoch is published, this generation sealed); what is true they read from the pool's memories and the oracle.

use super::drive::At;
use super::follow::FollowerMachine;
use super::guest::{Packet, Program, Registers, Tick};
use super::rebuild::{Scratch, rebuild};
use super::truth::{Oracle, Truth};
use super::violation::Violation;
use super::weather::PAGE_SIZE;
use super::world::World;
use ft_protocol::ids::{Epoch, Generation, HostId, VmId};
use ft_protocol::wire::{Access, FollowStep, Grant, Part, ToHost};
use shared_mem::lossy::LossyCache;
use std::rc::Rc;

/// Reigns in a row without a guest: faults of a plan alone do not come to as many. Steps of a scenario may, which are done on purpose: between two
/// of them it holds.
const VAIN_MAX: u32 = 40;

/// A record as it was written: the guest at its end, and all that it was given up to there; nothing any more once that is the true history, and
/// a later epoch is committed.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) registers: Registers,
    pub(crate) history: Rc<[Tick]>,
}

/// An entry of which only the log itself can say whether it is in.
#[derive(Debug)]
struct Attempt {
    generation: Generation,
    tail: u64,
    history: Vec<Tick>,
}

/// What is known of one VM.
#[derive(Debug)]
pub(crate) struct VmFacts {
    /// Per epoch: the registers at the end of every record that was written for it.
    written: Vec<Vec<(Generation, Written)>>,
    /// Registers at the end of each committed epoch.
    pub(crate) committed: Vec<Registers>,
    sealed: Vec<Generation>,
    attempt: Option<Attempt>,
    /// From here on the history may be another one: a fault has destroyed what had it.
    fork_from: Option<u64>,
    /// Who may write which journal.
    reigns: Vec<(Generation, usize)>,
    /// Reigns in a row in which the guest never ran.
    vain: u32,
    pub(crate) applied: u64,
    pub(crate) shown: u64,
    /// Committed records that a fault has damaged: their epochs may be lost.
    pub(crate) damaged: Vec<Epoch>,
    /// Who has published epochs that a fault has destroyed since: their output may still leave, and nobody can rebuild it.
    bereft: Vec<Generation>,
    /// The guest at the applied epoch.
    pub(crate) oracle: Oracle,
    /// The guest where it could be rebuilt last.
    ahead: Oracle,
    /// How often control block and console had changed when they were looked at last.
    pub(crate) control_changes: Option<u64>,
    pub(crate) console_changes: Option<u64>,
    /// The commit words of its open journals, as they were seen last.
    pub(crate) words: Vec<(Generation, Option<u64>)>,
    /// Generations up to this one are of lives that were deleted.
    buried: Generation,
    /// Those lives: their last generation, and what ran in them.
    lives: Vec<(Generation, Program)>,
    /// The last generation whose primary said that it has yielded.
    pub(crate) yielded: Generation,
    /// When it was moved back to its old place last.
    pub(crate) failed_back_ns: Option<u64>,
}

/// All facts.
#[derive(Debug)]
pub(crate) struct Checker {
    pub(crate) vms: Vec<VmFacts>,
    /// Through whose eyes the pool is looked at.
    pub(crate) auditor: LossyCache,
    /// How many accesses there were when the pool was looked at last.
    pub(crate) accesses: u64,
    scratch: Scratch,
}

impl Checker {
    pub(crate) fn new(truths: &[Truth]) -> Self {
        let facts = |truth: &Truth| VmFacts {
            written: Vec::new(),
            committed: vec![Registers::default()],
            sealed: Vec::new(),
            attempt: None,
            fork_from: None,
            reigns: Vec::new(),
            vain: 0,
            applied: 0,
            shown: 0,
            damaged: Vec::new(),
            bereft: Vec::new(),
            oracle: Oracle::new(truth.program),
            ahead: Oracle::new(truth.program),
            control_changes: None,
            console_changes: None,
            words: Vec::new(),
            buried: Generation::new(0),
            lives: Vec::new(),
            yielded: Generation::new(0),
            failed_back_ns: None,
        };
        let vms = truths.iter().map(facts).collect();
        Self { vms, auditor: LossyCache::new(), accesses: 0, scratch: Scratch::default() }
    }

    pub(crate) fn facts(&mut self, vm: VmId) -> &mut VmFacts {
        &mut self.vms[usize::from(vm.get())]
    }

    /// A record was written into its slot.
    pub(crate) fn written(&mut self, vm: VmId, generation: Generation, epoch: Epoch, record: Written) {
        let written = &mut self.facts(vm).written;
        let index = index(epoch.get());
        if written.len() <= index {
            written.resize_with(index + 1, Vec::new);
        }
        written[index].retain(|(by, _)| *by != generation);
        written[index].push((generation, record));
    }

    /// An entry may be in the log of this generation, behind `tail`.
    pub(crate) fn attempted(&mut self, vm: VmId, generation: Generation, tail: u64, history: Vec<Tick>) {
        self.facts(vm).attempt = Some(Attempt { generation, tail, history });
    }

    /// Committed and applied epoch, if records of this generation can be waiting for their application.
    pub(crate) fn unapplied(&self, vm: VmId, generation: Generation) -> Option<(u64, u64)> {
        let facts = self.vms.get(usize::from(vm.get()))?;
        let committed = facts.last_committed();
        let current = facts.written.get(index(committed.get()))?.iter().any(|(by, _)| *by == generation);
        current.then_some((committed.get(), facts.applied))
    }

    /// A step of a scenario has struck: what comes to nothing by that was meant to.
    pub(crate) fn step_fired(&mut self) {
        self.vms.iter_mut().for_each(|facts| facts.vain = 0);
    }

    /// A part of the pool goes; what comes under its number later is another VM.
    pub(crate) fn bury(&mut self, vm: VmId, over: Program, next: Program) {
        let facts = self.facts(vm);
        let youngest = facts.reigns.iter().map(|(generation, _)| *generation).max();
        facts.buried = youngest.unwrap_or(facts.buried).max(facts.buried);
        facts.lives.push((facts.buried, over));
        facts.written.clear();
        facts.committed = vec![Registers::default()];
        (facts.applied, facts.shown) = (0, 0);
        facts.damaged.clear();
        (facts.attempt, facts.fork_from) = (None, None);
        facts.oracle = Oracle::new(next);
        facts.ahead = Oracle::new(next);
        (facts.control_changes, facts.console_changes) = (None, None);
        facts.failed_back_ns = None;
    }

    /// Who was given a generation.
    pub(crate) fn ruler(&self, vm: VmId, generation: Generation) -> Option<usize> {
        let reigns = &self.vms.get(usize::from(vm.get()))?.reigns;
        reigns.iter().find(|(known, _)| *known == generation).map(|(_, host)| *host)
    }

    /// What ran in the life that a generation is of, if that is over: some host may not have heard of it yet.
    pub(crate) fn former_program(&self, vm: VmId, generation: Generation) -> Option<Program> {
        let lives = &self.vms.get(usize::from(vm.get()))?.lives;
        lives.iter().find(|(last, _)| generation <= *last).map(|(_, program)| *program)
    }

    /// A fault has damaged the record of a committed epoch.
    pub(crate) fn corrupted(&mut self, vm: VmId, epoch: Epoch) {
        self.facts(vm).damaged.push(epoch);
    }
}

impl VmFacts {
    pub(crate) fn last_committed(&self) -> Epoch {
        Epoch::new(self.committed.len() as u64 - 1)
    }

    pub(crate) fn has_yielded(&self, generation: Generation) -> bool {
        self.yielded == generation
    }

    pub(crate) fn is_damaged(&self) -> bool {
        !self.damaged.is_empty()
    }

    /// From here on the history is open again.
    fn forget_from(&mut self, truth: &mut Truth, ticks: u64) {
        truth.forget_from(ticks);
        if self.ahead.registers().ticks() > ticks {
            self.ahead.set_to(&self.oracle);
        }
    }

    /// Each is as long as the guest has lived: all of them would grow with the square of that.
    fn forget_histories_before(&mut self, epoch: Epoch) {
        // Of the one before, and of those before that it was done.
        if let Some(records) = index(epoch.get()).checked_sub(1).and_then(|before| self.written.get_mut(before)) {
            records.iter_mut().for_each(|(_, record)| record.history = Rc::default());
        }
    }

    /// Ticks of all histories that are kept.
    #[cfg(test)]
    pub(crate) fn ticks_kept(&self) -> usize {
        self.written.iter().flatten().map(|(_, record)| record.history.len()).sum()
    }

    /// Takes an epoch for committed under a generation, which ends with this; `None` when that cannot be.
    fn commit(&mut self, generation: Generation, epoch: Epoch) -> Option<Rc<[Tick]>> {
        let records = self.written.get(index(epoch.get()))?;
        let (_, found) = records.iter().find(|(by, _)| *by == generation)?;
        let (registers, history) = (found.registers, found.history.clone());
        if epoch == self.last_committed().next() {
            self.committed.push(registers);
            self.forget_histories_before(epoch);
            return Some(history);
        }
        (epoch == self.last_committed() && self.committed.last() == Some(&registers)).then_some(history)
    }
}

impl World {
    /// Takes an epoch for committed under a generation; `false` when that cannot be.
    pub(crate) fn commit(&mut self, vm: VmId, generation: Generation, epoch: Epoch) -> bool {
        let Some(history) = self.checker.facts(vm).commit(generation, epoch) else { return false };
        self.fix(vm, generation, &history);
        true
    }

    /// Nobody can take this history back any more: it is the true one, or goes against it (I5).
    fn fix(&mut self, vm: VmId, generation: Generation, history: &[Tick]) {
        let facts = &mut self.checker.vms[usize::from(vm.get())];
        let truth = &mut self.truths[usize::from(vm.get())];
        let fork = truth.history.iter().zip(history).position(|(known, tick)| known != tick);
        if let Some(at) = fork {
            if facts.fork_from.is_none_or(|from| (at as u64) < from) {
                let tick = at as u64;
                return self.violate(Violation::Forked { vm, generation, tick });
            }
            facts.forget_from(truth, at as u64);
        }
        let known = truth.history.len().min(history.len());
        if !history[known..].iter().all(|tick| truth.goes_on(*tick)) {
            let tick = truth.history.len() as u64;
            self.violate(Violation::Outlived { vm, generation, tick });
        }
    }

    /// An entry is in the log (I2, I5).
    pub(crate) fn check_logged(&mut self, vm: VmId, generation: Generation, history: Option<&Vec<Tick>>) {
        let facts = self.checker.facts(vm);
        facts.attempt = None;
        if generation <= facts.buried {
            return;
        }
        if facts.sealed.contains(&generation) {
            return self.violate(Violation::LoggedAfterSeal { vm, generation });
        }
        if let Some(history) = history {
            self.fix(vm, generation, history);
        }
    }

    /// Learns from the pool what nobody has claimed: a host may have died right after its record was published, or its
    /// entry was in.
    pub(crate) fn catch_up(&mut self, vm: VmId) {
        let Some(partition) = self.pool.partition(vm) else { return };
        // What an older generation's word says may have been found damaged since.
        let reigns = partition.journals.iter().rfind(|journal| !journal.reserved);
        let published = reigns.and_then(|journal| {
            let reader = super::controller::open_journal(partition, journal.generation, &self.checker.auditor)?;
            Some((journal.generation, Epoch::new(reader.peek_word().ok()?.epoch.get())))
        });
        let mut logged = None;
        for journal in partition.journals.iter().filter(|journal| !journal.reserved) {
            let facts = &mut self.checker.vms[usize::from(vm.get())];
            let log = partition.log(journal.generation, &self.checker.auditor);
            let tail = log.and_then(|log| log.tail().ok()).map(|tail| tail.position.get());
            let is_in = |attempt: &mut Attempt| {
                attempt.generation == journal.generation && tail.is_some_and(|tail| tail > attempt.tail)
            };
            logged = logged.or(facts.attempt.take_if(is_in));
        }
        if let Some((generation, epoch)) = published {
            while self.checker.facts(vm).last_committed() < epoch {
                let next = self.checker.facts(vm).last_committed().next();
                if !self.commit(vm, generation, next) {
                    break;
                }
            }
        }
        if let Some(Attempt { generation, history, .. }) = logged {
            self.fix(vm, generation, &history);
        }
    }

    /// A journal was opened: its epochs go on from `base`.
    pub(crate) fn check_opened(&mut self, vm: VmId, base: Epoch) {
        self.check_goes_on(vm, base);
    }

    /// A new generation goes on exactly from the last committed epoch, but for what a fault has damaged (I3).
    fn check_goes_on(&mut self, vm: VmId, base: Epoch) {
        let facts = self.checker.facts(vm);
        let committed = facts.last_committed();
        if base < committed && facts.damaged.iter().any(|damaged| base.next() >= *damaged) {
            let lost = facts.written.iter().skip(index(base.get()) + 1).flatten();
            facts.bereft.extend(lost.map(|(generation, _)| *generation));
            facts.committed.truncate(index(base.get()) + 1);
            facts.damaged.clear();
            facts.fork_from = facts.committed.last().map(Registers::ticks);
        } else if base != committed {
            self.violate(Violation::WrongRecovery { vm, found: base, committed });
        }
    }

    /// A seal took effect. Of a generation that was never laid out nobody has anything: it may still begin.
    pub(crate) fn check_sealed(&mut self, vm: VmId, generation: Generation, final_epoch: Epoch, begun: bool) {
        let facts = self.checker.facts(vm);
        if begun && !facts.sealed.contains(&generation) {
            facts.sealed.push(generation);
        }
        let (committed, damaged) = (facts.last_committed(), facts.is_damaged());
        let known = final_epoch == committed || self.commit(vm, generation, final_epoch) || damaged;
        if !known {
            self.violate(Violation::WrongRecovery { vm, found: final_epoch, committed });
        }
    }

    /// A host says that it has published an epoch (I2).
    pub(crate) fn check_published(&mut self, at: At, epoch: Epoch) {
        let Some(generation) = self.primary(at).map(|primary| primary.order.generation) else { return };
        let (vm, host) = (at.vm, at.host);
        let facts = self.checker.facts(vm);
        let reigns = facts.reigns.contains(&(generation, host));
        let violation = if generation <= facts.buried {
            let host = u16::try_from(host).unwrap_or(0);
            Some(Violation::DeletedLifeGoesOn { vm, generation, host })
        } else if facts.sealed.contains(&generation) {
            Some(Violation::PublishedAfterSeal { vm, generation, epoch })
        } else if !reigns || !self.commit(vm, generation, epoch) {
            let host = u16::try_from(host).unwrap_or(0);
            Some(Violation::ForeignPublication { vm, generation, epoch, host })
        } else {
            None
        };
        match violation {
            Some(violation) => self.violate(violation),
            None => self.check_rebuildable(vm, |_, _| None),
        }
    }

    /// Output leaves a host: it must be of the true history, and the pool must be able to rebuild what sent it (I1).
    pub(crate) fn check_released(&mut self, at: At, packets: &[Packet]) {
        let Some(generation) = self.primary(at).map(|primary| primary.order.generation) else { return };
        let vm = at.vm;
        if generation <= self.checker.facts(vm).buried {
            // What it had committed before the deletion, it may show after it.
            return;
        }
        let truth = &self.truths[usize::from(vm.get())];
        if let Some(packet) = packets.iter().find(|packet| truth.packets.get(index(packet.number)) != Some(packet)) {
            return self.violate(Violation::ForeignPacket { vm, number: packet.number });
        }
        if let Some(pair) = packets.windows(2).find(|pair| pair[0].number >= pair[1].number) {
            let (before, number) = (pair[0].number, pair[1].number);
            return self.violate(Violation::DisorderedPackets { vm, generation, before, number });
        }
        if self.checker.facts(vm).bereft.contains(&generation) {
            return;
        }
        let Some(step) = packets.iter().map(|packet| packet.step).max() else { return };
        self.check_rebuildable(vm, |rebuildable, _| {
            (rebuildable < step).then_some(Violation::LeakedPacket { vm, generation, step, rebuildable })
        });
    }

    /// Rebuilds the VM from what is durable in the pool and holds it against the truth (I1, I3).
    pub(crate) fn check_rebuildable(&mut self, vm: VmId, leaks: impl FnOnce(u64, u64) -> Option<Violation>) {
        let facts = &self.checker.vms[usize::from(vm.get())];
        if facts.is_damaged() || self.client.is_deleting(vm) {
            return;
        }
        self.catch_up(vm);
        let beyond = self.written_beyond(vm);
        let truth = &self.truths[usize::from(vm.get())];
        let facts = &mut self.checker.vms[usize::from(vm.get())];
        // What is not the true history yet may never be: the guest that comes there is nobody's to go on from.
        let mut aside = beyond.is_some().then(|| facts.ahead.clone());
        let history = beyond.as_deref().unwrap_or(&truth.history);
        let known = (&facts.oracle, aside.as_mut().unwrap_or(&mut facts.ahead), history);
        let violation = match rebuild(&self.pool, vm, known, &mut self.checker.scratch) {
            Ok(rebuilt) => leaks(rebuilt.step, rebuilt.console),
            Err(why) => Some(Violation::Unrecoverable { vm, epoch: facts.last_committed(), why }),
        };
        if let Some(violation) = violation {
            self.violate(violation);
        }
    }

    /// Where the reigning commit word is damaged: what a record's guest was given that is written and was not published. A seal
    /// counts all whole records then, this one too, if it is.
    fn written_beyond(&self, vm: VmId) -> Option<Rc<[Tick]>> {
        let partition = self.pool.partition(vm)?;
        let reigns = partition.journals.iter().rfind(|journal| !journal.reserved)?;
        let reader = super::controller::open_journal(partition, reigns.generation, &self.checker.auditor)?;
        if reader.peek_word().is_ok() {
            return None;
        }
        let facts = self.checker.vms.get(usize::from(vm.get()))?;
        let records = facts.written.get(index(facts.last_committed().next().get()))?;
        let (_, record) = records.iter().find(|(by, _)| *by == reigns.generation)?;
        let goes_on = record.history.starts_with(&self.truths[usize::from(vm.get())].history);
        goes_on.then(|| record.history.clone())
    }

    /// A primary has loaded what it goes on from (I3, I5).
    pub(crate) fn check_loaded(&mut self, at: At, base: Epoch) {
        let vm = at.vm;
        let Some(generation) = self.primary(at).map(|primary| primary.order.generation) else { return };
        let facts = self.checker.facts(vm);
        if facts.sealed.contains(&generation) || generation <= facts.buried {
            // It was deposed before it began: what it loads may be anything, and nobody will ever see it.
            return;
        }
        self.check_goes_on(vm, base);
        let Some(primary) = self.primary(at) else { return };
        let registers = primary.registers;
        let mut pages = Vec::new();
        for page in 0..primary.order.spec.memory_bytes / PAGE_SIZE {
            let mut content = [0; 4096];
            if primary.working.page(page, &mut content).is_err() {
                return;
            }
            pages.push(content);
        }
        let facts = self.checker.facts(vm);
        let expected = facts.committed.last().copied();
        if expected != Some(registers) || facts.oracle.registers() != registers.at_exit() {
            return self.violate(Violation::WrongState { vm, epoch: base, found: Some(registers), expected });
        }
        let wrong = (0..).zip(&pages).find(|(page, content)| facts.oracle.page(*page) != *content);
        if let Some((page, _)) = wrong {
            self.violate(Violation::WrongPage { vm, epoch: base, page });
        }
    }

    /// A primary's guest runs from here on: where all that nobody can take back has led, and nowhere else (I1, I5).
    pub(crate) fn check_live(&mut self, at: At) {
        let vm = at.vm;
        let Some(generation) = self.primary(at).map(|primary| primary.order.generation) else { return };
        let facts = self.checker.facts(vm);
        if facts.sealed.contains(&generation) || generation <= facts.buried {
            return;
        }
        let fork_from = facts.fork_from;
        facts.vain = 0;
        self.catch_up(vm);
        let Some(primary) = self.primary(at) else { return };
        let (registers, history) = (primary.registers, primary.trace.clone());
        let mut pages = Vec::new();
        for page in 0..primary.order.spec.memory_bytes / PAGE_SIZE {
            let mut content = [0; 4096];
            if primary.working.page(page, &mut content).is_err() {
                return;
            }
            pages.push(content);
        }
        let base = primary.order.base;
        let truth = &mut self.truths[usize::from(vm.get())];
        let (reached, known) = (registers.ticks(), truth.history.len() as u64);
        if truth.program.asks && reached < known {
            if fork_from.is_none_or(|from| reached < from) {
                return self.violate(Violation::LostHistory { vm, generation, reached, known });
            }
            self.checker.vms[usize::from(vm.get())].forget_from(truth, reached);
        }
        self.fix(vm, generation, &history);
        self.checker.facts(vm).fork_from = None;
        let truth = &self.truths[usize::from(vm.get())];
        let mut oracle = self.checker.vms[usize::from(vm.get())].oracle.clone();
        if oracle.registers().ticks() > reached || truth.history.len() < index(reached) {
            let (found, expected) = (Some(registers), Some(oracle.registers()));
            return self.violate(Violation::WrongState { vm, epoch: base, found, expected });
        }
        oracle.advance_to(reached, &truth.history);
        if oracle.registers() != registers.at_exit() {
            let (found, expected) = (Some(registers), Some(oracle.registers()));
            return self.violate(Violation::WrongState { vm, epoch: base, found, expected });
        }
        let wrong = (0..).zip(&pages).find(|(page, content)| oracle.page(*page) != *content);
        if let Some((page, _)) = wrong {
            self.violate(Violation::WrongPage { vm, epoch: base, page });
        }
    }

    /// A secondary says that it has come to the end of an epoch: that must be committed, and be where the guest was (I5).
    pub(crate) fn check_followed(&mut self, vm: VmId, epoch: Epoch, step: FollowStep, follower: &FollowerMachine) {
        self.catch_up(vm);
        let facts = self.checker.facts(vm);
        if facts.is_damaged() || facts.fork_from.is_some() || !follower.is_of_life_after(facts.buried) {
            return;
        }
        let expected = facts.committed.get(index(epoch.get())).copied();
        let found = follower.replay.registers;
        let there = match step {
            FollowStep::Compared => expected == Some(found),
            // The primary may be somewhere behind the same exit.
            FollowStep::Adopted => expected.is_some_and(|expected| expected.at_exit() == found.at_exit()),
        };
        if !there {
            self.violate(Violation::WrongState { vm, epoch, found: Some(found), expected });
        }
    }

    /// Bytes that the client has shown to its user (I4).
    pub(crate) fn check_shown(&mut self, vm: VmId, from: u64, bytes: &[u8]) {
        self.check_console(vm, from, bytes);
    }

    pub(crate) fn check_console(&mut self, vm: VmId, from: u64, bytes: &[u8]) {
        if index(from) + bytes.len() > self.truths[usize::from(vm.get())].console.len() {
            self.catch_up(vm);
        }
        let truth = &self.truths[usize::from(vm.get())].console;
        let expected = truth.get(index(from)..).unwrap_or_default();
        let wrong = bytes.iter().enumerate().find(|(at, byte)| expected.get(*at) != Some(byte));
        if let Some((at, _)) = wrong {
            self.violate(Violation::WrongConsole { vm, position: from + at as u64 });
        }
    }

    /// What a host is given access to (I7).
    pub(crate) fn check_grants(&mut self, host: usize, message: &ToHost, grants: &[Grant]) {
        for grant in grants {
            let owns = match (message, grant.part) {
                (ToHost::Welcome { host: number, .. }, Part::Heartbeat(page)) => {
                    page == *number && self.is_number_of(host, page)
                }
                (ToHost::Promote(order), Part::Journal(vm, generation) | Part::Log(vm, generation)) => {
                    order.vm == vm && order.generation == generation && self.enthrone(vm, generation, host)
                }
                _ => false,
            };
            let follows = match (message, grant.part) {
                (ToHost::FollowAs { vm, generation, .. }, Part::Journal(of, at) | Part::Log(of, at)) => {
                    (*vm, *generation) == (of, at)
                }
                _ => false,
            };
            let hidden = matches!(grant.part, Part::Journal(..) | Part::Log(..) | Part::Upload | Part::UploadedDisk);
            let reads = !hidden || follows;
            let allowed = match grant.access {
                Access::ReadWrite => owns,
                Access::ReadOnly => reads,
            };
            if !allowed {
                let host = u16::try_from(host).unwrap_or(0);
                self.violate(Violation::WrongGrant { host, grant: *grant });
            }
        }
    }

    fn is_number_of(&self, host: usize, number: HostId) -> bool {
        self.host_index(number).is_none_or(|known| known == host)
    }

    /// Notes whose reign a generation is; `false` when it is somebody else's already.
    fn enthrone(&mut self, vm: VmId, generation: Generation, host: usize) -> bool {
        let facts = self.checker.facts(vm);
        let reigns = &mut facts.reigns;
        let free = generation > facts.buried && reigns.iter().all(|(known, by)| *known != generation || *by == host);
        if !reigns.contains(&(generation, host)) {
            facts.vain += 1;
        }
        reigns.push((generation, host));
        if facts.vain > VAIN_MAX {
            let reigns = facts.vain;
            self.violate(Violation::TakeoverStorm { vm, reigns });
        }
        free
    }
}

pub(crate) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
