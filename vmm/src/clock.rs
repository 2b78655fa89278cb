//! The clocks of the processes; the cores are given their readings.

use ft_protocol::{Span, Time};
use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC: the same for all processes of one machine.
///
/// # Panics
/// Never on Linux: the clock exists since 2.6 and does not run before the machine does.
#[must_use]
pub fn monotonic() -> Time {
    Time::from_ns(nanoseconds_of(ClockId::CLOCK_MONOTONIC))
}

/// Processor time of the calling thread, with what its guest used. It stands still while the thread waits, and while
/// process or machine are stopped: a bound for what a guest executes, not for how long others let it wait.
///
/// # Panics
/// Never on Linux: the clock exists since 2.6.
#[must_use]
pub fn spent_by_this_thread() -> Span {
    Span::from_ns(nanoseconds_of(ClockId::CLOCK_THREAD_CPUTIME_ID))
}

fn nanoseconds_of(clock: ClockId) -> u64 {
    let now = clock_gettime(clock).expect("a clock that exists on every Linux");
    let seconds = u64::try_from(now.tv_sec()).expect("these clocks are not negative");
    let nanoseconds = u64::try_from(now.tv_nsec()).expect("nanoseconds are not negative");
    seconds * 1_000_000_000 + nanoseconds
}
