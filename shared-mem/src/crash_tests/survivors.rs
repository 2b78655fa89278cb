//! The subsets of lines that the enumeration lets survive.

use crate::lossy::{DirtyLine, KeepAll, KeepNone, Kept, RandomSurvivors, Survivors};

/// A choice of surviving lines.
#[derive(Debug, Clone, Copy)]
pub(super) enum Choice {
    None,
    All,
    Random(u64),
    /// All but the n-th dirty line.
    LoseOne(usize),
    /// Only the n-th dirty line.
    KeepOne(usize),
}

/// Extremes, single lines (the words that decide lie at low offsets, so the first ones matter most), random subsets.
pub(super) fn choices(seed: u64) -> impl Iterator<Item = Choice> {
    let fixed = [Choice::None, Choice::All];
    let single = (0..3).flat_map(|index| [Choice::LoseOne(index), Choice::KeepOne(index)]);
    let random = (0..3).map(move |round| Choice::Random(seed.wrapping_mul(31).wrapping_add(round)));
    fixed.into_iter().chain(single).chain(random)
}

/// One line fares differently from all others.
struct OneLine {
    index: usize,
    seen: usize,
    keep: bool,
}

impl Survivors for OneLine {
    fn choose(&mut self, line: DirtyLine) -> Kept {
        let is_the_one = self.seen == self.index;
        self.seen += 1;
        if is_the_one == self.keep { Kept::all_of(line) } else { Kept::NOTHING }
    }
}

impl Choice {
    pub(super) fn survivors(self) -> Box<dyn Survivors> {
        match self {
            Self::None => Box::new(KeepNone),
            Self::All => Box::new(KeepAll),
            Self::Random(seed) => Box::new(RandomSurvivors::new(seed)),
            Self::LoseOne(index) => Box::new(OneLine { index, seen: 0, keep: false }),
            Self::KeepOne(index) => Box::new(OneLine { index, seen: 0, keep: true }),
        }
    }
}
