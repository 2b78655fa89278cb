//! The hosts of a private cluster: their names, processes and lives.

use super::child::{Child, ChildExit};
use super::faults::make_clock;
use super::{Cluster, ClusterError};
use ft_protocol::Time;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use vmm::clock::monotonic;

/// Name of a host in a private cluster: a, b, c...
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostName(String);

impl HostName {
    /// The name of the host with this number, from 0.
    ///
    /// # Panics
    /// When there is no letter for it: clusters are not that large.
    #[must_use]
    pub fn nth(index: u16) -> Self {
        let letter = u8::try_from(index).ok().filter(|index| *index < 26).expect("a cluster has at most 26 hosts");
        Self(char::from(b'a' + letter).to_string())
    }

    /// A host as the controller names it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a scenario calls the controller where a host could stand.
pub const CONTROLLER: &str = "controller";

/// What can be done to the process of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostSignal {
    /// SIGKILL: the host dies.
    Kill,
    /// SIGSTOP: the host hangs.
    Stop,
    /// SIGCONT: a hung host goes on.
    Cont,
}

impl HostSignal {
    pub(super) fn number(self) -> Signal {
        match self {
            Self::Kill => Signal::SIGKILL,
            Self::Stop => Signal::SIGSTOP,
            Self::Cont => Signal::SIGCONT,
        }
    }
}

impl fmt::Display for HostSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.number(), f)
    }
}

/// A host whose process has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitedHost {
    /// Which.
    pub name: HostName,
    /// How.
    pub exit: ChildExit,
    /// Its last words.
    pub stderr: String,
}

/// A host, alive or not.
#[derive(Debug)]
pub(super) struct HostProcess {
    name: HostName,
    /// How often it was started.
    lives: u32,
    /// When it was started last.
    started_at: Time,
    pub(super) child: Option<Child>,
}

impl HostProcess {
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.child.as_ref().map(|child| child.as_fd())
    }

    pub(super) fn signal_if_alive(&mut self, signal: Signal) {
        if let Some(child) = &self.child {
            // Refused only for processes of others, which a child is not.
            let _ = child.signal(signal);
        }
    }

    /// Waits for its end until then, and ends it by force after that.
    pub(super) fn end_by(&mut self, deadline: Instant) {
        if let Some(mut child) = self.child.take()
            && !matches!(child.wait_until(deadline), Ok(Some(_)))
        {
            child.kill_and_reap();
        }
    }
}

impl Cluster {
    /// Starts a host: a new one, or one whose process has ended. Does not wait until it has joined.
    ///
    /// # Errors
    /// When it lives already, or its process cannot be made.
    pub fn start_host(&mut self, name: &HostName) -> Result<u32, ClusterError> {
        let known = self.hosts.iter().position(|host| host.name == *name);
        let index = known.unwrap_or_else(|| {
            self.hosts.push(HostProcess { name: name.clone(), lives: 0, started_at: Time::ZERO, child: None });
            self.hosts.len() - 1
        });
        if self.hosts[index].child.is_some() {
            return Err(ClusterError::HostAlive { name: name.clone() });
        }
        let lives = self.hosts[index].lives + 1;
        let stderr = self.run_directory().join(format!("{name}.{lives}.stderr"));
        let custom = self.options.custom.host(name);
        let socket = self.socket_for(name, &custom)?;
        let mut command = host_command(&self.options.executable, name, &socket);
        let clock = self.clock_of(name);
        if custom.clock_can_step {
            make_clock(&clock).map_err(ClusterError::fault("step clocks"))?;
        }
        custom.for_host(&mut command, lives, &self.gate_of(name), &clock);
        if let Some(log) = &self.options.custom.host_log {
            command.env("RUST_LOG", log);
        }
        let started_at = monotonic();
        let child = Child::start(command, Stdio::null(), Stdio::null(), stderr)
            .map_err(|source| ClusterError::Spawn { program: self.options.executable.clone(), source })?;
        let pid = child.pid();
        let host = &mut self.hosts[index];
        host.lives = lives;
        host.started_at = started_at;
        host.child = Some(child);
        Ok(pid)
    }

    /// Sends a signal to a host.
    ///
    /// # Errors
    /// When there is no such host, or it is dead.
    pub fn signal(&mut self, name: &HostName, signal: HostSignal) -> Result<(), ClusterError> {
        let host = self.host(name)?;
        let child = host.child.as_ref().ok_or_else(|| ClusterError::HostDead { name: name.clone() })?;
        self.signal_child(name, child, signal)
    }

    /// A process that is slow meanwhile stands still for as long as it is stopped.
    pub(super) fn signal_child(&self, name: &HostName, child: &Child, signal: HostSignal) -> Result<(), ClusterError> {
        let send = || child.signal(signal.number()).map_err(ClusterError::Wait);
        match self.throttles.get(name) {
            Some(throttle) if signal != HostSignal::Kill => throttle.hold(signal == HostSignal::Stop, send),
            _ => send(),
        }
    }

    /// The process of a host that lives.
    #[must_use]
    pub fn host_pid(&self, name: &HostName) -> Option<u32> {
        self.hosts.iter().find(|host| host.name == *name)?.child.as_ref().map(Child::pid)
    }

    /// The hosts that live: since when, and their processes.
    #[must_use]
    pub fn hosts_started(&self) -> Vec<(Time, HostName, u32)> {
        let started = |host: &HostProcess| Some((host.started_at, host.name.clone(), host.child.as_ref()?.pid()));
        self.hosts.iter().filter_map(started).collect()
    }

    /// Names of all hosts that were ever started, dead ones included.
    pub fn host_names(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.iter().map(|host| &host.name)
    }

    /// How many hosts have a process.
    #[must_use]
    pub fn hosts_alive(&self) -> usize {
        self.hosts.iter().filter(|host| host.child.is_some()).count()
    }

    /// The hosts that have ended since the last call.
    ///
    /// # Errors
    /// When the kernel refuses to say.
    pub fn reap_hosts(&mut self) -> Result<Vec<ExitedHost>, ClusterError> {
        let mut exited = Vec::new();
        for host in &mut self.hosts {
            let Some(child) = &mut host.child else { continue };
            if let Some(exit) = child.try_reap().map_err(ClusterError::Wait)? {
                exited.push(ExitedHost { name: host.name.clone(), exit, stderr: child.stderr() });
                host.child = None;
                self.throttles.remove(&host.name);
            }
        }
        Ok(exited)
    }

    pub(super) fn host(&self, name: &HostName) -> Result<&HostProcess, ClusterError> {
        self.hosts.iter().find(|host| host.name == *name).ok_or_else(|| ClusterError::NoSuchHost { name: name.clone() })
    }
}

fn host_command(executable: &Path, name: &HostName, socket: &Path) -> Command {
    let mut command = Command::new(executable);
    command.arg("host").arg("--id").arg(name.as_str()).arg("--pool").arg(socket);
    command.arg("--private-to").arg(std::process::id().to_string());
    super::flush_alike(&mut command);
    command
}
