//! Guest time: nanoseconds since the guest was booted, which never run backwards in the guest's sight.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Nanoseconds of guest time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct GuestTime(pub u64);

impl GuestTime {
    /// This time plus some nanoseconds; it stops at the end of time (584 years).
    #[must_use]
    pub fn plus_ns(self, ns: u64) -> GuestTime {
        GuestTime(self.0.saturating_add(ns))
    }

    /// How long until `later`; zero when that has passed.
    #[must_use]
    pub fn until(self, later: GuestTime) -> Duration {
        Duration::from_nanos(later.0.saturating_sub(self.0))
    }
}

/// Turns the host's monotonic clock into guest time.
#[derive(Debug)]
pub(super) struct GuestClock {
    /// Guest time at `since`.
    base: GuestTime,
    since: Instant,
}

impl GuestClock {
    pub(super) fn starting_at(base: GuestTime) -> Self {
        Self { base, since: Instant::now() }
    }

    pub(super) fn now(&self) -> GuestTime {
        let elapsed = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.base.plus_ns(elapsed)
    }
}
