//! File systems of a test's own.

use super::Place;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system that is there as long as this.
pub(crate) struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// A tmpfs of some size. `None`: this user may not mount; the test is skipped, aloud.
    pub(crate) fn tmpfs(place: &Place, mib: u64) -> Option<Self> {
        Self::mount(place, "tmpfs", &format!("size={mib}m"))
    }

    /// A hugetlbfs, with pages of the usual size. `None`: as above.
    pub(crate) fn hugetlbfs(place: &Place, mib: u64) -> Option<Self> {
        Self::mount(place, "hugetlbfs", &format!("size={mib}m"))
    }

    fn mount(place: &Place, kind: &str, options: &str) -> Option<Self> {
        let at = place.file(kind);
        std::fs::create_dir_all(&at).expect("the test's own directory");
        let mounted = Command::new("mount").args(["-t", kind, "-o", options, "ftvm-test"]).arg(&at).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { at });
        }
        skipped(&format!("a {kind} cannot be mounted here"));
        None
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// As an argument.
    pub(crate) fn text(&self) -> &str {
        self.at.to_str().expect("a path of text")
    }

    /// Takes all space that is left.
    pub(crate) fn fill(&self) -> PathBuf {
        let file = self.at.join("filler");
        let mut end = std::fs::OpenOptions::new().create(true).append(true).open(&file).expect("a file can be made");
        // Ends when the space does.
        let _ = std::io::copy(&mut std::io::repeat(0x55), &mut end);
        file
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The processes that used it may just be ending.
        let unmounted = Command::new("umount").arg("-l").arg(&self.at).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Says that the test that runs is skipped, and why.
pub(crate) fn skipped(why: &str) {
    let thread = std::thread::current();
    eprintln!("SKIPPED {}: {why}", thread.name().unwrap_or("a test"));
}
