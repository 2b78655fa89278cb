//! Clusters and guests for measurements: real processes, one thread, everything gone at the end.

use super::{BenchOptions, Failure};
use ft_protocol::policy::Policy;
use ft_protocol::spec::{Mode, NetSpec};
use ft_protocol::wire::VmStatus;
use ft_protocol::{Span, Time};
use scenarios::cluster::{Cluster, ClusterCustom, ClusterOptions, HostCustom, HostName};
use scenarios::event::Event;
use scenarios::guest::GuestSource;
use scenarios::protected::{JournalOptions, Outcome, ProtectedRun, Respawn, VmOptions};
use scenarios::units::ByteCount;
use vmm::clock::monotonic;

/// How long anything may take that a measurement waits for. It only ends what would otherwise be endless.
const PATIENCE: Span = Span::from_ms(60_000);
/// Console bytes taken at once.
const CONSOLE_BYTES: usize = 1 << 20;
/// Memory that each host may give to guests: sparse guests are larger than the machine.
const HOST_MEMORY: ByteCount = ByteCount::mib(1 << 20);

/// A guest that is to be protected.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) name: &'static str,
    pub(crate) memory: ByteCount,
    pub(crate) args: Vec<String>,
    pub(crate) mode: Mode,
    pub(crate) epoch: Option<Span>,
    pub(crate) nets: Vec<NetSpec>,
}

impl Guest {
    /// A bundled guest with these arguments.
    pub(crate) fn new(name: &'static str, memory: ByteCount, mode: Mode, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { name, memory, args, mode, epoch: None, nets: Vec::new() }
    }

    pub(crate) fn epoch(mut self, epoch: Span) -> Self {
        self.epoch = Some(epoch);
        self
    }
}

/// A cluster with its guests.
pub(crate) struct Lab {
    pub(crate) run: ProtectedRun,
}

impl Lab {
    /// A cluster of so many hosts, whose primaries say what commits cost if `traced`.
    pub(crate) fn start(options: &BenchOptions, hosts: u16, traced: bool) -> Result<Self, Failure> {
        let mut custom = ClusterCustom::default();
        for index in 0..hosts {
            let host = HostCustom { memory: Some(HOST_MEMORY), ..HostCustom::default() };
            custom.hosts.insert(HostName::nth(index), host);
        }
        custom.host_log = traced.then(super::commit_lines::filter);
        let cluster = Cluster::start(ClusterOptions {
            executable: options.executable.clone(),
            hosts,
            pool_parent: options.pool_parent.clone(),
            heartbeat_bound: None,
            record: Vec::new(),
            keep: false,
            custom,
        })?;
        Ok(Self { run: ProtectedRun::begin(cluster, Respawn::All, None)? })
    }

    /// Starts a guest and waits until it has a secondary. Says its place.
    pub(crate) fn add(&mut self, guest: &Guest, name: &str) -> Result<usize, Failure> {
        let index = self.add_unprotected(guest, name)?;
        self.await_protected(index)?;
        Ok(index)
    }

    /// Starts a guest. Says its place.
    pub(crate) fn add_unprotected(&mut self, guest: &Guest, name: &str) -> Result<usize, Failure> {
        let image = GuestSource::Builtin(guest.name.to_owned()).read()?;
        let options = VmOptions {
            memory: guest.memory,
            mode: guest.mode,
            args: guest.args.clone(),
            epoch_interval: guest.epoch,
            working_set: None,
            journal: JournalOptions::default(),
            policy: Policy::default(),
            disk_bytes: 0,
            nets: guest.nets.clone(),
        };
        Ok(self.run.add_vm(&image, &options, name)?)
    }

    /// Waits until a VM has a secondary.
    pub(crate) fn await_protected(&mut self, index: usize) -> Result<(), Failure> {
        self.until("a secondary", |run| run.timeline_of(index).is_protected())
    }

    /// Waits until something holds, reading all consoles meanwhile.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&ProtectedRun) -> bool) -> Result<(), Failure> {
        let deadline = monotonic() + PATIENCE;
        while !holds(&self.run) {
            if monotonic() >= deadline {
                return Err(format!("{what} did not come within {} s", PATIENCE.ms() / 1000).into());
            }
            self.turn(deadline)?;
        }
        Ok(())
    }

    /// Lets so much time pass.
    pub(crate) fn pass(&mut self, span: Span) -> Result<Vec<Event>, Failure> {
        let until = monotonic() + span;
        let mut events = Vec::new();
        while monotonic() < until {
            events.extend(self.turn(until)?);
        }
        Ok(events)
    }

    /// One turn; consoles are read and forgotten.
    pub(crate) fn turn(&mut self, until: Time) -> Result<Vec<Event>, Failure> {
        let turn = self.run.turn(until, &[])?;
        let mut bytes = Vec::new();
        let mut index = 0;
        while self.run.has_vm(index) {
            while self.run.read_console_of(index, &mut bytes, CONSOLE_BYTES)? > 0 {
                bytes.clear();
            }
            index += 1;
        }
        Ok(turn.events)
    }

    /// Fails when a guest has ended that should run.
    pub(crate) fn check_runs(&self, index: usize) -> Result<(), Failure> {
        match self.run.outcome_of(index) {
            None => Ok(()),
            Some(Outcome::Ended(end)) => Err(format!("the guest ended before it was measured: {end:?}").into()),
            Some(outcome) => Err(format!("the guest is gone: {outcome:?}").into()),
        }
    }

    /// The processes of a VM's primary and secondary.
    pub(crate) fn pids(&mut self, index: usize) -> Result<(u32, u32), Failure> {
        let roles = self.run.roles_of(index)?;
        let pid = |host: Option<HostName>, role: &str| {
            let pid = host.and_then(|host| self.run.cluster().host_pid(&host));
            pid.ok_or_else(|| Failure::from(format!("the VM has no {role}")))
        };
        Ok((pid(roles.primary, "primary")?, pid(roles.secondary, "secondary")?))
    }

    /// What the controller says of a VM.
    pub(crate) fn status(&mut self, index: usize) -> Result<VmStatus, Failure> {
        let vm = self.run.vm_id(index);
        let found = self.run.status()?.vms.into_iter().find(|status| status.vm == vm);
        Ok(found.ok_or("the controller does not know the VM")?)
    }
}
