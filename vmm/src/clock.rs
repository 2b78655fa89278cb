//! The clocks of the processes; the cores are given their readings.

use ft_protocol::{Span, Time};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::gettid;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// The environment variable with the path of a file that says how far this process's clock is ahead: eight bytes, nanoseconds,
/// signed, little endian. For scenarios: CLOCK_MONOTONIC itself cannot be stepped while processes run, neither by the
/// administrator nor by a time namespace, but a machine that is moved or resumed by a bad hypervisor feels like that.
pub const CLOCK_STEP_VARIABLE: &str = "FTVM_CLOCK_STEP";

/// Between two looks whether the clock has stepped.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// The same as the cores have it.
pub(crate) fn span(duration: Duration) -> Span {
    Span::from_ns(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

static AHEAD_NS: AtomicI64 = AtomicI64::new(0);

/// Lets this process's clock step with the file that the environment names; without it nothing is done.
pub(crate) fn follow_steps() -> io::Result<()> {
    let Some(path) = std::env::var_os(CLOCK_STEP_VARIABLE) else { return Ok(()) };
    // Held open: a process that confines itself could not open it later.
    let file = File::open(Path::new(&path))?;
    AHEAD_NS.store(ahead_ns(&file)?, Ordering::Relaxed);
    let follow = move || {
        while let Ok(ahead) = ahead_ns(&file) {
            AHEAD_NS.store(ahead, Ordering::Relaxed);
            std::thread::sleep(LOOK_INTERVAL);
        }
    };
    std::thread::Builder::new().name("clock-steps".to_owned()).spawn(follow).map(drop)
}

fn ahead_ns(file: &File) -> io::Result<i64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(i64::from_le_bytes(bytes))
}

/// CLOCK_MONOTONIC: the same for all processes of one machine, unless a scenario has stepped that of one of them.
///
/// # Panics
/// Never on Linux: the clock exists since 2.6 and does not run before the machine does.
#[must_use]
pub fn monotonic() -> Time {
    let ns = nanoseconds_of(ClockId::CLOCK_MONOTONIC);
    Time::from_ns(ns.saturating_add_signed(AHEAD_NS.load(Ordering::Relaxed)))
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

/// What [`spent_by_this_thread`] says of one thread, for the others of its process to look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadClock(ClockId);

impl ThreadClock {
    pub(crate) fn of_this_thread() -> Self {
        // As pthread_getcpuclockid makes it (include/linux/posix-timers_types.h): CPUCLOCK_SCHED of one thread.
        const SCHED_OF_THREAD: libc::clockid_t = 0b110;
        Self(ClockId::from_raw((!gettid().as_raw() << 3) | SCHED_OF_THREAD))
    }

    /// `None` once the thread has ended.
    pub(crate) fn spent(self) -> Option<Span> {
        clock_gettime(self.0).ok().map(|spent| Span::from_ns(nanoseconds(spent)))
    }
}

fn nanoseconds_of(clock: ClockId) -> u64 {
    nanoseconds(clock_gettime(clock).expect("a clock that exists on every Linux"))
}

fn nanoseconds(now: TimeSpec) -> u64 {
    let seconds = u64::try_from(now.tv_sec()).expect("these clocks are not negative");
    let nanoseconds = u64::try_from(now.tv_nsec()).expect("nanoseconds are not negative");
    seconds * 1_000_000_000 + nanoseconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_has_spent_is_seen_by_others_until_it_ends() {
        let own = ThreadClock::of_this_thread();
        let before = spent_by_this_thread();
        let seen = std::thread::scope(|scope| scope.spawn(|| own.spent()).join().unwrap()).expect("it lives");
        assert!((before..=spent_by_this_thread()).contains(&seen), "{seen} since {before}");
        let ended = std::thread::spawn(ThreadClock::of_this_thread).join().unwrap();
        // Whoever joins is woken a moment before the kernel lets go of the thread.
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while ended.spent().is_some() {
            assert!(std::time::Instant::now() < limit, "a thread that has ended still has a clock");
            std::thread::yield_now();
        }
    }

    #[test]
    fn how_far_a_clock_is_ahead_is_eight_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clock");
        for ahead in [0, 5_000_000_000, -1, i64::MIN] {
            std::fs::write(&path, ahead.to_le_bytes()).unwrap();
            assert_eq!(ahead_ns(&File::open(&path).unwrap()).unwrap(), ahead);
        }
        std::fs::write(&path, [1, 2, 3]).unwrap();
        assert!(ahead_ns(&File::open(&path).unwrap()).is_err());
    }
}
