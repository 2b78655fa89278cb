//! Who decides which unflushed lines outlive a crash.

/// A line that the crashed host had not made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyLine {
    /// Which memory, in the order in which the cache met them.
    pub memory: usize,
    /// Index of the line: offset / 64.
    pub line: u64,
    /// How many stores to it are not durable.
    pub stores: usize,
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// How many of the stores survive whole, first ones first.
    pub stores: usize,
    /// Which 8-byte words of the next store survive, one bit a word.
    pub torn_words: u8,
}

impl Kept {
    /// Nothing survives.
    pub const NOTHING: Self = Self { stores: 0, torn_words: 0 };

    /// All stores survive.
    #[must_use]
    pub const fn all_of(line: DirtyLine) -> Self {
        Self { stores: line.stores, torn_words: 0 }
    }
}

/// Decides the fate of dirty lines; asked once per line in ascending order.
pub trait Survivors {
    /// The fate of one line.
    fn choose(&mut self, line: DirtyLine) -> Kept;
}

impl<F: FnMut(DirtyLine) -> Kept> Survivors for F {
    fn choose(&mut self, line: DirtyLine) -> Kept {
        self(line)
    }
}

/// Every unflushed line is lost.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeepNone;

impl Survivors for KeepNone {
    fn choose(&mut self, _: DirtyLine) -> Kept {
        Kept::NOTHING
    }
}

/// Every store survives.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeepAll;

impl Survivors for KeepAll {
    fn choose(&mut self, line: DirtyLine) -> Kept {
        Kept::all_of(line)
    }
}

/// Each line's fate is drawn from a seeded generator.
#[derive(Debug, Clone)]
pub struct RandomSurvivors {
    state: u64,
}

impl RandomSurvivors {
    /// The same seed gives the same fates.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// SplitMix64: small, and the quality is beside the point.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Survivors for RandomSurvivors {
    fn choose(&mut self, line: DirtyLine) -> Kept {
        let drawn = self.draw().to_le_bytes();
        match drawn[0] % 4 {
            0 => Kept::NOTHING,
            1 => Kept::all_of(line),
            _ => Kept { stores: usize::from(drawn[1]) % (line.stores + 1), torn_words: drawn[2] },
        }
    }
}
