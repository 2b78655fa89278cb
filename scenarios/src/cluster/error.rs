//! Why a private cluster does not come up, or comes to an end.

use super::hosts::{ExitedHost, HostName};
use super::{ChildExit, HOSTS_MAX};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use vmm::client::ClientError;

/// Why a private cluster does not come up, or comes to an end.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Too few or too many hosts.
    #[error("a cluster of {given} hosts: 1 to {HOSTS_MAX} are possible")]
    HostCount {
        /// What was asked for.
        given: u16,
    },
    /// No directory for pool or socket.
    #[error("cannot make a directory in {}: choose another one with --pool-dir or TMPDIR", parent.display())]
    Directory {
        /// Where.
        parent: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A child process cannot be made.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The controller has ended.
    #[error("the controller ended ({exit}){}", last_words(stderr))]
    ControllerEnded {
        /// How.
        exit: ChildExit,
        /// Its last words.
        stderr: String,
    },
    /// A host ended while the cluster was being started.
    #[error("host {} ended before it joined ({}){}", .0.name, .0.exit, last_words(&.0.stderr))]
    HostEnded(ExitedHost),
    /// Nobody ended, but nobody got ready either.
    #[error("{who} was not ready within {} s", bound.as_secs())]
    NotReady {
        /// Who.
        who: String,
        /// How long was waited.
        bound: Duration,
    },
    /// A host that is to be started lives.
    #[error("host {name} lives already")]
    HostAlive {
        /// Which.
        name: HostName,
    },
    /// A host that is to be signalled has ended.
    #[error("host {name} is dead")]
    HostDead {
        /// Which.
        name: HostName,
    },
    /// There never was such a host.
    #[error("there is no host {name}")]
    NoSuchHost {
        /// Which.
        name: HostName,
    },
    /// The kernel refuses to wait for, or to signal, a child.
    #[error("cannot wait for the cluster's processes")]
    Wait(#[source] io::Error),
    /// A fault cannot be brought about.
    #[error("cannot {doing}")]
    Fault {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The controller cannot be talked to.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl ClusterError {
    pub(super) fn fault(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Fault { doing, source }
    }

    /// The exit code of the child whose end this is about.
    #[must_use]
    pub fn child_exit_code(&self) -> Option<i32> {
        match self {
            Self::ControllerEnded { exit: ChildExit::Code(code), .. }
            | Self::HostEnded(ExitedHost { exit: ChildExit::Code(code), .. }) => Some(*code),
            _ => None,
        }
    }

    /// The line that the child itself left about its end.
    #[must_use]
    pub fn child_line(&self) -> Option<&str> {
        match self {
            Self::ControllerEnded { stderr, .. } | Self::HostEnded(ExitedHost { stderr, .. }) => telling_line(stderr),
            _ => None,
        }
    }
}

/// What somebody said last, behind a colon.
pub(crate) fn last_words(stderr: &str) -> String {
    telling_line(stderr).map_or(String::new(), |line| format!(": {line}"))
}

/// The last line, but for what is wrong with arguments: that comes first, and advice after it.
fn telling_line(stderr: &str) -> Option<&str> {
    let of_arguments = stderr.lines().find(|line| line.starts_with("error: "));
    of_arguments.or_else(|| stderr.lines().last()).filter(|line| !line.is_empty())
}
