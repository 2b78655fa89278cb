//! A host writes only through descriptors that it was given (I7).
//!
//! A descriptor opened O_RDONLY cannot be written through, but a process of the same user could open the same file again
//! through /proc/self/fd. Landlock (Documentation/userspace-api/landlock.rst) takes that way: after this, no file can be
//! opened for writing, made, removed or truncated by path, not even by root. What is open already is not touched. The one
//! exception is the device that TAP devices are had from: guests come, and move here, when the host is confined already.

use crate::net::TUN_DEVICE;
use landlock::{
    ABI, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus,
};

/// Confines the calling thread and all that it starts. Says whether the kernel does all of it.
pub(super) fn confine() -> Result<bool, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_write(ABI::V3))?
        .create()?;
    // Without the device there are no TAP devices here.
    if let Ok(tun) = PathFd::new(TUN_DEVICE) {
        ruleset = ruleset.add_rule(PathBeneath::new(tun, AccessFs::WriteFile))?;
    }
    let status = ruleset.restrict_self()?;
    Ok(status.ruleset == RulesetStatus::FullyEnforced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_read_only_descriptor_cannot_be_opened_again_for_writing() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, b"stable").unwrap();
        // Landlock confines a thread: the test's own one stays free.
        let confined = std::thread::spawn(move || {
            let reader = OpenOptions::new().read(true).open(&path).unwrap();
            let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
            if !confine().unwrap() {
                return false;
            }
            let again = format!("/proc/self/fd/{}", reader.as_raw_fd());
            for way in [&again, path.to_str().unwrap()] {
                let refused = OpenOptions::new().write(true).open(way).unwrap_err();
                assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "{way}");
            }
            writer.write_all(b"STABLE").unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"STABLE");
            true
        });
        if !confined.join().unwrap() {
            eprintln!("SKIPPED: this kernel has no Landlock of ABI 3");
        }
    }
}
