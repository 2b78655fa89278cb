//! Fetches packages with apt-get and unpacks them, without installing anything.

use crate::tool::{self, ToolError};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Depends on the cloud kernel of the Debian that this is.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// A package cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// apt knows none.
    #[error(
        "apt knows no kernel package behind {META_PACKAGE}: run apt-get update, or name one with FTVM_NESTED_KERNEL"
    )]
    Unknown,
    /// It cannot be fetched.
    #[error("the package {package} cannot be fetched (FTVM_NESTED_KERNEL names another kernel, or a package file)")]
    Fetch {
        /// The package.
        package: String,
        /// What apt-get said.
        source: ToolError,
    },
    /// It is not to be unpacked.
    #[error("the package {path} cannot be unpacked")]
    Unpack {
        /// The package.
        path: PathBuf,
        /// What dpkg said.
        source: ToolError,
    },
    /// It has not what it is for.
    #[error("{place} has no {what}: is this the right package?")]
    Without {
        /// Where it was looked for.
        place: PathBuf,
        /// What was.
        what: String,
    },
    /// A directory cannot be used.
    #[error("{path} cannot be used")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// An unpacked package.
pub(super) struct Package {
    pub(super) name: String,
    pub(super) root: PathBuf,
}

/// The kernel that is `given`, or the default one. Several packages, with commas between, are unpacked over each other.
pub(super) fn get(cache: &Path, given: Option<&str>) -> Result<Package, PackageError> {
    let wanted = match given {
        Some(given) => given.to_owned(),
        None => known(cache).map_or_else(default_package, Ok)?,
    };
    let name = name_of(wanted.split(',').next().unwrap_or_default());
    let root = cache.join("kernels").join(&name);
    if !root.exists() {
        let mut files = Vec::new();
        for wanted in wanted.split(',') {
            match wanted.ends_with(".deb") {
                true => files.push(PathBuf::from(wanted)),
                false => files.extend(fetch_with_parts(wanted, cache)?),
            }
        }
        unpack(&files, &root)?;
    }
    if given.is_none() {
        let remembered = cache.join("kernel");
        fs::write(&remembered, &wanted).map_err(|source| PackageError::Directory { path: remembered, source })?;
    }
    Ok(Package { name, root })
}

fn name_of(wanted: &str) -> String {
    let name = Path::new(wanted).file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(".deb").unwrap_or(&name).to_owned()
}

/// A package, and those with image and modules that newer kernels' packages only depend on.
fn fetch_with_parts(package: &str, cache: &Path) -> Result<Vec<PathBuf>, PackageError> {
    let mut files = vec![fetch(package, cache)?];
    let parts = ["linux-binary-", "linux-modules-"];
    for part in depends(package).iter().filter(|name| parts.iter().any(|prefix| name.starts_with(prefix))) {
        files.push(fetch(part, cache)?);
    }
    Ok(files)
}

/// Fetches and unpacks a package that is no kernel.
pub(crate) fn other(package: &str, cache: &Path) -> Result<PathBuf, PackageError> {
    let root = cache.join("others").join(package);
    if !root.exists() {
        unpack(&[fetch(package, cache)?], &root)?;
    }
    Ok(root)
}

/// The default package of an earlier run, so that a new kernel comes when the cache goes, and not in the middle of work.
fn known(cache: &Path) -> Option<String> {
    let name = fs::read_to_string(cache.join("kernel")).ok()?;
    cache.join("kernels").join(&name).exists().then_some(name)
}

fn default_package() -> Result<String, PackageError> {
    if let Some(name) = ask_apt() {
        return Ok(name);
    }
    // Fresh containers know no package before the first update.
    let _ = tool::run(Command::new("apt-get").args(["update", "-q"]), "apt");
    ask_apt().ok_or(PackageError::Unknown)
}

fn ask_apt() -> Option<String> {
    depends(META_PACKAGE).into_iter().find(|name| name.starts_with("linux-image-"))
}

/// What apt knows that `package` needs; nothing, where it does not know the package.
fn depends(package: &str) -> Vec<String> {
    let said = tool::run(Command::new("apt-cache").args(["depends", package]), "apt").unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(|name| name.trim().to_owned()).collect()
}

fn fetch(package: &str, cache: &Path) -> Result<PathBuf, PackageError> {
    let place = cache.join("packages");
    fs::create_dir_all(&place).map_err(|source| PackageError::Directory { path: place.clone(), source })?;
    let download = || tool::run(Command::new("apt-get").current_dir(&place).args(["download", "-q", package]), "apt");
    if download().is_err() {
        // The lists may be older than the archive.
        let _ = tool::run(Command::new("apt-get").args(["update", "-q"]), "apt");
        download().map_err(|source| PackageError::Fetch { package: package.to_owned(), source })?;
    }
    find(&place, &format!("{package}_"))
}

fn unpack(files: &[PathBuf], root: &Path) -> Result<(), PackageError> {
    let unfinished = root.with_extension("unfinished");
    let directory = |source| PackageError::Directory { path: unfinished.clone(), source };
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(directory)?;
    }
    fs::create_dir_all(&unfinished).map_err(directory)?;
    for file in files {
        tool::run(Command::new("dpkg").arg("-x").arg(file).arg(&unfinished), "dpkg")
            .map_err(|source| PackageError::Unpack { path: file.to_owned(), source })?;
    }
    fs::rename(&unfinished, root).map_err(directory)
}

/// What is in `place` and begins with `prefix`.
pub(super) fn find(place: &Path, prefix: &str) -> Result<PathBuf, PackageError> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path()).collect();
    found.sort();
    let what = format!("{prefix}*");
    found.pop().ok_or_else(|| PackageError::Without { place: place.to_owned(), what })
}
