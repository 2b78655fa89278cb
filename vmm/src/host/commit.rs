//! The committer: a thread beside the vCPU's that checksums and publishes commit records while the guest runs on, and
//! keeps the time of the next cut.

use super::commit_times::{CommitTimes, Publishing};
use super::console_input::ConsoleInput;
use super::driver::{SharedLink, ring};
use super::outbox::Outbox;
use super::record::RecordLog;
use super::vm_thread::Command;
use crate::clock::{self, ThreadClock};
use crate::failpoint;
use crate::machine::Kicker;
use crate::mailbox::{Receiver, Sender};
use crossbeam_channel::RecvTimeoutError;
use ft_protocol::activity::{Activity, Doing};
use ft_protocol::primary::{Action, Input, Primary};
use ft_protocol::spec::Mode;
use ft_protocol::wire::FromHost;
use ft_protocol::{Epoch, Generation, Span, Time, VmId};
use shared_mem::journal::UnchecksummedRecord;
use shared_mem::{ActivityWriter, ControlBlock, Extent, JournalWriter, Mapping, PublishError, ReadOnly, ReadWrite};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

type Failure = Box<dyn std::error::Error + Send + Sync>;
pub(super) type Journal = JournalWriter<Mapping<ReadWrite>, Extent>;

/// The core and the actions that the vCPU's thread has still to take, under one lock: whoever feeds the core hands the
/// actions on in the core's order.
pub(super) struct Gate {
    inner: Mutex<Inner>,
    /// The core was told of something that came for the guest.
    event: AtomicBool,
    /// When the committer will look at the clock next; later than the core's deadline only for a moment.
    armed_ns: AtomicU64,
}

struct Inner {
    core: Primary,
    /// What the vCPU's thread has run.
    ran: ThreadClock,
    for_vcpu: Vec<Action>,
    said: Said,
    /// The committer cannot go on.
    failed: Option<Failure>,
}

type Words = ActivityWriter<Mapping<ReadWrite>>;

/// What was said of the primary in the heartbeat page.
struct Said {
    words: Option<Words>,
    last: Activity,
}

impl Said {
    fn say(&self) {
        if let Some(words) = &self.words {
            // A host that is cut off is found silent.
            let _ = words.say(self.last.encode());
        }
    }
}

impl Inner {
    fn handle(&mut self, input: Input, actions: &mut Vec<Action>) {
        let now = clock::monotonic();
        if self.core.asks_what_ran(now, &input)
            && let Some(ran) = self.ran.spent()
        {
            self.core.ran(now, ran);
        }
        self.core.handle(now, input, actions);
        self.show();
    }

    /// Says what the core does, where that has changed.
    fn show(&mut self) {
        let doing = self.core.doing();
        if doing != self.said.last.doing {
            self.said.last = Activity { doing, count: self.said.last.count + 1 };
            self.said.say();
        }
    }
}

/// Work for the committer.
pub(super) enum Job {
    Publish {
        record: UnchecksummedRecord,
        from: Epoch,
        to: Epoch,
        /// The last epoch whose slot is known to be free again.
        freed: shared_mem::Epoch,
    },
    /// The next cut is due earlier than the committer knows.
    Rearm,
    /// The guest runs on behind a commit, whose record came before this.
    Tell(CommitTimes),
}

/// What the committer's thread works with.
pub(super) struct Committer<'a> {
    pub(super) vm: VmId,
    pub(super) generation: Generation,
    pub(super) gate: &'a Gate,
    pub(super) outbox: &'a Outbox,
    pub(super) input: &'a ConsoleInput<'a>,
    pub(super) log: RecordLog,
    pub(super) journal: &'a Journal,
    pub(super) control: &'a ControlBlock<Mapping<ReadOnly>>,
    pub(super) link: &'a SharedLink,
    pub(super) kicker: Kicker,
    pub(super) to_vcpu: Sender<Command>,
}

impl Gate {
    /// To be made by the vCPU's thread.
    pub(super) fn new(core: Primary, activity: Option<Words>) -> Self {
        let said = Said { words: activity, last: Activity { doing: core.doing(), count: 0 } };
        said.say();
        let ran = ThreadClock::of_this_thread();
        let inner = Inner { core, ran, for_vcpu: Vec::new(), said, failed: None };
        Self { inner: Mutex::new(inner), event: AtomicBool::new(false), armed_ns: AtomicU64::new(u64::MAX) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("a panic in the core has ended the machine")
    }

    /// Feeds the core from the vCPU's thread and takes everything that is for it to do, in order.
    pub(super) fn vcpu(&self, input: Input, actions: &mut Vec<Action>) -> Result<(), Failure> {
        let mut inner = self.lock();
        if let Some(failure) = inner.failed.take() {
            return Err(failure);
        }
        actions.append(&mut inner.for_vcpu);
        inner.handle(input, actions);
        Ok(())
    }

    /// The last epoch that the core knows to be committed.
    pub(super) fn committed(&self) -> Epoch {
        self.lock().core.committed()
    }

    /// How the VM is protected.
    pub(super) fn mode(&self) -> Mode {
        self.lock().core.mode()
    }

    /// The vCPU's thread lives, whatever it waits for.
    pub(super) fn breathe(&self) {
        let mut inner = self.lock();
        inner.said.last.count += 1;
        inner.said.say();
    }

    /// Something came that the guest takes at an exit, in the modes in which that has to be seen to. Says whether the
    /// committer has to be told that the next cut is due earlier than it knows.
    pub(super) fn event_waits(&self) -> bool {
        let mut inner = self.lock();
        if !inner.core.mode().records() {
            return false;
        }
        let mut actions = std::mem::take(&mut inner.for_vcpu);
        inner.handle(Input::EventWaits, &mut actions);
        self.event.store(true, Ordering::Relaxed);
        let left = !actions.is_empty();
        inner.for_vcpu = actions;
        drop(inner);
        left || self.must_rearm()
    }

    /// Whether the core was told of something that the guest may have taken since.
    pub(super) fn knows_event(&self) -> bool {
        self.event.load(Ordering::Relaxed)
    }

    /// Tells the core, if so, that nothing waits for the guest any more. What comes now is told after this.
    pub(super) fn settle_events(&self, waits: impl FnOnce() -> bool, actions: &mut Vec<Action>) -> Result<(), Failure> {
        let mut inner = self.lock();
        if let Some(failure) = inner.failed.take() {
            return Err(failure);
        }
        if !waits() {
            self.event.store(false, Ordering::Relaxed);
            actions.append(&mut inner.for_vcpu);
            inner.handle(Input::EventsTaken, actions);
        }
        Ok(())
    }

    /// When the next cut is due.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.lock().core.deadline()
    }

    /// Whether the committer has to be told that the next cut is due earlier than it knows.
    pub(super) fn must_rearm(&self) -> bool {
        let due = self.deadline().map_or(u64::MAX, Time::ns);
        self.armed_ns.fetch_min(due, Ordering::Relaxed) > due
    }
}

/// Between two looks whether what an idle guest keeps is needed by others.
const SPACE_LOOK_INTERVAL: Span = Span::from_ms(1_000);

/// Space beyond the reserved parts of the journal's slots that is kept for records to come.
#[derive(Default)]
struct KeptSpace {
    /// The largest record since it was given back last.
    bytes: u64,
    look_at: Option<Time>,
}

impl KeptSpace {
    fn note(&mut self, record_bytes: u64, reserved_bytes: u64) {
        if record_bytes > reserved_bytes {
            self.bytes = self.bytes.max(record_bytes);
        }
        self.look_at = (self.bytes > 0).then(|| clock::monotonic() + SPACE_LOOK_INTERVAL);
    }
}

impl Committer<'_> {
    /// Works until the channel of jobs closes.
    pub(super) fn run(&self, jobs: &Receiver<Job>) {
        let mut publishing = Publishing::default();
        let mut kept = KeptSpace::default();
        loop {
            let due = self.gate.deadline();
            self.gate.armed_ns.store(due.map_or(u64::MAX, Time::ns), Ordering::Relaxed);
            let job = match due.into_iter().chain(kept.look_at).min() {
                Some(due) => jobs.recv_timeout(Duration::from_nanos(due.since(clock::monotonic()).ns())),
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match job {
                Ok(Job::Publish { record, from, to, freed }) => {
                    let bytes = record.total_bytes();
                    let input = match self.publish(record, from, to, &mut publishing) {
                        Ok(input) => input,
                        Err(failure) => {
                            self.gate.lock().failed = Some(failure);
                            self.rouse();
                            return;
                        }
                    };
                    let published = matches!(input, Input::Published(_));
                    self.feed(input);
                    if published {
                        kept.note(bytes, self.journal.geometry().reserved_bytes);
                        // The next record will be about as large; whatever else there is to do goes first.
                        let next = shared_mem::Epoch::new(to.next().get());
                        self.journal.prepare(next, freed, bytes, || jobs.is_empty() && self.cut_is_ahead());
                    }
                }
                Ok(Job::Tell(times)) => times.tell(self.vm, publishing),
                // What made the deadline earlier may have found it past.
                Ok(Job::Rearm) => self.feed(Input::Tick),
                // The vCPU stops and looks at the clock itself. Should it be busy with something longer, it does so then.
                Err(RecvTimeoutError::Timeout) => {
                    self.feed(Input::Tick);
                    self.look_after(&mut kept);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Gives back what the journal keeps for records to come when the pool is short of space and this guest has nothing to
    /// commit: its neighbours may wait for it.
    fn look_after(&self, kept: &mut KeptSpace) {
        let now = clock::monotonic();
        if kept.look_at.is_none_or(|at| now < at) {
            return;
        }
        kept.look_at = Some(now + SPACE_LOOK_INTERVAL);
        // While the core is locked and rests, no record is written, nor in flight: the next one begins with an action of it.
        let inner = self.gate.lock();
        if inner.core.doing() != Doing::Waits || !self.journal.is_pool_short(kept.bytes).unwrap_or(false) {
            return;
        }
        *kept = KeptSpace::default();
        let next = shared_mem::Epoch::new(inner.core.committed().next().get());
        let released = self
            .control
            .freed()
            .map_err(Failure::from)
            .and_then(|freed| Ok(self.journal.release_free_slots(next, freed)?));
        match released {
            Ok(()) => tracing::debug!("{} gives back the space kept for its records: the pool is short of it", self.vm),
            // It is found again by whoever uses the control block next, or it is given back with the generation.
            Err(error) => tracing::warn!("{} keeps space that others need: {}", self.vm, crate::chain(&*error)),
        }
    }

    /// The guest runs, and is not to be stopped just now.
    fn cut_is_ahead(&self) -> bool {
        self.gate.lock().core.cut_deadline().is_some_and(|due| due > clock::monotonic())
    }

    fn publish(
        &self,
        record: UnchecksummedRecord,
        from: Epoch,
        to: Epoch,
        publishing: &mut Publishing,
    ) -> Result<Input, Failure> {
        let begun = clock::monotonic();
        let finished = self.journal.checksum(&record)?;
        let checksummed = clock::monotonic();
        publishing.checksum = checksummed.since(begun);
        failpoint::pass("host.commit.checksummed");
        failpoint::pass("host.commit.publishing");
        assert_eq!(finished.epoch().get(), to.get(), "the record is of the epoch to be published");
        let result = self.journal.publish(finished);
        publishing.publish = clock::monotonic().since(checksummed);
        match result {
            Ok(published) => {
                failpoint::pass("host.commit.published");
                assert_eq!(published.get(), from.next().get(), "epochs are published in order");
                Ok(Input::Published(to))
            }
            Err(PublishError::Sealed { final_epoch }) => {
                Ok(Input::Sealed { final_epoch: Epoch::new(final_epoch.get()) })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Feeds the core; does what this thread can do at once, leaves the rest to the vCPU's.
    fn feed(&self, input: Input) {
        let mut actions = Vec::new();
        let mut pause = false;
        let mut inner = self.gate.lock();
        inner.handle(input, &mut actions);
        for action in actions {
            match action {
                // Console output leaves through the controller, which applies only what is published.
                Action::Release(epoch) => {
                    self.outbox.release(epoch);
                    self.input.published(epoch);
                }
                Action::PauseAtExit => {
                    self.log.pause(true);
                    pause = true;
                }
                Action::LogDoorbell => {
                    ring(self.link, &FromHost::Logged { vm: self.vm, generation: self.generation });
                }
                Action::Doorbell(epoch) => {
                    ring(self.link, &FromHost::Doorbell { vm: self.vm, generation: self.generation, epoch });
                }
                other => inner.for_vcpu.push(other),
            }
        }
        let left = !inner.for_vcpu.is_empty();
        drop(inner);
        if left {
            self.rouse();
        } else if pause {
            // A guest that waits stands at an exit already; one that runs is not disturbed.
            let _ = self.to_vcpu.send(Command::Look);
        }
    }

    /// Makes the vCPU's thread look, whether it runs the guest or waits.
    fn rouse(&self) {
        // The thread may have ended already.
        let _ = self.to_vcpu.send(Command::Look);
        self.kicker.kick();
    }
}
