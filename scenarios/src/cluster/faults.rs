//! Faults of hosts that are no signals: cuts and slowness. And failpoints, at which processes stand still.

use super::child::Child;
use super::custom::HostCustom;
use super::hosts::{CONTROLLER, HostName};
use super::relay::{Held, Relay};
use super::throttle::Throttle;
use super::{Cluster, ClusterError};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

impl Cluster {
    /// While a file is there, the host's stores into the pool are held.
    pub(super) fn gate_of(&self, name: &HostName) -> PathBuf {
        self.run_directory().join(format!("{name}.cut"))
    }

    /// How far the clock of a process is ahead.
    pub(super) fn clock_of(&self, name: &HostName) -> PathBuf {
        clock_in(self.run_directory(), name)
    }

    /// Steps the clock of a host or of the controller: from now on it is ahead by so many nanoseconds, in its later lives, too.
    ///
    /// # Errors
    /// When the file that says so cannot be written.
    pub fn set_clock(&mut self, name: &HostName, ahead_ns: i64) -> Result<(), ClusterError> {
        let file = File::options().write(true).open(self.clock_of(name));
        file.and_then(|file| file.write_all_at(&ahead_ns.to_le_bytes(), 0)).map_err(ClusterError::fault("step a clock"))
    }

    /// Where a host finds the controller: directly, or through its relay.
    pub(super) fn socket_for(&mut self, name: &HostName, custom: &HostCustom) -> Result<PathBuf, ClusterError> {
        if !custom.network_can_be_cut {
            return Ok(self.socket.clone());
        }
        if let Some(relay) = self.relays.get(name) {
            return Ok(relay.socket().to_owned());
        }
        let socket = self.run_directory().join(format!("{name}.sock"));
        let relay = Relay::start(socket.clone(), self.socket.clone()).map_err(ClusterError::fault("relay messages"))?;
        self.relays.insert(name.clone(), relay);
        Ok(socket)
    }

    /// Holds a host's stores into the pool, or lets them go on.
    ///
    /// # Errors
    /// When the file that says so cannot be made or removed.
    pub fn cut_pool(&mut self, name: &HostName, cut: bool) -> Result<(), ClusterError> {
        let gate = self.gate_of(name);
        let done = if cut { File::create(&gate).map(|_| ()) } else { fs::remove_file(&gate) };
        match done {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ClusterError::fault("cut the pool")(error)),
            _ => Ok(()),
        }
    }

    /// Holds just these messages between a host and the controller from now on. A host without a relay has none to hold.
    pub fn hold_messages(&mut self, name: &HostName, held: Held) {
        if let Some(relay) = self.relays.get(name) {
            relay.hold(held);
        }
    }

    /// Lets a process run only so many percent of the time from now on; `None`: as much as it likes. One that `stands` still does so
    /// until it is let go on.
    ///
    /// # Errors
    /// When it is dead.
    pub fn throttle(&mut self, name: &HostName, percent: Option<u32>, stands: bool) -> Result<(), ClusterError> {
        self.throttles.remove(name);
        if let Some(percent) = percent {
            let slow = ClusterError::fault("slow a process down");
            let process = self.process(name)?.handle().map_err(&slow)?;
            self.throttles.insert(name.clone(), Throttle::start(process, percent, stands).map_err(&slow)?);
        }
        Ok(())
    }

    /// The process of a host or of the controller stands still at this passage of a failpoint.
    ///
    /// # Errors
    /// When it is dead.
    pub fn stands_at(&self, name: &HostName, failpoint: &str, hit: u64) -> Result<bool, ClusterError> {
        let child = self.process(name)?;
        let said = vmm::failpoint::stops_at(failpoint, hit);
        let has_said = fs::read_to_string(child.stderr_path()).is_ok_and(|text| text.contains(&said));
        Ok(has_said && is_stopped(child.pid()))
    }

    /// Whether a process stands still, whoever has stopped it.
    #[must_use]
    pub fn is_stopped(&self, name: &HostName) -> bool {
        self.process(name).is_ok_and(|child| is_stopped(child.pid()))
    }

    fn process(&self, name: &HostName) -> Result<&Child, ClusterError> {
        if name.as_str() == CONTROLLER {
            return Ok(&self.controller);
        }
        self.host(name)?.child.as_ref().ok_or_else(|| ClusterError::HostDead { name: name.clone() })
    }
}

/// The file that says how far the clock of a process is ahead.
pub(super) fn clock_in(directory: &Path, name: &HostName) -> PathBuf {
    directory.join(format!("{name}.clock"))
}

/// Makes it, for a clock that is right, unless it is there.
pub(super) fn make_clock(path: &Path) -> io::Result<()> {
    if path.exists() { Ok(()) } else { fs::write(path, 0_i64.to_le_bytes()) }
}

/// It says that it will stop a moment before it has.
fn is_stopped(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name before it may hold anything, a parenthesis too.
    stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
}
