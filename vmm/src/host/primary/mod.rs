//! The vCPU's thread while its host is primary: runs the guest and does what the primary's core says.

mod actions;
mod printed;
mod write;

use super::arrivals::Arrivals;
use super::beginning::{self, GivenUp, Loaded, Start};
use super::commit::{Committer, Gate, Job, Journal};
use super::commit_times::{self, CommitTimes};
use super::console_input::ConsoleInput;
use super::follow::Warm;
use super::networks::Networks;
use super::outbox::Outbox;
use super::output_words::OutputWords;
use super::parts::StandbyParts;
use super::record::RecordLog;
use super::vm_thread::{Command, Promotion, Surroundings, VmEvent};
use super::working_set::{self, WorkingSet};
use crate::clock;
use crate::controller::CONSOLE_BYTES;
use crate::failpoint;
use crate::machine::device::virtio::{Disk, OUTPUT_BYTES_MAX};
use crate::machine::history::HistorySink;
use crate::machine::{DirtyPages, LiveInputs, Machine, MachineError, Stop};
use crate::mailbox::{self, Sender};
use crate::slice;
use crossbeam_channel::RecvTimeoutError;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::primary::{Input, Primary, PrimaryConfig};
use ft_protocol::record::EntryBody;
use ft_protocol::spec::Mode;
use ft_protocol::wire::{LiveReport, Order};
use ft_protocol::{Epoch, Span, Time};
use printed::Printed;
use shared_mem::journal::UnchecksummedRecord;
use shared_mem::{PAGE_BYTES, WorkingMemory};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Shortest time between two cuts that are made early for a waiting output.
const CUT_SPACING_MIN: Span = Span::from_ms(1);

/// Console bytes behind the gate at which the guest is stopped for a cut: a sixteenth of the console ring.
const CONSOLE_PENDING_MAX: u64 = 64 << 10;

/// What was pending, and what one more exit brings, are one epoch's, which the ring has to hold.
const _: () = assert!(CONSOLE_PENDING_MAX + OUTPUT_BYTES_MAX <= CONSOLE_BYTES);

/// Console bytes of a Linux guest that a cut is made early for. Fewer leave when their epoch ends by itself: a kernel writes
/// byte by byte, with interrupts off, and would be stopped for each of them.
const LINUX_CONSOLE_BATCH: u64 = 4 << 10;

/// How long an event waits for an exit of the guest in a mode that records.
const EVENT_PATIENCE: Span = Span::from_ms(5);

/// Time between two looks at the control block while the journal is full, or the pool out of space.
const STALL_LOOK: Duration = Duration::from_micros(500);

/// Longest time that the vCPU's thread says nothing while the guest waits.
const BREATH: Span = Span::from_ms(100);

/// The guest's disk, which its device writes and commits carry on.
pub(super) type SharedDisk = Arc<Mutex<Disk>>;

/// Everything a reign begins with.
pub(super) struct Beginning {
    /// The machine has followed and goes on from where it is.
    pub(super) warm: Option<Warm>,
    pub(super) machine: Machine,
    pub(super) memory: WorkingMemory,
    pub(super) disk: Option<SharedDisk>,
    pub(super) standby: StandbyParts,
    pub(super) promotion: Promotion,
    /// The guest's inputs from here, and what its network devices are connected to.
    pub(super) live: LiveInputs,
    pub(super) networks: Networks,
    pub(super) arrivals: Arc<Arrivals>,
}

/// What the vCPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guest {
    Runs,
    /// Waits until then, by the host's monotonic clock.
    Waits(Time),
    /// Stands still until the core says otherwise.
    Stopped,
}

struct Reign<'a> {
    machine: Machine,
    memory: WorkingMemory,
    disk: Option<SharedDisk>,
    parts: &'a StandbyParts,
    order: Order,
    journal: &'a Journal,
    gate: &'a Gate,
    outbox: &'a Outbox,
    input: &'a ConsoleInput<'a>,
    /// Console input that the guest is known to have taken.
    console_taken: u64,
    arrivals: &'a Arrivals,
    log: RecordLog,
    /// Inputs go to the log, outputs leave at once.
    recording: bool,
    /// Since then.
    recorded_since: Option<Epoch>,
    /// What has left by the log since the last commit.
    printed: Printed,
    jobs: Sender<Job>,
    around: &'a Surroundings,
    guest: Guest,
    /// What the guest goes back to when the core lets it.
    before_stop: Guest,
    dirty: DirtyPages,
    working_set: Option<WorkingSet>,
    record: Option<UnchecksummedRecord>,
    /// A record that found no space in the pool is tried again; its pages stay in `dirty`.
    unwritten: Option<(Epoch, Option<GuestEnd>)>,
    /// The pool had no space for the record; said once, not every time it is tried again.
    out_of_space: bool,
    /// The last epoch whose commit has an entry in the log.
    noted: Epoch,
    /// The moments of the commit that is under way.
    times: CommitTimes,
    /// It is done but for the guest's going on.
    timed: bool,
    /// When the host was told last how long outputs waited.
    words: OutputWords,
    /// The host wants the guest handed over; the core is still to be told.
    yielding: bool,
    /// The mode that the VM is to be protected in; the core is still to be told.
    turning: Option<Mode>,
    over: bool,
}

/// Runs the guest until its end, the seal, or an order to stop.
pub(super) fn run(beginning: Beginning, around: &Surroundings) -> Result<(), Failure> {
    let Beginning { mut machine, memory, disk, standby: parts, promotion, live, networks, arrivals, mut warm } =
        beginning;
    let Promotion { order, parts: primary, ordered_at } = promotion;
    failpoint::pass("host.takeover.ordered");
    let kicker = machine.kicker();
    *around.kicker.lock().expect("nothing panics under this lock") = Some(kicker.clone());
    let outbox = Outbox::new(networks);
    let own = warm.as_mut().and_then(|warm| warm.working_set.take());
    let start = Start { order: &order, log: &primary.log, live, warm };
    let loaded = beginning::load(&mut machine, &parts, start, &outbox, around)?;
    failpoint::pass("host.takeover.loaded");
    let Loaded { log, loaded_at, replayed_at, entries, console_taken, mode, given_up, discarded, waiting } = loaded;
    if replayed_at.is_some() {
        failpoint::pass("host.takeover.replayed");
    }
    if discarded {
        return Ok(());
    }
    if matches!(given_up, Some(GivenUp::Deposed)) {
        around.say(VmEvent::Fenced { generation: order.generation });
        return Ok(());
    }
    let journal = Arc::new(primary.journal);
    let core = Primary::new(
        PrimaryConfig {
            base: order.base,
            epoch_interval: order.spec.epoch_interval,
            replayed: entries > 0,
            epoch_pages_max: order.spec.working_set_bytes_max.map(working_set::epoch_pages_max),
            cut_spacing_min: CUT_SPACING_MIN,
            console_pending_max: CONSOLE_PENDING_MAX,
            console_batch: if machine.is_linux() { LINUX_CONSOLE_BATCH } else { 0 },
            slots: order.spec.journal.slots,
            mode,
            event_patience: EVENT_PATIENCE,
        },
        clock::monotonic(),
    );
    let gate = Arc::new(Gate::new(core, primary.activity));
    let input = ConsoleInput::new(around, order.generation, console_taken);
    let (jobs, committer_jobs) = mailbox::channel();
    let committer = Committer {
        vm: order.vm,
        generation: order.generation,
        gate: &gate,
        outbox: &outbox,
        input: &input,
        log: log.clone(),
        journal: &journal,
        control: &parts.control,
        link: &around.link,
        kicker,
        to_vcpu: around.to_self.clone(),
    };
    let generation = order.generation;
    let dirty = DirtyPages::new(order.spec.memory_bytes);
    let bytes_max = order.spec.working_set_bytes_max.and_then(|bytes| usize::try_from(bytes).ok());
    let working_set = own.or_else(|| bytes_max.map(|bytes| WorkingSet::new(bytes / PAGE_BYTES)));
    let base = order.base;
    std::thread::scope(|scope| {
        std::thread::Builder::new().name(format!("commit-{}", order.vm)).spawn_scoped(scope, move || {
            // Unlike the guest's thread, which starts it.
            slice::run_soon();
            committer.run(&committer_jobs);
        })?;
        let _told_of_arrivals = arrivals.reign(&gate, &jobs);
        let mut reign = Reign {
            machine,
            memory,
            disk,
            parts: &parts,
            order,
            journal: &journal,
            gate: &gate,
            outbox: &outbox,
            input: &input,
            console_taken,
            arrivals: &arrivals,
            log,
            recording: mode.records(),
            recorded_since: mode.records().then_some(base),
            printed: Printed::default(),
            jobs,
            around,
            guest: Guest::Runs,
            before_stop: Guest::Runs,
            dirty,
            working_set,
            record: None,
            unwritten: None,
            out_of_space: false,
            noted: Epoch::ZERO,
            times: CommitTimes::default(),
            timed: false,
            words: OutputWords::default(),
            yielding: false,
            turning: None,
            over: false,
        };
        let live_at = clock::monotonic();
        let report = LiveReport { ordered_at, loaded_at, live_at, replayed_at, entries };
        around.say(VmEvent::Live { generation, report });
        if let Some(since) = reign.recorded_since {
            around.say(VmEvent::Recorded { generation, since });
        }
        let announced = journal.clone();
        outbox.announce(move || announced.word().is_ok_and(|word| !word.sealed));
        match given_up {
            Some(GivenUp::Diverged(report)) => around.say(VmEvent::Diverged { generation, turn: None, report }),
            Some(GivenUp::LogLost(report)) => around.say(VmEvent::LogLost { generation, report }),
            Some(GivenUp::Deposed) | None => {}
        }
        waiting.into_iter().for_each(|command| reign.command(command));
        if reign.machine.inputs().wakes() {
            // It came before anybody could be told: no exit may come to take it.
            arrivals.are_here();
        }
        // Whoever told what waits has kicked the guest in its replay; nobody does so again.
        reign.look()?;
        reign.run()
    })
}

impl Reign<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        while !self.over {
            match self.guest {
                Guest::Runs => self.run_guest()?,
                Guest::Waits(until) => self.wait(until)?,
                Guest::Stopped => self.stand_still()?,
            }
        }
        self.say_outputs(true);
        Ok(())
    }

    fn run_guest(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.timed) {
            self.times.resumed = clock::monotonic();
            if commit_times::wanted() {
                // Told by the committer, while the guest runs.
                let _ = self.jobs.send(Job::Tell(self.times));
            }
        }
        let stop = match self.machine.run() {
            Ok(stop) => stop,
            Err(error) => return self.failed(error),
        };
        self.times.left = clock::monotonic();
        if self.recording && matches!(stop, Stop::Output) {
            // Before all else: nothing that follows decides about them.
            self.send_logged();
        }
        self.note_taken();
        if self.gate.knows_event() {
            self.settle_events()?;
        }
        match stop {
            Stop::Kicked => {
                self.take_commands();
                self.look()
            }
            Stop::Output => self.output(),
            Stop::Flush => self.feed(Input::Flush),
            Stop::SourcePaused => self.make_room(),
            Stop::Wait { until } => {
                self.mark_wait()?;
                let left = self.machine.guest_time().until(until);
                let left = Span::from_ns(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX));
                self.guest = Guest::Waits(clock::monotonic() + left);
                Ok(())
            }
            Stop::Exited(code) => self.guest_ended(GuestEnd::Exited(code)),
            Stop::Crashed(report) => self.guest_ended(GuestEnd::Crashed(report.to_string())),
        }
    }

    /// Notes how much console input the guest has taken: it is the guest's for good at once where it is in the log.
    fn note_taken(&mut self) {
        let taken = self.machine.console_taken();
        if taken != self.console_taken {
            self.console_taken = taken;
            self.input.took(taken, self.recording);
        }
    }

    /// Nothing more can be done with the machine; which is as it should be when the log was closed.
    fn failed(&mut self, error: MachineError) -> Result<(), Failure> {
        if self.log.is_sealed() {
            let final_epoch = self.gate.committed();
            return self.feed(Input::Sealed { final_epoch });
        }
        Err(error.into())
    }

    /// Lets packets out that the source of inputs has put into the log before they came here.
    fn send_logged(&mut self) {
        let packets = self.machine.take_packets();
        if !packets.is_empty() {
            self.outbox.opens(self.machine.exit_at());
            self.outbox.send(&packets);
        }
    }

    /// The guest has put something out.
    fn output(&mut self) -> Result<(), Failure> {
        if !self.recording {
            self.outbox.waits(self.machine.exit_at());
            let (console, packets) = (self.machine.pending_console().len(), self.machine.pending_packets());
            return self.feed(Input::Output { console: console as u64, packets: packets as u64 });
        }
        self.send_logged();
        let console = self.machine.take_console();
        let is_console = !console.bytes.is_empty();
        if is_console {
            self.outbox.opens(self.machine.exit_at());
            self.printed.note(&console);
        }
        self.say_outputs(false);
        if is_console { self.feed(Input::Logged) } else { Ok(()) }
    }

    /// The guest waits: whoever follows it is to know that this exit brought nothing more.
    fn mark_wait(&mut self) -> Result<(), Failure> {
        if self.recording && self.log.has_room() {
            let (exit, digest) = (self.machine.exits(), self.machine.history_digest());
            // A log that was closed is found out by the next record.
            if let Err(error) = self.log.note(exit, digest, EntryBody::Mark)
                && !self.log.is_sealed()
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// The log has no room for another exit: commits free what they cover, once they are applied.
    fn make_room(&mut self) -> Result<(), Failure> {
        if self.log.is_sealed() {
            let final_epoch = self.gate.committed();
            return self.feed(Input::Sealed { final_epoch });
        }
        if self.log.is_pausing() {
            return self.feed(Input::AtExit);
        }
        self.look_at_freed()?;
        if self.over || self.log.has_room() {
            return Ok(());
        }
        if self.log.grew_since_mark() {
            self.feed(Input::LogLow)?;
        }
        if self.guest == Guest::Runs && !self.over {
            self.sleep(Span::from_ns(u64::try_from(STALL_LOOK.as_nanos()).unwrap_or(u64::MAX)));
            self.look()?;
        }
        Ok(())
    }

    fn guest_ended(&mut self, end: GuestEnd) -> Result<(), Failure> {
        // Its other vCPUs may still run.
        if let Err(error) = self.machine.complete_pending() {
            return self.failed(error);
        }
        self.guest = Guest::Stopped;
        self.feed(Input::Ended(end))
    }

    fn wait(&mut self, until: Time) -> Result<(), Failure> {
        let now = clock::monotonic();
        self.arrivals.sleeps();
        if now >= until || self.machine.inputs().wakes() {
            self.arrivals.awake();
            self.guest = Guest::Runs;
            return self.feed(Input::Woke);
        }
        self.sleep(until.since(now).min(BREATH));
        self.arrivals.awake();
        self.gate.breathe();
        // What left since the guest waits may be all that it ever says.
        self.say_outputs(false);
        self.look()
    }

    /// Waits for the core to let the guest go on; meanwhile looks whether the controller has freed a slot.
    fn stand_still(&mut self) -> Result<(), Failure> {
        if let Some((epoch, ended)) = self.unwritten.take() {
            self.write(epoch, ended)?;
        }
        if self.guest != Guest::Stopped || self.over {
            return Ok(());
        }
        self.sleep(Span::from_ns(u64::try_from(STALL_LOOK.as_nanos()).unwrap_or(u64::MAX)));
        self.gate.breathe();
        self.look()?;
        if self.over { Ok(()) } else { self.look_at_freed() }
    }

    /// Hands the core what has come meanwhile.
    fn look(&mut self) -> Result<(), Failure> {
        if self.over {
            return Ok(());
        }
        if let Some(mode) = self.turning.take() {
            self.turn(mode)?;
        }
        if std::mem::take(&mut self.yielding) && !self.over {
            self.feed(Input::Yield)?;
        }
        if self.log.is_pausing() && self.machine.is_at_exit() && !self.over {
            self.feed(Input::AtExit)?;
        }
        if self.over { Ok(()) } else { self.feed(Input::Tick) }
    }

    fn turn(&mut self, mode: Mode) -> Result<(), Failure> {
        if mode.records() && self.machine.is_linux() {
            let report = beginning::CHECKPOINT_ONLY.to_owned();
            self.around.say(VmEvent::Diverged { generation: self.order.generation, turn: None, report });
            self.say_mode(Mode::Checkpoint);
            return Ok(());
        }
        if self.gate.mode() == mode {
            self.say_mode(mode);
        }
        self.feed(Input::Turn(mode))
    }

    fn say_mode(&mut self, mode: Mode) {
        // Of the mode before, if it is another one.
        self.say_outputs(true);
        let generation = self.order.generation;
        self.around.say(VmEvent::ModeIs { generation, mode });
        if let Some(since) = self.recorded_since {
            self.around.say(VmEvent::Recorded { generation, since });
        }
    }

    /// Says how long outputs waited, now and then.
    fn say_outputs(&mut self, now: bool) {
        let moment = clock::monotonic();
        if !now && !self.words.is_due(moment) {
            return;
        }
        let latency = self.outbox.latency();
        if self.words.say(moment, latency.count()) {
            self.around.say(VmEvent::Outputs { generation: self.order.generation, latency });
        }
    }

    fn look_at_freed(&mut self) -> Result<(), Failure> {
        let freed = Epoch::new(self.parts.control.freed()?.get());
        self.log.free(freed);
        if let Some(disk) = &self.disk {
            lock(disk).applied(freed);
        }
        self.feed(Input::Applied(freed))
    }

    /// Sleeps, at most for `bound`, until there is a command.
    fn sleep(&mut self, bound: Span) {
        match self.around.commands.recv_timeout(Duration::from_nanos(bound.ns())) {
            Ok(command) => self.command(command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.over = true,
        }
        self.take_commands();
    }

    fn take_commands(&mut self) {
        while let Ok(command) = self.around.commands.try_recv() {
            self.command(command);
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Look => {}
            Command::Yield => self.yielding = true,
            Command::Turn(mode) => self.turning = Some(mode),
            Command::OpenInput => {
                self.note_taken();
                self.input.open(self.machine.console_input_end());
            }
            Command::TakeInput(position, bytes) => {
                if self.machine.push_console_input_at(position, &bytes) > 0 {
                    self.arrivals.are_here();
                }
                self.input.came();
            }
            Command::Discard => self.over = true,
            Command::Promote(_) | Command::Follow(_) => unreachable!("the host's core promotes a VM once"),
            // Told before it was promoted.
            Command::Unfollow => {}
        }
    }
}

pub(super) fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    // Every change of a disk is whole even if its thread panics behind it.
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}
