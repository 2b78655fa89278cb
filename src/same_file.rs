//! Files that a command writes must not be files that it, or another of its options, reads or writes.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Refuses two options that name one file: what is in it would be lost.
pub(crate) fn refuse(files: &[(&str, Option<&Path>)]) -> Result<(), Failure> {
    let named: Vec<(&str, &Path)> = files.iter().filter_map(|(name, path)| Some((*name, (*path)?))).collect();
    for (index, (name, path)) in named.iter().enumerate() {
        if let Some((other, _)) = named[..index].iter().find(|(_, other)| is_same(other, path)) {
            let why = format!("{other} and {name} name one file, {}: its content would be lost", path.display());
            return Err(Failure::line(ExitCode::Usage, why));
        }
    }
    Ok(())
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        // Devices, pipes and terminals may well take several streams.
        (Ok(one), Ok(other)) => one.is_file() && (one.dev(), one.ino()) == (other.dev(), other.ino()),
        (Err(_), Err(_)) => place(one) == place(other),
        _ => false,
    }
}

/// Where a file that is not there would be made.
fn place(path: &Path) -> PathBuf {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    path.file_name().map_or_else(|| directory.clone(), |name| directory.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_by_two_names_is_refused_and_two_files_are_not() {
        let place = tempfile::tempdir().expect("a directory");
        let [one, link, new] = ["one", "link", "new"].map(|name| place.path().join(name));
        fs::write(&one, "precious").expect("it can be written");
        std::os::unix::fs::symlink(&one, &link).expect("a link can be made");
        let check =
            |one: &Path, other: &Path| refuse(&[("--disk", Some(one)), ("--events", None), ("--record", Some(other))]);
        assert!(check(&one, &link).is_err());
        assert!(check(&new, &place.path().join(".").join("new")).is_err());
        assert!(check(&one, &new).is_ok());
        assert!(check(Path::new("/dev/null"), Path::new("/dev/null")).is_ok());
    }
}
