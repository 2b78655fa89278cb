//! Where kernels, images and built programs are kept between runs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// `FTVM_NESTED_DIR`, or `nested` in cargo's target directory.
pub(crate) fn cache() -> PathBuf {
    if let Some(directory) = std::env::var_os("FTVM_NESTED_DIR") {
        return directory.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    workspace().join(target).join("nested")
}

/// The project's sources.
pub(crate) fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate is two directories below the workspace")
}

/// Makes the cache directory and takes its lock: one process at a time fetches and builds.
pub(crate) fn lock() -> io::Result<(PathBuf, File)> {
    let cache = cache();
    fs::create_dir_all(&cache)?;
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    Ok((cache, lock))
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, bytes)?;
    fs::rename(unfinished, path)
}
