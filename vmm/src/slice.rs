//! How soon a thread runs that has something to do while another one computes on its processor.
//!
//! Since Linux 6.6 who wakes waits until the running thread has used its slice up, some milliseconds, unless its own slice is shorter
//! (6.12; Documentation/scheduler/sched-eevdf.rst). The threads that publish, apply, beat and answer have little to do each time, and
//! outputs wait for them; what computes is the guest.

/// Nanoseconds: the least that the kernel takes.
const SHORT_NS: u64 = 100_000;

/// This thread, and those that it starts, run soon after they wake.
pub fn run_soon() {
    set(SHORT_NS);
}

/// This thread runs as long, and waits as long, as any other: what guests compute in. Threads that it starts do, too.
pub(crate) fn run_long() {
    set(0);
}

/// Zero: as the kernel would have it. One that knows no slices takes nothing of this, and is as it was.
#[allow(unsafe_code, reason = "no crate in use here wraps sched_setattr")]
fn set(slice_ns: u64) {
    let size = u32::try_from(size_of::<libc::sched_attr>()).expect("it is a few numbers");
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live structure of this size; thread id 0 means the caller; there are no flags.
    let known = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) };
    // Who has given this process another policy means it.
    if known != 0 || attr.sched_policy != libc::SCHED_OTHER as u32 {
        return;
    }
    attr.sched_runtime = slice_ns;
    // SAFETY: as above.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of this thread's slice; `None`: it does not say.
    fn slice() -> Option<u64> {
        let told = std::fs::read_to_string("/proc/thread-self/sched").ok()?;
        let line = told.lines().find(|line| line.starts_with("se.slice"))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    #[test]
    fn a_thread_and_those_that_it_starts_have_short_slices_until_one_computes() {
        std::thread::spawn(|| {
            let usual = slice();
            run_soon();
            let short = slice();
            let started = std::thread::spawn(|| {
                let inherited = slice();
                run_long();
                (inherited, slice())
            });
            let (inherited, long) = started.join().expect("no panic");
            // Another kernel knows no slices of a thread's own.
            if short != usual {
                assert_eq!((short, inherited, long), (Some(SHORT_NS), Some(SHORT_NS), usual));
            }
            assert_eq!(inherited, short);
            assert_eq!(long, usual);
        })
        .join()
        .expect("no panic");
    }
}
