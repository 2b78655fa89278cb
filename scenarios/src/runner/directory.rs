//! The directory of one run: what was seen, for whoever wants to know why.

use super::{Manifest, RunnerError};
use serde::Serialize;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Runs of one name that may exist beside each other.
const RUNS_MAX: u32 = 100_000;

/// The link to the latest run.
const LATEST: &str = "latest";

/// What a name may have that people type.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=' | ',')
}

/// A run's directory.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// Makes `RUNS/NAME-N` with the first N that is free, and lets `RUNS/latest` lead there as long as it is there and no later one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(runs: &Path, name: &str) -> Result<Self, RunnerError> {
        let failed = |path: &Path, source| RunnerError::File { path: path.to_owned(), source };
        let name: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        for number in 1..=RUNS_MAX {
            let path = runs.join(format!("{name}-{number}"));
            match create_below(runs, &path) {
                Ok(()) => {
                    let directory = Self { path };
                    lead_to(runs, directory.path.file_name());
                    return Ok(directory);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(failed(&path, source)),
            }
        }
        Err(failed(runs, io::ErrorKind::AlreadyExists.into()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file of this name is, or would be.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RunnerError> {
        let path = self.file(name);
        fs::write(&path, bytes).map_err(|source| RunnerError::File { path, source })
    }

    /// Writes a value as JSON.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), RunnerError> {
        let json = serde_json::to_vec_pretty(value)
            .map_err(|error| RunnerError::File { path: self.file(name), source: error.into() })?;
        self.write(name, &json)
    }

    /// Makes what every run leaves, whatever becomes of it: also one that is killed before it has started anything.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn begin(&self, manifest: &Manifest) -> Result<(), RunnerError> {
        self.write_json("manifest.json", manifest)?;
        self.write("events.jsonl", b"")
    }

    /// Removes it with all that is in it.
    pub fn remove(self) {
        // What cannot be removed stays for the user to see.
        let _ = fs::remove_dir_all(&self.path);
        if let Some(runs) = self.path.parent() {
            mend_latest(runs);
            // Goes only when no other run is there.
            let _ = fs::remove_dir(runs);
        }
    }
}

/// Makes a run's directory. Whoever removes the last run beside it removes the directory of all of them, too: it is made again.
fn create_below(runs: &Path, path: &Path) -> io::Result<()> {
    /// Each time somebody else has come to an end.
    const TRIES_MAX: u32 = 1_000;
    for _ in 0..TRIES_MAX {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::create_dir_all(runs) {
                // It was there again, and is gone again; what is there and no directory is told by the next try.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            },
            made => return made,
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Lets the link lead to a run. It is for people's convenience: where there can be none, there is none.
fn lead_to(runs: &Path, name: Option<&OsStr>) {
    let Some(name) = name else { return };
    let new = runs.join(format!(".{LATEST}.{}", name.to_string_lossy()));
    if symlink(name, &new).is_ok() && fs::rename(&new, runs.join(LATEST)).is_err() {
        let _ = fs::remove_file(&new);
    }
}

/// A link that leads to nothing leads to the run that began last of those that are there; it goes when none is.
fn mend_latest(runs: &Path) {
    /// Runs beside this one may be removed as well, while it is looked for one.
    const TRIES_MAX: u32 = 100;
    let latest = runs.join(LATEST);
    for _ in 0..TRIES_MAX {
        let dangles = fs::symlink_metadata(&latest).is_ok() && fs::metadata(&latest).is_err();
        if !dangles {
            return;
        }
        match began_last(runs) {
            Some(name) => lead_to(runs, Some(&name)),
            None => _ = fs::remove_file(&latest),
        }
    }
}

fn began_last(runs: &Path) -> Option<OsString> {
    let began = |entry: fs::DirEntry| {
        // A run that has just begun has nothing in it yet.
        let manifest = fs::metadata(entry.path().join("manifest.json")).or_else(|_| fs::metadata(entry.path())).ok()?;
        let is_run = entry.file_type().ok()?.is_dir();
        is_run.then_some((manifest.modified().ok()?, entry.file_name()))
    };
    fs::read_dir(runs).ok()?.flatten().filter_map(began).max().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn latest(runs: &Path) -> Option<PathBuf> {
        fs::read_link(runs.join(LATEST)).ok()
    }

    fn begin(runs: &Path, name: &str) -> RunDirectory {
        let directory = RunDirectory::create(runs, name).unwrap();
        directory.write("manifest.json", b"{}").unwrap();
        directory
    }

    #[test]
    fn runs_that_begin_and_end_beside_each_other_do_not_lose_their_place() {
        const RUNS: usize = 2_000;
        let place = tempfile::tempdir().unwrap();
        let runs = place.path().join("runs");
        std::thread::scope(|scope| {
            for name in ["one", "other", "third"] {
                let runs = &runs;
                scope.spawn(move || (0..RUNS).for_each(|_| RunDirectory::create(runs, name).unwrap().remove()));
            }
        });
        assert!(!runs.exists(), "nothing is left");
    }

    #[test]
    fn latest_leads_to_the_run_that_began_last_of_those_that_are_there() {
        let place = tempfile::tempdir().unwrap();
        let runs = place.path().join("runs");
        let old = begin(&runs, "old");
        let failed = begin(&runs, "failed");
        // However coarse the clock of the file system is.
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        File::options().write(true).open(old.file("manifest.json")).unwrap().set_modified(long_ago).unwrap();
        let passed = begin(&runs, "passed");
        assert_eq!(latest(&runs), Some(PathBuf::from("passed-1")), "while it goes on");
        passed.remove();
        assert_eq!(latest(&runs), Some(PathBuf::from("failed-1")), "it was kept");
        let again = begin(&runs, "failed");
        old.remove();
        assert_eq!(latest(&runs), Some(PathBuf::from("failed-2")), "who goes does not touch another's link");
        again.remove();
        failed.remove();
        assert!(!runs.exists(), "nothing is left");
    }
}
