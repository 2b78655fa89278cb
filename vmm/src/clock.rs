//! The clocks of the processes; the cores are given their readings.

use ft_protocol::Time;
use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC: the same for all processes of one machine.
///
/// # Panics
/// Never on Linux: the clock exists since 2.6 and does not run before the machine does.
#[must_use]
pub fn monotonic() -> Time {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists on every Linux");
    let seconds = u64::try_from(now.tv_sec()).expect("the monotonic clock is not negative");
    let nanoseconds = u64::try_from(now.tv_nsec()).expect("nanoseconds are not negative");
    Time::from_ns(seconds * 1_000_000_000 + nanoseconds)
}
