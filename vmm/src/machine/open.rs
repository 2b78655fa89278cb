//! Opening KVM, with an answer for each way in which it can be missing.

use kvm_ioctls::Kvm;
use nix::errno::Errno;
use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Where KVM is, unless the environment variable `FTVM_KVM_DEVICE` names another path.
pub const KVM_DEVICE: &str = "/dev/kvm";

/// The only version of the KVM API that has been in use since Linux 2.6.22.
const KVM_API_VERSION: i32 = 12;

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenKvmError {
    /// There is no device.
    #[error("{path} is missing: enable virtualisation, load kvm_intel or kvm_amd, or give the container the device")]
    Missing {
        /// The device.
        path: PathBuf,
    },
    /// The user may not use it.
    #[error("{path} is not permitted: join the group that owns it (often kvm), or run as a user that may")]
    NotPermitted {
        /// The device.
        path: PathBuf,
    },
    /// Something else is wrong with it.
    #[error("{path} cannot be used")]
    Unusable {
        /// The device.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It speaks another API.
    #[error("{path} speaks KVM API {found}, expected {KVM_API_VERSION}")]
    Version {
        /// The device.
        path: PathBuf,
        /// The version it speaks; negative: it is no KVM device.
        found: i32,
    },
}

/// The path of the KVM device.
#[must_use]
pub fn kvm_device() -> PathBuf {
    std::env::var_os("FTVM_KVM_DEVICE").map_or_else(|| PathBuf::from(KVM_DEVICE), PathBuf::from)
}

/// Opens KVM.
///
/// # Errors
/// One for each way in which it can be missing.
pub fn open_kvm() -> Result<Kvm, OpenKvmError> {
    open_kvm_at(&kvm_device())
}

fn open_kvm_at(path: &Path) -> Result<Kvm, OpenKvmError> {
    let owned = || path.to_owned();
    let name =
        CString::new(owned().into_os_string().into_vec()).map_err(|_| OpenKvmError::Missing { path: owned() })?;
    let kvm = Kvm::new_with_path(&name).map_err(|error| match Errno::from_raw(error.errno()) {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ENXIO | Errno::ENODEV => OpenKvmError::Missing { path: owned() },
        Errno::EACCES | Errno::EPERM => OpenKvmError::NotPermitted { path: owned() },
        errno => OpenKvmError::Unusable { path: owned(), source: errno.into() },
    })?;
    match kvm.get_api_version() {
        KVM_API_VERSION => Ok(kvm),
        found => Err(OpenKvmError::Version { path: owned(), found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let missing = open_kvm_at(Path::new("/nonexistent/kvm")).unwrap_err();
        assert!(matches!(missing, OpenKvmError::Missing { .. }), "{missing}");
        let other = open_kvm_at(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(other, OpenKvmError::Version { found: -1, .. }), "{other}");
    }
}
