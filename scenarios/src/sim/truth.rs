//! The one true history of a model guest: what an unbroken run does, computed without any of the code under test.

use super::draw::mix;
use super::guest::{self, DELIVERY, GuestMemory, Packet, Program, Registers, Shown, Tick, Writer};
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

/// A guest in an unbroken run, at some place of its history. Moves forward only.
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

    /// Goes where another one of the same program is.
    pub(crate) fn set_to(&mut self, other: &Self) {
        self.program = other.program;
        self.registers = other.registers;
        self.memory.bytes.clone_from(&other.memory.bytes);
    }

    /// One tick; what a step shows.
    fn tick(&mut self, tick: Tick) -> Option<Shown> {
        if tick & DELIVERY != 0 {
            self.registers.deliver(tick & !DELIVERY);
            return None;
        }
        let Ok(shown) = guest::step(&self.program, &mut self.registers, &mut self.memory, tick);
        Some(shown)
    }

    /// Runs by a history up to this place.
    ///
    /// # Panics
    /// If that lies behind, or beyond the history's end: the caller asks for what cannot be.
    pub(crate) fn advance_to(&mut self, ticks: u64, history: &[Tick]) {
        assert!(self.registers.ticks() <= ticks, "an oracle does not look back");
        while self.registers.ticks() < ticks {
            let at = usize::try_from(self.registers.ticks()).unwrap_or(usize::MAX);
            self.tick(history[at]);
        }
    }

    /// The registers at this place.
    pub(crate) fn registers(&self) -> Registers {
        self.registers
    }

    /// A page at this place.
    pub(crate) fn page(&self, page: u64) -> &[u8] {
        let at = usize::try_from(page).unwrap_or(usize::MAX) * PAGE_BYTES;
        &self.memory.bytes[at..at + PAGE_BYTES]
    }
}

/// All that the outside may ever see of a guest, and its registers after each tick. Of a guest that asks for nothing it is
/// known beforehand; else it grows with all that nobody may ever take back: what is committed, and what is in the record
/// log.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) program: Program,
    /// Everything printed.
    pub(crate) console: Vec<u8>,
    /// Every packet sent.
    pub(crate) packets: Vec<Packet>,
    /// Registers after 0, 1, 2... ticks.
    pub(crate) registers: Vec<Registers>,
    /// The ticks.
    pub(crate) history: Vec<Tick>,
    /// The exit code, once the guest has ended.
    pub(crate) exit: Option<u32>,
    end: Oracle,
}

impl Truth {
    /// Of a guest of which nothing is known.
    fn unknown(program: Program) -> Self {
        Self {
            program,
            console: Vec::new(),
            packets: Vec::new(),
            registers: vec![Registers::default()],
            history: Vec::new(),
            exit: None,
            end: Oracle::new(program),
        }
    }

    /// What is known of a program beforehand.
    pub(crate) fn of(program: Program) -> Self {
        let mut truth = Self::unknown(program);
        if !program.asks {
            while truth.goes_on(0) {}
        }
        truth
    }

    /// The next tick is known. `false`: there can be none, the guest has ended.
    pub(crate) fn goes_on(&mut self, tick: Tick) -> bool {
        if self.exit.is_some() {
            return false;
        }
        if let Some(shown) = self.end.tick(tick) {
            self.console.extend_from_slice(shown.console());
            self.packets.extend(shown.packet);
            self.exit = shown.exit.or(self.exit);
        }
        self.registers.push(self.end.registers());
        self.history.push(tick);
        true
    }

    /// Forgets what lies behind this place: a fault has destroyed it, or nobody has seen it.
    pub(crate) fn forget_from(&mut self, ticks: u64) {
        let history = std::mem::take(&mut self.history);
        *self = Self::unknown(self.program);
        let kept = usize::try_from(ticks).unwrap_or(usize::MAX).min(history.len());
        assert!(history[..kept].iter().all(|tick| self.goes_on(*tick)), "it has come that far before");
    }

    /// The registers after so many ticks.
    pub(crate) fn at(&self, ticks: u64) -> Option<Registers> {
        self.registers.get(usize::try_from(ticks).ok()?).copied()
    }
}

impl Program {
    /// The program of one VM of a run.
    pub(crate) fn of_run(seed: u64, vm: u16, weather: &Weather) -> Self {
        let key = mix(seed, 0x6775_6573_7400 + u64::from(vm));
        let Weather { guest_steps: steps, print_bytes_max, .. } = *weather;
        let pages = weather.pages_of(vm);
        Self { key, pages, steps, print_bytes_max, asks: weather.asks, says: weather.says }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::guest::LAST_READING;

    #[test]
    fn the_history_repeats_and_depends_on_every_word() {
        let program = Program { key: 1, pages: 4, steps: 300, print_bytes_max: 8, says: None, asks: false };
        let truth = Truth::of(program);
        let again = Truth::of(program);
        assert_eq!((truth.exit, &truth.console, &truth.packets), (again.exit, &again.console, &again.packets));
        assert!(!truth.console.is_empty() && !truth.packets.is_empty() && truth.exit.is_some());
        let mut oracle = Oracle::new(program);
        oracle.advance_to(150, &truth.history);
        assert_eq!(Some(oracle.registers()), truth.at(150));
        oracle.memory.bytes[5000] ^= 1;
        while oracle.registers.step < 300 {
            let shown = oracle.tick(0).expect("a step shows something");
            assert_ne!(shown.exit.or(truth.exit.map(|code| code ^ 1)), truth.exit, "a flipped bit shows at the end");
        }
    }

    #[test]
    fn another_input_is_another_history_and_what_is_forgotten_can_come_otherwise() {
        let program = Program { key: 1, pages: 4, steps: 300, print_bytes_max: 8, says: None, asks: true };
        let mut truth = Truth::of(program);
        assert!([0, 0, 7, DELIVERY | 9, 0].into_iter().all(|tick| truth.goes_on(tick)));
        let first = truth.at(5);
        truth.forget_from(2);
        assert!([8, DELIVERY | 9, 0].into_iter().all(|tick| truth.goes_on(tick)));
        assert_ne!(truth.at(5), first);
        truth.forget_from(2);
        assert!([7, DELIVERY | 9, 0].into_iter().all(|tick| truth.goes_on(tick)));
        assert_eq!(truth.at(5), first);
        assert_eq!(truth.at(5).map(|registers| (registers.step, registers.deliveries)), Some((4, 1)));
    }

    #[test]
    fn a_guest_whose_life_has_no_length_beforehand_does_not_outlive_its_exit() {
        let program = Program { key: 1, pages: 4, steps: u64::MAX, print_bytes_max: 8, says: None, asks: true };
        let mut truth = Truth::of(program);
        assert!(truth.goes_on(0) && truth.goes_on(LAST_READING));
        let ended = (truth.exit, truth.history.clone());
        assert!(ended.0.is_some() && !truth.goes_on(0));
        assert_eq!((truth.exit, truth.history.clone()), ended);
        truth.forget_from(1);
        assert!(truth.goes_on(0), "what had its end is destroyed");
    }
}
