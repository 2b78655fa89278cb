//! The one door through which anything that the guest's own history does not determine reaches the guest.
//!
//! Devices never ask the host for the time, for entropy or for console bytes: they ask an [`InputSource`], naming the
//! exit at which they do. [`LiveInputs`] answers from the host; a recorder wraps it, and a replayer answers from a log.

use super::device::SentPacket;
use super::time::{GuestClock, GuestTime};
use crossbeam_channel::Receiver;
use ft_protocol::record::Divergence;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Most console input bytes that wait for the guest.
pub const CONSOLE_INPUT_MAX: usize = ft_protocol::console_input::WINDOW_BYTES;

/// How many exits the guest's own instructions caused (port and MMIO accesses). Kicks do not count, so this is a
/// position in the guest's history that every run with the same inputs shares. The first exit has number 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ExitNumber(pub u64);

/// Which of the machine's network devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NicIndex(pub u8);

/// Why an input could not be had.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The disk image cannot be read.
    #[error("the disk cannot be read at exit {at:?}")]
    Disk {
        /// The exit that asked.
        at: ExitNumber,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The operating system has no entropy.
    #[error("no entropy from the operating system at exit {at:?}")]
    Entropy {
        /// The exit that asked.
        at: ExitNumber,
        /// Why.
        source: getrandom::Error,
    },
    /// The input cannot be recorded, so the guest must not see it.
    #[error("{kind} of exit {at:?} cannot be recorded", kind = .asked)]
    Unrecorded {
        /// The exit that asked.
        at: ExitNumber,
        /// What it asked for.
        asked: InputKind,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The source has no answer for this exit: a log that has ended.
    #[error("exit {at:?} asked for {asked}, the input source has {available}")]
    Mismatch {
        /// The exit that asked.
        at: ExitNumber,
        /// What the guest asked for.
        asked: InputKind,
        /// What the source has instead, if anything.
        available: Availability,
    },
    /// The guest does not do what the log says it did.
    #[error("the replay diverged")]
    Diverged(#[source] Divergence),
    /// The log that inputs come from is damaged or out of reach.
    #[error("the log of inputs cannot be read at exit {at:?}")]
    Log {
        /// The exit that needs it.
        at: ExitNumber,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The kinds of inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputKind {
    /// A reading of the clock.
    Clock,
    /// A word of entropy.
    Entropy,
    /// Console bytes.
    Console,
    /// A packet of a network device.
    Packet,
    /// No input, but the mark of an output.
    Output,
}

impl std::fmt::Display for InputKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            InputKind::Clock => "the clock",
            InputKind::Entropy => "entropy",
            InputKind::Console => "console input",
            InputKind::Packet => "a packet",
            InputKind::Output => "an output",
        })
    }
}

/// What an input source has where something else was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Nothing more.
    Nothing,
    /// An input of some kind for some exit.
    Other(InputKind, ExitNumber),
}

impl std::fmt::Display for Availability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Availability::Nothing => f.write_str("nothing more"),
            Availability::Other(kind, at) => write!(f, "{kind} for exit {}", at.0),
        }
    }
}

/// What the guest has put out at one exit, with its place in all that it ever put out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced<'a> {
    /// Console bytes before these.
    pub console_position: u64,
    /// Console bytes.
    pub console: &'a [u8],
    /// Packets before these.
    pub packet_position: u64,
    /// Packets.
    pub packets: &'a [SentPacket],
}

/// The place in a guest's history from which its inputs go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumePoint<'a> {
    /// Guest time.
    pub now: GuestTime,
    /// Console bytes that had come and that no exit had taken.
    pub waiting_console: &'a [u8],
    /// The last exit.
    pub exits: ExitNumber,
    /// The history's digest there.
    pub digest: u32,
    /// Console bytes that the guest had ever written.
    pub console_position: u64,
    /// Packets that the guest had ever sent.
    pub packet_position: u64,
}

/// Where the guest's inputs come from.
pub trait InputSource: Send {
    /// The guest is at its next exit; `digest` is that of its history up to there. Comes before all requests of the exit.
    ///
    /// # Errors
    /// This cannot be recorded, or the guest should not be here.
    fn begin_exit(&mut self, _at: ExitNumber, _digest: u32) -> Result<(), InputError> {
        Ok(())
    }

    /// Devices are about to take what came for them. What they leave then, for lack of room or of a driver, wakes nobody.
    fn begin_poll(&mut self) {}

    /// The guest has put something out, which nobody has been told of yet. Nothing may leave if this fails.
    ///
    /// # Errors
    /// This cannot be recorded, or is not what the guest put out before.
    fn produced(&mut self, _at: ExitNumber, _output: &Produced<'_>) -> Result<(), InputError> {
        Ok(())
    }

    /// A reading of the clock. Never smaller than an earlier one.
    ///
    /// # Errors
    /// The source has no reading for this exit.
    fn clock(&mut self, at: ExitNumber) -> Result<GuestTime, InputError>;

    /// Fills `bytes` with entropy.
    ///
    /// # Errors
    /// The source has none, or none for this exit.
    fn entropy(&mut self, at: ExitNumber, bytes: &mut [u8]) -> Result<(), InputError>;

    /// The next packet that arrived on a network device before this exit. Asked when the device has room for it.
    ///
    /// # Errors
    /// The packet cannot be recorded.
    fn packet(&mut self, at: ExitNumber, nic: NicIndex) -> Result<Option<Vec<u8>>, InputError>;

    /// Console bytes that arrived before this exit, at most `room` of them.
    ///
    /// # Errors
    /// The source has other bytes to give than there is room for.
    fn console(&mut self, at: ExitNumber, room: usize) -> Result<Vec<u8>, InputError>;

    /// Takes console bytes for later exits; says how many it took.
    fn offer_console(&mut self, bytes: &[u8]) -> usize;

    /// Whether an input waits that ends a guest's wait early: a packet that devices have not been asked to take yet, or console
    /// input.
    fn wakes(&self) -> bool;

    /// A wait of the guest's is over. Console input that it does not look at from here on ends no other one.
    fn wait_ends(&mut self) {}

    /// Whether something has come since devices were last asked to take what came.
    fn has_news(&self) -> bool {
        self.wakes()
    }

    /// Whether the guest must not run on before its caller has looked after the source: a log that is nearly full, or one
    /// that does not reach any further yet. Asked each time before the guest runs.
    fn must_pause(&mut self) -> bool {
        false
    }

    /// Whether the guest was given more at the exit where it stands, behind a commit: a replay gives it that before the guest
    /// runs on. Asked each time before it does. If so: how many entries it was given so far.
    fn owes(&mut self) -> Option<u64> {
        None
    }

    /// The present guest time. Not an input: the guest does not see it; it says when a wait is over, and where a
    /// successor's clock goes on.
    fn now(&self) -> GuestTime;

    /// Console bytes that no exit has taken yet; they are part of the machine's state.
    fn waiting_console(&self) -> Vec<u8>;

    /// Goes on from a saved machine.
    fn resume(&mut self, from: &ResumePoint<'_>);
}

/// Inputs from the host itself.
#[derive(Debug)]
pub struct LiveInputs {
    clock: GuestClock,
    console: VecDeque<u8>,
    /// What is there has ended a wait, and the guest has not looked at it since: one that never reads its console is not to be
    /// kept from sleeping by a key.
    console_is_ignored: bool,
    /// Some of it has come since devices were asked to take what came.
    console_is_new: bool,
    /// Packets that have arrived, by network device.
    packets: Vec<ArrivedPackets>,
}

/// The packets of one network device.
#[derive(Debug)]
struct ArrivedPackets {
    queue: Receiver<Vec<u8>>,
    /// How many of them were there when devices were last asked to take what came, and still are.
    left: usize,
}

impl Default for LiveInputs {
    fn default() -> Self {
        Self::with_networks(Vec::new())
    }
}

impl LiveInputs {
    /// Inputs of a machine with as many network devices as there are queues; whoever holds the other ends puts in what
    /// arrives. The queues are bounded, and lose what does not fit, as networks do.
    #[must_use]
    pub fn with_networks(packets: Vec<Receiver<Vec<u8>>>) -> Self {
        let packets = packets.into_iter().map(|queue| ArrivedPackets { queue, left: 0 }).collect();
        Self {
            clock: GuestClock::starting_at(GuestTime::default()),
            console: VecDeque::new(),
            console_is_ignored: false,
            console_is_new: false,
            packets,
        }
    }
}

impl LiveInputs {
    fn packets_are_new(&self) -> bool {
        self.packets.iter().any(|packets| packets.queue.len() > packets.left)
    }
}

impl InputSource for LiveInputs {
    fn begin_poll(&mut self) {
        self.console_is_new = false;
        for packets in &mut self.packets {
            packets.left = packets.queue.len();
        }
    }

    fn clock(&mut self, _at: ExitNumber) -> Result<GuestTime, InputError> {
        Ok(self.clock.now())
    }

    fn entropy(&mut self, at: ExitNumber, bytes: &mut [u8]) -> Result<(), InputError> {
        getrandom::fill(bytes).map_err(|source| InputError::Entropy { at, source })
    }

    fn packet(&mut self, _at: ExitNumber, nic: NicIndex) -> Result<Option<Vec<u8>>, InputError> {
        let Some(packets) = self.packets.get_mut(usize::from(nic.0)) else { return Ok(None) };
        let packet = packets.queue.try_recv().ok();
        packets.left = packets.left.saturating_sub(usize::from(packet.is_some()));
        Ok(packet)
    }

    fn console(&mut self, _at: ExitNumber, room: usize) -> Result<Vec<u8>, InputError> {
        self.console_is_ignored = false;
        let count = room.min(self.console.len());
        Ok(self.console.drain(..count).collect())
    }

    fn offer_console(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(CONSOLE_INPUT_MAX - self.console.len());
        self.console.extend(&bytes[..count]);
        self.console_is_new |= count > 0;
        self.console_is_ignored &= count == 0;
        count
    }

    fn wakes(&self) -> bool {
        (!self.console.is_empty() && !self.console_is_ignored) || self.packets_are_new()
    }

    fn wait_ends(&mut self) {
        self.console_is_ignored = true;
    }

    fn has_news(&self) -> bool {
        self.console_is_new || self.packets_are_new()
    }

    fn now(&self) -> GuestTime {
        self.clock.now()
    }

    fn waiting_console(&self) -> Vec<u8> {
        self.console.iter().copied().collect()
    }

    fn resume(&mut self, from: &ResumePoint<'_>) {
        self.clock = GuestClock::starting_at(from.now);
        self.console = from.waiting_console.iter().copied().take(CONSOLE_INPUT_MAX).collect();
        self.console_is_ignored = false;
    }
}
