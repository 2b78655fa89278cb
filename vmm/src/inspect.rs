//! Takes a pool apart and verifies it, alive or dead, without locking or changing anything.
//!
//! A live pool changes while it is read, so a first finding proves nothing. Everything that a VM's writers change goes
//! through words that only move forward (applied, freed, generation, commit words) or through stores that are replaced
//! whole. A look at a VM counts when those words were the same before and after it; otherwise the look is repeated. What
//! is found at every one of many looks is damage all the same; what differed from look to look is reported as in change.
//!
//! What cannot be verified: stable image, disk image and console bytes carry no check.

mod hosts;
mod journal;
mod log;
mod report;
mod vm;

pub use report::{
    BootReport, ConsoleReport, ControlReport, DeviceReport, Finding, HostReport, JournalReport, JournalRole, LogReport,
    PoolReport, RecordReport, Recoverable, Severity, StateReport, Verdict, VmInCluster, VmReport,
};

use ft_protocol::controller::{ClusterState, ClusterStateError, HostRecord, VmRecord};
use shared_mem::mem::survive_truncation;
use shared_mem::pool::FileKind;
use shared_mem::vm_directory::{VmEntry, VmState};
use shared_mem::{Pool, PoolError, PoolView, VmSlot};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Looks at a VM that changes all the time before giving up.
const LOOKS_MAX: u32 = 50;

/// Why there is nothing to inspect.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Nothing is there.
    #[error("there is no pool directory or device {}", .0.display())]
    Missing(PathBuf),
    /// What is there is no pool.
    #[error(transparent)]
    Pool(PoolError),
    /// The pool's first pages are damaged: nothing behind them can be found.
    #[error("the pool is damaged")]
    Damaged(#[source] PoolError),
    /// Reading a file that is cut off meanwhile would end this process.
    #[error("cannot handle SIGBUS")]
    Sigbus(#[source] std::io::Error),
}

/// Takes the pool in `dir` apart.
///
/// # Errors
/// When there is none, or its first pages are damaged. Damage anywhere else is in the report.
pub fn inspect(dir: &Path) -> Result<PoolReport, InspectError> {
    inspect_within(dir, hosts::BEAT_BOUND)
}

/// Verifies the pool in `dir`: as [`inspect`], but does not wait to see whether hosts beat, which is nothing to verify.
///
/// # Errors
/// As for [`inspect`].
pub fn check(dir: &Path) -> Result<PoolReport, InspectError> {
    inspect_within(dir, Duration::ZERO)
}

/// As [`inspect`], with a bound for the wait for heartbeats.
fn inspect_within(dir: &Path, beat_bound: Duration) -> Result<PoolReport, InspectError> {
    survive_truncation().map_err(InspectError::Sigbus)?;
    if !dir.exists() {
        return Err(InspectError::Missing(dir.to_owned()));
    }
    let view = Pool::inspect(dir).map_err(|error| match error {
        PoolError::Superblock { .. }
        | PoolError::SuperblockMissing { .. }
        | PoolError::Directory(_)
        | PoolError::FileLength { .. }
        | PoolError::Device { .. } => InspectError::Damaged(error),
        error => InspectError::Pool(error),
    })?;
    Ok(Inspection { view: &view, beat_bound, held: false, findings: Vec::new() }.run())
}

struct Inspection<'pool> {
    view: &'pool PoolView,
    beat_bound: Duration,
    /// A controller has the pool.
    held: bool,
    findings: Vec<Finding>,
}

/// What a look at one part of the pool has brought.
struct Findings {
    place: String,
    found: Vec<Finding>,
}

impl Findings {
    fn new(place: impl Into<String>) -> Self {
        Self { place: place.into(), found: Vec::new() }
    }

    fn add(&mut self, severity: Severity, file: &str, what: impl Into<String>, meaning: impl Into<String>) {
        let place = if file.is_empty() { self.place.clone() } else { format!("{} {file}", self.place) };
        self.found.push(Finding { severity, place, what: what.into(), meaning: meaning.into() });
    }

    fn damage(&mut self, file: &str, what: impl Into<String>, meaning: impl Into<String>) {
        self.add(Severity::Damage, file, what, meaning);
    }

    fn notice(&mut self, file: &str, what: impl Into<String>, meaning: impl Into<String>) {
        self.add(Severity::Notice, file, what, meaning);
    }

    /// What is found in a part that nobody will read again as it is: worth a notice, and no damage.
    fn of_unused<T>(&mut self, why: &str, look: impl FnOnce(&mut Self) -> T) -> T {
        let mut found = Self::new(self.place.clone());
        let seen = look(&mut found);
        for mut finding in found.found {
            if finding.severity == Severity::Damage {
                finding.severity = Severity::Notice;
                why.clone_into(&mut finding.meaning);
            }
            self.found.push(finding);
        }
        seen
    }

    fn has_damage(&self) -> bool {
        self.found.iter().any(|finding| finding.severity == Severity::Damage)
    }
}

/// What the cluster state says, or why it says nothing.
#[derive(Debug, thiserror::Error)]
enum ClusterError {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    State(#[from] ClusterStateError),
}

fn cluster(view: &PoolView) -> Result<Option<ClusterState>, ClusterError> {
    let stored = view.load_cluster()?;
    Ok(stored.map(|bytes| ClusterState::decode(&bytes)).transpose()?)
}

impl Inspection<'_> {
    fn run(mut self) -> PoolReport {
        let superblock = *self.view.superblock();
        let held = self.held();
        self.held = held;
        let before = hosts::sample(self.view);
        self.copies();
        let state = self.cluster();
        let vms = self.vms(&state);
        self.unknown_files();
        let hosts = hosts::report(self.view, &state.hosts, &before, self.beat_bound, &mut self.findings);
        PoolReport {
            dir: self.view.path().to_owned(),
            layout: superblock.layout,
            id: superblock.pool_id.iter().fold(String::new(), |mut id, byte| {
                // Writing to a String cannot fail.
                let _ = write!(id, "{byte:02x}");
                id
            }),
            vm_slots: superblock.vm_slots,
            host_slots: superblock.host_slots,
            cluster_bytes: superblock.cluster_bytes,
            held,
            device: self.view.device_table().ok().flatten().map(|table| table.usage().into()),
            available_bytes: self.view.available_bytes().ok(),
            flush: self.view.flush_kind().to_string(),
            hosts,
            vms,
            findings: self.findings,
        }
    }

    fn held(&mut self) -> bool {
        self.view.is_locked().unwrap_or_else(|error| {
            let mut findings = Findings::new("lock");
            findings.damage("", crate::chain(&error), "whether a controller holds the pool is not known");
            self.findings.append(&mut findings.found);
            false
        })
    }

    /// What is there twice, and damaged once.
    fn copies(&mut self) {
        let mut findings = Findings::new("");
        match self.view.wrong_copies() {
            Ok(wrong) => {
                for copy in wrong {
                    findings.place = copy.file.to_owned();
                    if copy.counts {
                        findings.damage("", copy.what, "nothing is lost: there is another one, a controller mends it");
                    } else {
                        findings.notice(
                            "",
                            copy.what,
                            "it is written anew: by a controller that starts, if not by this one",
                        );
                    }
                }
            }
            Err(error) => {
                findings.place = "pool".to_owned();
                findings.damage("", crate::chain(&error), "what is there twice cannot be compared");
            }
        }
        self.findings.append(&mut findings.found);
    }

    fn cluster(&mut self) -> ClusterState {
        let mut findings = Findings::new("cluster");
        let state = cluster(self.view).unwrap_or_else(|error| {
            findings.damage("", crate::chain(&error), "no controller can start over this pool");
            None
        });
        self.findings.append(&mut findings.found);
        state.unwrap_or_default()
    }

    fn vms(&mut self, state: &ClusterState) -> Vec<VmReport> {
        let mut reports = Vec::new();
        let mut found = BTreeSet::new();
        for slot in self.view.directory().slots() {
            if let Some(report) = self.vm(slot) {
                found.insert(report.name.clone());
                reports.push(report);
            }
        }
        for record in state.vms.iter().filter(|record| !found.contains(&record.spec.name)) {
            reports.extend(self.homeless(record, &state.hosts));
        }
        reports
    }

    /// Looks at a slot of the VM directory until a look counts.
    fn vm(&mut self, slot: VmSlot) -> Option<VmReport> {
        let mut persistent: Option<Vec<Finding>> = None;
        let mut last = None;
        for _ in 0..LOOKS_MAX {
            let before = vm::stamp(self.view, slot);
            let (report, findings) = self.look(slot);
            let counts = !findings.has_damage() || before == vm::stamp(self.view, slot);
            if counts {
                self.findings.extend(findings.found);
                return report;
            }
            persistent = Some(match persistent {
                None => findings.found,
                Some(seen) => seen.into_iter().filter(|finding| findings.found.contains(finding)).collect(),
            });
            last = Some(report);
            std::thread::yield_now();
        }
        self.findings.extend(persistent.unwrap_or_default());
        let mut findings = Findings::new(format!("vm-{slot}"));
        let what = format!("it changed during each of {LOOKS_MAX} looks");
        findings.add(Severity::InChange, "", what, "look again");
        self.findings.append(&mut findings.found);
        last.flatten()
    }

    fn look(&self, slot: VmSlot) -> (Option<VmReport>, Findings) {
        let mut findings = Findings::new(format!("vm-{slot}"));
        let lost = "what the slot holds is lost";
        let entry = match self.view.entry(slot) {
            Ok(None) => return (None, findings),
            Ok(Some(VmEntry { state: VmState::Deleting, name, .. })) => {
                findings.notice("", format!("{name} is being deleted"), "the next controller completes it");
                return (None, findings);
            }
            Ok(Some(entry)) => entry,
            Err(error) => {
                findings.place = "vm-directory".to_owned();
                findings.damage("", crate::chain(&error), lost);
                return (None, findings);
            }
        };
        findings.place = format!("vm-{slot} ({})", entry.name);
        let state = cluster(self.view).ok().flatten().unwrap_or_default();
        let record = state.vms.iter().find(|record| record.spec.name == entry.name.as_str());
        match self.view.open_vm(slot) {
            Ok(partition) => {
                let layout = self.view.superblock().layout;
                let look = vm::Look { partition: &partition, record, hosts: &state.hosts, layout, held: self.held };
                (Some(look.report(&mut findings)), findings)
            }
            Err(error) => {
                findings.damage("", crate::chain(&error), lost);
                (None, findings)
            }
        }
    }

    /// A VM that the cluster state names, but the directory does not.
    fn homeless(&mut self, record: &VmRecord, hosts: &[HostRecord]) -> Option<VmReport> {
        // Made or deleted while the directory was read?
        let now = cluster(self.view).ok().flatten()?;
        now.vms.iter().find(|other| other.spec.name == record.spec.name)?;
        if self.view.vms().is_ok_and(|vms| vms.iter().any(|(_, entry)| entry.name.as_str() == record.spec.name)) {
            return None;
        }
        let mut findings = Findings::new(format!("vm-directory ({})", record.spec.name));
        findings.damage("", "the cluster state names a VM that has no entry", "the VM is lost");
        self.findings.append(&mut findings.found);
        Some(vm::homeless(record, hosts))
    }

    fn unknown_files(&mut self) {
        let mut findings = Findings::new("pool");
        match self.view.file_names() {
            Ok(names) => {
                for name in names {
                    self.judge_name(&name, &mut findings);
                }
            }
            Err(error) => findings.damage("", crate::chain(&error), "leftovers cannot be found"),
        }
        self.findings.append(&mut findings.found);
    }

    fn judge_name(&self, name: &str, findings: &mut Findings) {
        match FileKind::of_pool_file(name) {
            FileKind::Unfinished => {
                findings.notice(
                    name,
                    "it was being made",
                    "the next controller removes it, unless this one completes it",
                );
            }
            FileKind::Vm(slot) if matches!(self.view.entry(slot), Ok(None)) && self.view.is_inhabited(slot) => {
                let what = "its guest has run, and the VM directory has no entry of it";
                findings.damage(name, what.to_owned(), "its VM cannot be opened; it is kept");
            }
            FileKind::Vm(slot) if matches!(self.view.entry(slot), Ok(None)) => {
                findings.notice(name, "no VM has this directory", "the next controller removes it");
            }
            FileKind::Unknown => findings.notice(name, "it is no part of a pool", "nobody uses it"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod device_tests;
#[cfg(test)]
pub(crate) mod test_pool;
#[cfg(test)]
mod tests;
