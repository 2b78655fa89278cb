//! What primaries say of their commits on the trace target [`COMMIT_TRACE`], read from their hosts' standard error.

use super::Failure;
use ft_protocol::VmId;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use vmm::host::COMMIT_TRACE;

/// The log filter that makes hosts say it.
pub(crate) fn filter() -> String {
    format!("warn,{COMMIT_TRACE}=trace")
}

/// One commit; times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Commit {
    /// Whose.
    pub vm: u64,
    /// Dirty pages.
    pub pages: u64,
    /// From the guest's stop to its going on: the five steps that follow.
    pub pause: f64,
    /// The guest is left, its exit completed.
    pub stop: f64,
    /// The dirty log is read.
    pub harvest: f64,
    /// Pages are copied into the journal.
    pub copy: f64,
    /// The machine's state is read and written.
    pub state: f64,
    /// The guest is entered again.
    pub resume: f64,
    /// The record's checksum, while the guest runs.
    pub checksum: f64,
    /// Its publication.
    pub publish: f64,
}

impl Commit {
    /// Reads a line of the trace target; none, if it is another one's.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (_, fields) = line.split_once(COMMIT_TRACE)?;
        let field = |name: &str| {
            let value = fields.split_whitespace().find_map(|field| field.strip_prefix(name)?.strip_prefix('='))?;
            value.parse::<u64>().ok()
        };
        let time = |name: &str| field(name).map(|ns| ns as f64);
        Some(Self {
            vm: field("vm")?,
            pages: field("pages")?,
            pause: time("pause")?,
            stop: time("stop")?,
            harvest: time("harvest")?,
            copy: time("copy")?,
            state: time("state")?,
            resume: time("resume")?,
            checksum: time("checksum")?,
            publish: time("publish")?,
        })
    }
}

/// Follows the files.
pub(crate) struct CommitLines {
    files: Vec<(PathBuf, u64)>,
}

impl CommitLines {
    /// Of hosts in their first lives in a cluster that keeps its logs there.
    pub(crate) fn follow<'a>(directory: &Path, hosts: impl Iterator<Item = &'a str>) -> Self {
        Self { files: hosts.map(|host| (directory.join(format!("{host}.1.stderr")), 0)).collect() }
    }

    /// The commits of a VM that were told since the last call.
    pub(crate) fn news(&mut self, vm: VmId) -> Result<Vec<Commit>, Failure> {
        let mut commits = Vec::new();
        for (path, read_to) in &mut self.files {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(*read_to))?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            // The last line may be half written.
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            *read_to += u64::try_from(whole)?;
            commits.extend(text[..whole].lines().filter_map(Commit::parse));
        }
        commits.retain(|commit| commit.vm == u64::from(vm.get()));
        Ok(commits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let line = "2026-11-21T18:30:00.000000Z TRACE ftvm::commit: committed vm=0 epoch=7 pages=12 pause=100 stop=10 \
                    harvest=20 copy=30 state=25 resume=15 checksum=40 publish=5";
        let commit = Commit::parse(line).unwrap();
        assert_eq!((commit.vm, commit.pages, commit.pause, commit.publish), (0, 12, 100.0, 5.0));
        assert_eq!(Commit::parse("2026 WARN ftvm::host: pool full"), None);
        assert_eq!(Commit::parse("TRACE ftvm::commit: committed vm=0"), None);
    }
}
