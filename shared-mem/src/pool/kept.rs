//! Second names of the files of a pool in a directory: beside each file lies a directory `kept`, in which it is there once
//! more, as a hard link. A file that loses its name is found under the other one, by readers at once, and its name is given
//! back by the controller that lives, or by the next one. It is the same file: whoever has it mapped goes on with it.
//!
//! A second name is made behind the first and goes before it, so that it never stands for a file that was removed by who may.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, DirEntryExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::PoolError;
use super::files::{BOOT, FileKind, KEPT, REMOVED, SUPERBLOCK};

/// Changes of names by this process, one at a time: a controller has several threads that make and remove files, and one
/// that looks for what others have removed.
static CHANGING: Mutex<()> = Mutex::new(());

/// Files that a controller does not hold open: another one in their place is as good.
const READ_BY_NAME: [&str; 2] = [SUPERBLOCK, BOOT];

/// A file that has its name again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedAgain {
    /// The name, in its directory.
    pub name: String,
    /// Another file had the name.
    pub replaced: bool,
}

impl fmt::Display for NamedAgain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.replaced { "another file was in its place" } else { "it was gone" };
        write!(f, "the file `{}`: {how}", self.name)
    }
}

/// When names are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Nobody has the files open yet: what has a first name is the file.
    Opening,
    /// A controller has them open: what it has is the file.
    Live,
}

/// Nobody looks at names, or changes them, while this is held.
pub(super) fn turn() -> MutexGuard<'static, ()> {
    CHANGING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The second name of a file.
pub(super) fn path_of(path: &Path) -> PathBuf {
    let name = path.file_name().expect("files of a pool have names");
    path.with_file_name(KEPT).join(name)
}

/// Gives a file its second name, if need be in place of another file. One for which there is no second name to be had
/// does with its first.
pub(super) fn keep(path: &Path) {
    let kept = path_of(path);
    if let Err(error) = link_over(path, &kept)
        && error.kind() == io::ErrorKind::NotFound
        && let Some(dir) = kept.parent()
        && DirBuilder::new().mode(0o700).create(dir).is_ok()
    {
        let _ = link_over(path, &kept);
    }
}

/// Takes a file both of its names.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let turn = turn();
    // Its memory is given back when nobody looks for names any more: that takes its time.
    let held = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path);
    let kept = fs::remove_file(path_of(path));
    let removed = fs::remove_file(path);
    drop(turn);
    drop(held);
    if kept.is_ok() && removed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    removed
}

/// Forgets the second names in a directory whose files are about to be removed.
pub(super) fn forget_all(dir: &Path) -> io::Result<()> {
    let _turn = turn();
    match fs::remove_dir_all(dir.join(KEPT)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Gives files in a directory of the pool their first names back, and those that have none a second one. Says which were
/// missing.
pub(super) fn put_back(dir: &Path, look: Look, kind_of: fn(&str) -> FileKind) -> Result<Vec<NamedAgain>, PoolError> {
    let _turn = turn();
    let (first, second) = both_names(dir, kind_of)?;
    let mut again = Vec::new();
    for (name, file) in &second {
        let path = dir.join(name);
        let has_name = first.get(name);
        if has_name == Some(file) {
            continue;
        }
        if has_name.is_some() && (look == Look::Opening || READ_BY_NAME.contains(&name.as_str())) {
            keep(&path);
            continue;
        }
        link_over(&path_of(&path), &path).map_err(|error| PoolError::file("put back", &path, error))?;
        again.push(NamedAgain { name: name.clone(), replaced: has_name.is_some() });
    }
    first.keys().filter(|name| !second.contains_key(*name)).for_each(|name| keep(&dir.join(name)));
    Ok(again)
}

/// Names in a directory of the pool that are gone, while their files are still there under the second ones.
pub(super) fn missing(dir: &Path, kind_of: fn(&str) -> FileKind) -> Result<Vec<String>, PoolError> {
    let (first, second) = both_names(dir, kind_of)?;
    let gone = |name: &String| !first.contains_key(name) && dir.join(KEPT).join(name).exists();
    // Who removes a file takes its second name first.
    Ok(second.into_keys().filter(gone).collect())
}

type Names = BTreeMap<String, u64>;

/// The pool's files by their first and by their second names.
fn both_names(dir: &Path, kind_of: fn(&str) -> FileKind) -> Result<(Names, Names), PoolError> {
    let failed = |error| PoolError::file("list", dir, error);
    // In this order: a second name is made behind the first one.
    let second = match names(&dir.join(KEPT), kind_of) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Names::new(),
        found => found.map_err(failed)?,
    };
    Ok((names(dir, kind_of).map_err(failed)?, second))
}

/// Names of the pool's files in a directory, with what tells two files apart.
fn names(dir: &Path, kind_of: fn(&str) -> FileKind) -> io::Result<Names> {
    let mut found = Names::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = match kind_of(&name) {
            FileKind::Unfinished | FileKind::Unknown | FileKind::Vm(_) => false,
            FileKind::Fixed => name != REMOVED,
            FileKind::Journal(_) | FileKind::Log(_) | FileKind::Heartbeat(_) => true,
        };
        if is_ours && entry.file_type()?.is_file() {
            found.insert(name, entry.ino());
        }
    }
    Ok(found)
}

/// Gives a file another name, which may be that of another file.
fn link_over(from: &Path, to: &Path) -> io::Result<()> {
    let unfinished = to.with_extension("kept.new");
    let _ = fs::remove_file(&unfinished);
    fs::hard_link(from, &unfinished)?;
    let named = fs::rename(&unfinished, to);
    // Two names of one file are not renamed to each other.
    let _ = fs::remove_file(&unfinished);
    named
}
