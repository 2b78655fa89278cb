//! The one true history of a model guest: what an unbroken run does, computed without any of the code under test.

use super::draw::mix;
use super::guest::{self, GuestMemory, Packet, Program, Registers, Writer};
use super::weather::Weather;
use std::convert::Infallible;

/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Plain memory.
#[derive(Clone, Debug)]
struct Flat {
    bytes: Vec<u8>,
}

impl Flat {
    fn range(page: u64, word: u64) -> std::ops::Range<usize> {
        let at = usize::try_from((page * guest::PAGE_WORDS + word) * 8).unwrap_or(usize::MAX);
        at..at + 8
    }
}

impl GuestMemory for Flat {
    type Error = Infallible;
    fn load(&mut self, page: u64, word: u64) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.bytes[Self::range(page, word)]);
        Ok(u64::from_le_bytes(bytes))
    }
    fn store(&mut self, page: u64, word: u64, value: u64, _: Writer) -> Result<(), Infallible> {
        self.bytes[Self::range(page, word)].copy_from_slice(&value.to_le_bytes());
        Ok(())
    }
}

/// A guest in an unbroken run, at some step. Moves forward only.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    program: Program,
    memory: Flat,
    registers: Registers,
}

impl Oracle {
    /// A guest before its first step.
    pub(crate) fn new(program: Program) -> Self {
        let bytes = vec![0; usize::try_from(program.pages).unwrap_or(0) * PAGE_BYTES];
        Self { program, memory: Flat { bytes }, registers: Registers::default() }
    }

    /// Runs until `step` steps are done.
    ///
    /// # Panics
    /// If that lies behind, or beyond the guest's end: the caller asks for what cannot be.
    pub(crate) fn advance_to(&mut self, step: u64) {
        assert!(self.registers.step <= step && step <= self.program.steps, "an oracle does not look back");
        while self.registers.step < step {
            let Ok(_) = guest::step(&self.program, &mut self.registers, &mut self.memory);
        }
    }

    /// The registers at this step.
    pub(crate) fn registers(&self) -> Registers {
        self.registers
    }

    /// A page at this step.
    pub(crate) fn page(&self, page: u64) -> &[u8] {
        let at = usize::try_from(page).unwrap_or(usize::MAX) * PAGE_BYTES;
        &self.memory.bytes[at..at + PAGE_BYTES]
    }
}

/// All that the outside may ever see of a guest, and its registers after each step.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) program: Program,
    /// Everything printed.
    pub(crate) console: Vec<u8>,
    /// Every packet sent.
    pub(crate) packets: Vec<Packet>,
    /// Registers after 0, 1, 2... steps.
    pub(crate) registers: Vec<Registers>,
    /// The exit code.
    pub(crate) exit: u32,
}

impl Truth {
    /// Runs the program to its end.
    pub(crate) fn of(program: Program) -> Self {
        let mut oracle = Oracle::new(program);
        let mut truth =
            Self { program, console: Vec::new(), packets: Vec::new(), registers: vec![Registers::default()], exit: 0 };
        for _ in 0..program.steps {
            let Ok(shown) = guest::step(&program, &mut oracle.registers, &mut oracle.memory);
            truth.console.extend_from_slice(shown.console());
            truth.packets.extend(shown.packet);
            truth.registers.push(oracle.registers);
            truth.exit = shown.exit.unwrap_or(truth.exit);
        }
        truth
    }

    /// The registers after `step` steps.
    pub(crate) fn at(&self, step: u64) -> Option<Registers> {
        self.registers.get(usize::try_from(step).ok()?).copied()
    }
}

impl Program {
    /// The program of one VM of a run.
    pub(crate) fn of_run(seed: u64, vm: u16, weather: &Weather) -> Self {
        let key = mix(seed, 0x6775_6573_7400 + u64::from(vm));
        let Weather { guest_pages: pages, guest_steps: steps, print_bytes_max, .. } = *weather;
        Self { key, pages, steps, print_bytes_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_repeats_and_depends_on_every_word() {
        let program = Program { key: 1, pages: 4, steps: 300, print_bytes_max: 8 };
        let truth = Truth::of(program);
        let again = Truth::of(program);
        assert_eq!((truth.exit, &truth.console, &truth.packets), (again.exit, &again.console, &again.packets));
        assert!(!truth.console.is_empty() && !truth.packets.is_empty());
        let mut oracle = Oracle::new(program);
        oracle.advance_to(150);
        assert_eq!(Some(oracle.registers()), truth.at(150));
        oracle.memory.bytes[5000] ^= 1;
        while oracle.registers.step < 300 {
            let Ok(shown) = guest::step(&program, &mut oracle.registers, &mut oracle.memory);
            assert_ne!(shown.exit, Some(truth.exit), "a flipped bit shows at the end at the latest");
        }
    }
}
