//! Why a protected run cannot start or go on.

use crate::cluster::ClusterError;
use crate::guest::GuestError;
use shared_mem::console::{ConsoleError, ConsoleReadError};
use shared_mem::mem::MapError;
use std::io;
use std::path::PathBuf;
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
