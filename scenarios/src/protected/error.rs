//! Why a protected run cannot start or go on.

use crate::cluster::ClusterError;
use crate::guest::GuestError;
use ft_protocol::wire::{RequestError, Status};
use shared_mem::console::{ConsoleError, ConsoleReadError};
use shared_mem::mem::MapError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use vmm::client::ClientError;

/// Why a protected run cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The guest cannot be passed on.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The cluster does not come up or fell apart.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The controller refuses, or cannot be talked to.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The controller gave no descriptor of the console.
    #[error("the controller gave no console with its answer")]
    NoConsole,
    /// The console cannot be mapped.
    #[error("cannot map the console")]
    ConsoleMapping(#[source] MapError),
    /// The console is damaged.
    #[error("the console is unusable")]
    Console(#[source] ConsoleError),
    /// Console bytes were lost.
    #[error("console bytes are lost")]
    ConsoleRead(#[source] ConsoleReadError),
    /// The console is to be read from where it has not come to yet.
    #[error("the console has {tail} bytes so far: it cannot be read from byte {position} on")]
    ConsoleAhead {
        /// Where reading was to begin.
        position: u64,
        /// Where the console ends.
        tail: u64,
    },
    /// There is no VM of this name.
    #[error("there is no VM `{name}`: see `ftvm status`")]
    UnknownVm {
        /// The name.
        name: String,
    },
    /// The VM was deleted meanwhile.
    #[error("VM `{name}` was deleted")]
    Deleted {
        /// Its name.
        name: String,
    },
    /// The VM cannot be recovered from what the pool holds.
    #[error("VM `{name}` is lost: {reason} (`ftvm pool check DIR` says where)")]
    Lost {
        /// Its name.
        name: String,
        /// What is damaged, in one line.
        reason: String,
    },
    /// Whoever asked for a VM did not wait until it was made.
    #[error("VM `{name}` may be made all the same")]
    Unfinished {
        /// Its name.
        name: String,
    },
    /// The controller has died before it answered.
    #[error("the controller died before it answered: try again when it runs again")]
    ControllerDied,
    /// The controller has died, and no other one has come in time.
    #[error("the controller at {pool} has been gone for {} s: start `ftvm pool` again over the same pool", bound.as_secs())]
    ControllerGone {
        /// Where it listened.
        pool: String,
        /// How long another one was waited for.
        bound: Duration,
    },
    /// The file of events cannot be written.
    #[error("cannot write events to {}", path.display())]
    EventLog {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Waiting failed.
    #[error("cannot wait for the cluster")]
    Wait(#[source] io::Error),
}

impl RunError {
    /// The same, of a VM that its user knows by its name, and the controller by what is damaged.
    pub(crate) fn about(self, name: &str, status: &Status) -> Self {
        match self {
            Self::Client(ClientError::Refused(RequestError::Damaged(vm))) => {
                let damage = status.vms.iter().find(|status| status.vm == vm).and_then(|status| status.damage.clone());
                let reason = damage.unwrap_or_else(|| "its part of the pool is damaged".to_owned());
                Self::Lost { name: name.to_owned(), reason }
            }
            other => other,
        }
    }

    /// The same, where a VM of this name was asked for: that it was not waited for does not mean that it is not made.
    pub(crate) fn of_making(self, name: &str) -> Self {
        if self.gave_up() { Self::Unfinished { name: name.to_owned() } } else { self }
    }

    /// Something was not waited for to its end: the user wants to end, or time has run out.
    #[must_use]
    pub fn gave_up(&self) -> bool {
        matches!(self, Self::Client(ClientError::GivenUp) | Self::Cluster(ClusterError::Client(ClientError::GivenUp)))
    }
}
