//! Fence agents: ending deposed hosts, beside the seal and never instead of it.
//!
//! External agents speak the protocol of the Pacemaker project's fence-agents (FenceAgentAPI.md): parameters as KEY=VALUE
//! lines on standard input, `action` and `port` (the host's name) among them. `off` must exit with 0, and only a following
//! `status` that exits with 2 (off) proves it. Whatever takes too long has failed, and is ended.

use ft_protocol::fence::FenceOutcome;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Exit code of `status` that means off.
const STATUS_OFF: i32 = 2;

/// Which agent ends deposed hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceAgent {
    /// None: the seal alone fences.
    None,
    /// SIGKILL through a pidfd of the host's process; only where hosts are processes of this machine.
    Kill,
    /// A program that speaks the fence-agents protocol.
    External(PathBuf),
}

impl FromStr for FenceAgent {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "none" => Self::None,
            "kill" => Self::Kill,
            path => Self::External(PathBuf::from(path)),
        })
    }
}

/// How to fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceConfig {
    /// The agent.
    pub agent: FenceAgent,
    /// More KEY=VALUE lines for an external agent.
    pub parameters: Vec<String>,
    /// All of it must be done within this time.
    pub bound: Duration,
}

/// A process, held so that its number cannot come to mean another.
#[derive(Debug)]
pub(crate) struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// # Errors
    /// When there is no such process, or the kernel has no pidfd (before 5.3).
    #[allow(unsafe_code, reason = "no crate in use here wraps pidfd_open")]
    pub(crate) fn open(pid: i32) -> std::io::Result<Self> {
        // SAFETY: no pointers.
        let raw = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        let raw = i32::try_from(raw).map_err(std::io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    #[allow(unsafe_code, reason = "no crate in use here wraps pidfd_send_signal")]
    fn kill(&self) -> std::io::Result<()> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a null pointer stands for the usual information.
        Errno::result(unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), libc::SIGKILL, no_info, 0)
        })?;
        Ok(())
    }

    /// Whether the process has ended by then.
    fn has_ended_by(&self, deadline: Instant) -> std::io::Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Fences a host and says what came of it. Blocks, at most for the bound: to be called on a thread of its own.
pub(crate) fn fence(config: &FenceConfig, host: &str, process: Option<&ProcessHandle>) -> FenceOutcome {
    let deadline = Instant::now() + config.bound;
    let result = match &config.agent {
        FenceAgent::None => return FenceOutcome::NoAgent,
        FenceAgent::Kill => kill(process, deadline),
        FenceAgent::External(path) => external(path, config, host, deadline),
    };
    result.map_or_else(FenceOutcome::Failed, |()| FenceOutcome::Verified)
}

fn kill(process: Option<&ProcessHandle>, deadline: Instant) -> Result<(), String> {
    let process = process.ok_or("the host's process is not known")?;
    match process.kill() {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        Err(error) => return Err(format!("SIGKILL failed: {error}")),
    }
    match process.has_ended_by(deadline) {
        Ok(true) => Ok(()),
        Ok(false) => Err("the process did not end in time".to_owned()),
        Err(error) => Err(format!("the process's end cannot be waited for: {error}")),
    }
}

fn external(path: &PathBuf, config: &FenceConfig, host: &str, deadline: Instant) -> Result<(), String> {
    let off = call(path, config, host, "off", deadline)?;
    if !off.success() {
        return Err(format!("{} action=off: {off}", path.display()));
    }
    let status = call(path, config, host, "status", deadline)?;
    if status.code() == Some(STATUS_OFF) {
        Ok(())
    } else {
        Err(format!("{} action=status after off: {status}, expected exit code {STATUS_OFF} (off)", path.display()))
    }
}

fn call(
    path: &PathBuf,
    config: &FenceConfig,
    host: &str,
    action: &str,
    deadline: Instant,
) -> Result<ExitStatus, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    // In a process group of its own: an agent that is ended takes its children with it.
    let mut command = Command::new(path);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn().map_err(failed)?;
    let mut lines = format!("action={action}\nport={host}\n");
    for parameter in &config.parameters {
        lines.push_str(parameter);
        lines.push('\n');
    }
    if let Some(mut stdin) = child.stdin.take() {
        // An agent that does not read all of its parameters may know what it does; its exit code says.
        let _ = stdin.write_all(lines.as_bytes());
    }
    wait(&mut child, deadline)
        .map_err(failed)?
        .ok_or_else(|| format!("{} action={action} took too long", path.display()))
}

/// Waits for a child until the deadline, then ends its process group.
fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
    let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
    let ended = ProcessHandle::open(pid)?.has_ended_by(deadline)?;
    if !ended {
        // The child is not waited for yet, so its number, and that of its group, is still its own.
        killpg(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    let status = child.wait()?;
    Ok(ended.then_some(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(dir: &tempfile::TempDir, body: &str) -> FenceConfig {
        let (text, path) = (dir.path().join("text"), dir.path().join("agent"));
        std::fs::write(&text, format!("#!/bin/sh\ncat >> {}/said\n{body}\n", dir.path().display())).unwrap();
        // By another process: what this one has open for writing, the children of other tests have open, too, until they
        // are programs of their own, and what anybody writes to cannot be executed (ETXTBSY).
        assert!(Command::new("install").args(["-m", "755"]).args([&text, &path]).status().unwrap().success());
        FenceConfig {
            agent: FenceAgent::External(path),
            parameters: vec!["ip=10.0.0.1".to_owned()],
            bound: Duration::from_secs(20),
        }
    }

    #[test]
    fn an_agent_is_believed_only_when_it_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let verifies =
            agent(&dir, &format!("grep -c action=status {}/said >/dev/null && exit 2; exit 0", dir.path().display()));
        assert_eq!(fence(&verifies, "a", None), FenceOutcome::Verified);
        let said = std::fs::read_to_string(dir.path().join("said")).unwrap();
        assert_eq!(said, "action=off\nport=a\nip=10.0.0.1\naction=status\nport=a\nip=10.0.0.1\n");
        let dir = tempfile::tempdir().unwrap();
        assert!(
            matches!(fence(&agent(&dir, "exit 0"), "a", None), FenceOutcome::Failed(why) if why.contains("status"))
        );
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(fence(&agent(&dir, "exit 1"), "a", None), FenceOutcome::Failed(why) if why.contains("off")));
    }

    #[test]
    fn an_agent_that_hangs_or_is_missing_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let hangs = FenceConfig { bound: Duration::from_millis(50), ..agent(&dir, "exec sleep 1000") };
        let outcome = fence(&hangs, "a", None);
        assert!(matches!(&outcome, FenceOutcome::Failed(why) if why.contains("too long")), "{outcome:?}");
        let missing = FenceConfig { agent: FenceAgent::External("/nonexistent".into()), ..hangs };
        assert!(matches!(fence(&missing, "a", None), FenceOutcome::Failed(_)));
    }

    #[test]
    fn an_agent_that_takes_too_long_is_ended_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let child_file = dir.path().join("child");
        let body = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", child_file.display());
        let hangs = FenceConfig { bound: Duration::from_secs(2), ..agent(&dir, &body) };
        assert!(matches!(fence(&hangs, "a", None), FenceOutcome::Failed(why) if why.contains("too long")));
        let child = std::fs::read_to_string(&child_file).expect("the agent began within its time");
        let stat = format!("/proc/{}/stat", child.trim());
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        let deadline = Instant::now() + Duration::from_secs(20);
        while runs() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!runs(), "the agent's child outlives it");
    }

    #[test]
    fn kill_ends_a_stopped_process_and_verifies_it() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        let handle = ProcessHandle::open(pid).unwrap();
        let config = FenceConfig { agent: FenceAgent::Kill, parameters: Vec::new(), bound: Duration::from_secs(20) };
        assert_eq!(fence(&config, "a", Some(&handle)), FenceOutcome::Verified);
        assert_eq!(fence(&config, "a", Some(&handle)), FenceOutcome::Verified, "twice is fine");
        child.wait().unwrap();
    }
}
