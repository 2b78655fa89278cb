//! Standard outputs that take nothing: one line and a code of its own, never silence.

use crate::support::{Place, kvm};
use std::fs::OpenOptions;
use std::process::{Command, Output, Stdio};

/// Runs the program with `arguments` under a shell's `redirection`.
fn redirected(place: &Place, arguments: &str, redirection: &str) -> Output {
    let script = format!("exec \"$0\" {arguments} {redirection}");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_ftvm")]).stdin(Stdio::null());
    command.env("FTVM_POOL_DIR", place.pool()).current_dir(place.file(""));
    command.output().expect("a shell is there")
}

#[test]
fn a_closed_output_is_an_error() {
    let place = Place::new();
    for arguments in [
        "run builtin:counter",
        "run --mode none builtin:counter",
        "demo",
        "guests",
        "status --pool x",
        "console y --pool x",
    ] {
        let ended = redirected(&place, arguments, ">&-");
        let line = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(74), "{arguments}: {line}");
        assert!(line.contains("standard output is closed"), "{arguments}: {line}");
    }
    assert_eq!(place.leftovers(), Vec::<std::path::PathBuf>::new(), "nothing was started");
}

#[test]
fn an_output_that_goes_nowhere_on_purpose_is_none() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    for redirection in [">/dev/null", "1<>/dev/null", "<&- >/dev/null 2>&1"] {
        let ended = redirected(&place, "run builtin:counter -- --lines 3", redirection);
        assert_eq!(ended.status.code(), Some(0), "{redirection}: {ended:?}");
    }
}

#[test]
fn a_full_output_is_an_error() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").expect("/dev/full is there"));
    for arguments in [&["run", "builtin:counter"][..], &["run", "--mode", "none", "builtin:counter"], &["guests"]] {
        let output = place.ftvm(arguments).stdout(full()).output().expect("the program can be started");
        let line = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(74), "{arguments:?}: {line}");
        assert!(line.contains("No space left on device") && line.lines().count() == 1, "{line}");
    }
    assert_eq!(place.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_output_that_nobody_reads_ends_the_command() {
    let place = Place::new();
    for arguments in [&["guests"][..], &["doctor"], &["doctor", "--json"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe can be made");
        drop(reader);
        let output = place.ftvm(arguments).stdout(writer).output().expect("the program can be started");
        let line = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(141), "{arguments:?}: {line}");
        assert!(line.contains("Broken pipe") && line.lines().count() == 1, "{line}");
    }
}
