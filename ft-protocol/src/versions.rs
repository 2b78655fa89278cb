//! Versions as ranges: what a process can speak, and what two of them speak with each other.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Versions from `min` to `max`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRange {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl VersionRange {
    /// Just one.
    #[must_use]
    pub const fn only(version: u32) -> Self {
        Self { min: version, max: version }
    }

    /// Whether the version is one of them. Of a range that ends before it begins, none is.
    #[must_use]
    pub const fn contains(self, version: u32) -> bool {
        self.min <= version && version <= self.max
    }

    /// The highest version that both have.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u32> {
        let highest = self.max.min(other.max);
        (self.contains(highest) && other.contains(highest)).then_some(highest)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{} to {}", self.min, self.max) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_used() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
        assert_eq!(range(2, 5).common(range(1, 3)), Some(3));
        assert_eq!(range(1, 1).common(range(1, 9)), Some(1));
        assert_eq!(range(1, 2).common(range(3, 4)), None);
        assert_eq!(range(3, 4).common(range(1, 2)), None);
        assert_eq!(range(5, 1).common(range(1, 9)), None, "a peer that makes no sense has nothing in common");
        assert_eq!(range(1, 9).common(range(5, 1)), None);
        assert_eq!((range(1, 3).to_string(), VersionRange::only(2).to_string()), ("1 to 3".to_owned(), "2".to_owned()));
    }
}
