//! The host process: runs machines as primary, stands by as secondary.
//!
//! One thread waits in epoll for the controller, the machines' threads and time, and drives the host's core
//! ([`ft_protocol::host`]). Each VM has a thread of its own (its vCPU's, standing by or running), a running one also a
//! committer; one more thread only beats.

mod arrivals;
mod beater;
mod beginning;
mod commit;
mod commit_times;
mod console_input;
mod dialer;
mod driver;
mod examine;
mod follow;
mod followed_log;
mod kicks;
mod networks;
mod outbox;
mod output_words;
mod parts;
mod primary;
mod record;
mod sandbox;
mod vm_thread;
mod working_set;

use crate::clock;
use crate::events::{Events, Watched};
use crate::failpoint::{self, FailpointError};
use crate::membership::Registration;
use crate::transport::{Address, ConnectError, Connection};
use crate::{slice, wake};
pub use commit_times::TARGET as COMMIT_TRACE;
use driver::Driver;
use ft_protocol::{Generation, LinkId, VmId};
use std::time::{Duration, Instant};

/// How `ftvm host` is to run.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The host's name.
    pub name: String,
    /// Where the controller is.
    pub pool: Address,
    /// Memory that guests may take here, in bytes; `None`: all that the machine has.
    pub memory_bytes: Option<u64>,
    /// Failure domains that it is in, such as `rack=r1`.
    pub labels: Vec<String>,
    /// How long a controller that has died is waited for when this host starts. Later it is waited for as long as it takes.
    pub patience: Duration,
    /// End when standard input reaches its end: the parent is gone.
    pub lifeline: bool,
}

/// How a host's process came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEnd {
    /// The cluster ended, or the process was told to.
    Shutdown,
    /// The host was primary and found its generation sealed: another host has taken over.
    Fenced {
        /// The VM.
        vm: VmId,
        /// The generation that was sealed.
        generation: Generation,
    },
}

/// Why a host could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No controller.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// KVM cannot be used.
    #[error(transparent)]
    Kvm(#[from] crate::machine::OpenKvmError),
    /// KVM does not say what it offers.
    #[error(transparent)]
    Machine(#[from] crate::machine::MachineError),
    /// The controller would not have this host now.
    #[error("the controller refused this host: {reason}")]
    Rejected {
        /// One line.
        reason: String,
    },
    /// The controller will not have this host: asking again would not help.
    #[error("the controller refused this host: {reason}")]
    Refused {
        /// One line.
        reason: String,
    },
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

impl HostError {
    fn kernel(doing: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Kernel { doing, source }
    }
}

/// Time between two tries to reach a controller that is away.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(20);
/// A controller that is waited for longer when a host starts is told of.
const SILENCE: Duration = Duration::from_secs(2);

/// Runs a host until the cluster ends, or the host is fenced.
pub fn serve(options: &HostOptions) -> Result<HostEnd, HostError> {
    failpoint::arm()?;
    clock::follow_steps().map_err(HostError::kernel("follow the steps of the clock"))?;
    // The heartbeat page of another host is that host's to cut off: that must not end this process.
    shared_mem::mem::survive_truncation().map_err(HostError::kernel("handle SIGBUS"))?;
    slice::run_soon();
    let kvm = crate::machine::open_kvm()?;
    options.pool.prepare()?;
    match sandbox::confine() {
        Ok(true) => {}
        Ok(false) => tracing::info!("no Landlock of ABI 3: another process of this user could write to the pool"),
        Err(error) => tracing::warn!("this host is not confined: {error}"),
    }
    // Before any thread is started: none is to take the signals.
    let events = Events::new(options.lifeline).map_err(HostError::kernel("watch for events"))?;
    let Some(connection) = first_connection(options, &events)? else { return Ok(HostEnd::Shutdown) };
    let registration = register(options);
    let (sender, woken) = wake::channel().map_err(HostError::kernel("make an eventfd"))?;
    events.watch(woken.event(), Watched::Wake).map_err(HostError::kernel("watch the machines"))?;
    let mut driver = Driver::new(options, kvm, sender)?;
    driver.link_up(connection, &events)?;
    let mut next_tick = clock::monotonic();
    loop {
        if clock::monotonic() >= next_tick {
            driver.tick(&events)?;
            next_tick = clock::monotonic() + driver.tick_interval();
        }
        if let Some(end) = driver.ended()? {
            if matches!(end, HostEnd::Fenced { .. }) {
                // A machine may be what hangs, and etcd may not answer: their threads are not waited for, they end with the
                // process.
                std::mem::forget((driver, registration));
            }
            return Ok(end);
        }
        let ready = events.wait(next_tick.since(clock::monotonic())).map_err(HostError::kernel("wait for events"))?;
        for watched in ready {
            match watched {
                Watched::Wake => driver.machines_said(woken.drain())?,
                Watched::Link(link) => driver.link_ready(link, &events)?,
                Watched::End => return Ok(HostEnd::Shutdown),
                Watched::Listener | Watched::Lease => {}
            }
        }
        // What has happened may have brought work that cannot wait as long.
        next_tick = next_tick.min(clock::monotonic() + driver.tick_interval());
    }
}

/// The first connection; `None`: the process is told to end. A controller that has died is waited for. Where there never was one,
/// that is said at once.
fn first_connection(options: &HostOptions, events: &Events) -> Result<Option<Connection>, HostError> {
    let began = Instant::now();
    let mut silent = true;
    loop {
        match options.pool.connect() {
            Err(error) if error.is_away() && began.elapsed() < options.patience => {}
            connected => return Ok(Some(connected?)),
        }
        if silent && began.elapsed() >= SILENCE {
            tracing::warn!(
                "the controller at {} has died: it is waited for, {:?} at most",
                options.pool,
                options.patience
            );
            silent = false;
        }
        let ready = events.wait(clock::span(RECONNECT_INTERVAL)).map_err(HostError::kernel("wait for events"))?;
        if ready.contains(&Watched::End) {
            return Ok(None);
        }
    }
}

/// Says in the cluster's register that this host is there. It serves without, too.
fn register(options: &HostOptions) -> Option<Registration> {
    let registered = options.pool.registry()?.register_host(&options.name);
    registered.inspect_err(|error| tracing::warn!("this host is not registered: {error}")).ok()
}

/// The number of the `count`th connection of this host to its controller.
fn link_number(count: u64) -> LinkId {
    LinkId::new(count)
}
