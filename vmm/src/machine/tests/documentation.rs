//! The example in `docs/flat-guest.md` is compiled with the command that stands there, and run.

use super::support::{MIB, booted_elf, kvm, run_to_end};
use crate::machine::Stop;
use std::process::Command;

const DOCUMENT: &str = include_str!("../../../../docs/flat-guest.md");

/// The text of the first fenced block of a language.
fn block(language: &str) -> &'static str {
    let (_, rest) = DOCUMENT.split_once(&format!("```{language}\n")).expect("the document has such a block");
    rest.split_once("```").expect("the block ends").0
}

#[test]
fn the_example_in_c_runs() {
    let Some(kvm) = kvm() else { return };
    if Command::new("gcc").arg("--version").output().is_err() {
        eprintln!("SKIPPED: gcc is not installed");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("hello.c"), block("c")).expect("written");
    let output = Command::new("sh").arg("-ec").arg(block("sh")).current_dir(&directory).output().expect("a shell");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let elf = std::fs::read(directory.path().join("hello")).expect("compiled");
    let (end, console) = run_to_end(&mut booted_elf(&kvm, 16 * MIB, &elf, &["one", "two"]));
    assert_eq!(end, Stop::Exited(42));
    assert_eq!(console, "hello from a flat guest\none\ntwo\n");
}
