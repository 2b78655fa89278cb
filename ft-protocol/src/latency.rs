//! How long outputs wait: counts of times in buckets that grow with the time.
//!
//! A bucket is an eighth of a power of two, so a time is known to 12 %, from a microsecond to hours, in a few hundred
//! counts. Only those that are not zero are kept and sent.

use crate::time::Span;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Buckets in each power of two.
const STEPS: u64 = 8;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Times are counted in units of so many nanoseconds.
const UNIT_NS: u64 = 128;
/// Longer times count as this one.
const UNITS_MAX: u64 = (1 << 40) - 1;

/// Times that outputs took from the guest's exit to their release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputLatency {
    /// Outputs by bucket.
    #[serde(with = "pairs")]
    counts: BTreeMap<u16, u64>,
    /// The longest.
    max: Span,
}

/// Times in a few numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Outputs.
    pub count: u64,
    /// Half of them took at most this long.
    pub p50: Span,
    /// All but one of a hundred.
    pub p99: Span,
    /// All but one of a thousand.
    pub p999: Span,
    /// All.
    pub max: Span,
}

impl fmt::Display for LatencySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, p50, p99, max, .. } = self;
        write!(f, "{p50} (median), {p99} (99 %), {max} (longest of {count})")
    }
}

/// The counts as a list of bucket and count: the keys of a JSON object are strings, which do not become numbers again in
/// the middle of an event.
mod pairs {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::BTreeMap;

    pub(super) fn serialize<S: Serializer>(counts: &BTreeMap<u16, u64>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(counts)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<u16, u64>, D::Error> {
        Ok(Vec::<(u16, u64)>::deserialize(from)?.into_iter().collect())
    }
}

impl OutputLatency {
    /// Counts an output.
    pub fn note(&mut self, time: Span) {
        *self.counts.entry(bucket_of(time)).or_default() += 1;
        self.max = self.max.max(time);
    }

    /// Counts what another one has counted.
    pub fn add(&mut self, other: &Self) {
        for (bucket, count) in &other.counts {
            let sum = self.counts.entry(*bucket).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.max = self.max.max(other.max);
    }

    /// What was counted since this was `earlier`. The longest of that is known to its bucket, unless it is the longest of all.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let new = |(bucket, count): (&u16, &u64)| {
            let new = count.saturating_sub(earlier.counts.get(bucket).copied().unwrap_or(0));
            (new > 0).then_some((*bucket, new))
        };
        let counts: BTreeMap<u16, u64> = self.counts.iter().filter_map(new).collect();
        let longest = counts.last_key_value().map_or(Span::ZERO, |(bucket, _)| end_of(*bucket).min(self.max));
        let max = if self.max > earlier.max { self.max } else { longest };
        Self { counts, max }
    }

    /// Outputs.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The time that so many of a thousand outputs did not exceed, rounded up to the end of its bucket.
    #[must_use]
    pub fn quantile(&self, thousandths: u64) -> Span {
        let count = self.count();
        let rank = u64::try_from((u128::from(count) * u128::from(thousandths)).div_ceil(1000)).unwrap_or(u64::MAX);
        let mut seen: u64 = 0;
        for (bucket, count) in &self.counts {
            seen = seen.saturating_add(*count);
            if seen >= rank && *bucket < last_bucket() {
                return end_of(*bucket).min(self.max);
            }
        }
        self.max
    }

    /// All of it in a few numbers; none without outputs.
    #[must_use]
    pub fn summary(&self) -> Option<LatencySummary> {
        let count = self.count();
        (count > 0).then(|| LatencySummary {
            count,
            p50: self.quantile(500),
            p99: self.quantile(990),
            p999: self.quantile(999),
            max: self.max,
        })
    }

    /// Whether it is one that could have been counted: what a host says is checked before it is kept.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        self.counts.keys().all(|bucket| *bucket <= last_bucket())
    }
}

/// The bucket of all times that are longer than anybody waits.
fn last_bucket() -> u16 {
    bucket_of(Span::from_ns(u64::MAX))
}

fn bucket_of(time: Span) -> u16 {
    let units = (time.ns() / UNIT_NS).min(UNITS_MAX);
    let bucket = if units < STEPS {
        units
    } else {
        let power = u64::from(units.ilog2());
        let step = (units >> (power - u64::from(STEP_BITS))) - STEPS;
        (power - u64::from(STEP_BITS) + 1) * STEPS + step
    };
    u16::try_from(bucket).expect("a few hundred buckets")
}

/// The longest time of a bucket.
fn end_of(bucket: u16) -> Span {
    let bucket = u64::from(bucket);
    let units = if bucket < STEPS {
        bucket + 1
    } else {
        let (power, step) = (bucket / STEPS - 1, bucket % STEPS);
        (STEPS + step + 1).checked_shl(u32::try_from(power).unwrap_or(u32::MAX)).unwrap_or(u64::MAX)
    };
    Span::from_ns(units.saturating_mul(UNIT_NS).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_time_is_in_its_bucket_and_known_to_an_eighth(ns in 0u64..(1 << 46)) {
            let (bucket, time) = (bucket_of(Span::from_ns(ns)), Span::from_ns(ns));
            let end = end_of(bucket);
            prop_assert!(time <= end, "{ns} is behind the end {end:?} of bucket {bucket}");
            prop_assert!(end.ns() - ns <= ns / STEPS + UNIT_NS);
            prop_assert!(bucket == 0 || time > end_of(bucket - 1));
        }

        #[test]
        fn quantiles_are_those_of_the_sorted_times(mut times in prop::collection::vec(0u64..1_000_000_000, 1..300)) {
            let mut latency = OutputLatency::default();
            times.iter().for_each(|ns| latency.note(Span::from_ns(*ns)));
            times.sort_unstable();
            for (thousandths, rank) in [(500, times.len().div_ceil(2)), (1000, times.len())] {
                let exact = times[rank - 1];
                let found = latency.quantile(thousandths).ns();
                prop_assert!(found >= exact && found - exact <= exact / STEPS + UNIT_NS, "{found} for {exact}");
            }
            let summary = latency.summary().expect("there are some");
            prop_assert_eq!((summary.count, summary.max.ns()), (times.len() as u64, times[times.len() - 1]));
        }
    }

    #[test]
    fn what_came_since_is_what_is_not_in_the_earlier_one() {
        let of = |ms: &[u64]| {
            let mut latency = OutputLatency::default();
            ms.iter().for_each(|ms| latency.note(Span::from_ms(*ms)));
            latency
        };
        assert_eq!(of(&[1, 2, 9]).since(&of(&[1])), of(&[2, 9]));
        let shorter = of(&[9, 1, 2]).since(&of(&[9]));
        assert_eq!(shorter.count(), 2);
        let longest = shorter.quantile(1000);
        assert!(longest >= Span::from_ms(2) && longest < Span::from_us(2_300), "{longest}: to its bucket");
        assert_eq!(of(&[3]).since(&of(&[3])), OutputLatency::default());
        // A host may say anything.
        assert_eq!(of(&[3]).since(&of(&[3, 3])).count(), 0);
    }

    #[test]
    fn sums_and_the_longest_times() {
        let mut one = OutputLatency::default();
        assert_eq!(one.summary(), None);
        one.note(Span::from_ns(u64::MAX));
        let mut other = OutputLatency::default();
        other.note(Span::from_ms(1));
        other.add(&one);
        assert_eq!((other.count(), other.quantile(1000)), (2, Span::from_ns(u64::MAX)));
        assert!(other.is_plausible());
        let bytes = postcard::to_stdvec(&other).unwrap();
        assert_eq!(postcard::from_bytes::<OutputLatency>(&bytes), Ok(other));
        let hostile = OutputLatency { counts: BTreeMap::from([(u16::MAX, 1)]), max: Span::ZERO };
        assert!(!hostile.is_plausible() && hostile.quantile(500) == Span::ZERO);
    }
}
