//! Processes that ftvm starts for itself do not outlive their parent.

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// The process that another one belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parent(Pid);

impl Parent {
    /// The parent with this number, as it gave it itself.
    pub(crate) fn new(pid: i32) -> Self {
        Self(Pid::from_raw(pid))
    }

    /// Whether it lives. Its children have another parent only at the very end of its death, behind the end of all that it
    /// had open, which they may have noticed already.
    pub(crate) fn lives(self) -> bool {
        getppid() == self.0 && !is_exiting(self.0)
    }

    /// From now on the parent's death kills this process. False: it is dead already.
    pub(crate) fn die_with(self) -> bool {
        // Fails only for numbers that are no signals.
        let _ = set_pdeathsig(Signal::SIGKILL);
        self.lives()
    }
}

/// Whether a process is dead, or about to be: the kernel says so before it closes anything (PF_EXITING of include/linux/sched.h;
/// the ninth field of /proc/PID/stat, proc(5)).
fn is_exiting(pid: Pid) -> bool {
    const PF_EXITING: u64 = 4;
    const FLAGS: usize = 6;
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // Behind its name, which may have anything in it.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    fields.nth(FLAGS).and_then(|flags| flags.parse::<u64>().ok()).is_none_or(|flags| flags & PF_EXITING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_dead_and_not_buried_does_not_live() {
        assert!(Parent(getppid()).lives());
        assert!(!is_exiting(Pid::this()));
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        assert!(!is_exiting(pid));
        child.kill().unwrap();
        // Not reaped until it is dropped.
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !is_exiting(pid) {
            assert!(std::time::Instant::now() < limit, "it was killed");
        }
        child.wait().unwrap();
        assert!(is_exiting(pid));
    }
}
