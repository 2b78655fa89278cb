//! What is done to the processes of a run.

use super::{ProtectedRun, RunError};
use crate::cluster::{CONTROLLER, Cluster, ClusterError, HostName, HostSignal};
use crate::event::{Event, What};
use ft_protocol::{Span, Time};
use vmm::clock::monotonic;

impl ProtectedRun {
    /// Does something to a host, or to the controller. A controller that is dead feels nothing.
    ///
    /// # Errors
    /// When there is no such host, or it is dead.
    pub fn signal(&mut self, host: &HostName, signal: HostSignal) -> Result<(), RunError> {
        if self.is_dead_controller(host) {
            return Ok(());
        }
        if host.as_str() == CONTROLLER {
            self.controller_dead |= signal == HostSignal::Kill;
            self.note(Event { at: monotonic(), what: What::Signalled { host: host.clone(), signal } })?;
            return Ok(self.cluster.signal_controller(signal)?);
        }
        self.check_alive(host)?;
        self.note(Event { at: monotonic(), what: What::Signalled { host: host.clone(), signal } })?;
        Ok(self.cluster.signal(host, signal)?)
    }

    /// Checks that something can be done to a process: the controller's is always there, or about to be.
    ///
    /// # Errors
    /// When it is a host's, and that is dead.
    pub fn check_alive(&self, who: &HostName) -> Result<(), RunError> {
        if who.as_str() == CONTROLLER || self.cluster.host_pid(who).is_some() {
            return Ok(());
        }
        Err(ClusterError::HostDead { name: who.clone() }.into())
    }

    /// Steps the clock of a host or of the controller, as far as scenarios can: what it tells of times is put right here.
    ///
    /// # Errors
    /// When its clock cannot be stepped.
    pub fn step_clock(&mut self, who: &HostName, by_ns: i64) -> Result<(), RunError> {
        let ahead_ns = self.clocks.step(who, by_ns);
        Ok(self.cluster.set_clock(who, ahead_ns)?)
    }

    /// Starts a host whose process has ended.
    ///
    /// # Errors
    /// When it lives, or its process cannot be made.
    pub fn start_host(&mut self, host: &HostName) -> Result<(), RunError> {
        if host.as_str() == CONTROLLER {
            // It is started again as soon as it has died.
            return Err(ClusterError::HostAlive { name: host.clone() }.into());
        }
        let pid = self.cluster.start_host(host)?;
        self.respawns.retain(|(_, awaited)| awaited != host);
        self.hostless_since = None;
        self.note(Event { at: monotonic(), what: What::HostStarted { host: host.clone(), pid } })
    }

    /// Kills a host or the controller; it lives again only after this time, and then without being asked for. Who is dead stays so for
    /// as long.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn take_away(&mut self, who: &HostName, during: Span) -> Result<(), RunError> {
        let until = monotonic() + during;
        let later = |other: Option<Time>| other.map_or(until, |other| other.max(until));
        if who.as_str() == CONTROLLER {
            self.signal(who, HostSignal::Kill)?;
            self.controller_away_until = Some(later(self.controller_away_until));
        } else if self.cluster.host_pid(who).is_some() {
            self.signal(who, HostSignal::Kill)?;
            let until = later(self.away.get(who).copied());
            self.away.insert(who.clone(), until);
        } else {
            let known = self.respawns.extract_if(.., |(_, coming)| coming == who).map(|(at, _)| at).max();
            self.respawns.push((later(known), who.clone()));
            self.hostless_since = None;
        }
        Ok(())
    }

    /// Whether this is the controller, which has died and is about to be started again.
    pub fn is_dead_controller(&mut self, who: &HostName) -> bool {
        let is_dead = self.controller_dead || self.cluster.check_controller().is_err();
        who.as_str() == CONTROLLER && is_dead
    }

    /// Whether there is a controller to talk to.
    #[must_use]
    pub fn has_controller(&self) -> bool {
        self.controller_away_until.is_none()
    }

    /// The cluster that runs it, to do things to it that are noted by whoever does them.
    pub fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}
