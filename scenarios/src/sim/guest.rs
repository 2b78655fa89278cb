//! The model guest: a state machine that is deterministic between its inputs.
//!
//! Each step is an exit. It may ask for an input (the clock, a packet, console input), reads a word of memory, mixes it with the registers and the step's input, writes the result to another
//! word (sometimes by way of a device), and may print, send a packet or wait. Where it reads and writes depends on all
//! that it has read before, so a page that is one epoch too old or too new shows in everything that follows. The exit
//! code is a checksum of registers and memory.

use super::draw::mix;

/// Words in a page of 4096 bytes.
pub(crate) const PAGE_WORDS: u64 = 512;

/// Most console bytes of one step of any program.
pub(crate) const PRINT_BYTES_MAX: usize = 96;

/// What a guest runs; a function of the run's seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Tells this program's inputs from all others'.
    pub(crate) key: u64,
    /// Pages of memory.
    pub(crate) pages: u64,
    /// Steps until the exit.
    pub(crate) steps: u64,
    /// Most console bytes of one step, 1 to [`PRINT_BYTES_MAX`].
    pub(crate) print_bytes_max: u64,
    /// What it prints; without, letters.
    pub(crate) says: Option<Saying>,
    /// It asks for inputs, and at times takes no exit for long; otherwise all of its history is a function of the key.
    pub(crate) asks: bool,
}

/// What a guest prints, for scenarios that wait for lines of the bundled guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saying {
    /// `progress 000001 ...`, and at last `checksum ...`.
    Progress,
    /// `tick 000001`
    Tick,
    /// `line 000001`
    Count,
    /// `burn ...`
    Burn,
}

impl Saying {
    /// Of a bundled guest; `None`: the model does not know its lines.
    pub(crate) fn of(guest: &str) -> Option<Self> {
        Some(match guest {
            "builtin:torture" => Self::Progress,
            "builtin:idle" => Self::Tick,
            "builtin:counter" => Self::Count,
            "builtin:burn" => Self::Burn,
            _ => return None,
        })
    }

    /// What a line begins with, of the bundled guest and of the model alike. All of them are as long.
    pub(crate) fn begins(self, nth: u64, last: bool) -> String {
        match self {
            Self::Progress if last => "checksum ".to_owned(),
            Self::Progress => format!("progress {nth:06} "),
            Self::Tick => format!("tick {nth:06}"),
            Self::Count => format!("line {nth:06}"),
            Self::Burn => "burn ".to_owned(),
        }
    }

    /// Whether lines go on behind that, with what the guest has computed.
    pub(crate) fn goes_on(self) -> bool {
        matches!(self, Self::Progress | Self::Burn)
    }

    /// A line.
    fn line(self, console: u64, value: u64, last: bool) -> String {
        let value = if self.goes_on() { format!("{:08x}", value >> 32) } else { String::new() };
        // That of the last line is not asked for.
        let length = (self.begins(1, false).len() + value.len() + 1) as u64;
        format!("{}{value}\n", self.begins(console / length + 1, last))
    }
}

/// What a step asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    Nothing,
    /// A reading of the clock; there always is one.
    Clock,
    /// What has come: devices are given it before the exit is over, which is a delivery like any other.
    Packets,
    /// Console input, if any has come.
    Console,
}

impl Program {
    /// What the next step asks for.
    pub(crate) fn wants(&self, step: u64) -> Wants {
        match mix(self.key, step) >> 44 & 7 {
            0 if self.asks => Wants::Clock,
            1 | 2 if self.asks => Wants::Packets,
            3 if self.asks => Wants::Console,
            _ => Wants::Nothing,
        }
    }

    /// For how many turns of the vCPU the guest computes before it comes to the exit of this step.
    pub(crate) fn spins(&self, step: u64) -> u64 {
        let input = mix(self.key, step) >> 50;
        if self.asks && input.is_multiple_of(24) { 2 + (input >> 5) % 8 } else { 0 }
    }
}

/// All state of the guest that is not memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Steps done.
    pub step: u64,
    /// What everything read so far has been mixed into.
    pub accumulator: u64,
    /// Console bytes printed so far.
    pub console: u64,
    /// Packets sent so far.
    pub packets: u64,
    /// Packets and console input that came behind a step.
    pub deliveries: u64,
    /// Turns computed on the way to the next exit.
    pub spin: u64,
    /// The history's digest at the last exit.
    pub digest: u64,
}

impl Registers {
    /// Steps and deliveries: a place in the guest's history.
    pub(crate) fn ticks(&self) -> u64 {
        self.step + self.deliveries
    }

    /// Where the guest would be between two exits; how far it has come to the next one, only its processor knows.
    pub(crate) fn at_exit(self) -> Self {
        Self { spin: 0, ..self }
    }

    /// The guest is at its next exit; returns the exit's number and the digest of the history up to there.
    pub(crate) fn begin_exit(&mut self) -> (u64, u32) {
        let digest = u32::try_from(mix(self.accumulator, self.ticks()) >> 32).unwrap_or(0);
        self.digest = u64::from(digest);
        (self.step + 1, digest)
    }

    /// The digest at the last exit.
    pub(crate) fn last_digest(&self) -> u32 {
        u32::try_from(self.digest).unwrap_or(0)
    }

    /// A packet or console input comes behind a step.
    pub(crate) fn deliver(&mut self, input: u64) {
        self.accumulator = mix(self.accumulator, input);
        self.deliveries += 1;
    }
}

/// One tick of a history: a step with the input that it was given (zero: none), or a delivery.
pub(crate) type Tick = u64;

/// Set in the tick of a delivery.
pub(crate) const DELIVERY: Tick = 1 << 63;

/// A reading of the clock that no clock shows: a guest whose life has no length beforehand ends with it.
pub(crate) const LAST_READING: Tick = DELIVERY - 1;

/// Who writes a word: KVM's dirty log sees only the processor, the devices' bitmap only devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    Processor,
    Device,
}

/// Memory as the guest sees it.
pub(crate) trait GuestMemory {
    /// Why an access fails.
    type Error;
    /// Loads a word.
    fn load(&mut self, page: u64, word: u64) -> Result<u64, Self::Error>;
    /// Stores a word.
    fn store(&mut self, page: u64, word: u64, value: u64, writer: Writer) -> Result<(), Self::Error>;
}

/// A packet that the guest has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// How many came before it.
    pub(crate) number: u64,
    /// The step that sent it, counted from 1: the exit's number.
    pub(crate) step: u64,
    /// Its content.
    pub(crate) content: u64,
}

/// What a step shows to the outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    console: [u8; PRINT_BYTES_MAX],
    console_len: usize,
    /// A packet.
    pub(crate) packet: Option<Packet>,
    /// The guest waits this long, in microseconds.
    pub(crate) wait_us: u64,
    /// The guest has written its exit port.
    pub(crate) exit: Option<u32>,
}

impl Shown {
    /// Of no step at all.
    pub(crate) const NOTHING: Self =
        Self { console: [0; PRINT_BYTES_MAX], console_len: 0, packet: None, wait_us: 0, exit: None };

    /// What came with the very exit that wants to wait is there to be looked at.
    pub(crate) fn waits_unless(&mut self, received: bool) {
        if received {
            self.wait_us = 0;
        }
    }

    /// The bytes printed.
    pub(crate) fn console(&self) -> &[u8] {
        &self.console[..self.console_len]
    }
}

/// Does one step. On an error nothing has happened.
pub(crate) fn step<M: GuestMemory>(
    program: &Program,
    registers: &mut Registers,
    memory: &mut M,
    given: u64,
) -> Result<Shown, M::Error> {
    assert!(registers.step < program.steps, "a guest does not outlive its exit");
    let input = mix(program.key, registers.step);
    let from = mix(registers.accumulator, input ^ given);
    let read = memory.load(from % program.pages, (from >> 16) % PAGE_WORDS)?;
    let mixed = mix(from, read);
    let last = registers.step + 1 == program.steps || given == LAST_READING;
    let exit = if last { Some(checksum(program, mixed, memory)?) } else { None };
    let writer = if (mixed >> 8).is_multiple_of(4) { Writer::Device } else { Writer::Processor };
    memory.store((mixed >> 12) % program.pages, (mixed >> 32) % PAGE_WORDS, mixed, writer)?;
    registers.begin_exit();
    registers.step += 1;
    registers.accumulator = mixed;
    registers.spin = 0;
    let mut shown = Shown { exit, ..Shown::NOTHING };
    if let Some(says) = program.says.filter(|_| last || (input >> 3).is_multiple_of(2)) {
        let line = says.line(registers.console, mixed, last);
        shown.console[..line.len()].copy_from_slice(line.as_bytes());
        shown.console_len = line.len();
        registers.console += line.len() as u64;
    } else if program.says.is_none() && (input >> 3).is_multiple_of(2) {
        let len = 1 + (input >> 8) % program.print_bytes_max;
        shown.console_len = usize::try_from(len).unwrap_or(PRINT_BYTES_MAX);
        let letters = (mixed..).map(|letter| mix(letter, 1).to_le_bytes()[0]);
        for (target, letter) in shown.console[..shown.console_len].iter_mut().zip(letters) {
            *target = b'a' + letter % 26;
        }
        registers.console += len;
    }
    if (input >> 20).is_multiple_of(6) {
        shown.packet = Some(Packet { number: registers.packets, step: registers.step, content: mix(mixed, 2) });
        registers.packets += 1;
    }
    // An exit is one access: what reads its console does not wait, too.
    if (input >> 28).is_multiple_of(16) && program.wants(registers.step - 1) != Wants::Console {
        shown.wait_us = 200 + (input >> 36) % 3_000;
    }
    Ok(shown)
}

/// Folds all of memory into the exit code.
fn checksum<M: GuestMemory>(program: &Program, start: u64, memory: &mut M) -> Result<u32, M::Error> {
    let mut sum = start;
    for page in 0..program.pages {
        for word in 0..PAGE_WORDS {
            sum = mix(sum, memory.load(page, word)?);
        }
    }
    Ok(u32::try_from(sum >> 32).unwrap_or(0))
}

impl Registers {
    /// Length of the machine state.
    pub(crate) const BYTES: usize = 72;

    /// The machine state as commit records carry it: with where the record log of the time after begins.
    pub(crate) fn encode(&self, log_position: u64, version: u32) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let Self { step, accumulator, console, packets, deliveries, spin, digest } = *self;
        let version = u64::from(version);
        let words = [step, accumulator, console, packets, deliveries, spin, digest, log_position, version];
        for (target, word) in bytes.chunks_exact_mut(8).zip(words) {
            target.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Takes machine state apart; `None` when the bytes are something else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let words: &[[u8; 8]; 9] = bytes.as_chunks().0.try_into().ok()?;
        (bytes.len() == Self::BYTES).then_some(())?;
        let [step, accumulator, console, packets, deliveries, spin, digest, ..] = words.map(u64::from_le_bytes);
        Some(Self { step, accumulator, console, packets, deliveries, spin, digest })
    }
}

/// Where the record log of the time after a machine state begins.
pub(crate) fn log_position(bytes: &[u8]) -> u64 {
    let words: &[[u8; 8]] = bytes.as_chunks().0;
    words.get(7).map_or(0, |word| u64::from_le_bytes(*word))
}

/// The format of a machine state: that of the host that wrote it.
pub(crate) fn state_version(bytes: &[u8]) -> u32 {
    let words: &[[u8; 8]] = bytes.as_chunks().0;
    words.last().and_then(|word| u32::try_from(u64::from_le_bytes(*word)).ok()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_and_those_of_guests_that_compute_nothing_are_theirs() {
        assert_eq!(Saying::Count.line(0, 7, false), "line 000001\n");
        assert_eq!(Saying::Tick.line(12 * 9, 7, false), "tick 000010\n");
        let first = Saying::Progress.line(0, 7 << 32, false);
        assert_eq!(first, "progress 000001 00000007\n");
        assert_eq!(Saying::Progress.line(first.len() as u64, 7 << 32, false), "progress 000002 00000007\n");
        assert_eq!(Saying::Progress.line(first.len() as u64, 7 << 32, true), "checksum 00000007\n");
    }

    #[test]
    fn machine_state_round_trips_and_refuses_other_lengths() {
        let registers =
            Registers { step: 1, accumulator: 2, console: 3, packets: 4, deliveries: 5, spin: 6, digest: 7 };
        let bytes = registers.encode(40, 9);
        assert_eq!((state_version(&bytes), log_position(&bytes)), (9, 40));
        assert_eq!(Registers::decode(&bytes), Some(registers));
        assert_eq!(Registers::decode(&bytes[..71]), None);
        assert_eq!(Registers::decode(&[0; 73]), None);
    }
}
