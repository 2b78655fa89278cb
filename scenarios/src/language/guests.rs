//! The guests of a scenario, held against the files and the memory that there are.

use super::error::nearest;
use super::{Scenario, VmPart};
use crate::guest::{GuestError, GuestImage, GuestSource};
use std::path::{Path, PathBuf};

/// A guest that cannot run as the scenario's file has it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", self.place())]
pub struct UnfitGuest {
    path: PathBuf,
    line: Option<usize>,
    /// A file beside the one that is missing, with a name like it.
    suggestion: Option<String>,
    source: GuestError,
}

impl UnfitGuest {
    /// Where the file names the guest, if it does.
    #[must_use]
    pub fn place(&self) -> String {
        match self.line {
            Some(line) => format!("{}:{line}", self.path.display()),
            None => self.path.display().to_string(),
        }
    }

    /// What was probably meant.
    #[must_use]
    pub fn suggestion(&self) -> Option<&str> {
        self.suggestion.as_deref()
    }

    /// Why it cannot run.
    #[must_use]
    pub fn into_error(self) -> GuestError {
        self.source
    }
}

impl VmPart {
    /// Reads the guest, and looks whether it can be started in its memory.
    ///
    /// # Errors
    /// When it is missing, is none, or does not fit.
    pub fn read_guest(&self) -> Result<GuestImage, GuestError> {
        let image = self.guest.read()?;
        image.check(self.memory.get(), &self.args)?;
        Ok(image)
    }
}

impl Scenario {
    /// The guests that cannot run.
    #[must_use]
    pub fn unfit_guests(&self) -> Vec<UnfitGuest> {
        let unfit = |vm: &VmPart| {
            let source = vm.read_guest().err()?;
            let suggestion = match (&source, &vm.guest) {
                (GuestError::Missing { .. }, GuestSource::File(path)) => named_like(path),
                _ => None,
            };
            Some(UnfitGuest { path: self.path.clone(), line: vm.guest_line, suggestion, source })
        };
        self.vms.iter().filter_map(unfit).collect()
    }
}

/// The file of the same directory whose name is most like this one's.
fn named_like(path: &Path) -> Option<String> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    let files = entries.filter(|entry| entry.path().is_file());
    let names: Vec<String> = files.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    nearest(path.file_name()?.to_str()?, names.iter().map(String::as_str)).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_guest_is_told_with_its_line_and_what_is_named_like_it() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("guest.elf"), b"no guest").unwrap();
        let path = place.path().join("x.toml");
        let unfit = |guest: &str| {
            let text = format!("[vm]\nmemory = \"4MiB\"\nguest = \"{guest}\"\n[expect]\n");
            Scenario::parse(&path, &text).unwrap().unfit_guests()
        };
        let missing = unfit("gest.elf");
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].place(), format!("{}:3", path.display()));
        assert_eq!(missing[0].suggestion(), Some("guest.elf"));
        assert!(matches!(unfit("guest.elf")[0].source, GuestError::Unfit { .. }), "it is none");
        assert!(unfit("builtin:idle").is_empty());
    }
}
