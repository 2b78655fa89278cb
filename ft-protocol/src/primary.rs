//! The primary's core for one VM: epoch cutting and output gate.
//!
//! ```text
//!            cut due             stopped, slot free        record written
//!  Running ----------> Stopping --------------------> Writing -----------> Running   (record in flight)
//!     ^                   |  stopped, no slot free                            |
//!     |                   v                                                   | published -> release, doorbell
//!     |                 Stalled --- slot freed ---> Writing                   v
//!     +-----------------------------------------------------------------  Running   (nothing in flight)
//!
//!  an event is to be delivered at the cut, or the mode changes there:  Writing ---> Holding --- published ---> Running
//!  a yield was asked for, or the guest has ended:  Writing ---> Resting --- published ---> Halted(Yielded, Ended)
//!  any state --- publish refused (sealed) or deposed ---> Halted(Fenced): releases nothing, ever again
//! ```
//!
//! The guest runs on while a record is checksummed and published; its outputs stay behind the gate until the
//! publication of the record that covers them has succeeded (I1). At most one record is in flight.
//!
//! In the modes that record (replay, lockstep) the gate is the record log: the driver appends every input before the
//! guest sees it, so outputs leave at once and ask for no cut. Cuts only bound the log and the replay. They are made at an
//! exit of the guest, where a replay of it comes by, too; only a guest that takes none for a while is stopped elsewhere. An event that the
//! guest takes no exit for is delivered at a cut made for it: the guest stands still until that cut is published, so that
//! whoever replays finds the event at the very beginning of an epoch. The mode changes at such a cut, too.

mod io;

pub use io::{Action, Halt, Input, PrimaryConfig, PrimaryCounts};

use crate::activity::Doing;
use crate::commit_meta::GuestEnd;
use crate::controller::STALL_EPOCHS;
use crate::ids::Epoch;
use crate::planted::{PlantedBug, planted};
use crate::spec::Mode;
use crate::time::{Span, Time};

/// How many times the length of the last pause must pass between two cuts that only a waiting output asks for:
/// a chatty guest keeps at least two thirds of its time, where that is less than an epoch takes anyway.
pub const CUT_SPACING_PAUSES: u64 = 2;

/// How many times the length of the last pause the guest runs before the next cut that nothing asks for: it keeps three
/// quarters of its time, or more where an epoch takes longer anyway. Beside the pause, each page that it writes once more costs
/// it a fault.
pub const RUN_PAUSES: u64 = 3;

/// How many epoch intervals the guest runs at most because the last commit stopped it for so long: outputs wait no longer
/// for that, and who watches the progress of commits expects one.
pub const RUN_EPOCHS_MAX: u64 = 10;

/// The first cut behind a replay comes after this time at the latest.
const REPLAYED_MAX: Span = Span::from_ms(10);

/// Where an epoch should not dirty more than so many pages, it begins with this interval until the guest's rate is known, and
/// with no more than twice the last one after that: how much a guest will write nobody can know.
const PACED_FIRST: Span = Span::from_ms(10);
/// And no longer than this, however little the guest has written so far.
const PACED_MAX: Span = Span::from_ms(100);
/// And no shorter: a cut takes about as long.
const PACED_MIN: Span = Span::from_ms(1);

/// After so many times the patience the guest is stopped even if its vCPU has hardly run.
const PATIENCE_WALL: u64 = 20;

/// How often at most a vCPU is looked at that runs while there is patience with it.
const LOOKS: u64 = 10;

const _: () = assert!(RUN_EPOCHS_MAX * 2 <= STALL_EPOCHS, "a guest that runs on is not suspected for it");

/// Something waits for an exit of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Awaiting {
    since: Time,
    /// What the vCPU had run by then, if the driver says such things.
    ran: Option<Span>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Stopping {
        since: Time,
    },
    Stalled {
        since: Time,
    },
    Writing {
        epoch: Epoch,
        since: Time,
    },
    /// A record is in flight that must be published before the guest goes on.
    Holding,
    /// The last record of this host is in flight, the guest stands still.
    Resting,
    Halted,
}

/// The core. One per VM and generation.
#[derive(Debug)]
pub struct Primary {
    config: PrimaryConfig,
    phase: Phase,
    published: Epoch,
    applied: Epoch,
    in_flight: Option<Epoch>,
    ended: Option<GuestEnd>,
    yielding: bool,
    /// The guest has run since the last cut.
    changed: bool,
    /// The record that is being written waits for space in the pool, since then.
    out_of_space: Option<Time>,
    /// How long the commit that is under way waited for others: for a slot, or for space.
    held_up: Span,
    /// The guest is to go on behind a commit, and has not yet.
    resuming: bool,
    output_pending: u64,
    mode: Mode,
    turn_to: Option<Mode>,
    event: Option<Awaiting>,
    log_low: bool,
    /// A cut waits for an exit of the guest.
    pausing: Option<Awaiting>,
    /// What the vCPU has run, and when that was so.
    ran: Option<(Span, Time)>,
    /// When the controller was last told of output in the log, and when it is to be told again.
    last_log_doorbell: Option<Time>,
    log_doorbell_due: Option<Time>,
    flush: bool,
    last_cut: Time,
    last_pause: Span,
    /// When the guest went on behind the last cut, and how long it had been stopped for it, but for what was waited for
    /// others.
    resumed: (Time, Span),
    /// The same with that.
    stood: Span,
    /// The longest interval at which an epoch dirties no more pages than it should.
    paced: Span,
    counts: PrimaryCounts,
}

impl Primary {
    /// A primary whose machine is loaded with epoch `config.base` and runs from `now` on.
    ///
    /// # Panics
    /// If a bound is zero.
    #[must_use]
    pub fn new(config: PrimaryConfig, now: Time) -> Self {
        assert!(config.slots > 0, "a journal needs a slot");
        assert!(config.epoch_interval > Span::ZERO && config.console_pending_max > 0, "bounds must not be zero");
        Self {
            config,
            phase: Phase::Running,
            published: config.base,
            applied: config.base,
            in_flight: None,
            ended: None,
            yielding: false,
            changed: true,
            out_of_space: None,
            held_up: Span::ZERO,
            resuming: false,
            output_pending: 0,
            mode: config.mode,
            turn_to: None,
            event: None,
            log_low: false,
            pausing: None,
            ran: None,
            last_log_doorbell: None,
            log_doorbell_due: None,
            flush: false,
            last_cut: now,
            last_pause: Span::ZERO,
            resumed: (now, Span::ZERO),
            stood: Span::ZERO,
            paced: PACED_FIRST,
            counts: PrimaryCounts::default(),
        }
    }

    /// Takes an input and appends what is to be done.
    ///
    /// # Panics
    /// If the driver breaks the protocol: answers that were not asked for are its bug, not an input error.
    pub fn handle(&mut self, now: Time, input: Input, actions: &mut Vec<Action>) {
        if self.phase == Phase::Halted {
            return;
        }
        match input {
            Input::Tick => {}
            Input::Output { console, packets } => {
                let waits_for_more = packets == 0 && console < self.config.console_batch;
                self.output_pending = if waits_for_more { 0 } else { console + packets };
            }
            Input::Resumed { pause } => {
                if std::mem::take(&mut self.resuming) {
                    self.resumed = (now, Span::from_ns(pause.ns().saturating_sub(self.held_up.ns())));
                    self.stood = pause;
                }
            }
            Input::StillWaits => self.changed = self.phase != Phase::Running,
            Input::Woke => self.changed = true,
            Input::Ended(end) => {
                assert!(self.ended.is_none(), "a guest ends once");
                self.ended = Some(end);
                self.changed = true;
                if self.phase == Phase::Running {
                    self.phase = Phase::Stopping { since: now };
                }
                self.stopped(now, actions);
            }
            Input::Flush => self.flush = !self.mode.records(),
            Input::EventWaits => self.event = self.event.or(Some(self.awaiting(now))),
            Input::EventsTaken => self.event = None,
            Input::LogLow => self.log_low = true,
            Input::Logged => {
                // The first output of a burst rings at once, the others together.
                let next = self.last_log_doorbell.map_or(now, |last| last + self.config.cut_spacing_min);
                self.log_doorbell_due.get_or_insert(next);
            }
            Input::Turn(mode) => self.turn_to = (mode != self.mode).then_some(mode),
            Input::Yield => self.yielding = true,
            Input::AtExit => {
                if self.pausing.is_some() && self.cut_deadline().is_some() {
                    self.cut(now, actions);
                }
            }
            Input::Stopped => self.stopped(now, actions),
            Input::OutOfSpace => {
                self.out_of_space.get_or_insert(now);
            }
            Input::Dirtied { pages } => self.pace(pages),
            Input::Written(epoch) => self.written(now, epoch, actions),
            Input::Published(epoch) => self.published(epoch, actions),
            Input::Sealed { final_epoch } => {
                self.phase = Phase::Halted;
                self.pausing = None;
                if planted(PlantedBug::FencedReleases) {
                    actions.push(Action::Release(final_epoch.next()));
                }
                actions.push(Action::Halt(Halt::Fenced { final_epoch }));
            }
            Input::Applied(epoch) => self.applied(now, epoch, actions),
        }
        if self.log_doorbell_due.is_some_and(|due| due <= now) {
            self.log_doorbell_due = None;
            self.last_log_doorbell = Some(now);
            actions.push(Action::LogDoorbell);
        }
        self.cut_if_due(now, actions);
    }

    /// When [`Input::Tick`] is due, or `None` while only events can change anything.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let doorbell = self.log_doorbell_due.filter(|_| self.phase != Phase::Halted);
        [self.cut_deadline(), doorbell].into_iter().flatten().min()
    }

    /// When the guest is to be stopped; `None` while it is stopped, a record is on its way, or there is nothing to commit.
    #[must_use]
    pub fn cut_deadline(&self) -> Option<Time> {
        if self.phase != Phase::Running || self.in_flight.is_some() || self.resuming {
            return None;
        }
        let due = self.cut_due_at()?;
        // Once the guest was asked to pause, only its taking too long counts.
        let paused_by = self.pausing.map(|pausing| self.patience_ends(pausing));
        Some(paused_by.map_or(due, |paused_by| self.event_due_at().map_or(paused_by, |at| at.min(paused_by))))
    }

    /// Whether it counts for this input what the vCPU has run: then the driver says so before it, by [`Primary::ran`].
    #[must_use]
    pub fn asks_what_ran(&self, now: Time, input: &Input) -> bool {
        let may_begin = match input {
            Input::EventWaits => self.event.is_none(),
            Input::LogLow
            | Input::Turn(_)
            | Input::Yield
            | Input::Published(_)
            | Input::Resumed { .. }
            | Input::Woke => self.pausing.is_none(),
            _ => false,
        };
        self.mode.records() && (may_begin || self.cut_deadline().is_some_and(|due| due <= now))
    }

    /// The vCPU has run for so long since its beginning. A guest that others keep from running comes to no exit, and is not to
    /// be stopped for it in the midst of what it does, where no replay comes by: patience counts what it ran. A driver that
    /// never says this has wall time count.
    pub fn ran(&mut self, now: Time, ran: Span) {
        self.ran = Some((ran, now));
    }

    fn awaiting(&self, now: Time) -> Awaiting {
        Awaiting { since: now, ran: self.ran.map(|(ran, _)| ran) }
    }

    /// When the guest has been waited for long enough, as far as can be known: it cannot run for longer than time passes.
    fn patience_ends(&self, awaiting: Awaiting) -> Time {
        let (patience, since) = (self.config.event_patience, awaiting.since);
        match (awaiting.ran, self.ran) {
            (Some(before), Some((ran, at))) => {
                let ran = ran.ns().saturating_sub(before.ns());
                // A vCPU that is kept from running uses up little of it by the time that it is looked at again.
                let left = match patience.ns().saturating_sub(ran) {
                    0 => Span::ZERO,
                    left => Span::from_ns(left.max(patience.ns() / LOOKS)),
                };
                (at.max(since) + left).min(since + patience.times(PATIENCE_WALL))
            }
            _ => since + patience,
        }
    }

    /// When the guest is to be stopped for an event, wherever it is. Where the last commit had it stand for long, also for want
    /// of a slot, it would stand for the next event again: it would never come to the exit that takes one.
    fn event_due_at(&self) -> Option<Time> {
        let (resumed_at, _) = self.resumed;
        self.event.map(|event| self.patience_ends(event).max(resumed_at + self.stood.times(RUN_PAUSES)))
    }

    /// How the VM is protected now.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The last epoch that this primary knows to be committed.
    #[must_use]
    pub fn committed(&self) -> Epoch {
        self.published
    }

    /// Whether the vCPU waits for a journal slot.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        matches!(self.phase, Phase::Stalled { .. })
    }

    /// What it does, for those who watch its progress: whether a commit has to come.
    #[must_use]
    pub fn doing(&self) -> Doing {
        match self.phase {
            Phase::Stalled { .. } => Doing::Blocked,
            Phase::Writing { .. } if self.out_of_space.is_some() => Doing::Blocked,
            Phase::Writing { .. } => Doing::Writes,
            Phase::Running if self.in_flight.is_none() && !self.changed && !self.yielding => Doing::Waits,
            Phase::Halted => Doing::Waits,
            Phase::Running | Phase::Stopping { .. } | Phase::Holding | Phase::Resting => Doing::Owes,
        }
    }

    /// Counts for metrics.
    #[must_use]
    pub fn counts(&self) -> PrimaryCounts {
        self.counts
    }

    fn cut_due_at(&self) -> Option<Time> {
        if self.yielding || self.turn_to.is_some() {
            return Some(Time::ZERO);
        }
        if !self.changed {
            return None;
        }
        let regular = self.cut_behind(RUN_PAUSES);
        if self.mode.records() {
            if self.log_low {
                return Some(Time::ZERO);
            }
            if self.mode == Mode::Lockstep && self.published == Epoch::ZERO {
                // A follower has nothing to begin with before the first commit.
                return Some(self.last_cut);
            }
            return Some(self.event_due_at().map_or(regular, |event| event.min(regular)));
        }
        if self.output_pending >= self.config.console_pending_max {
            return Some(Time::ZERO);
        }
        if self.output_pending > 0 || self.flush {
            let spacing = self.config.cut_spacing_min.max(self.last_pause.times(CUT_SPACING_PAUSES));
            return Some(self.cut_behind(1).min(self.last_cut + spacing));
        }
        Some(regular)
    }

    /// When the interval is over, and the guest has run so many times as long as the last commit stopped it: where that is
    /// longer than an interval, it would have hardly any time if it did not count.
    fn cut_behind(&self, pauses: u64) -> Time {
        let interval = self.config.epoch_interval;
        let interval = self.config.epoch_pages_max.map_or(interval, |_| interval.min(self.paced));
        let is_first = self.published == self.config.base;
        let interval = if is_first && self.config.replayed { interval.min(REPLAYED_MAX) } else { interval };
        let (resumed_at, pause) = self.resumed;
        (self.last_cut + interval).max(resumed_at + pause.times(pauses).min(interval.times(RUN_EPOCHS_MAX)))
    }

    /// Fits the next interval to what the guest dirtied since it went on behind the last cut.
    fn pace(&mut self, pages: u64) {
        let (Some(pages_max), Phase::Writing { since, .. }) = (self.config.epoch_pages_max, &self.phase) else {
            return;
        };
        let ran = since.since(self.resumed.0).max(PACED_MIN);
        let fits = u128::from(ran.ns()) * u128::from(pages_max.max(1)) / u128::from(pages.max(1));
        let fits = Span::from_ns(u64::try_from(fits).unwrap_or(u64::MAX));
        self.paced = fits.min(self.paced.times(2)).clamp(PACED_MIN, PACED_MAX);
    }

    fn cut_if_due(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.cut_deadline().is_none_or(|due| now < due) {
            return;
        }
        // For an event that no exit has taken, the guest has been waited for already.
        if self.mode.records() && self.pausing.is_none() && self.event_due_at().is_none_or(|due| now < due) {
            self.pausing = Some(self.awaiting(now));
            actions.push(Action::PauseAtExit);
            return;
        }
        self.cut(now, actions);
    }

    fn cut(&mut self, now: Time, actions: &mut Vec<Action>) {
        assert!(self.in_flight.is_none(), "one record in flight at most");
        self.counts.cuts += 1;
        if now < self.last_cut + self.config.epoch_interval {
            self.counts.early_cuts += 1;
        }
        self.phase = Phase::Stopping { since: now };
        self.pausing = None;
        self.held_up = Span::ZERO;
        actions.push(Action::Stop);
    }

    fn stopped(&mut self, now: Time, actions: &mut Vec<Action>) {
        let Phase::Stopping { since } = self.phase else {
            assert!(self.ended.is_some(), "stopped without having been asked to");
            return;
        };
        if self.mode.records() && self.ended.is_none() && self.cut_due_at().is_none_or(|due| now < due) {
            // The guest took the event by itself while it was being stopped for it.
            self.phase = Phase::Running;
            self.counts.cuts -= 1;
            if since < self.last_cut + self.config.epoch_interval {
                self.counts.early_cuts -= 1;
            }
            actions.push(Action::Resume);
            return;
        }
        if self.in_flight.is_some() {
            // Only a guest's end gets here: its record waits until the one before it is published.
            assert!(self.ended.is_some(), "a cut while a record is in flight");
            return;
        }
        if self.slot_is_free() {
            self.write(since, actions);
        } else {
            self.counts.stalls += 1;
            self.phase = Phase::Stalled { since: now };
        }
    }

    fn write(&mut self, since: Time, actions: &mut Vec<Action>) {
        assert!(self.slot_is_free() && self.in_flight.is_none(), "no place for a record");
        let epoch = self.published.next();
        self.phase = Phase::Writing { epoch, since };
        actions.push(Action::Write { epoch, ended: self.ended.clone() });
    }

    fn written(&mut self, now: Time, written: Epoch, actions: &mut Vec<Action>) {
        let Phase::Writing { epoch, since } = self.phase else { panic!("a record that nobody asked for: {written}") };
        assert_eq!(epoch, written, "the record of another epoch");
        if let Some(since) = self.out_of_space.take() {
            self.held_up = Span::from_ns(self.held_up.ns().saturating_add(now.since(since).ns()));
        }
        self.last_pause = now.since(since);
        self.last_cut = now;
        self.output_pending = 0;
        self.log_low = false;
        self.flush = false;
        self.in_flight = Some(epoch);
        if self.ended.is_some() || self.yielding {
            self.phase = Phase::Resting;
        } else if self.turn_to.is_some() || (self.mode.records() && self.event.is_some()) {
            self.phase = Phase::Holding;
        } else {
            self.go_on(actions);
        }
        if planted(PlantedBug::GateOpensEarly) {
            actions.push(Action::Release(epoch));
        }
        actions.push(Action::Publish { from: self.published, to: epoch });
    }

    /// The guest runs on after a cut.
    fn go_on(&mut self, actions: &mut Vec<Action>) {
        self.phase = Phase::Running;
        self.changed = true;
        self.resuming = true;
        if !self.mode.records() {
            // Nothing is replayed: any moment will do.
            self.event = None;
            actions.push(Action::Deliver);
        }
        actions.push(Action::Resume);
    }

    fn published(&mut self, epoch: Epoch, actions: &mut Vec<Action>) {
        assert_eq!(self.in_flight, Some(epoch), "published what was not in flight");
        assert_eq!(epoch, self.published.next(), "epochs are published in order");
        self.in_flight = None;
        self.published = epoch;
        actions.push(Action::Release(epoch));
        actions.push(Action::Doorbell(epoch));
        match self.phase {
            Phase::Resting => {
                self.phase = Phase::Halted;
                actions.push(Action::Halt(self.ended.clone().map_or(Halt::Yielded, Halt::Ended)));
            }
            Phase::Holding => {
                if let Some(mode) = self.turn_to.take() {
                    self.config.epoch_interval = self.mode.interval_in(mode, self.config.epoch_interval);
                    self.mode = mode;
                    actions.push(Action::SetMode(mode));
                }
                self.event = None;
                actions.push(Action::Deliver);
                self.go_on(actions);
            }
            // The guest ended while this record was in flight: now its last one can be written.
            Phase::Stopping { since } if self.ended.is_some() => {
                if self.slot_is_free() {
                    self.write(since, actions);
                } else {
                    self.counts.stalls += 1;
                    self.phase = Phase::Stalled { since };
                }
            }
            _ => {}
        }
    }

    fn applied(&mut self, now: Time, epoch: Epoch, actions: &mut Vec<Action>) {
        // The control block is the controller's: a value from the future is its bug, an older one is just stale.
        self.applied = self.applied.max(epoch.min(self.published));
        if let Phase::Stalled { since } = self.phase
            && self.slot_is_free()
        {
            self.held_up = now.since(since);
            self.write(since, actions);
        }
    }

    /// Whether the slot of the next epoch has been given back by the controller.
    fn slot_is_free(&self) -> bool {
        let next = self.published.next().get();
        next - self.applied.get() <= u64::from(self.config.slots)
    }
}

#[cfg(test)]
#[path = "primary_tests.rs"]
mod tests;
