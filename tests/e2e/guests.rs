//! Guests of others: whatever follows docs/flat-guest.md runs, and its exit code comes through.

use crate::support::{Place, kvm};
use std::path::PathBuf;
use std::process::Command;

/// Builds a guest from assembler with the same tool that links the program itself.
pub(crate) fn assemble(place: &Place, name: &str, code: &str) -> PathBuf {
    let source = place.write(&format!("{name}.S"), format!(".globl _start\n.text\n_start:\n{code}\n"));
    let guest = place.file(name);
    let status = Command::new("cc")
        .args(["-nostdlib", "-static", "-no-pie", "-Wl,-Ttext-segment=0x200000", "-Wl,--build-id=none", "-o"])
        .args([&guest, &source])
        .status()
        .expect("cc is there: Rust links with it");
    assert!(status.success());
    guest
}

/// Prints `text` and exits with `code`.
pub(crate) fn printing(text: &str, code: u32) -> String {
    format!(
        "mov $message, %rsi\nmov ${}, %ecx\nmov $0x3f8, %edx\n1: lodsb\nout %al, %dx\nloop 1b\n\
         mov ${code}, %eax\nmov $0xf4, %edx\nout %eax, %dx\n2: jmp 2b\n.data\nmessage: .ascii \"{text}\\n\"",
        text.len() + 1
    )
}

#[test]
fn the_exit_code_of_a_guest_comes_through() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    for (code, expected) in [(0, 0), (42, 42), (255, 255), (0x107, 7)] {
        let guest = assemble(&place, "guest", &printing("hello", code));
        for mode in ["none", "checkpoint"] {
            let ended = place.run(&["run", "--mode", mode, guest.to_str().unwrap()]);
            assert_eq!(ended.code, Some(expected), "{mode}: {ended:?}");
            assert_eq!(ended.stdout, b"hello\n", "{mode}");
            assert_eq!(ended.stderr, "", "{mode}: nothing but the console is written");
        }
    }
}

#[test]
fn a_guest_that_crashes_is_told_apart() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let guest = assemble(&place, "guest", "mov $0x3f8, %edx\nmov $'x', %al\nout %al, %dx\nud2");
    for mode in ["none", "checkpoint"] {
        let ended = place.run(&["run", "--mode", mode, guest.to_str().unwrap()]);
        let line = ended.one_line(82);
        assert!(line.contains("the guest crashed: ") && line.contains("rip="), "{line}");
        assert_eq!(ended.stdout, b"x", "{mode}: what it said before is there");
    }
}

#[test]
fn bundled_guests_are_listed_and_run() {
    let place = Place::new();
    let listed = place.run(&["guests"]).ok();
    let listed = String::from_utf8(listed.stdout).expect("text");
    for name in ["burn", "counter", "disk", "idle", "netecho", "torture"] {
        assert!(listed.contains(&format!("builtin:{name} ")), "{listed}");
    }
    let Some(_machine) = kvm() else { return };
    for guest in [
        &["builtin:burn", "--", "--rounds", "10000000"][..],
        &["builtin:counter", "--", "--lines", "20"],
        &["builtin:idle", "--", "--ticks", "3", "--tick-ms", "5"],
        &["builtin:torture", "--", "--steps", "10000000"],
    ] {
        let unprotected = place.run(&[&["run", "--mode", "none"][..], guest].concat()).ok();
        let protected = place.run(&[&["run"][..], guest].concat()).ok();
        assert_eq!(protected.stdout, unprotected.stdout, "{guest:?}");
        assert!(!protected.stdout.is_empty());
    }
}

#[test]
fn a_time_limit_ends_a_run() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let ended = place.run(&["run", "--time-limit", "200ms", "builtin:idle", "--", "--ticks", "1000000"]);
    assert!(ended.one_line(84).contains("time limit"), "{ended:?}");
    assert_eq!(place.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn the_summary_tells_the_run_in_numbers() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let summary = place.file("summary.json");
    let option = format!("--json={}", summary.display());
    let ended = place.run(&["run", &option, "builtin:counter", "--", "--lines", "5"]).ok();
    assert_eq!(ended.stderr, "");
    let summary: serde_json::Value = serde_json::from_slice(&std::fs::read(summary).unwrap()).expect("JSON");
    assert_eq!(summary["end"], "exited");
    assert_eq!(summary["guest_exit_code"], 0);
    assert_eq!(summary["console_bytes"], 60);
    assert_eq!(summary["takeovers"], 0);
    assert!(summary["epochs"].as_u64().expect("a number") >= 1);
}
