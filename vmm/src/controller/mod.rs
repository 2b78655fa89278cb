//! The controller process: owns the pool, drives the controller's core, serves hosts and clients.
//!
//! One thread waits in epoll for connections, messages, apply threads, signals and time; each VM has a thread that
//! applies its records. All decisions are made in [`ft_protocol::controller`].

mod applier;
#[cfg(test)]
mod applier_tests;
mod damage;
mod disk_filling;
mod driver;
mod generations;
mod grants;
mod link;
mod log_drain;
mod maker;
mod partition;
mod recording;
mod space_keeper;
mod stable_state;
mod worker;

pub use log_drain::{DrainError, LogDrain};
pub(crate) use partition::CONSOLE_BYTES;

use crate::clock;
use crate::events::{Events, Watched};
use crate::failpoint::{self, FailpointError};
use crate::fence::FenceConfig;
use crate::membership::{ControllerPlace, Elected, LeaseTime, Registry, Reign, ReignError};
use crate::transport::{ConnectError, Key, Listener, remote};
use crate::{slice, wake};
use applier::Event;
use driver::Driver;
use ft_protocol::controller::VM_GROWTH_BYTES;
use ft_protocol::controller::{ClusterStateError, Input};
use ft_protocol::phi::Phi;
use shared_mem::{Pool, PoolConfig, PoolError};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a controller is elected among those that could be.
#[derive(Clone, Debug)]
pub struct Election {
    /// Where.
    pub registry: Arc<Registry>,
    /// Where it is reached from other machines, HOST:PORT, if not where it listens.
    pub advertise: Option<String>,
    /// How long it keeps its place when it is gone.
    pub lease_time: LeaseTime,
}

/// How `ftvm pool` is to run.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// Where to listen for hosts and clients.
    pub socket: PathBuf,
    /// Where to listen for those of other machines, which have the pool's device too.
    pub listen: Option<SocketAddr>,
    /// What those of other machines have to have, too.
    pub key: Option<Key>,
    /// Begin only when elected, and end when no longer.
    pub election: Option<Election>,
    /// The pool's directory on tmpfs, made if it does not exist; or a device.
    pub dir: PathBuf,
    /// Silence after which a heartbeat is suspected.
    pub heartbeat_bound: Duration,
    /// Time between two beats and between two samples.
    pub heartbeat_interval: Duration,
    /// The degree of suspicion at which a host is suspected before the bound; `None`: never.
    pub suspicion: Option<Phi>,
    /// How long a primary may go without a commit that is due, at least.
    pub stall_bound: Duration,
    /// The pool belongs to one run: a client may end it, and it is removed at the end.
    pub private: bool,
    /// Do not remove the pool at the end.
    pub keep: bool,
    /// What ends deposed hosts, beside the seal.
    pub fence: FenceConfig,
    /// End when standard input reaches its end: the parent is gone.
    pub lifeline: bool,
    /// VMs that are recorded, by name, and where to.
    pub record: Vec<(String, PathBuf)>,
}

/// Why the controller could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The socket.
    #[error(transparent)]
    Socket(#[from] ConnectError),
    /// The pool.
    #[error("cannot use the pool in {dir}")]
    Pool {
        /// The pool's directory.
        dir: PathBuf,
        /// Why not.
        source: Box<PoolError>,
    },
    /// What an earlier controller left cannot be read.
    #[error("the pool in {dir} holds no usable cluster state")]
    State {
        /// The pool's directory.
        dir: PathBuf,
        /// Why not.
        source: ClusterStateError,
    },
    /// A part of the pool failed while the controller ran.
    #[error("the pool failed: {what}")]
    PoolFailed {
        /// One line.
        what: String,
    },
    /// The election.
    #[error(transparent)]
    Election(#[from] ReignError),
    /// Another controller may be elected by now.
    #[error(
        "this process is no longer the controller, its lease in etcd is lost: start it again, and it waits for its turn"
    )]
    LeaseLost,
    /// The failpoints of the environment make no sense.
    #[error(transparent)]
    Failpoint(#[from] FailpointError),
    /// The kernel refused something that it normally never does.
    #[error("cannot {doing}")]
    Kernel {
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl ControllerError {
    fn kernel(doing: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Kernel { doing, source }
    }
}

/// Runs a controller until it is told to end.
pub fn serve(options: &ControllerOptions) -> Result<(), ControllerError> {
    failpoint::arm()?;
    clock::follow_steps().map_err(ControllerError::kernel("follow the steps of the clock"))?;
    // A host may cut its journal off: that must end its reign, not this process.
    shared_mem::mem::survive_truncation().map_err(ControllerError::kernel("handle SIGBUS"))?;
    slice::run_soon();
    // Before any thread is started: none is to take the signals.
    let events = Events::new(options.lifeline).map_err(ControllerError::kernel("watch for events"))?;
    // Given up last: the next controller begins then.
    let reign = match &options.election {
        Some(election) => match be_elected(election, options, &events) {
            Some(elected) => Some(Reign::begin(elected)?),
            None => return Ok(()),
        },
        None => None,
    };
    // Before a pool is made that nobody could come to.
    Listener::check(&options.socket)?;
    let pool = match &reign {
        Some(_) => open_pool_when_free(options)?,
        None => open_pool(options)?,
    };
    // Whoever does not get the pool leaves the socket of the one that has it alone.
    let listener = Listener::bind(&options.socket)?;
    if let Some(address) = options.listen {
        remote::listen(address, &options.dir, &options.socket, options.key.clone())?;
    }
    let (wake_sender, woken) = wake::channel().map_err(ControllerError::kernel("make an eventfd"))?;
    events.watch(woken.event(), Watched::Wake).map_err(ControllerError::kernel("watch the apply threads"))?;
    if let Some(reign) = &reign {
        events.watch(reign, Watched::Lease).map_err(ControllerError::kernel("watch the lease"))?;
    }
    let mut driver = Driver::start(options, listener, pool, wake_sender)?;
    driver.watch_listener(&events)?;
    let mut next_tick = clock::monotonic();
    while !driver.is_over() {
        let now = clock::monotonic();
        if now >= next_tick {
            driver.tick()?;
            driver.look_after_listener(&events)?;
            next_tick = clock::monotonic() + driver.tick_interval();
        }
        next_tick = next_tick.min(clock::monotonic() + driver.tick_interval());
        let ready =
            events.wait(next_tick.since(clock::monotonic())).map_err(ControllerError::kernel("wait for events"))?;
        for watched in ready {
            match watched {
                Watched::Listener => driver.accept(&events)?,
                Watched::Wake => {
                    for event in woken.drain() {
                        driver.input(match event {
                            Event::DiskFilled { vm, result } => {
                                driver.disk_filled(vm, result)?;
                                continue;
                            }
                            Event::PartMade { vm, result } => {
                                driver.part_made(vm, result)?;
                                continue;
                            }
                            Event::PartRemoved { vm, result } => {
                                driver.part_removed(vm, result)?;
                                continue;
                            }
                            Event::Mended { vm, what } => {
                                driver.part_mended(vm, what)?;
                                continue;
                            }
                            Event::Reserved { vm, generation, result } => {
                                driver.reserved(vm, generation, result);
                                continue;
                            }
                            Event::Applied { vm, generation, outcome } => Input::Applied { vm, generation, outcome },
                            Event::Drained { vm, generation, outcome } => {
                                driver.log_drained(vm);
                                Input::LogDrained { vm, generation, outcome }
                            }
                            Event::LogDamaged { vm, generation, reason } => {
                                Input::LogDamaged { vm, generation, reason }
                            }
                            Event::FenceTried { host, name, outcome } => Input::FenceTried { host, name, outcome },
                            Event::Died(host) => Input::HostDied { host },
                        })?;
                    }
                }
                Watched::Link(link) => driver.link_ready(link, &events)?,
                // Another one goes on with the hosts.
                Watched::End if reign.is_some() => driver.leave(),
                Watched::End => driver.input(Input::End)?,
                Watched::Lease => return Err(ControllerError::LeaseLost),
            }
        }
        driver.watch_outboxes(&events)?;
    }
    driver.finish();
    Ok(())
}

/// Waits for this process to be the controller.
fn be_elected(election: &Election, options: &ControllerOptions, events: &Events) -> Option<Elected> {
    let advertised = election.advertise.clone().or_else(|| Some(options.listen?.to_string()));
    let device = std::path::absolute(&options.dir).unwrap_or_else(|_| options.dir.clone());
    let remote = advertised.map(|peer| remote::address(&peer, &device));
    let place = ControllerPlace::here(options.socket.clone(), remote);
    let goes_on = |wait| {
        let ready = events.wait(clock::span(wait));
        !ready.is_ok_and(|ready| ready.contains(&Watched::End))
    };
    Elected::wait(&election.registry, &place, election.lease_time, goes_on)
}

/// How long a predecessor on the same machine may take to end when another one is elected.
const PREDECESSOR_BOUND: Duration = Duration::from_secs(10);
/// Between two looks at whether it has.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// Most hosts of one pool: the heartbeat pages that are handed out.
const HOSTS_MAX: u16 = 64;

/// Most VMs of one pool at one time.
const VMS_MAX: u16 = 256;

/// Room for the cluster state: some hundred bytes a VM, its guest's arguments, and what it grows by later.
const CLUSTER_BYTES: u64 = 2 << 20;

const _: () = assert!(VMS_MAX as u64 * (VM_GROWTH_BYTES as u64 + 512) < CLUSTER_BYTES, "plain VMs all fit");

/// A predecessor that has given up its place, or has lost it, may be about to end.
fn open_pool_when_free(options: &ControllerOptions) -> Result<Pool, ControllerError> {
    let deadline = Instant::now() + PREDECESSOR_BOUND;
    loop {
        match open_pool(options) {
            Err(ControllerError::Pool { source, .. })
                if matches!(*source, PoolError::AlreadyLocked(_)) && Instant::now() < deadline =>
            {
                std::thread::sleep(LOCK_INTERVAL);
            }
            opened => return opened,
        }
    }
}

fn open_pool(options: &ControllerOptions) -> Result<Pool, ControllerError> {
    let config = PoolConfig { vm_slots: VMS_MAX, host_slots: HOSTS_MAX, cluster_bytes: CLUSTER_BYTES };
    let failed = |source| ControllerError::Pool { dir: options.dir.clone(), source: Box::new(source) };
    if Pool::is_at(&options.dir).map_err(failed)? {
        Pool::open(&options.dir).map_err(failed)
    } else {
        Pool::create(&options.dir, &config).map_err(failed)
    }
}
