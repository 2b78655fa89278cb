//! Event files: a run as a list of decisions, one JSON object a line, that can be replayed, minimised and read.
//!
//! ```text
//! {"run":{"version":2,"seed":7,"hosts":3,"vms":1,"profile":"swarm","commit":"...","weather":{...}}}
//! {"fault":{"when":{"at":{"us":1200}},"fault":{"kill":{...}}}}          one line per fault
//! {"violation":"I1: ..."}                                               what it led to
//! {"story":"    1.200 ms  fault 0: ..."}                                for people, not read back
//! ```

use super::fault::FaultEvent;
use super::outcome::SimConfig;
use super::plan::{FaultProfile, Plan};
use super::weather::{HOSTS_MAX, VMS_MAX, Weather};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Version of the format.
const VERSION: u32 = 2;

/// Most faults of a file that is read.
const FAULTS_MAX: usize = 10_000;

/// The first line: everything but the faults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    version: u32,
    seed: u64,
    hosts: u16,
    vms: u16,
    profile: FaultProfile,
    commit: String,
    weather: Weather,
}

impl Header {
    fn is_sound(&self) -> bool {
        self.version == VERSION
            && (1..=HOSTS_MAX).contains(&self.hosts)
            && (1..=VMS_MAX).contains(&self.vms)
            && self.weather.is_sound()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Run(Box<Header>),
    Fault(FaultEvent),
    Violation(String),
    Story(String),
}

/// An event file in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFile {
    /// What was run.
    pub config: SimConfig,
    /// Under which plan.
    pub plan: Plan,
    /// The commit that it was found with.
    pub commit: String,
    /// What it led to, in one line.
    pub violation: Option<String>,
    /// What happened, line by line.
    pub story: Vec<String>,
}

/// An event file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum EventFileError {
    /// The file system refused.
    #[error("cannot use the event file {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is no event.
    #[error("{}:{line}: not an event of version {VERSION}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// The first line does not say what to run, or asks for more than a run can be.
    #[error("{}: the first line must say what to run: version {VERSION}, 1 to {HOSTS_MAX} hosts, 1 to {VMS_MAX} VMs", path.display())]
    Header {
        /// Which file.
        path: PathBuf,
    },
    /// A fault that no run can have.
    #[error("{}:{line}: a fault's times are at most 1000 s, its factor 1 to 1000, its count at least 1", path.display())]
    Fault {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// More faults than a run can have.
    #[error("{}: more than {FAULTS_MAX} faults", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
    },
}

impl EventFile {
    /// Writes the file, and makes its directory where that is missing.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, path: &Path) -> Result<(), EventFileError> {
        let failed = |source| EventFileError::Io { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        std::fs::write(path, self.to_lines()).map_err(failed)
    }

    /// What the file holds.
    ///
    /// # Panics
    /// Never: plain data always encodes.
    #[must_use]
    pub fn to_lines(&self) -> String {
        let header = Header {
            version: VERSION,
            seed: self.config.seed,
            hosts: self.config.hosts,
            vms: self.config.vms,
            profile: self.config.faults,
            commit: self.commit.clone(),
            weather: self.plan.weather,
        };
        let faults = self.plan.faults.iter().copied().map(Line::Fault);
        let violation = self.violation.iter().cloned().map(Line::Violation);
        let story = self.story.iter().cloned().map(Line::Story);
        let lines = std::iter::once(Line::Run(Box::new(header))).chain(faults).chain(violation).chain(story);
        lines.map(|line| serde_json::to_string(&line).expect("plain data always encodes") + "\n").collect()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When the file system refuses, or the content is something else.
    pub fn read(path: &Path) -> Result<Self, EventFileError> {
        let failed = |source| EventFileError::Io { path: path.to_owned(), source };
        Self::parse(path, &std::fs::read(path).map_err(failed)?)
    }

    /// Takes a run from the bytes of a file; `path` is for messages.
    ///
    /// # Errors
    /// When they are something else.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, EventFileError> {
        let mut header = None;
        let mut faults = Vec::new();
        let mut violation = None;
        let mut story = Vec::new();
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        for (index, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = serde_json::from_slice(text).map_err(|source| EventFileError::Line {
                path: path.to_owned(),
                line: index + 1,
                source,
            })?;
            match line {
                Line::Run(run) if index == 0 => header = Some(run),
                Line::Run(_) => return Err(EventFileError::Header { path: path.to_owned() }),
                Line::Fault(_) if faults.len() == FAULTS_MAX => {
                    return Err(EventFileError::TooLong { path: path.to_owned() });
                }
                Line::Fault(event) if !event.is_sound() => {
                    return Err(EventFileError::Fault { path: path.to_owned(), line: index + 1 });
                }
                Line::Fault(event) => faults.push(event),
                Line::Violation(text) => violation = Some(text),
                Line::Story(text) => story.push(text),
            }
        }
        let header = header
            .filter(|header| header.is_sound())
            .ok_or_else(|| EventFileError::Header { path: path.to_owned() })?;
        let Header { seed, hosts, vms, profile, commit, weather, .. } = *header;
        let config = SimConfig { seed, hosts, vms, faults: profile };
        Ok(Self { config, plan: Plan { weather, faults }, commit, violation, story })
    }
}
