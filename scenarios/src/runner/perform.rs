//! A scenario while it runs: what is seen goes to its schedule, what is due is done.

use super::await_record::AwaitedRecord;
use super::prepare::Tmpfs;
use super::workload::Workload;
use super::{Glimpse, Hampers, RunnerError};
use crate::cluster::{CONTROLLER, HostName};
use crate::event::{Event, HappeningKind, What};
use crate::language::{Act, CutFrom, Facts, Scenario, Step, WaysPart};
use crate::protected::{Outcome, ProtectedRun, RunError};
use crate::runner::schedule::Schedule;
use crate::units::show_span;
use ft_protocol::{Span, Time};
use nix::poll::PollFlags;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use vmm::clock::monotonic;
use vmm::net::{Stretch, Switch};

/// How long a deposed host may take to find out, once the guests have ended.
const FENCED_BOUND: Span = Span::from_ms(10_000);
/// Between two tries of a step whose target does not exist at the moment, and two looks at a failpoint.
const RETRY_INTERVAL: Span = Span::from_ms(2);
/// Between two looks how far the VMs are, while a step waits for it.
const FACTS_INTERVAL: Span = Span::from_ms(5);
/// Between two entries in the events of how far they are.
const SAMPLE_INTERVAL: Span = Span::from_ms(250);
/// Console bytes taken at once.
const CONSOLE_BYTES: usize = 1 << 20;

/// Something that was done and is to be undone.
#[derive(Clone, Debug)]
pub(super) enum Undo {
    /// A stretch of the segment is as good as ever, unless something else was done to it since.
    Calm(Stretch, u64),
    /// A clock steps by so many nanoseconds.
    Step(HostName, i64),
}

/// How far it came.
pub(super) struct Performed {
    /// How the VMs ended; `None`: they had not.
    pub(super) outcomes: Vec<Option<Outcome>>,
    /// Guests and workloads had come to their ends before time was over.
    pub(super) in_time: bool,
}

/// A scenario while it runs.
pub(super) struct Performance<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) run: ProtectedRun,
    pub(super) schedule: Schedule,
    pub(super) workloads: Vec<Workload>,
    /// Of the pool, if it has one of its own.
    pub(super) tmpfs: Option<Tmpfs>,
    /// Of the guests' network, if there is one.
    pub(super) segment: Option<Arc<Switch>>,
    /// What is wrong with it: by which fault, counted.
    pub(super) troubles: BTreeMap<Stretch, u64>,
    pub(super) faults_ever: u64,
    /// For each step, the hosts that it hit last.
    pub(super) hit: Vec<Vec<HostName>>,
    /// Hosts that were killed, and whose end was not seen yet.
    pub(super) dying: BTreeSet<HostName>,
    /// What is wrong with processes, and with the pool.
    pub(super) hampers: Hampers,
    pub(super) undos: Vec<(Time, Undo)>,
    /// Processes that stand at failpoints, by the steps that wait for them.
    pub(super) standing: BTreeMap<usize, HostName>,
    /// The controller stands still until there is a record to corrupt.
    pub(super) awaited_record: Option<AwaitedRecord>,
    /// It does so no earlier.
    pub(super) next_await: Time,
    /// For what is random of each step and no delay.
    pub(super) randoms: Vec<ChaCha8Rng>,
    /// Hosts in whose heartbeat pages steps have flipped bits.
    pub(super) flipped_beats: BTreeSet<u16>,
    /// Orders that the controller refused, by step.
    pub(super) refused: Vec<(String, String)>,
    /// Steps whose orders a controller took with it when it died.
    pub(super) lost: Vec<String>,
    pub(super) facts: Vec<Facts>,
    pub(super) next_facts: Time,
    pub(super) next_sample: Time,
    pub(super) last_step: Option<String>,
}

impl Performance<'_> {
    /// To its end, or until time runs out.
    pub(super) fn perform(
        &mut self,
        vms: usize,
        interrupt: BorrowedFd<'_>,
        watch: &mut dyn FnMut(&Glimpse),
    ) -> Result<Performed, RunnerError> {
        let limit = monotonic() + self.scenario.time_limit;
        self.run.set_patience(super::patience(self.scenario, interrupt)?);
        match self.turns(vms, limit, interrupt, watch) {
            // The controller has not answered, and shall not be waited for any longer.
            Err(error) if error.gave_up() => match super::is_readable(interrupt) {
                true => Err(RunnerError::Interrupted),
                false => Ok(Performed { outcomes: self.outcomes(vms), in_time: false }),
            },
            performed => performed,
        }
    }

    fn turns(
        &mut self,
        vms: usize,
        limit: Time,
        interrupt: BorrowedFd<'_>,
        watch: &mut dyn FnMut(&Glimpse),
    ) -> Result<Performed, RunnerError> {
        loop {
            self.listen(vms)?;
            self.look(vms, watch)?;
            self.undo_due()?;
            let undone = self.fire_due()?;
            let outcomes = self.outcomes(vms);
            let guests_ended = outcomes.iter().all(Option::is_some);
            if guests_ended {
                let now = monotonic();
                self.workloads.iter_mut().for_each(|workload| workload.guests_ended(now));
                if self.workloads.iter().all(Workload::is_over) {
                    self.await_fenced(interrupt)?;
                    return Ok(Performed { outcomes, in_time: true });
                }
            }
            let now = monotonic();
            if now >= limit {
                return Ok(Performed { outcomes, in_time: false });
            }
            self.turn(self.next_turn(now, undone).min(limit), interrupt)?;
        }
    }

    /// How the VMs have ended; none is lost while a step is still to start hosts.
    fn outcomes(&self, vms: usize) -> Vec<Option<Outcome>> {
        let hosts_come = self.schedule.will_start_hosts();
        let is_over = |outcome: &Outcome| !(hosts_come && matches!(outcome, Outcome::Lost { .. }));
        (0..vms).map(|vm| self.run.outcome_of(vm).filter(is_over)).collect()
    }

    /// When there is something to do even if nothing happens.
    fn next_turn(&self, now: Time, undone: bool) -> Time {
        let mut next = self.next_sample.max(now);
        if undone || self.schedule.awaited_failpoints().next().is_some() {
            next = next.min(now + RETRY_INTERVAL);
        }
        if self.schedule.wants_facts() {
            next = next.min(self.next_facts);
        }
        let killed = self.workloads.iter().filter_map(Workload::killed_at);
        [self.schedule.next_due(), self.next_undo()].into_iter().flatten().chain(killed).fold(next, Time::min)
    }

    /// When something is to be undone.
    fn next_undo(&self) -> Option<Time> {
        self.undos.iter().map(|(at, _)| *at).chain(self.hampers.next_end()).min()
    }

    fn turn(&mut self, until: Time, interrupt: BorrowedFd<'_>) -> Result<(), RunnerError> {
        let mut extra = vec![(interrupt.as_fd(), PollFlags::POLLIN)];
        extra.extend(self.workloads.iter().filter_map(|one| Some((one.descriptor()?, PollFlags::POLLIN))));
        let turn = self.run.turn(until, &extra)?;
        if turn.ready[0] {
            return Err(RunnerError::Interrupted);
        }
        for event in &turn.events {
            self.saw(event);
        }
        for workload in &mut self.workloads {
            if let Some(what) = workload.reap()? {
                self.run.note(Event { at: monotonic(), what })?;
            }
        }
        Ok(())
    }

    fn saw(&mut self, event: &Event) {
        match &event.what {
            What::Happened(happening) => {
                if let Some(live) = (0..self.scenario.vms.len()).find_map(|vm| self.run.timeline_of(vm).first_live()) {
                    self.schedule.running(live);
                }
                let vm = event.what.vm().and_then(|vm| self.run.place_of(vm));
                self.schedule.happened(event.at, HappeningKind::from(happening), vm);
            }
            What::HostExited { host, .. } => self.died(host),
            What::ControllerRevived { .. } => self.died(&HostName::new(CONTROLLER)),
            What::OrderAnswered { order, refused: Some(why) } => self.refused.push((order.clone(), why.clone())),
            What::OrderLost { order } => self.lost.push(order.clone()),
            _ => {}
        }
    }

    /// The next life of a process stands at no failpoint, and what was wrong with it is over.
    fn died(&mut self, process: &HostName) {
        self.dying.remove(process);
        self.hampers.died(process);
        self.standing.retain(|_, standing| standing != process);
        if process.as_str() == CONTROLLER {
            self.awaited_record = None;
        }
    }

    fn listen(&mut self, vms: usize) -> Result<(), RunnerError> {
        for vm in 0..vms {
            let mut bytes = Vec::new();
            while self.run.read_console_of(vm, &mut bytes, CONSOLE_BYTES)? > 0 {}
            if !bytes.is_empty() {
                self.schedule.printed(monotonic(), vm, &bytes);
            }
        }
        Ok(())
    }

    /// A controller that stands still answers nobody, and asking it would stop us, too.
    pub(super) fn controller_answers(&self) -> bool {
        let controller = HostName::new(CONTROLLER);
        // One that is to stop at a failpoint may have done so already, and nobody knows yet.
        self.schedule.awaited_failpoints().all(|(_, process, ..)| *process != controller)
            && self.run.has_controller()
            && !self.stands(&controller)
    }

    /// How far the VMs are, and who stands at a failpoint.
    fn look(&mut self, vms: usize, watch: &mut dyn FnMut(&Glimpse)) -> Result<(), RunnerError> {
        self.look_at_failpoints()?;
        let now = monotonic();
        let sample = now >= self.next_sample;
        if !(sample || self.schedule.wants_facts() && now >= self.next_facts) {
            return Ok(());
        }
        self.next_facts = now + FACTS_INTERVAL;
        if sample {
            self.next_sample = now + SAMPLE_INTERVAL;
        }
        if self.controller_answers() {
            self.ask_for_facts(vms, sample)?;
        }
        if sample {
            watch(&self.glimpse());
        }
        Ok(())
    }

    fn ask_for_facts(&mut self, vms: usize, sample: bool) -> Result<(), RunnerError> {
        let status = self.run.status()?;
        for vm in 0..vms {
            let id = self.run.vm_id(vm);
            let Some(found) = status.vms.iter().find(|status| status.vm == id) else { continue };
            self.facts[vm] = Facts {
                epoch: found.applied.get(),
                generation: found.generation.get(),
                takeovers: found.takeovers,
                switchovers: found.switchovers,
                console_bytes: found.console_end,
                protected: found.unprotected.is_none(),
            };
            if sample {
                let Facts { epoch, generation, console_bytes: console, .. } = self.facts[vm];
                let what = What::Sampled { vm: id, generation, epoch, console, unprotected: found.unprotected.clone() };
                self.run.note(Event { at: monotonic(), what })?;
            }
        }
        self.schedule.observed(monotonic(), &self.facts);
        Ok(())
    }

    fn glimpse(&self) -> Glimpse {
        let timeline = self.run.timeline_of(0);
        Glimpse {
            elapsed: monotonic().since(self.run.started_at()),
            epoch: self.facts.first().map_or(0, |facts| facts.epoch),
            takeovers: timeline.takeovers_done(),
            protected: timeline.is_protected(),
            last_step: self.last_step.clone(),
        }
    }

    fn look_at_failpoints(&mut self) -> Result<(), RunnerError> {
        let awaited = self.schedule.awaited_failpoints();
        let awaited: Vec<(usize, HostName, &'static str, u64)> =
            awaited.map(|(index, process, name, hit)| (index, process.clone(), name, hit)).collect();
        for (index, process, name, hit) in awaited {
            // One that is dead reaches nothing.
            if self.run.cluster().stands_at(&process, name, hit).unwrap_or(false) {
                let what = What::FailpointReached { process: process.clone(), failpoint: name.to_owned() };
                self.run.note(Event { at: monotonic(), what })?;
                self.standing.insert(index, process);
                self.schedule.reached(monotonic(), index);
            }
        }
        Ok(())
    }

    /// Fires what is due; says whether something could not be done yet.
    fn fire_due(&mut self) -> Result<bool, RunnerError> {
        let mut undone = false;
        for index in self.schedule.due(monotonic()) {
            let step = self.schedule.step(index).clone();
            match self.targets(index, &step)? {
                Some(targets) => {
                    self.schedule.fired(index, monotonic());
                    self.fire(index, &step, &targets)?;
                }
                None => undone = true,
            }
        }
        Ok(undone)
    }

    fn fire(&mut self, index: usize, step: &Step, targets: &[Vec<HostName>]) -> Result<(), RunnerError> {
        self.run.note(Event { at: monotonic(), what: What::StepFired { step: step.name.clone() } })?;
        self.last_step = Some(step.name.clone());
        for (act, hosts) in step.acts.iter().zip(targets) {
            self.act(index, step, act, hosts)?;
        }
        self.hit[index] = targets.iter().flatten().cloned().collect();
        if let Some(process) = self.standing.remove(&index) {
            self.let_go_on(step, &process)?;
        }
        self.await_no_record()
    }

    /// What stood at a failpoint goes on, unless the step has killed or stopped it.
    fn let_go_on(&mut self, step: &Step, process: &HostName) -> Result<(), RunnerError> {
        if !self.dying.contains(process) && !self.stands(process) {
            let done = self.run.signal(process, crate::cluster::HostSignal::Cont);
            self.of_step(step, done)?;
        }
        Ok(())
    }

    /// An error that a step brought about names it.
    pub(super) fn of_step(&self, step: &Step, done: Result<(), RunError>) -> Result<(), RunnerError> {
        done.map_err(|source| RunnerError::Step {
            path: self.scenario.path.clone(),
            line: step.line,
            step: step.name.clone(),
            source: Box::new(source),
        })
    }

    /// A deposed host may find out only after the guests have ended.
    fn await_fenced(&mut self, interrupt: BorrowedFd<'_>) -> Result<(), RunnerError> {
        let Some(expected) = self.scenario.expect.fenced else { return Ok(()) };
        let limit = monotonic() + FENCED_BOUND;
        while self.run.timeline().fenced() < expected.min && monotonic() < limit {
            self.undo_due()?;
            let until = self.next_undo().map_or(limit, |undo| undo.min(limit));
            self.turn(until, interrupt)?;
        }
        Ok(())
    }
}

/// What an act is called in the events.
pub(super) fn name_of(act: &Act) -> String {
    match act {
        Act::Slow { percent, .. } => format!("slow to {percent} %"),
        Act::Cut { from: CutFrom::Pool, .. } => "cut from the pool".to_owned(),
        Act::Cut { from, ways, .. } => {
            let what = if *from == CutFrom::Both { "pool and network" } else { "network" };
            match ways {
                WaysPart::Both | WaysPart::ToGuest | WaysPart::FromGuest => format!("cut from the {what}"),
                WaysPart::ToHost => format!("cut from the {what}, to the host only"),
                WaysPart::FromHost => format!("cut from the {what}, from the host only"),
            }
        }
        Act::Corrupt { what, .. } => format!("corrupt {what:?}").to_lowercase(),
        Act::Fill { .. } => "pool full".to_owned(),
        Act::Segment { loss, latency, .. } => match (loss, latency) {
            (loss, &Span::ZERO) => format!("segment: {loss} of 1000 frames are lost"),
            (0, latency) => format!("segment: frames take {} longer", show_span(*latency)),
            (loss, latency) => {
                format!("segment: {loss} of 1000 frames are lost, others take {} longer", show_span(*latency))
            }
        },
        Act::Clock { by_ns, .. } => {
            let (way, by) = (if *by_ns < 0 { "back" } else { "forward" }, Span::from_ns(by_ns.unsigned_abs()));
            format!("clock steps {way} by {}", show_span(by))
        }
        _ => String::new(),
    }
}
