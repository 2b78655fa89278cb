//! A private cluster: one controller and some hosts, child processes of whoever starts it.
//!
//! ```text
//!   start: directories --> ftvm pool --> listening --> ftvm host a --> joined --> ftvm host b --> ... --> ready
//!   end:   shut_down (request, wait, kill) or drop (kill); parent dies: hosts get SIGKILL with it (PR_SET_PDEATHSIG),
//!          the controller sees its lifeline end and removes the directories
//! ```
//!
//! Hosts die with the *thread* that started them, as the kernel has it: keep a cluster on one thread, and that thread alive.

mod child;
mod controller;
mod custom;
mod directories;
mod error;
mod faults;
mod hosts;
mod relay;
mod throttle;

pub use child::ChildExit;
pub(crate) use child::{Child, wait_for};
pub use custom::{ClusterCustom, HostCustom};
pub use directories::OwnedDirectory;
pub use error::ClusterError;
pub(crate) use error::last_words;
pub use hosts::{CONTROLLER, ExitedHost, HostName, HostSignal};
pub use relay::Held;

use ft_protocol::Span;
use ft_protocol::timeline::Happening;
use ft_protocol::wire::{Request, ToClient};
use hosts::HostProcess;
use nix::sys::signal::Signal;
use relay::Relay;
use shared_mem::FlushKind;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use throttle::Throttle;
use vmm::client::{Client, ClientError, Patience};

/// Most hosts of a private cluster: they are named by letters.
pub const HOSTS_MAX: u16 = 26;

/// How long a child may take to be ready. Generous: it only ends a wait that would otherwise be endless.
const READY_BOUND: Duration = Duration::from_secs(30);
/// Between two tries to connect to a controller that does not listen yet.
const CONNECT_INTERVAL: Duration = Duration::from_millis(2);
/// How long children may take to end when they are asked to.
const END_BOUND: Duration = Duration::from_secs(10);

/// What a private cluster is to be.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The ftvm program.
    pub executable: PathBuf,
    /// How many hosts, 1 to [`HOSTS_MAX`].
    pub hosts: u16,
    /// Where the pool's directory is made: a tmpfs.
    pub pool_parent: PathBuf,
    /// Silence after which a host is suspected; `None`: the controller's own default.
    pub heartbeat_bound: Option<Span>,
    /// VMs that are recorded, by name, and where to.
    pub record: Vec<(String, PathBuf)>,
    /// Whether pool and logs stay after the end.
    pub keep: bool,
    /// What it has beyond the ordinary.
    pub custom: ClusterCustom,
}

/// Where the pool of a private cluster is made unless the user says otherwise.
#[must_use]
pub fn default_pool_parent() -> PathBuf {
    PathBuf::from("/dev/shm")
}

/// A running private cluster.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    /// Both are there until the cluster is dropped.
    run_directory: Option<OwnedDirectory>,
    pool_directory: Option<OwnedDirectory>,
    socket: PathBuf,
    controller: Child,
    /// How often it was started.
    controller_lives: u32,
    /// The controller ends when this is closed.
    lifeline: Option<ChildStdin>,
    hosts: Vec<HostProcess>,
    /// The relays of hosts whose network can be cut.
    relays: BTreeMap<HostName, Relay>,
    throttles: BTreeMap<HostName, Throttle>,
    /// How long the controller is waited for.
    patience: Patience,
}

impl Cluster {
    /// Starts the controller and all hosts, one after the other, so that `a` is the first to be chosen for anything.
    ///
    /// # Errors
    /// When a directory or process cannot be made, or a child ends instead of getting ready.
    pub fn start(options: ClusterOptions) -> Result<Self, ClusterError> {
        Self::start_with(options, Patience::default())
    }

    /// The same, for somebody who does not wait for ever.
    ///
    /// # Errors
    /// Also when patience is over before it is ready.
    pub fn start_with(options: ClusterOptions, patience: Patience) -> Result<Self, ClusterError> {
        if !(1..=HOSTS_MAX).contains(&options.hosts) {
            return Err(ClusterError::HostCount { given: options.hosts });
        }
        let run_parent = std::env::temp_dir();
        directories::remove_stale(&options.pool_parent);
        directories::remove_stale(&run_parent);
        let pool_directory = OwnedDirectory::create(&options.pool_parent)?;
        let run_directory = match OwnedDirectory::create(&run_parent) {
            Ok(directory) => directory,
            Err(error) => {
                pool_directory.remove();
                return Err(error);
            }
        };
        let socket = run_directory.path().join("pool.sock");
        let stderr = run_directory.path().join("pool.1.stderr");
        let places = (run_directory.path(), pool_directory.path());
        let started = start_controller(&options, places, &socket, stderr, 1);
        let mut controller = match started {
            Ok(controller) => controller,
            Err(source) => {
                pool_directory.remove();
                run_directory.remove();
                return Err(ClusterError::Spawn { program: options.executable, source });
            }
        };
        let lifeline = controller.take_stdin();
        // From here on dropping the cluster cleans up.
        let mut cluster = Self {
            options,
            run_directory: Some(run_directory),
            pool_directory: Some(pool_directory),
            socket,
            controller,
            controller_lives: 1,
            lifeline,
            hosts: Vec::new(),
            relays: BTreeMap::new(),
            throttles: BTreeMap::new(),
            patience,
        };
        cluster.await_ready()?;
        Ok(cluster)
    }

    fn await_ready(&mut self) -> Result<(), ClusterError> {
        let deadline = Instant::now() + READY_BOUND;
        let mut client = self.await_controller(deadline)?;
        client.request(Request::Watch, Vec::new())?;
        for index in 0..self.options.hosts {
            let name = HostName::nth(index);
            self.start_host(&name)?;
            self.await_joined(&mut client, &name, deadline)?;
        }
        Ok(())
    }

    fn await_controller(&mut self, deadline: Instant) -> Result<Client, ClusterError> {
        loop {
            match Client::connect_with(&self.socket, self.patience.clone()) {
                Ok(client) => return Ok(client),
                Err(ClientError::Connect(_)) => {}
                Err(error @ ClientError::GivenUp) => return Err(error.into()),
                Err(error) => {
                    // It listens before it has a pool: its own last words say why it hung up.
                    self.await_controller_end(deadline)?;
                    return Err(error.into());
                }
            }
            self.check_controller()?;
            if self.patience.is_over() {
                return Err(ClientError::GivenUp.into());
            }
            if Instant::now() >= deadline {
                return Err(ClusterError::NotReady { who: "the controller".to_owned(), bound: READY_BOUND });
            }
            wait_for(&[self.controller.as_fd()], CONNECT_INTERVAL).map_err(ClusterError::Wait)?;
        }
    }

    fn await_joined(&mut self, client: &mut Client, name: &HostName, deadline: Instant) -> Result<(), ClusterError> {
        loop {
            while let Some(message) = client.next(Duration::ZERO)? {
                let joined = matches!(&message, ToClient::Happened { happening: Happening::HostJoined { name: joined, .. }, .. }
                    if *joined == name.as_str());
                if joined {
                    return Ok(());
                }
            }
            self.check_controller()?;
            for exited in self.reap_hosts()? {
                match exited.exit {
                    // Somebody killed it: no reason not to start it again.
                    ChildExit::Signal(_) if Instant::now() < deadline => _ = self.start_host(&exited.name)?,
                    _ => return Err(ClusterError::HostEnded(exited)),
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClusterError::NotReady { who: format!("host {name}"), bound: READY_BOUND });
            }
            let patience = &self.patience;
            if patience.is_over() {
                return Err(ClientError::GivenUp.into());
            }
            let left = patience.until.map_or(left, |until| left.min(until.saturating_duration_since(Instant::now())));
            let mut fds = self.descriptors();
            fds.push(client.connection().as_fd());
            fds.extend(patience.interrupt.as_ref().map(|fd| fd.as_fd()));
            wait_for(&fds, left).map_err(ClusterError::Wait)?;
        }
    }

    /// Fails when the controller has ended.
    ///
    /// # Errors
    /// With the controller's end and its last words.
    pub fn check_controller(&mut self) -> Result<(), ClusterError> {
        match self.controller.try_reap().map_err(ClusterError::Wait)? {
            None => Ok(()),
            Some(exit) => Err(ClusterError::ControllerEnded { exit, stderr: self.controller.stderr() }),
        }
    }

    /// Waits for the controller's end, and fails with its last words if it comes by then.
    ///
    /// # Errors
    /// With the controller's end and its last words.
    pub fn await_controller_end(&mut self, deadline: Instant) -> Result<(), ClusterError> {
        match self.controller.wait_until(deadline).map_err(ClusterError::Wait)? {
            None => Ok(()),
            Some(exit) => Err(ClusterError::ControllerEnded { exit, stderr: self.controller.stderr() }),
        }
    }

    /// Where the controller listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The directory that holds the pool.
    ///
    /// # Panics
    /// Never: it is there as long as the cluster.
    #[must_use]
    pub fn pool_directory(&self) -> &Path {
        self.pool_directory.as_ref().expect("taken only by drop").path()
    }

    /// The directory with socket and standard error of the children.
    ///
    /// # Panics
    /// Never: it is there as long as the cluster.
    #[must_use]
    pub fn run_directory(&self) -> &Path {
        self.run_directory.as_ref().expect("taken only by drop").path()
    }

    /// Descriptors that become readable when a child ends.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let hosts = self.hosts.iter().filter_map(HostProcess::descriptor);
        std::iter::once(self.controller.as_fd()).chain(hosts).collect()
    }

    /// How long the controller is waited for.
    #[must_use]
    pub fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Waits only so long for the controller from now on.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Asks everybody to end, and waits for it; then cleans up. Whoever does not end in time is killed.
    pub fn shut_down(mut self) {
        self.lift_faults();
        let deadline = Instant::now() + END_BOUND;
        let heard = Client::connect_with(&self.socket, Patience::until(deadline))
            .and_then(|mut client| client.request(Request::Shutdown, Vec::new()));
        // Nobody tells the hosts of a dead controller to end.
        self.end_hosts(if heard.is_ok() { deadline } else { Instant::now() });
    }

    /// A process that stands still, or is cut off, would not hear that it shall end.
    fn lift_faults(&mut self) {
        // First: one that is slow and stopped would be stopped again.
        self.throttles.clear();
        // Refused only for processes of others, which a child is not.
        let _ = self.controller.signal(Signal::SIGCONT);
        for host in &mut self.hosts {
            host.signal_if_alive(Signal::SIGCONT);
        }
        for relay in self.relays.values() {
            relay.hold(Held::default());
        }
        let names: Vec<HostName> = self.host_names().cloned().collect();
        for name in &names {
            // What cannot be lifted ends by force, a moment later.
            let _ = self.cut_pool(name, false);
        }
    }

    fn end_hosts(&mut self, deadline: Instant) {
        for host in &mut self.hosts {
            host.end_by(deadline);
        }
    }

    fn end_controller(&mut self, deadline: Instant) {
        self.throttles.remove(&HostName::new(CONTROLLER));
        // One that stands still does not see that its lifeline has ended.
        let _ = self.controller.signal(Signal::SIGCONT);
        drop(self.lifeline.take());
        if !matches!(self.controller.wait_until(deadline), Ok(Some(_))) {
            self.controller.kill_and_reap();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end_hosts(Instant::now());
        self.end_controller(Instant::now() + END_BOUND);
        if let (Some(from), Some(to)) = (&self.run_directory, &self.options.custom.logs) {
            // What cannot be kept is no reason to leave the rest behind.
            let _ = directories::copy_logs(from.path(), to);
        }
        for directory in [self.pool_directory.take(), self.run_directory.take()].into_iter().flatten() {
            if self.options.keep { directory.keep() } else { directory.remove() }
        }
    }
}

/// What this process was told about flushing holds for those that it starts.
fn flush_alike(command: &mut Command) {
    if let Some(kind) = FlushKind::forced() {
        command.arg("--flush").arg(kind.to_string());
    }
}

fn start_controller(
    options: &ClusterOptions,
    (run_directory, pool_directory): (&Path, &Path),
    socket: &Path,
    stderr: PathBuf,
    life: u32,
) -> std::io::Result<Child> {
    let mut command = Command::new(&options.executable);
    command.arg("pool").arg("--socket").arg(socket).arg("--dir").arg(pool_directory.join("pool"));
    command.arg("--private-to").arg(std::process::id().to_string());
    for directory in [pool_directory, run_directory] {
        command.arg("--owns").arg(directory);
    }
    flush_alike(&mut command);
    if let Some(bound) = options.heartbeat_bound {
        command.arg("--heartbeat-ms").arg(bound.ms().max(1).to_string());
    }
    for (vm, path) in &options.record {
        let mut value = std::ffi::OsString::from(vm);
        value.push("=");
        value.push(path);
        command.arg("--record").arg(value);
    }
    if options.keep {
        command.arg("--keep");
    }
    let clock = faults::clock_in(run_directory, &HostName::new(CONTROLLER));
    if options.custom.controller_clock_can_step {
        faults::make_clock(&clock)?;
    }
    options.custom.for_controller(&mut command, life, &clock);
    Child::start(command, Stdio::piped(), Stdio::null(), stderr)
}
