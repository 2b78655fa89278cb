//! The model guest: a deterministic state machine whose one true history is known beforehand.
//!
//! Each step reads a word of memory, mixes it with the registers and the step's input, writes the result to another
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
}

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
    /// The step that sent it, counted from 1.
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
) -> Result<Shown, M::Error> {
    assert!(registers.step < program.steps, "a guest does not outlive its exit");
    let input = mix(program.key, registers.step);
    let from = mix(registers.accumulator, input);
    let read = memory.load(from % program.pages, (from >> 16) % PAGE_WORDS)?;
    let mixed = mix(from, read);
    let last = registers.step + 1 == program.steps;
    let exit = if last { Some(checksum(program, mixed, memory)?) } else { None };
    let writer = if (mixed >> 8).is_multiple_of(4) { Writer::Device } else { Writer::Processor };
    memory.store((mixed >> 12) % program.pages, (mixed >> 32) % PAGE_WORDS, mixed, writer)?;
    registers.step += 1;
    registers.accumulator = mixed;
    let mut shown = Shown { console: [0; PRINT_BYTES_MAX], console_len: 0, packet: None, wait_us: 0, exit };
    if (input >> 3).is_multiple_of(2) {
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
    if (input >> 28).is_multiple_of(16) {
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
    pub(crate) const BYTES: usize = 40;

    /// The machine state as commit records carry it.
    pub(crate) fn encode(&self, version: u32) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [self.step, self.accumulator, self.console, self.packets, u64::from(version)];
        for (target, word) in bytes.chunks_exact_mut(8).zip(words) {
            target.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Takes machine state apart; `None` when the bytes are something else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let words: &[[u8; 8]; 5] = bytes.as_chunks().0.try_into().ok()?;
        (bytes.len() == Self::BYTES).then_some(())?;
        let [step, accumulator, console, packets, _] = words.map(u64::from_le_bytes);
        Some(Self { step, accumulator, console, packets })
    }
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
    fn machine_state_round_trips_and_refuses_other_lengths() {
        let registers = Registers { step: 1, accumulator: 2, console: 3, packets: 4 };
        let bytes = registers.encode(7);
        assert_eq!(state_version(&bytes), 7);
        assert_eq!(Registers::decode(&bytes), Some(registers));
        assert_eq!(Registers::decode(&bytes[..39]), None);
        assert_eq!(Registers::decode(&[0; 41]), None);
    }
}
