//! One child process: started, watched through its pidfd, signalled, reaped.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// As much of a child's standard error as is shown.
const STDERR_SHOWN_MAX: u64 = 4096;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChildExit {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl From<ExitStatus> for ChildExit {
    fn from(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Code(code),
            None => Self::Signal(status.signal().unwrap_or_default()),
        }
    }
}

impl fmt::Display for ChildExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// A running child.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
    pidfd: OwnedFd,
    stderr: PathBuf,
}

impl Child {
    /// Starts `command` in a process group of its own, so that Ctrl-C reaches only the parent. Its standard error goes to
    /// a file.
    pub(crate) fn start(mut command: Command, stdin: Stdio, stdout: Stdio, stderr: PathBuf) -> io::Result<Self> {
        let mut process =
            command.process_group(0).stdin(stdin).stdout(stdout).stderr(File::create(&stderr)?).spawn()?;
        match pidfd_open(rustix::process::Pid::from_child(&process), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { process, pidfd, stderr }),
            Err(errno) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(errno.into())
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.process.stdin.take()
    }

    /// Sends a signal. A child that has just ended is not an error: it is reaped as usual.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        // The number cannot belong to another process before this child is reaped, which takes `&mut self`.
        let pid = i32::try_from(self.pid()).map_err(|_| io::Error::from(Errno::ESRCH))?;
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends a signal to it and to all that it has started, as far as they are in its process group. Who is left of them can be
    /// signalled after its own end, too.
    pub(crate) fn signal_group(pid: u32, signal: Signal) {
        if let Ok(group) = i32::try_from(pid)
            && group > 1
        {
            // Nobody is left, or nobody who may be signalled.
            let _ = killpg(Pid::from_raw(group), signal);
        }
    }

    /// How it ended, if it has.
    pub(crate) fn try_reap(&mut self) -> io::Result<Option<ChildExit>> {
        Ok(self.process.try_wait()?.map(ChildExit::from))
    }

    /// Waits for its end, at most until `deadline`.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> io::Result<Option<ChildExit>> {
        loop {
            if let Some(exit) = self.try_reap()? {
                return Ok(Some(exit));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            wait_for(&[self.pidfd.as_fd()], left)?;
        }
    }

    /// Ends it, whatever state it is in.
    pub(crate) fn kill_and_reap(&mut self) {
        // Fails only when it is reaped already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// A handle of the process that outlives its number.
    pub(crate) fn handle(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// Where its standard error goes.
    pub(crate) fn stderr_path(&self) -> &std::path::Path {
        &self.stderr
    }

    /// What it wrote to standard error, or the end of it.
    pub(crate) fn stderr(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.stderr)?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(STDERR_SHOWN_MAX)))?;
            let mut bytes = Vec::new();
            file.take(STDERR_SHOWN_MAX).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        read().unwrap_or_default()
    }
}

impl AsFd for Child {
    /// Readable when the child has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Waits until one of the descriptors is readable, at most for `bound`. Being interrupted counts as waiting.
pub(crate) fn wait_for(descriptors: &[BorrowedFd<'_>], bound: Duration) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> = descriptors.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    // Rounded up, so that the last fraction of a millisecond does not spin.
    let timeout = PollTimeout::try_from(bound + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Child) {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script);
        let child = Child::start(command, Stdio::piped(), Stdio::null(), directory.path().join("stderr")).unwrap();
        (directory, child)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn an_exit_code_and_the_last_words_are_kept() {
        let (_directory, mut child) = shell("echo 'no space' >&2; exit 73");
        assert_eq!(child.wait_until(soon()).unwrap(), Some(ChildExit::Code(73)));
        assert_eq!(child.stderr(), "no space");
    }

    #[test]
    fn a_child_ends_with_its_lifeline() {
        let (_directory, mut child) = shell("read line; exit 3");
        assert_eq!(child.wait_until(Instant::now()).unwrap(), None);
        drop(child.take_stdin());
        assert_eq!(child.wait_until(soon()).unwrap(), Some(ChildExit::Code(3)));
    }

    #[test]
    fn a_stopped_child_can_be_killed() {
        let (_directory, mut child) = shell("read line");
        child.signal(Signal::SIGSTOP).unwrap();
        child.signal(Signal::SIGKILL).unwrap();
        assert_eq!(child.wait_until(soon()).unwrap(), Some(ChildExit::Signal(9)));
        assert_eq!(ChildExit::Signal(9).to_string(), "SIGKILL");
        child.signal(Signal::SIGKILL).unwrap();
    }
}
