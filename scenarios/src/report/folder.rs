//! A run's directory, read back.

use crate::event::{Event, EventsError, What, answers, read_events};
use crate::history::{self, Deed, Line};
use crate::runner::{Manifest, Report};
use crate::telling::Names;
use crate::timeline::Timeline;
use ft_protocol::{Span, Time, VmId};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// How the histories of workloads are called.
const HISTORY: &str = ".history.jsonl";

/// Why a directory is none of a run.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file is missing, or may not be read.
    #[error("cannot read {}: is this the directory of a run?", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} is not what a run leaves", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The events cannot be read.
    #[error(transparent)]
    Events(#[from] EventsError),
    /// The page cannot be written.
    #[error("cannot write {}", path.display())]
    Unwritable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A run's directory, read back.
#[derive(Debug)]
pub struct RunFolder {
    /// What it was.
    pub manifest: Manifest,
    /// What came of it; `None`: it did not come to its end.
    pub report: Option<Report>,
    /// What was seen, by time.
    pub events: Vec<Event>,
    /// What the clients of workloads did, by workload.
    pub histories: Vec<(String, Vec<Deed>)>,
    /// What hosts and VMs are called.
    pub names: Names,
}

impl RunFolder {
    /// Reads it.
    ///
    /// # Errors
    /// When something is missing or is not what a run leaves.
    pub fn read(directory: &Path) -> Result<Self, FolderError> {
        let manifest: Manifest = json(&directory.join("manifest.json"))?;
        let report = directory.join("report.json");
        let report = if report.exists() { Some(json(&report)?) } else { None };
        let mut events = read_events(&directory.join("events.jsonl"))?;
        // The controller's words come a moment after what was seen outside meanwhile.
        events.sort_by_key(|event| event.at);
        let mut names = Names::of_vms(&manifest.vms);
        for event in &events {
            if let What::Happened(happening) = &event.what {
                names.take(happening);
            }
        }
        // Those of a run that did not come to its end stand in their files only.
        let told = histories_among(&events);
        let histories = if told.is_empty() { histories(directory) } else { told };
        Ok(Self { manifest, report, events, histories, names })
    }

    /// When it began.
    #[must_use]
    pub fn start(&self) -> Time {
        Time::from_ns(self.manifest.started_at_ns)
    }

    /// How long it took, as far as events go.
    #[must_use]
    pub fn length(&self) -> Span {
        self.events.last().map_or(Span::ZERO, |last| last.at.since(self.start()))
    }

    /// The VMs that there were.
    #[must_use]
    pub fn vms(&self) -> Vec<VmId> {
        let mut vms: Vec<VmId> = self.events.iter().filter_map(|event| event.what.vm()).collect();
        vms.sort_unstable();
        vms.dedup();
        vms
    }

    /// What is known of one VM.
    #[must_use]
    pub fn timeline(&self, vm: VmId) -> Timeline {
        let mut timeline = Timeline::default();
        for event in &self.events {
            if event.what.vm().is_none_or(|about| about == vm) {
                timeline.take(event);
            }
        }
        // With whom of several VMs a workload spoke is not known.
        if self.vms().len() == 1 {
            answers(&self.events).for_each(|(asked, at)| timeline.answered(asked, at));
        }
        timeline
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, FolderError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| FolderError::Unreadable { path: path.to_owned(), source })?;
    serde_json::from_str(&text).map_err(|source| FolderError::Malformed { path: path.to_owned(), source })
}

/// What clients did, as the run's events have it.
fn histories_among(events: &[Event]) -> Vec<(String, Vec<Deed>)> {
    let mut lines: BTreeMap<&str, Vec<Line>> = BTreeMap::new();
    for event in events {
        if let What::WorkloadTold { workload, id, entry } = &event.what {
            let line = Line { id: *id, at_ns: event.at.ns(), entry: entry.clone() };
            lines.entry(workload).or_default().push(line);
        }
    }
    lines.into_iter().map(|(workload, lines)| (workload.to_owned(), history::deeds(lines.iter()))).collect()
}

/// As far as they can be read: a client that died may have left half a line, which its verdict has told.
fn histories(directory: &Path) -> Vec<(String, Vec<Deed>)> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<(String, Vec<Deed>)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().strip_suffix(HISTORY)?.to_owned();
            let content = history::content(&entry.path()).ok()?;
            let lines: Vec<Line> = history::lines(&content).map_while(Result::ok).collect();
            Some((name, history::deeds(lines.iter())))
        })
        .collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}
