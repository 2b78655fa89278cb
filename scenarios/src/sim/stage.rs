//! A scenario in the simulator: its steps are fired at what the run does, and what is seen of the run is told in the events
//! that runs on real processes leave, too.

use super::client::Client;
use super::draw::{Draw, Range};
use super::fault::{Fault, Target as Whom};
use super::plan::Plan;
use super::queue::{Event as Simulated, Mend};
use super::stage_failpoints::Held;
use super::weather::{FenceAgent, Weather};
use super::world::World;
use crate::cluster::{CONTROLLER, ChildExit, ClusterError, HostName, HostSignal};
use crate::event::{Event, HappeningKind, What, vm_of};
use crate::language::{Act, Facts, Scenario};
use crate::protected::Outcome;
use crate::runner::{Hamper, Hampers, Schedule};
use crate::timeline::{FENCED_EXIT_CODE, Timeline};
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::ids::VmId;
use ft_protocol::spec::Mode;
use ft_protocol::timeline::Happening;
use ft_protocol::{Span, Time};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;

/// Time between two looks at what steps wait for.
const LOOK_US: u64 = 250;

/// How long guests go on after the last step, for what comes of it.
const LINGER_US: u64 = 1_500_000;

/// How long a deposed host may take to find out, once the guests have ended: as long as on real processes.
const FENCED_US: u64 = 10_000_000;

/// Faults that end with a step of their own last no longer than this.
pub(super) const FOR_EVER_US: u64 = 600_000_000;

/// Steps that a guest does at least; then it goes on more slowly, until it may end.
pub(super) const STAGED_STEPS: u64 = 4_000;

/// Lines that a guest prints at least: about every other step prints one.
pub(crate) const STAGED_LINES: u64 = 1_500;

/// Time between two slices of a guest that has done all that it had to do: it is there to be struck.
pub(super) const LATE_SLICE_US: Range = Range::new(2_000, 6_000);
/// Between two notes how far the VMs are.
const SAMPLE_INTERVAL: Span = Span::from_ms(10);

/// Time between two hosts that join at the beginning.
pub(crate) const JOIN_SPACING_NS: u64 = 400_000;

/// How long a process takes to be started again.
pub(super) const START_US: u64 = 20_000;

/// What the pool is called in events.
pub(super) const POOL: &str = "pool";

/// The stream of random numbers of the weather.
const WEATHER_STREAM: u64 = 1 << 20;

/// What is known of a run.
pub(crate) struct Stage {
    pub(crate) scenario: Scenario,
    pub(crate) schedule: Schedule,
    pub(crate) events: Vec<Event>,
    pub(crate) timelines: Vec<Timeline>,
    pub(crate) outcomes: Vec<Option<Outcome>>,
    pub(crate) refused: Vec<(String, String)>,
    pub(crate) facts: Vec<Facts>,
    /// Whom each step hit last.
    pub(super) hit: Vec<Vec<Whom>>,
    /// How often the failpoint of each step was passed.
    pub(super) passed: Vec<u64>,
    /// Who stands still until a step has fired.
    pub(super) held: Vec<Held>,
    /// Steps whose orders the controller has not answered.
    pub(super) orders: Vec<(u64, String)>,
    /// What is wrong with processes, and with the pool.
    pub(super) hampers: Hampers,
    /// What is over then, and is told.
    pub(super) endings: Vec<(Time, What)>,
    /// Clocks that step back then.
    pub(super) jumps_back: Vec<(Time, Fault)>,
    /// When nothing was left to be done but to let the guests end.
    quiet_since_us: Option<u64>,
    /// When all guests had ended.
    over_since_us: Option<u64>,
    /// A step could not be done: which, and why.
    pub(crate) failed: Option<(usize, ClusterError)>,
    /// When it is noted next how far the VMs are.
    next_sample: Time,
}

impl Stage {
    fn new(scenario: &Scenario, seed: u64) -> Self {
        let vms = scenario.vms.len();
        Self {
            scenario: scenario.clone(),
            schedule: Schedule::new(scenario, seed),
            events: Vec::new(),
            timelines: vec![Timeline::default(); vms],
            outcomes: vec![None; vms],
            refused: Vec::new(),
            facts: vec![Facts::default(); vms],
            hit: vec![Vec::new(); scenario.steps.len()],
            passed: vec![0; scenario.steps.len()],
            held: Vec::new(),
            orders: Vec::new(),
            hampers: Hampers::default(),
            endings: Vec::new(),
            jumps_back: Vec::new(),
            quiet_since_us: None,
            over_since_us: None,
            failed: None,
            next_sample: Time::ZERO,
        }
    }

    /// An event is seen: by the timelines of those that it is about.
    pub(super) fn see(&mut self, at: Time, what: What) {
        let event = Event { at, what };
        let about = event.what.vm();
        for (vm, timeline) in (0..).zip(&mut self.timelines) {
            if about.is_none_or(|about| about == VmId::new(vm)) {
                timeline.take(&event);
            }
        }
        self.events.push(event);
    }

    /// A deposed host may find out only after the guests have ended.
    fn awaits_fenced(&mut self, now_us: u64) -> bool {
        let Some(expected) = self.scenario.expect.fenced else { return false };
        let since_us = *self.over_since_us.get_or_insert(now_us);
        self.timelines.first().is_some_and(|vm| vm.fenced() < expected.min) && now_us < since_us + FENCED_US
    }

    /// What becomes of a VM when no host lives, and none comes back by itself: it is lost as soon as the controller has said so, unless a
    /// step is still to start one.
    fn lost(&self, vm: usize) -> Option<Outcome> {
        let stranded = self.timelines[vm].stranded_at().filter(|_| !self.schedule.will_start_hosts());
        stranded.map(|epoch| Outcome::Lost { recoverable: Some(epoch) })
    }

    fn is_over(&self) -> bool {
        self.outcomes.iter().all(Option::is_some)
    }

    /// The name of the host with this index, or of the controller.
    pub(super) fn name(whom: Whom) -> HostName {
        match whom {
            Whom::Host(host) => HostName::nth(host),
            _ => HostName::new(CONTROLLER),
        }
    }

    /// Whose name this is, if it is a process's.
    fn whom(name: &HostName) -> Option<Whom> {
        if name.as_str() == CONTROLLER { Some(Whom::Controller) } else { index_of_host(name).map(Whom::Host) }
    }
}

/// The weather of a scenario: what it says, and for the rest what a machine of today does.
fn weather(scenario: &Scenario, seed: u64) -> Weather {
    let cluster = &scenario.cluster;
    let us = |span: Span| (span.ns() / 1_000).max(1);
    let drawn = Weather::draw(&mut Draw::new(seed, WEATHER_STREAM));
    let bound_us = us(cluster.heartbeat_bound.unwrap_or(Span::from_ms(100))).max(10_000);
    let vm = &scenario.vms[0];
    let mode = Mode::from(vm.mode);
    let agent = match cluster.fence.as_ref().map(|fence| fence.agent.as_str()) {
        None | Some("none") => FenceAgent::None,
        Some("kill") => FenceAgent::Works,
        Some(_) => FenceAgent::Fails,
    };
    Weather {
        heartbeat_us: bound_us / 10,
        heartbeats_missing: 10,
        suspicion: None,
        hold_down_us: 5 * bound_us,
        ask_us: 1_000_000,
        promotion_us: 10_000_000,
        stall_us: us(cluster.stall_bound.unwrap_or(Span::from_ms(2_000))),
        epoch_us: us(vm.epoch_interval.unwrap_or(mode.default_epoch_interval())),
        cut_spacing_us: 1_000,
        console_pending_max: 2_000,
        slots: vm.journal.slots,
        guest_pages: 6,
        // It ends when it is told to.
        guest_steps: u64::MAX,
        slice_us: Range::new(100, 500),
        slice_steps: Range::new(1, 2),
        message_us: Range::new(20, 200),
        make_us: Range::new(2_000, 5_000),
        deaths_seen: true,
        fence_agent: agent,
        old_hosts: 0,
        racks: 0,
        failback_us: vm.placement.failback.map_or(0, us),
        preferred: vm.placement.prefer.as_ref().and_then(index_of_host),
        require_spare: vm.placement.require_spare,
        mode,
        asks: true,
        log_bytes: 16 * super::weather::PAGE_SIZE,
        says: super::guest::Saying::of(&vm.guest.to_string()),
        safety_us: us(scenario.time_limit),
        ..drawn
    }
}

pub(super) fn ended(fault: &str, target: &str) -> What {
    What::FaultEnded { fault: fault.to_owned(), target: target.to_owned() }
}

pub(super) fn index_of_host(name: &HostName) -> Option<u16> {
    let letter = name.as_str().bytes().next().filter(|_| name.as_str().len() == 1)?;
    Some(u16::from(letter.checked_sub(b'a')?))
}

impl World {
    /// A run of a scenario.
    pub(crate) fn of_scenario(scenario: &Scenario, seed: u64) -> Self {
        let plan = Plan { weather: weather(scenario, seed), faults: Vec::new() };
        let vms = u16::try_from(scenario.vms.len()).unwrap_or(u16::MAX);
        let mut world = Self::new(seed, scenario.cluster.hosts, vms, plan);
        for (index, host) in (0..).zip(&mut world.hosts) {
            let name = HostName::nth(index);
            let part = scenario.cluster.host.iter().find(|part| part.name == name);
            host.carry(name.to_string(), part.map(|part| part.labels.clone()).unwrap_or_default());
        }
        world.stage = Some(Box::new(Stage::new(scenario, seed)));
        world
    }

    /// This moment, as events have it.
    pub(super) fn stage_time(&self) -> Time {
        Time::from_ns(super::actor::CLOCK_START_NS + self.now_ns)
    }

    pub(super) fn see(&mut self, what: What) {
        let at = self.stage_time();
        if let Some(stage) = &mut self.stage {
            stage.see(at, what);
        }
    }

    /// The controller tells something.
    pub(crate) fn stage_happened(&mut self, happening: &Happening) {
        let at = self.stage_time();
        let mut happening = self.as_a_right_clock_shows(happening);
        if let Happening::Ended { vm, end } = &mut happening {
            *end = self.as_guests_say(usize::from(vm.get()), end.clone());
        }
        let happening = &happening;
        let Some(stage) = &mut self.stage else { return };
        stage.see(at, What::Happened(happening.clone()));
        let vm = vm_of(happening).map(|vm| usize::from(vm.get()));
        stage.schedule.happened(at, HappeningKind::from(happening), vm);
        if matches!(happening, Happening::Live { .. }) {
            stage.schedule.running(at);
        }
    }

    /// What a host whose clock was stepped tells of times, put right.
    fn as_a_right_clock_shows(&self, happening: &Happening) -> Happening {
        let mut happening = happening.clone();
        if let Happening::Live { host, report, .. } = &mut happening
            && let Some(index) = self.host_index(*host)
        {
            let skew = self.hosts[index].actor.skew_ns;
            let right = |at: Time| Time::from_ns(at.ns().saturating_add_signed(-skew));
            report.ordered_at = right(report.ordered_at);
            report.loaded_at = right(report.loaded_at);
            report.live_at = right(report.live_at);
            report.replayed_at = report.replayed_at.map(right);
        }
        happening
    }

    /// Whether steps move VMs, or clocks, so that nothing can be said of when one is moved back.
    pub(crate) fn stage_moves(&self) -> bool {
        let moves = |act: &Act| matches!(act, Act::Switchover { .. } | Act::Drain { .. } | Act::Clock { .. });
        let steps = self.stage.iter().flat_map(|stage| &stage.scenario.steps);
        steps.flat_map(|step| &step.acts).any(moves)
    }

    /// The client has read some of a console.
    pub(crate) fn stage_printed(&mut self, vm: VmId, bytes: &[u8], tail: u64) {
        let at = self.stage_time();
        let Some(stage) = &mut self.stage else { return };
        stage.schedule.printed(at, usize::from(vm.get()), bytes);
        stage.see(at, What::ConsoleMoved { vm, tail });
    }

    /// A process has ended.
    pub(crate) fn stage_died(&mut self, whom: Whom, fenced: bool) {
        let Some(stage) = &mut self.stage else { return };
        stage.hampers.died(&Stage::name(whom));
        // Its next life stands at no failpoint.
        stage.held.retain(|held| held.who != whom);
        let exit = if fenced { ChildExit::Code(FENCED_EXIT_CODE) } else { ChildExit::Signal(Signal::SIGKILL as i32) };
        if matches!(whom, Whom::Host(_)) {
            self.see(What::HostExited { host: Stage::name(whom), exit, stderr: String::new() });
        }
    }

    /// A process has begun a new life.
    pub(crate) fn stage_rose(&mut self, whom: Whom) {
        match whom {
            Whom::Host(_) => self.see(What::HostStarted { host: Stage::name(whom), pid: 0 }),
            _ => self.see(What::ControllerRevived { exit: ChildExit::Signal(Signal::SIGKILL as i32), pid: 0 }),
        }
    }

    /// Whether a process that dies comes back by itself: the controller does, and hosts that were deposed.
    pub(crate) fn comes_back(&self, whom: Whom, fenced: bool) -> bool {
        let Some(stage) = &self.stage else { return true };
        !matches!(whom, Whom::Host(_)) || fenced || stage.scenario.cluster.respawn
    }

    /// The controller has answered what a step asked it for.
    pub(crate) fn stage_answered(&mut self, id: u64, refused: Option<String>) {
        let Some(stage) = &mut self.stage else { return };
        let Some(place) = stage.orders.iter().position(|(order, _)| *order == id) else { return };
        let (_, order) = stage.orders.remove(place);
        if let Some(why) = &refused {
            stage.refused.push((order.clone(), why.clone()));
        }
        self.see(What::OrderAnswered { order, refused });
    }

    /// Looks at what steps wait for, fires those that are due, and lets the guests end when there is nothing left to be done.
    pub(crate) fn scene(&mut self) {
        if self.next_scene_ns <= self.now_ns {
            self.next_scene_ns = self.now_ns + LOOK_US * 1_000;
            self.schedule(LOOK_US * 1_000, Simulated::Scene);
        }
        let at = self.stage_time();
        self.tell_endings(at);
        self.learn_facts();
        loop {
            let Some(stage) = &mut self.stage else { return };
            let due = stage.schedule.due(at);
            // A step whose target nobody is waits for somebody.
            let Some(index) = due.into_iter().find(|index| self.has_targets(*index)) else { break };
            let Some(stage) = &mut self.stage else { return };
            let step = stage.schedule.step(index).clone();
            stage.see(at, What::StepFired { step: step.name.clone() });
            self.checker.step_fired();
            let mut draws = 0..;
            let targets = self.targets_of(index, &step.acts, &mut draws);
            for (act, targets) in step.acts.iter().zip(&targets) {
                self.perform((index, &step.name), act, targets, &mut draws);
            }
            let Some(stage) = &mut self.stage else { return };
            stage.hit[index] = targets.concat();
            stage.schedule.fired(index, at);
            self.let_go_on(index);
        }
        self.end_scene();
    }

    fn tell_endings(&mut self, now: Time) {
        let Some(stage) = &mut self.stage else { return };
        let mut less_slow = Vec::new();
        while let Some((process, hamper)) = stage.hampers.next_over(now) {
            if let Hamper::Slow(_) = hamper {
                less_slow.extend(Stage::whom(&process));
            }
            if let Some(what) = stage.end_of(process, hamper) {
                stage.see(now, what);
            }
        }
        let mut over: Vec<(Time, What)> = stage.endings.extract_if(.., |(at, _)| *at <= now).collect();
        over.sort_by_key(|(at, _)| *at);
        for (_, what) in over {
            stage.see(now, what);
        }
        let back: Vec<(Time, Fault)> = stage.jumps_back.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, fault) in back {
            self.apply_fault(fault);
        }
        for who in less_slow {
            self.actor_mut(who).slowness = self.slowness_of(who);
        }
    }

    /// Something is wrong with processes, or with the pool, from now on, for so long or until a step ends it.
    pub(super) fn hamper(&mut self, names: impl IntoIterator<Item = HostName>, hamper: Hamper, during: Option<Span>) {
        // No finer than what ends it.
        let until = during.map(|during| self.stage_time() + Span::from_us(during.ns() / 1_000));
        let Some(stage) = &mut self.stage else { return };
        names.into_iter().for_each(|name| stage.hampers.begin(&name, hamper, until));
    }

    /// Whether the end of one fault is none, because another one of its kind goes on, or a step holds the process.
    pub(crate) fn stage_keeps(&self, mend: Mend) -> bool {
        let Some(stage) = &self.stage else { return false };
        let (process, hamper) = match mend {
            Mend::Continue(whom) if stage.holds(whom) => return true,
            Mend::Continue(whom) => (Stage::name(whom), Hamper::Stop),
            Mend::Hurry(whom) => return stage.hampers.slow_lasts(&Stage::name(whom), self.stage_time()),
            Mend::Reconnect(host) => (Stage::name(super::inject::host_target(host)), Hamper::CutFromPool),
            Mend::Drain => (HostName::new(POOL), Hamper::Full),
            Mend::Unhang { .. } => return false,
        };
        stage.hampers.lasts(&process, hamper, self.stage_time())
    }

    fn learn_facts(&mut self) {
        let at = self.stage_time();
        let Some(stage) = &mut self.stage else { return };
        let (wants, samples) = (stage.schedule.wants_facts() || stage.is_quiet(), at >= stage.next_sample);
        if !(wants || samples) || !self.controller.actor.alive {
            return;
        }
        let status = self.controller.core.status();
        let unprotected: BTreeMap<VmId, Option<String>> =
            status.vms.iter().map(|vm| (vm.vm, vm.unprotected.clone())).collect();
        for vm in status.vms {
            if let Some(facts) = stage.facts.get_mut(usize::from(vm.vm.get())) {
                *facts = Facts {
                    epoch: vm.applied.get(),
                    generation: vm.generation.get(),
                    takeovers: vm.takeovers,
                    switchovers: vm.switchovers,
                    console_bytes: vm.console_end,
                    protected: vm.unprotected.is_none() && vm.phase == "running",
                };
            }
        }
        if samples {
            stage.next_sample = at + SAMPLE_INTERVAL;
            for (vm, facts) in (0..).map(VmId::new).zip(stage.facts.clone()) {
                let Facts { epoch, generation, console_bytes: console, .. } = facts;
                let unprotected = unprotected.get(&vm).cloned().flatten();
                stage.see(at, What::Sampled { vm, generation, epoch, console, unprotected });
            }
        }
        if wants {
            let facts = stage.facts.clone();
            stage.schedule.observed(at, &facts);
        }
    }

    /// Guests end when all steps have fired and what came of them is over; and when time is.
    fn end_scene(&mut self) {
        let now_us = self.now_ns / 1_000;
        let limit_us = self.plan.weather.safety_us;
        let gone = self.hosts.iter().all(|host| !host.actor.alive && host.actor.back_ns.is_none());
        for vm in 0..self.truths.len() {
            if self.stage.as_ref().is_none_or(|stage| stage.outcomes[vm].is_some()) {
                continue;
            }
            let Client { vms, .. } = &self.client;
            let reading = &vms[vm];
            let ended = match &reading.end {
                Some((end, console_end)) if reading.position == *console_end => Some((end.clone(), *console_end)),
                _ => None,
            };
            let outcome = match ended {
                _ if reading.deleted => Some(Outcome::Deleted),
                Some((end, console_end)) => {
                    let number = VmId::new(u16::try_from(vm).unwrap_or(0));
                    let at = Time::from_ns(super::actor::CLOCK_START_NS + self.now_ns);
                    let end = self.as_guests_say(vm, end);
                    let Some(stage) = &mut self.stage else { return };
                    stage.see(at, What::GuestEnded { vm: number, end: end.clone(), console_end });
                    Some(Outcome::Ended(end))
                }
                None if gone => self.stage.as_ref().and_then(|stage| stage.lost(vm)),
                None => None,
            };
            let Some(stage) = &mut self.stage else { return };
            stage.outcomes[vm] = outcome;
        }
        let Some(stage) = &mut self.stage else { return };
        let is_over = stage.failed.is_some() || stage.is_over() && !stage.awaits_fenced(now_us);
        if is_over || now_us > limit_us {
            self.finished = true;
            return;
        }
        if stage.is_quiet() {
            let since_us = *stage.quiet_since_us.get_or_insert(now_us);
            let settled = stage.facts.iter().all(|facts| facts.protected) && now_us > since_us + LINGER_US / 5;
            if !self.gate_open && (settled || now_us > since_us + LINGER_US) {
                self.open_gates();
            }
        } else {
            stage.quiet_since_us = None;
            if !self.gate_open && now_us > limit_us / 2 {
                // A step that has not fired by now will not.
                self.open_gates();
            }
        }
    }

    /// What a scenario calls a VM.
    pub(crate) fn stage_name(&self, vm: VmId) -> Option<String> {
        let stage = self.stage.as_ref()?;
        stage.scenario.vms.get(usize::from(vm.get())).map(|part| part.name.clone())
    }

    /// The model's guest ends with a checksum; the right one is what guests call zero.
    fn as_guests_say(&self, vm: usize, end: GuestEnd) -> GuestEnd {
        let right = self.truths.get(vm).and_then(|truth| truth.exit);
        match end {
            GuestEnd::Exited(code) if Some(code) == right => GuestEnd::Exited(0),
            end => end,
        }
    }

    /// What became of the run's events: as bytes, the same for the same seed.
    pub(crate) fn take_stage(&mut self) -> Option<Box<Stage>> {
        self.stage.take()
    }
}

impl Stage {
    /// What is told at the end of something; nothing where the host is cut from something else, is slow for another reason, or a step holds the
    /// process.
    fn end_of(&self, process: HostName, hamper: Hamper) -> Option<What> {
        match hamper {
            Hamper::Stop if self.held.iter().any(|held| Self::name(held.who) == process) => None,
            Hamper::Stop => Some(What::Signalled { host: process, signal: HostSignal::Cont }),
            Hamper::Slow(_) => self.hampers.slowest(&process).is_none().then(|| ended("slow", process.as_str())),
            Hamper::CutFromPool | Hamper::CutToHost | Hamper::CutFromHost => {
                (!self.hampers.is_cut(&process)).then(|| ended("cut", process.as_str()))
            }
            Hamper::Full => Some(ended("pool full", process.as_str())),
        }
    }

    /// All that must fire has fired, and nothing is about to.
    fn is_quiet(&self) -> bool {
        let done = self.schedule.steps().all(|(step, fired)| fired >= step.fires_min);
        done && self.schedule.next_due().is_none() && self.held.is_empty()
    }
}
