//! Why a scenario cannot be run.

use crate::cluster::ClusterError;
use crate::golden::GoldenError;
use crate::guest::GuestError;
use crate::protected::RunError;
use crate::report::FolderError;
use std::io;
use std::path::PathBuf;
use vmm::client::ClientError;
use vmm::disk_file::DiskFileError;
use vmm::net::SwitchError;

/// Why a scenario could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The guest is none.
    #[error("the guest cannot be used")]
    Guest {
        /// Where the file names it, if it does.
        line: Option<usize>,
        /// Why not.
        source: GuestError,
    },
    /// The unprotected run failed.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// The cluster does not come up.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The protected run broke.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A file of the run's directory cannot be written.
    #[error("cannot write {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A step asks for what cannot be done.
    #[error("{} ({}:{line})", step, path.display())]
    Step {
        /// The scenario.
        path: PathBuf,
        /// Where the step stands.
        line: usize,
        /// Its name.
        step: String,
        /// Why.
        source: Box<RunError>,
    },
    /// A workload cannot be started or watched.
    #[error("cannot run workload {name}")]
    Workload {
        /// Where it stands in the scenario's file.
        line: usize,
        /// Which.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The guests' network cannot be made.
    #[error(transparent)]
    Segment(#[from] SwitchError),
    /// A guest's disk cannot be made.
    #[error(transparent)]
    Disk(#[from] DiskFileError),
    /// The page of a run cannot be written.
    #[error(transparent)]
    Page(#[from] FolderError),
    /// This machine does not offer what the scenario needs.
    #[error("{reason}")]
    Skipped {
        /// One line.
        reason: String,
    },
    /// The user wants to end.
    #[error("interrupted")]
    Interrupted,
}

impl RunnerError {
    /// Something was not waited for to its end: the user wants to end, or time has run out.
    pub(super) fn gave_up(&self) -> bool {
        match self {
            Self::Cluster(ClusterError::Client(ClientError::GivenUp)) | Self::Golden(GoldenError::Interrupted) => true,
            Self::Run(error) => error.gave_up(),
            Self::Step { source, .. } => source.gave_up(),
            _ => false,
        }
    }

    /// What breaks in one scenario is that scenario's failure, and the others run. What the user wants, or what will be wrong
    /// with the next one, too, ends them all.
    pub(super) fn is_of_the_scenario(&self) -> bool {
        match self {
            Self::Interrupted | Self::File { .. } | Self::Page(_) | Self::Skipped { .. } => false,
            Self::Run(RunError::EventLog { .. }) => false,
            Self::Guest { .. } | Self::Golden(_) | Self::Cluster(_) | Self::Run(_) => true,
            Self::Step { .. } | Self::Workload { .. } | Self::Segment(_) | Self::Disk(_) => true,
        }
    }
}
