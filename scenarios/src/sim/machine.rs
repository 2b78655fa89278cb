//! A VM on a host: a standby that waits, or a primary that runs the guest on a copy-on-write view of the stable image.

use super::follow::FollowerMachine;
use super::guest::{self, GuestMemory, Packet, Program, Registers, Shown, Tick, Writer};
use super::host::HostProcess;
use super::landing::Approach;
use super::planted::{PlantedBug, planted};
use super::queue::MachineStep;
use super::record;
use super::weather::PAGE_SIZE;
use ft_protocol::activity::{Activity, Doing};
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::ids::{Epoch, Generation, HostId, VmId};
use ft_protocol::primary::{Action, Primary};
use ft_protocol::spec::Mode;
use ft_protocol::time::Time;
use ft_protocol::wire::{Order, Part};
use shared_mem::LogReader;
use shared_mem::activity::ActivityWriter;
use shared_mem::commit_word::CommitWord;
use shared_mem::control::ControlBlock;
use shared_mem::journal::{
    AllReserved, FinishedRecord, JournalGeometry, JournalReader, JournalWriter, UnchecksummedRecord,
};
use shared_mem::lossy::LossyMemory;
use shared_mem::mem::{AccessError, PoolRead};
use shared_mem::numbers::{self, Offset, PageIndex};
use shared_mem::state_area::StateArea;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

/// A VM as a host holds it.
pub(crate) struct Machine {
    /// Never used again: events for a machine that is gone find nothing.
    pub(crate) number: u32,
    pub(crate) vm: VmId,
    pub(crate) generation: Generation,
    pub(crate) role: Role,
}

impl Machine {
    pub(crate) fn is_hung(&self) -> bool {
        matches!(&self.role, Role::Primary(primary) if primary.hung)
    }
}

pub(crate) enum Role {
    Standby { primary: Option<HostId>, made: bool, follower: Option<Box<FollowerMachine>> },
    Primary(Box<PrimaryMachine>),
}

/// What the vCPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vcpu {
    Running,
    /// The guest waits; a wake event is scheduled.
    Waiting,
    /// The guest may not end yet: the simulator holds it just before.
    Gated,
    /// Too much output waits: the guest is held until the next cut.
    Held,
    Ended,
}

/// What the vCPU's thread is in the middle of, in the order in which entries reach the log. Anything may happen in the cluster
/// between two of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Serving {
    /// Devices take what came at this exit.
    Polls(Poll, Shown),
    /// Then it is noted what the exit has put out,
    Prints(Shown),
    Sends(Shown),
    /// and that leaves.
    Leaves(Shown),
    /// A wait is over, or (`true`) a commit was made: devices take what came.
    Delivers(Poll, bool),
}

/// How far devices are with taking what came: console input is asked for once, then packets are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Poll {
    pub(crate) console_asked: bool,
    /// What they were given.
    pub(crate) taken: u64,
}

impl Poll {
    /// They were given another input.
    pub(crate) fn took(self) -> Self {
        Self { console_asked: true, taken: self.taken + 1 }
    }
}

/// A record on its way.
pub(crate) struct Recording {
    pub(crate) epoch: Epoch,
    pub(crate) written: UnchecksummedRecord,
    pub(crate) finished: Option<FinishedRecord>,
    /// The pool went out of reach in the middle of the publication: the commit word may or may not have moved.
    pub(crate) unsure: bool,
    /// What the commit word was when the record was checksummed, for a planted bug that relies on it.
    pub(crate) checked: Option<CommitWord>,
}

pub(crate) type Journal = JournalWriter<LossyMemory, AllReserved>;

/// A primary's machine.
pub(crate) struct PrimaryMachine {
    pub(crate) order: Order,
    /// The record log of its generation, and its writer once that is begun.
    pub(crate) log_memory: LossyMemory,
    pub(crate) log: Option<record::Recording>,
    /// Since then all inputs are in the log.
    pub(crate) recorded_since: Option<Epoch>,
    /// The machine that has followed, until it is known whether it can be gone on with.
    pub(crate) warm: Option<Box<FollowerMachine>>,
    /// The way to the end of the log.
    pub(crate) approach: Option<Box<Approach>>,
    /// All that the guest was given, as the checkers see it.
    pub(crate) trace: Vec<Tick>,
    /// What the guest was given at the exit that it is at, where the rest of that exit is still to come.
    pub(crate) given: Option<u64>,
    /// What its thread is in the middle of.
    pub(crate) serving: Option<Serving>,
    /// An exit is done, and the guest waits for so long, or not at all; whoever follows is still to be told that it came here.
    pub(crate) served: Option<u64>,
    /// A wait is over, and devices have not taken yet what came meanwhile.
    pub(crate) wait_over: bool,
    /// The vCPU is to stop when the exit is done that it is in the middle of.
    pub(crate) stop_due: bool,
    /// Packets that may not have left: the log has ended in the middle of an exit, and the reign begins when that is done.
    pub(crate) landing: Option<Vec<Packet>>,
    /// Exits that are left of the present slice.
    pub(crate) slice_left: Option<u64>,
    /// Packets that have come and that the guest has not taken.
    pub(crate) arrived: VecDeque<u64>,
    /// The same of console input.
    pub(crate) typed: VecDeque<u64>,
    /// Something has come since devices were last asked to take what came.
    pub(crate) news: bool,
    /// The core was told of one.
    pub(crate) event_told: bool,
    /// The mode that was asked for before there was a core.
    pub(crate) turning: Option<Mode>,
    pub(crate) journal: Journal,
    /// The same journal, to look at its commit word.
    pub(crate) word: JournalReader<LossyMemory>,
    pub(crate) journal_memory: LossyMemory,
    /// Registers at the order to stop, for a planted bug that records them.
    noted: Option<Registers>,
    pub(crate) control: ControlBlock<LossyMemory>,
    pub(crate) state: StateArea<LossyMemory>,
    pub(crate) working: WorkingMemory,
    pub(crate) registers: Registers,
    pub(crate) core: Option<Primary>,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) acting: bool,
    /// The core's deadline that a tick is scheduled for.
    pub(crate) tick_at_ns: Option<u64>,
    pub(crate) polling: bool,
    /// For how many ns its vCPU has run, and up to when that is known.
    pub(crate) ran_ns: (u64, u64),
    pub(crate) vcpu: Vcpu,
    /// The vCPU was stopped by the core.
    pub(crate) stopped: bool,
    /// When that was, by its host's clock.
    pub(crate) stopped_at: Time,
    /// A slice is scheduled.
    pub(crate) slicing: bool,
    /// Console bytes since the last cut, and where they begin.
    pub(crate) console: Vec<u8>,
    pub(crate) console_start: u64,
    /// Packets since the last cut.
    pub(crate) packets: Vec<Packet>,
    /// Packets that wait for the publication of their epoch.
    pub(crate) gated: VecDeque<(Epoch, Packet)>,
    /// The guest is to be handed over.
    pub(crate) yielding: bool,
    pub(crate) writing: Option<(Epoch, Option<GuestEnd>)>,
    pub(crate) recording: Option<Recording>,
    pub(crate) ordered_at_ns: u64,
    /// Its thread hangs.
    pub(crate) hung: bool,
    /// What its thread will do when it goes on.
    pub(crate) held_back: Vec<MachineStep>,
    /// The version of its host.
    pub(crate) version: u32,
    /// Where it says what it does, and what it said last.
    words: Option<ActivityWriter<LossyMemory>>,
    said: Activity,
}

impl PrimaryMachine {
    /// Whether its log was closed: another host reigns, or will.
    pub(crate) fn log_is_closed(&self) -> bool {
        let log = LogReader::new(self.log_memory.clone(), self.order.spec.log_bytes).ok();
        log.and_then(|log| log.tail().ok()).is_some_and(|tail| tail.sealed)
    }

    /// A machine that has everything it needs but its state; `None` when a descriptor is missing.
    pub(crate) fn new(host: &HostProcess, order: Order, now_ns: u64) -> Option<Self> {
        let vm = order.vm;
        let shape = order.spec.journal;
        let geometry =
            JournalGeometry { slots: shape.slots, slot_bytes: shape.slot_bytes, reserved_bytes: shape.reserved_bytes };
        let generation = numbers::Generation::new(order.generation.get());
        let journal = host.writer(Part::Journal(vm, order.generation))?;
        let log_memory = host.writer(Part::Log(vm, order.generation))?;
        let pages = order.spec.memory_bytes / PAGE_SIZE;
        Some(Self {
            log_memory,
            log: None,
            recorded_since: None,
            warm: None,
            approach: None,
            trace: Vec::new(),
            given: None,
            serving: None,
            served: None,
            wait_over: false,
            stop_due: false,
            landing: None,
            slice_left: None,
            arrived: VecDeque::new(),
            typed: VecDeque::new(),
            news: false,
            event_told: false,
            turning: None,
            journal_memory: journal.clone(),
            noted: None,
            word: JournalReader::new(journal.clone(), generation, geometry).ok()?,
            journal: JournalWriter::new(journal, AllReserved, generation, geometry).ok()?,
            control: ControlBlock::open(host.reader(Part::Control(vm))?).ok()?,
            state: StateArea::new(host.reader(Part::State(vm))?),
            working: WorkingMemory::new(host.reader(Part::Image(vm))?, pages),
            registers: Registers::default(),
            core: None,
            actions: VecDeque::new(),
            acting: false,
            tick_at_ns: None,
            polling: false,
            ran_ns: (0, 0),
            vcpu: Vcpu::Running,
            stopped: false,
            stopped_at: Time::ZERO,
            slicing: false,
            console: Vec::new(),
            console_start: 0,
            packets: Vec::new(),
            gated: VecDeque::new(),
            yielding: false,
            writing: None,
            recording: None,
            ordered_at_ns: now_ns,
            hung: false,
            held_back: Vec::new(),
            version: host.version,
            words: host.activity_words(vm),
            said: Activity { doing: Doing::Writes, count: 0 },
            order,
        })
    }

    /// Says what the core does, where that has changed; with a breath, that its thread lives.
    pub(crate) fn show(&mut self, breath: bool) {
        let (Some(core), Some(words)) = (&self.core, &self.words) else { return };
        let doing = core.doing();
        if doing != self.said.doing || breath {
            self.said = Activity { doing, count: self.said.count + 1 };
            // A host that is cut off is found silent.
            let _cut_off = words.say(self.said.encode());
        }
    }

    /// Its thread ends here.
    pub(crate) fn fail(&mut self) {
        (self.core, self.approach, self.landing) = (None, None, None);
        self.drop_exit();
        self.actions.clear();
        (self.stopped, self.vcpu) = (true, Vcpu::Ended);
    }

    /// Its thread serves an exit, or hands over what came at one: until that is done, it does nothing else.
    pub(crate) fn is_amid(&self) -> bool {
        self.serving.is_some() || self.given.is_some()
    }

    /// The exit that its thread is in the middle of is never done.
    pub(crate) fn drop_exit(&mut self) {
        (self.serving, self.given, self.slice_left) = (None, None, None);
    }

    /// Output that waits for the next cut.
    pub(crate) fn pending(&self) -> u64 {
        self.console.len() as u64 + self.packets.len() as u64
    }

    /// The order to stop was given.
    pub(crate) fn note_registers(&mut self) {
        self.noted = planted(PlantedBug::StaleRegisters).then_some(self.registers);
    }

    /// The registers that go into the record: those of the stopped vCPU.
    pub(crate) fn recorded_registers(&self) -> Registers {
        self.noted.unwrap_or(self.registers)
    }

    /// Loses the last byte that waits, and pretends that it was never printed.
    pub(crate) fn drop_console(&mut self) {
        self.console.pop();
    }

    /// One step of the guest.
    pub(crate) fn step(&mut self, program: &Program, given: u64) -> Result<guest::Shown, AccessError> {
        let shown = guest::step(program, &mut self.registers, &mut self.working, given);
        match &shown {
            Ok(_) => self.trace.push(given),
            // The exit is gone on with later.
            Err(_) => self.given = Some(given),
        }
        shown
    }
}

/// The host's copy-on-write view of the stable image: pages that were never written show what is in the pool now.
pub(crate) struct WorkingMemory {
    image: LossyMemory,
    private: Vec<Option<Box<[u8; 4096]>>>,
    /// Bit n: the processor has written page n since the last harvest.
    pub(crate) dirty_processor: u64,
    /// Bit n: a device has.
    pub(crate) dirty_device: u64,
}

impl WorkingMemory {
    pub(crate) fn new(image: LossyMemory, pages: u64) -> Self {
        let private = (0..pages).map(|_| None).collect();
        Self { image, private, dirty_processor: 0, dirty_device: 0 }
    }

    pub(crate) fn clear_dirty(&mut self) {
        self.dirty_processor = 0;
        self.dirty_device = 0;
    }

    /// The pages of a dirty set with their content, ascending.
    pub(crate) fn pages(&self, dirty: u64) -> impl Iterator<Item = (PageIndex, &[u8; 4096])> {
        self.private.iter().enumerate().filter_map(move |(page, content)| {
            let wanted = dirty & (1 << page) != 0;
            Some((PageIndex::new(page as u64), content.as_deref()?)).filter(|_| wanted)
        })
    }

    /// A page as the guest sees it.
    pub(crate) fn page(&self, page: u64, into: &mut [u8; 4096]) -> Result<(), AccessError> {
        match &self.private[index(page)] {
            Some(content) => {
                *into = **content;
                Ok(())
            }
            None => self.image.read(Offset::new(page * PAGE_SIZE), into),
        }
    }

    fn word(&self, page: u64, word: u64) -> Result<u64, AccessError> {
        match &self.private[index(page)] {
            Some(content) => Ok(u64::from_le_bytes(content.as_chunks().0[index(word)])),
            None => self.image.load_u64(Offset::new(page * PAGE_SIZE + word * 8), Ordering::Relaxed),
        }
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl GuestMemory for WorkingMemory {
    type Error = AccessError;

    fn load(&mut self, page: u64, word: u64) -> Result<u64, AccessError> {
        self.word(page, word)
    }

    fn store(&mut self, page: u64, word: u64, value: u64, writer: Writer) -> Result<(), AccessError> {
        if self.private[index(page)].is_none() {
            let mut copy = Box::new([0; 4096]);
            self.image.read(Offset::new(page * PAGE_SIZE), &mut copy[..])?;
            self.private[index(page)] = Some(copy);
        }
        if let Some(content) = &mut self.private[index(page)] {
            content.as_chunks_mut().0[index(word)] = value.to_le_bytes();
        }
        match writer {
            Writer::Processor => self.dirty_processor |= 1 << page,
            Writer::Device => self.dirty_device |= 1 << page,
        }
        Ok(())
    }
}
