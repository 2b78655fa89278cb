//! A primary's record log: every input is in it before the guest sees it, every output before it leaves.

use super::drive::At;
use super::guest::{DELIVERY, LAST_READING, Packet, Shown, Tick, Wants};
use super::machine::{Poll, PrimaryMachine};
use super::planted::{PlantedBug, planted};
use super::stage::STAGED_STEPS;
use super::violation::Violation;
use super::world::World;
use ft_protocol::host::Input as HostInput;
use ft_protocol::ids::Epoch;
use ft_protocol::primary::Input;
use ft_protocol::record::{CommitPoint, Entry, EntryBody, EntryKind, LogEnd, LogSpace, frame_digest, sent_digest};
use ft_protocol::spec::Mode;
use shared_mem::lossy::LossyMemory;
use shared_mem::record_log::{AppendError, LogRange, ReadLogError, ResumeLogError};
use shared_mem::{LogPosition, LogReader, LogWriter};

/// Packets that wait for the guest at most; networks lose what comes beside.
const ARRIVED_MAX: usize = 4;

/// Entries of console input that wait for the guest at most.
const TYPED_MAX: usize = 2;

/// Inputs that devices have room for at once.
const TAKEN_MAX: u64 = 6;

/// What came of asking for what came.
pub(crate) enum Taken {
    Nothing,
    Input { poll: Poll, logged: bool },
}

/// What the log of a new generation begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) from: LogPosition,
    pub(crate) end: LogPosition,
    last_sequence: u64,
    pub(crate) log_end: LogEnd,
}

impl Found {
    pub(crate) fn look(
        log: &LogReader<LossyMemory>,
        from: LogPosition,
        console_start: u64,
    ) -> Result<Self, ReadLogError> {
        let end = log.tail()?.position;
        let mut found = Self { from, end, last_sequence: 0, log_end: LogEnd::new(console_start) };
        let mut entries = log.entries_within(LogRange { from, to: end, after_sequence: None });
        while let Some(entry) = entries.next_entry()? {
            found.last_sequence = entry.sequence;
            if let Ok(entry) = Entry::decode(entry.tag, entry.exit_counter, entry.payload) {
                found.log_end.note(&entry);
            }
        }
        Ok(found)
    }
}

/// The log as its primary has it.
pub(crate) struct Recording {
    writer: LogWriter<LossyMemory>,
    pub(crate) space: LogSpace,
    /// The last exit that has an entry.
    marked: u64,
    /// The last epoch whose commit has an entry.
    noted: Epoch,
    payload: Vec<u8>,
}

impl Recording {
    /// Goes on behind what the log begins with.
    pub(crate) fn resume(log: LossyMemory, ring_bytes: u64, found: &Found, mode: Mode) -> Result<Self, ResumeLogError> {
        let writer = LogWriter::resume(log, ring_bytes, found.end, found.last_sequence)?;
        let mut space = LogSpace::new(ring_bytes);
        space.record(mode.records());
        Ok(Self { writer, space, marked: 0, noted: Epoch::ZERO, payload: Vec::new() })
    }

    pub(crate) fn tail(&self) -> u64 {
        self.writer.tail().get()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.space.has_room(self.writer.free_space())
    }

    pub(crate) fn grew_since_mark(&self) -> bool {
        self.space.grew_since_mark(self.tail())
    }

    /// The record of an epoch is written.
    pub(crate) fn mark(&mut self, epoch: Epoch) {
        let tail = self.tail();
        self.space.mark(epoch, tail);
    }

    pub(crate) fn free(&mut self, applied: Epoch) {
        if let Some(position) = self.space.free(applied) {
            self.writer.free_before(LogPosition::new(position));
        }
    }
}

impl PrimaryMachine {
    /// Inputs are written down.
    pub(crate) fn records(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.space.is_recording())
    }
}

impl World {
    /// Appends an entry; the history is what the guest's will be with it. Without success the machine goes no further.
    fn append(&mut self, at: At, exit: u64, digest: u32, body: EntryBody<'_>, history: Vec<Tick>) -> bool {
        let Some(primary) = self.primary(at) else { return false };
        let generation = primary.order.generation;
        let Some(log) = &mut primary.log else { return false };
        let entry = Entry { at_exit: exit, digest, body };
        log.payload.clear();
        entry.encode_payload(&mut log.payload);
        let before = log.tail();
        let kind = entry.body.kind();
        match log.writer.append(entry.tag(), exit, &log.payload) {
            Ok(_) => {
                log.marked = exit;
                self.tell(|| format!("h{} {} logs {kind} at exit {exit}", at.host, at.vm));
                // A mark, or a commit that is not published yet, binds nobody to what came without an entry.
                let binds = !matches!(kind, EntryKind::Mark | EntryKind::Commit);
                self.check_logged(at.vm, generation, binds.then_some(&history));
                true
            }
            Err(AppendError::Sealed { .. }) => {
                log.space.seal();
                primary.drop_exit();
                self.found_sealed(at);
                self.act_soon(at);
                false
            }
            Err(AppendError::Full { needed, free }) => {
                self.violate(Violation::LogOverrun { vm: at.vm, generation, needed, free });
                false
            }
            Err(error) => {
                // Whether it is in, the log itself will say.
                if !matches!(kind, EntryKind::Mark | EntryKind::Commit) {
                    self.checker.attempted(at.vm, generation, before, history);
                }
                self.machine_failed(at, &error.to_string());
                false
            }
        }
    }

    fn found_sealed(&mut self, at: At) {
        match self.primary(at).map(|primary| primary.core.as_ref().map(ft_protocol::primary::Primary::committed)) {
            Some(Some(final_epoch)) => self.core_input(at, Input::Sealed { final_epoch }),
            Some(None) => self.machine_failed(at, "its log was closed before it was live"),
            None => {}
        }
    }

    /// What the step asks for; appended, where the mode records. `None`: the machine is over.
    pub(crate) fn live_input(&mut self, at: At, wants: Wants) -> Option<u64> {
        // Zero is no reading: a clock that was set back as far as it goes shows the moment behind it.
        let clock = (self.host_clock(at).ns() & !DELIVERY).max(1);
        let may_end = self.stage.is_some() && self.gate_open;
        let typed = match wants {
            Wants::Console => self.hosts[at.host].actor.between(super::draw::Range::new(0, 1 << 20)),
            _ => 0,
        };
        let primary = self.primary(at)?;
        let given = match wants {
            Wants::Nothing | Wants::Packets => 0,
            Wants::Clock if may_end && primary.registers.step >= STAGED_STEPS => LAST_READING,
            Wants::Clock => clock,
            // Nobody types half of the time.
            Wants::Console => {
                if typed & 1 == 1 {
                    typed
                } else {
                    0
                }
            }
        };
        if given == 0 || !primary.records() {
            return Some(given);
        }
        let (exit, digest) = { primary.registers }.begin_exit();
        let mut history = primary.trace.clone();
        history.push(given);
        let bytes = given.to_le_bytes();
        let body = match wants {
            Wants::Console => EntryBody::ConsoleInput(bytes[..].into()),
            _ => EntryBody::Clock(given),
        };
        self.append(at, exit, digest, body, history).then_some(given)
    }

    /// Notes what a step has printed; `None`: the machine is over, else whether there was anything.
    pub(crate) fn log_printed(&mut self, at: At, shown: &Shown) -> Option<bool> {
        if planted(PlantedBug::OutputBeforeLog) {
            self.check_released(at, shown.packet.as_slice());
        }
        if shown.console().is_empty() {
            return Some(false);
        }
        let primary = self.primary(at)?;
        let (registers, history) = (primary.registers, primary.trace.clone());
        let position = registers.console - shown.console().len() as u64;
        let body = EntryBody::Output { position, bytes: shown.console().into() };
        if !self.append(at, registers.step, registers.last_digest(), body, history) {
            return None;
        }
        self.primary(at)?.console_start = registers.console;
        Some(true)
    }

    /// Notes that a step has sent a packet; `None`: the machine is over, else whether it has.
    pub(crate) fn log_sent(&mut self, at: At, shown: &Shown) -> Option<bool> {
        let Some(packet) = shown.packet else { return Some(false) };
        let primary = self.primary(at)?;
        let (registers, history) = (primary.registers, primary.trace.clone());
        let body = EntryBody::Sent { position: packet.number, count: 1, digest: sent_digest([frame_of(&packet)]) };
        self.append(at, registers.step, registers.last_digest(), body, history).then_some(true)
    }

    /// Notes that the guest has come this far, if it is time to; says whether it was. `None`: the machine is over.
    pub(crate) fn mark_exit(&mut self, at: At, waits: bool) -> Option<bool> {
        let every = self.plan.weather.marks_every;
        let primary = self.primary(at)?;
        let (step, digest) = (primary.registers.step, primary.registers.last_digest());
        let Some(log) = primary.log.as_ref().filter(|log| log.space.is_recording()) else { return Some(false) };
        if !(if waits { log.has_room() } else { step >= log.marked + every }) {
            return Some(false);
        }
        let history = primary.trace.clone();
        self.append(at, step, digest, EntryBody::Mark, history).then_some(true)
    }

    /// Notes the commit that is about to be written.
    pub(crate) fn note_commit(&mut self, at: At, epoch: Epoch) -> bool {
        let Some(primary) = self.primary(at) else { return false };
        let registers = primary.registers;
        let generation = primary.order.generation;
        let history = primary.trace.clone();
        let Some(log) = primary.log.as_mut().filter(|log| log.space.is_recording() && log.noted < epoch) else {
            return true;
        };
        log.noted = epoch;
        let point = CommitPoint { generation, epoch, kicked: registers.spin > 0 };
        self.append(at, registers.step, registers.last_digest(), EntryBody::Commit(point), history)
    }

    /// The log has no room for another exit, or the guest is to pause at one.
    pub(crate) fn source_paused(&mut self, at: At) {
        let Some(log) = self.primary(at).and_then(|primary| primary.log.as_ref()) else { return };
        if log.space.is_sealed() {
            return self.found_sealed(at);
        }
        if log.space.is_pausing() {
            return self.core_input(at, Input::AtExit);
        }
        self.look_at_freed(at);
        let Some(log) = self.primary(at).and_then(|primary| primary.log.as_ref()) else { return };
        if !log.has_room() && log.grew_since_mark() {
            self.core_input(at, Input::LogLow);
        }
        self.core_input(at, Input::Tick);
    }

    /// What is applied need not be replayed any more, and its slots are free.
    pub(crate) fn look_at_freed(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        let Ok(freed) = super::commit::freed(primary) else { return };
        let freed = super::controller::protocol_epoch(freed);
        if let Some(log) = &mut primary.log {
            log.free(freed);
        }
        self.core_input(at, Input::Applied(freed));
    }

    /// Something comes for the guest, and more some time later.
    pub(crate) fn arrive(&mut self, at: At) {
        let (us, burst) = (self.plan.weather.arrival_us, self.plan.weather.burst);
        let actor = &mut self.hosts[at.host].actor;
        let count = if burst > 1 { actor.between(super::draw::Range::new(1, burst)) } else { 1 };
        let packets: Vec<u64> = (0..count).map(|_| actor.between(super::draw::Range::new(1, DELIVERY - 1))).collect();
        let typed = if burst > 1 { actor.between(super::draw::Range::new(1, 1 << 20)) } else { 1 };
        self.machine_after(at, us, super::queue::MachineStep::Arrive);
        let Some(primary) = self.primary(at) else { return };
        let room = ARRIVED_MAX.saturating_sub(primary.arrived.len());
        primary.arrived.extend(packets.into_iter().take(room));
        if typed.is_multiple_of(4) && primary.typed.len() < TYPED_MAX {
            primary.typed.push_back(typed);
        }
        primary.news = true;
        if primary.vcpu == super::machine::Vcpu::Waiting && !primary.stopped {
            self.end_wait(at);
        } else if primary.core.as_ref().is_some_and(|core| core.mode().records()) {
            primary.event_told = true;
            self.core_input(at, Input::EventWaits);
        }
    }

    /// Tells the core when the guest has taken all that came.
    pub(crate) fn settle_events(&mut self, at: At) {
        let Some(primary) = self.primary(at) else { return };
        let nothing_left = primary.arrived.is_empty() && primary.typed.is_empty();
        if nothing_left && std::mem::take(&mut primary.event_told) {
            self.core_input(at, Input::EventsTaken);
        }
    }

    /// Hands the guest the next that has come for it, behind a step: its devices are asked in the order of their ports.
    /// `None`: the machine is over.
    pub(crate) fn take_one(&mut self, at: At, poll: Poll) -> Option<Taken> {
        let primary = self.primary(at)?;
        if primary.landing.is_some() && !primary.records() {
            // Where a guest goes live, the checkers take all that it was given for known to the log.
            return Some(Taken::Nothing);
        }
        let typed = if poll.console_asked { None } else { primary.typed.pop_front() };
        // A packet can wait; what an exit brings has a bound, and so have the device's queues.
        let has_room = poll.taken < TAKEN_MAX && primary.log.as_ref().is_none_or(Recording::has_room);
        let packet = if typed.is_none() && has_room { primary.arrived.pop_front() } else { None };
        let Some(input) = typed.or(packet) else { return Some(Taken::Nothing) };
        let tick = DELIVERY | input;
        let records = primary.records();
        if records {
            let (exit, digest) = (primary.registers.step, primary.registers.last_digest());
            let mut history = primary.trace.clone();
            history.push(tick);
            let bytes = input.to_le_bytes();
            let body = match typed {
                Some(_) => EntryBody::ConsoleInput(bytes[..].into()),
                None => EntryBody::Packet { nic: 0, frame: bytes[..].into() },
            };
            if !self.append(at, exit, digest, body, history) {
                return None;
            }
        }
        let primary = self.primary(at)?;
        primary.registers.deliver(input);
        primary.trace.push(tick);
        Some(Taken::Input { poll: poll.took(), logged: records })
    }

    /// The machine protects its guest in this mode from now on.
    pub(crate) fn turn_machine(&mut self, at: At, mode: Mode) {
        let Some(primary) = self.primary(at) else { return };
        let Some(core) = &primary.core else { return };
        let committed = core.committed();
        if let Some(log) = &mut primary.log {
            log.space.record(mode.records());
        }
        let since = primary.recorded_since.unwrap_or(committed);
        primary.recorded_since = mode.records().then_some(since);
        self.say_mode(at, mode);
    }

    pub(crate) fn say_mode(&mut self, at: At, mode: Mode) {
        let Some(primary) = self.primary(at) else { return };
        let (vm, generation, since) = (at.vm, primary.order.generation, primary.recorded_since);
        self.host_input(at.host, HostInput::ModeIs { vm, generation, mode });
        if let Some(since) = since {
            self.host_input(at.host, HostInput::Recorded { vm, generation, since });
        }
    }
}

/// The digest of a packet as the log has it.
pub(crate) fn frame_of(packet: &Packet) -> u32 {
    frame_digest(0, &packet.content.to_le_bytes())
}
