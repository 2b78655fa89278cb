//! The directory of one run: what was seen, for whoever wants to know why.

use super::{Manifest, RunnerError};
use serde::Serialize;
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
    /// Makes `RUNS/NAME-N` with the first N that is free, and lets `RUNS/latest` lead there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(runs: &Path, name: &str) -> Result<Self, RunnerError> {
        let failed = |path: &Path, source| RunnerError::File { path: path.to_owned(), source };
        fs::create_dir_all(runs).map_err(|source| failed(runs, source))?;
        let name: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        for number in 1..=RUNS_MAX {
            let path = runs.join(format!("{name}-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => {
                    let directory = Self { path };
                    directory.become_latest();
                    return Ok(directory);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(failed(&path, source)),
            }
        }
        Err(failed(runs, io::ErrorKind::AlreadyExists.into()))
    }

    /// The link is for people's convenience: where there can be none, there is none.
    fn become_latest(&self) {
        let (Some(runs), Some(name)) = (self.path.parent(), self.path.file_name()) else { return };
        let new = runs.join(format!(".{LATEST}.{}", name.to_string_lossy()));
        if symlink(name, &new).is_ok() && fs::rename(&new, runs.join(LATEST)).is_err() {
            let _ = fs::remove_file(&new);
        }
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

    /// Makes what a run leaves that broke before it could.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn complete(&self, manifest: &Manifest) -> Result<(), RunnerError> {
        if !self.file("manifest.json").exists() {
            self.write_json("manifest.json", manifest)?;
        }
        if !self.file("events.jsonl").exists() {
            self.write("events.jsonl", b"")?;
        }
        Ok(())
    }

    /// Copies what the processes of a cluster said.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn take_logs(&self, from: &Path) -> Result<(), RunnerError> {
        let failed = |source| RunnerError::File { path: from.to_owned(), source };
        for entry in fs::read_dir(from).map_err(failed)?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "stderr") {
                fs::copy(&path, self.file(&entry.file_name().to_string_lossy())).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Removes it with all that is in it.
    pub fn remove(self) {
        // What cannot be removed stays for the user to see.
        let _ = fs::remove_dir_all(&self.path);
        // Goes only when no other run is there.
        if let Some(runs) = self.path.parent() {
            let latest = runs.join(LATEST);
            if fs::read_link(&latest).ok().as_deref() == self.path.file_name().map(Path::new) {
                let _ = fs::remove_file(&latest);
            }
            let _ = fs::remove_dir(runs);
        }
    }
}
