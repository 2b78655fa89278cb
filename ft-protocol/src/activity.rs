//! What a primary says of itself beside its commits, so that an idle guest is told from a stuck one.
//!
//! A word per VM in the heartbeat page of the primary's host. The threads that run the guest write it, not the one that
//! beats: a host whose heart beats on while the vCPU's thread hangs shows it here and in the commit word.

/// What a primary does just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// The guest runs, or a cut is under way: the next commit has to come.
    Owes,
    /// The guest waits and all that it did is committed: no commit has to come.
    Waits,
    /// A record is ready for a slot or for space that only others can give back.
    Blocked,
    /// A record is being written, which takes as long as it is large.
    Writes,
}

/// A primary's word: what it does, and a count that moves as long as its thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// What it does.
    pub doing: Doing,
    /// Grows while the thread lives; only changes count.
    pub count: u64,
}

const DOING_BITS: u32 = 2;

impl Activity {
    /// As the page holds it. Never zero.
    #[must_use]
    pub const fn encode(self) -> u64 {
        let doing = match self.doing {
            Doing::Owes => 0,
            Doing::Waits => 1,
            Doing::Blocked => 2,
            Doing::Writes => 3,
        };
        (self.count.wrapping_add(1) << DOING_BITS) | doing
    }

    /// What a page holds; `None` where nothing was ever said. Every other word means something: its writer may be mad, and
    /// is then suspected or not, which safety does not rest on.
    #[must_use]
    pub const fn decode(word: u64) -> Option<Self> {
        if word >> DOING_BITS == 0 {
            return None;
        }
        let doing = match word & 3 {
            0 => Doing::Owes,
            1 => Doing::Waits,
            2 => Doing::Blocked,
            _ => Doing::Writes,
        };
        Some(Self { doing, count: (word >> DOING_BITS) - 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_silence_is_no_word() {
        for doing in [Doing::Owes, Doing::Waits, Doing::Blocked, Doing::Writes] {
            for count in [0, 1, 77, (1 << 62) - 2] {
                let activity = Activity { doing, count };
                assert_eq!(Activity::decode(activity.encode()), Some(activity));
            }
        }
        assert_eq!(Activity::decode(0), None);
        assert_eq!(Activity::decode(3), None);
    }
}
