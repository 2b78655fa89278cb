//! Whatever is wrong with what a user gives: one line, and the documented exit code.

use crate::support::{Place, kvm};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

/// An ELF header with one segment, as bytes.
struct Elf {
    class: u8,
    machine: u16,
    kind: u16,
    segment_start: u64,
    segment_bytes: u64,
    entry: u64,
}

impl Default for Elf {
    fn default() -> Self {
        Self { class: 2, machine: 62, kind: 2, segment_start: 0x20_0000, segment_bytes: 0x1000, entry: 0x20_0000 }
    }
}

impl Elf {
    fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', self.class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        for word in [self.entry, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, 1, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        file.extend(1_u32.to_le_bytes());
        file.extend(5_u32.to_le_bytes());
        for word in [0, self.segment_start, self.segment_start, 120, self.segment_bytes, 0x1000] {
            file.extend(word.to_le_bytes());
        }
        file
    }
}

#[test]
fn guest_files_that_are_none() {
    let place = Place::new();
    let cases = [
        ("text", b"hello".to_vec(), "not an ELF file"),
        ("empty", Vec::new(), "not an ELF file"),
        ("short", b"\x7fELF".to_vec(), "not an ELF file"),
        ("elf32", Elf { class: 1, ..Elf::default() }.bytes(), "32-bit"),
        ("arm", Elf { machine: 183, ..Elf::default() }.bytes(), "not an x86-64 ELF file"),
        ("pie", Elf { kind: 3, ..Elf::default() }.bytes(), "link with -static -no-pie"),
        ("low", Elf { segment_start: 0x1000, ..Elf::default() }.bytes(), "reserved first MiB"),
        ("high", Elf { segment_start: 1 << 40, ..Elf::default() }.bytes(), "outside the guest's memory"),
        ("large", Elf { segment_bytes: 1 << 32, ..Elf::default() }.bytes(), "outside the guest's memory"),
        ("wrapping", Elf { segment_start: u64::MAX - 0xfff, ..Elf::default() }.bytes(), "outside the guest's memory"),
        ("nowhere", Elf { entry: 0x50_0000, ..Elf::default() }.bytes(), "entry point"),
    ];
    for (name, content, expected) in cases {
        let guest = place.write(name, content);
        for mode in ["checkpoint", "none"] {
            let ended = place.run(&["run", "--mode", mode, guest.to_str().unwrap()]);
            let line = ended.one_line(65);
            assert!(line.contains(expected), "{line}");
            assert!(line.contains(name), "the line names the file: {line}");
            assert_eq!(ended.stdout, b"");
        }
    }
    assert_eq!(place.leftovers(), Vec::<std::path::PathBuf>::new(), "nothing was started");
}

#[test]
fn outputs_do_not_go_over_inputs() {
    let place = Place::new();
    let guest = place.write("guest", "precious");
    let guest = guest.to_str().expect("a plain path");
    for arguments in [
        &["run", &format!("--json={guest}"), guest][..],
        &["run", "--events", guest, guest],
        &["run", "--mode", "none", "--memory-crc", guest, guest],
        &["run", &format!("--json={guest}"), "--kernel", guest],
        &["run", "--events", "new", "--json=new", guest],
    ] {
        let ended = place.run(arguments);
        assert!(ended.one_line(2).contains("name one file"), "{ended:?}");
        assert_eq!(std::fs::read(guest).expect("it is there"), b"precious");
    }
}

#[test]
fn guest_files_that_are_not_there() {
    let place = Place::new();
    for (guest, expected) in [
        ("no-such-file", "there is no guest file no-such-file"),
        ("builtin:no-such-guest", "there are burn, counter, disk, echo, idle, kv, netecho, rebel, torture"),
        (".", "cannot read guest file"),
        ("/dev/null/x", "guest file"),
    ] {
        let ended = place.run(&["run", guest]);
        let line = ended.one_line(66);
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn memory_that_no_guest_can_have() {
    let place = Place::new();
    for (memory, expected) in [
        ("0", "below the least"),
        ("4KiB", "below the least"),
        ("100M1", "no size"),
        ("5000001", "not a multiple of 4096"),
        ("1000GiB", "above the most"),
    ] {
        let ended = place.run(&["run", "--memory", memory, "builtin:counter"]);
        if memory == "100M1" {
            assert_eq!(ended.code, Some(2), "{ended:?}");
            assert!(ended.stderr.contains(expected), "{ended:?}");
        } else {
            let line = ended.one_line(73);
            assert!(line.contains(expected), "{line}");
        }
    }
}

#[test]
fn memory_that_the_machine_does_not_have() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let ended = place.run(&["run", "--memory", "60GiB", "builtin:counter"]);
    assert_eq!(ended.code, Some(73), "{}", ended.stderr);
    // On a busy machine it says first for how long it has tried.
    let line = ended.stderr.lines().last().unwrap_or_default();
    assert!(line.contains("bytes"), "{line}");
    assert_eq!(place.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn kvm_that_is_missing() {
    let place = Place::new();
    for (device, expected) in [("/nonexistent/kvm", "is missing"), ("/dev/null", "KVM API")] {
        for command in [&["run", "builtin:counter"][..], &["run", "--mode", "none", "builtin:counter"], &["demo"]] {
            let ended = place.start_command({
                let mut command = place.ftvm(command);
                command.env("FTVM_KVM_DEVICE", device);
                command
            });
            let ended = ended.end();
            let line = ended.one_line(69);
            assert!(line.contains(expected), "{line}");
        }
    }
    assert_eq!(place.leftovers(), Vec::<std::path::PathBuf>::new(), "nothing was started");
}

#[test]
fn kvm_that_is_not_permitted() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED kvm_that_is_not_permitted: only root can become somebody who may not");
        return;
    }
    let place = Place::new();
    let device = place.write("kvm", "");
    std::fs::set_permissions(&device, std::fs::Permissions::from_mode(0o000)).unwrap();
    std::fs::set_permissions(place.file(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    // The program may lie where nobody else may look.
    let program = place.file("ftvm");
    // Copied by another process: were the copy open for writing in this one, a child that another test starts at this moment
    // would have it open, too, and nothing that is open for writing can be executed.
    let copied = std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_ftvm")).arg(&program).status().unwrap();
    assert!(copied.success());
    const NOBODY: u32 = 65_534;
    let mut command = std::process::Command::new(&program);
    command.args(["run", "builtin:counter"]).env("FTVM_KVM_DEVICE", &device).current_dir("/");
    command.uid(NOBODY).gid(NOBODY);
    let ended = place.start_command(command).end();
    let line = ended.one_line(77);
    assert!(line.contains("is not permitted") && line.contains("join the group"), "{line}");
}

#[test]
fn places_for_the_pool_that_are_none() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let file = place.write("file", "");
    for directory in [Path::new("/nonexistent"), &file] {
        let ended = place.run(&["run", "--pool-dir", directory.to_str().unwrap(), "builtin:counter"]);
        let line = ended.one_line(73);
        assert!(line.contains("--pool-dir"), "{line}");
    }
    assert_eq!(place.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn numbers_that_make_no_sense() {
    let place = Place::new();
    for arguments in [
        &["run"][..],
        &["run", "--hosts", "x", "builtin:counter"],
        &["run", "--epoch-ms", "0", "builtin:counter"],
        &["run", "--mode", "lockstepp", "builtin:counter"],
        &["run", "--time-limit", "5", "builtin:counter"],
        &["no-such-command"],
        &["pool"],
    ] {
        let ended = place.run(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert!(!ended.stderr.is_empty());
    }
    let Some(_machine) = kvm() else { return };
    for hosts in ["0", "27"] {
        let ended = place.run(&["run", "--hosts", hosts, "builtin:counter"]);
        assert!(ended.one_line(2).contains("1 to 26"), "{ended:?}");
    }
}

#[test]
fn no_controller_where_one_should_be() {
    let place = Place::new();
    let ended = place.run(&["status", "--pool", "no-such-socket"]);
    assert!(ended.one_line(75).contains("is `ftvm pool` running there?"), "{ended:?}");
    let long = "x".repeat(200);
    let ended = place.run(&["status", "--pool", &long]);
    assert!(ended.one_line(2).contains("too long"), "{ended:?}");
    let Some(_machine) = kvm() else { return };
    let ended = place.run(&["host", "--id", "a", "--pool", "no-such-socket"]);
    assert!(ended.one_line(75).contains("is `ftvm pool` running there?"), "{ended:?}");
}
