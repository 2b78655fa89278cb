//! Recordings that are whole, damaged, cut off, tampered with.

use super::chunk::{CommitHead, CommitKind, PAGE_BYTES, RecordedEnd, RecordedMachine, end_content};
use super::envelope::{self, ChunkKind, ENVELOPE_BYTES, FILE_HEAD_BYTES};
use super::replay::{Replay, ReplayReport, StopAt, Stopped};
use super::writer::RecordingWriter;
use super::{Index, ReadError, RecordError, parse};
use crate::machine::{MachineState, guests};
use crate::unprotected::{self, RecordTo, UnprotectedGuest};
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::cpu::CpuProfile;
use ft_protocol::record::{Entry, EntryBody};
use proptest::prelude::*;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

const MEMORY: u64 = 4 << 20;

fn described() -> RecordedMachine {
    RecordedMachine {
        program: "test".to_owned(),
        guest: "none".to_owned(),
        args: vec!["--an".to_owned(), "argument".to_owned()],
        mode: "none".to_owned(),
        memory_bytes: MEMORY,
        macs: Vec::new(),
        disk_bytes: 0,
        cpu: CpuProfile::default(),
    }
}

fn add(writer: &mut RecordingWriter, at_exit: u64) {
    let entry = Entry { at_exit, digest: 7, body: EntryBody::Clock(at_exit) };
    let mut payload = Vec::new();
    entry.encode_payload(&mut payload);
    writer.entry(entry.tag(), at_exit, &payload);
}

fn whole(directory: &Path) -> Vec<u8> {
    let path = directory.join("whole");
    let mut writer = RecordingWriter::create(&path, &described()).expect("created");
    writer.boot(b"a boot file");
    for at_exit in 1..=20 {
        add(&mut writer, at_exit);
        if at_exit == 10 {
            // Between two commits, so that there are two chunks of entries in a row.
            writer.flush();
        }
    }
    writer.end(&RecordedEnd::Guest(GuestEnd::Exited(3))).expect("written");
    fs::read(&path).expect("a file")
}

/// Whether all that an index of a damaged file has is what the whole one has, too.
fn is_part(part: &Index, whole: &Index) -> bool {
    part.machine == whole.machine
        && part.entries <= whole.entries
        && part.last_entry <= whole.last_entry
        && part.good_bytes <= whole.good_bytes
        && (part.boot.is_none() || part.boot == whole.boot)
        && (part.end.is_none() || part.end == whole.end)
}

#[test]
fn what_was_written_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let bytes = whole(directory.path());
    let index = parse(&bytes).expect("a recording");
    assert_eq!(index.machine, described());
    assert_eq!(index.boot.as_deref(), Some(b"a boot file".as_slice()));
    assert_eq!((index.entries, index.last_entry, index.last_exit()), (20, Some(20), 20));
    assert_eq!(index.end, Some(RecordedEnd::Guest(GuestEnd::Exited(3))));
    assert!(index.damage.is_none());
    assert_eq!(index.good_bytes, bytes.len() as u64);
}

#[test]
fn every_flipped_bit_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let bytes = whole(directory.path());
    let good = parse(&bytes).expect("a recording");
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        match parse(&damaged) {
            Ok(index) => {
                assert!(index.damage.is_some(), "bit {bit} was not found");
                assert!(is_part(&index, &good) && index.good_bytes <= (bit / 8) as u64, "bit {bit}");
            }
            Err(_) => assert!(bit / 8 < FILE_HEAD_BYTES + ENVELOPE_BYTES + 200, "bit {bit} spoils all"),
        }
    }
}

#[test]
fn wherever_a_file_is_cut_off_what_is_before_is_good() {
    let directory = tempfile::tempdir().expect("a directory");
    let bytes = whole(directory.path());
    let good = parse(&bytes).expect("a recording");
    let mut entries = Vec::new();
    for length in 0..bytes.len() {
        let Ok(index) = parse(&bytes[..length]) else { continue };
        assert!(is_part(&index, &good));
        assert!(index.end.is_none() && index.good_bytes <= length as u64);
        assert_eq!(index.damage.is_none(), index.good_bytes == length as u64, "a cut between chunks shows by no end");
        entries.push(index.entries);
    }
    entries.dedup();
    assert_eq!(entries, [0, 10, 20]);
}

#[test]
fn chunks_that_are_left_out_or_swapped_are_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let bytes = whole(directory.path());
    let head = FILE_HEAD_BYTES;
    let mut starts = vec![head];
    while let Some(start) = starts.last().copied().filter(|start| *start < bytes.len()) {
        let stored = u32::from_le_bytes(bytes[start + 16..start + 20].try_into().expect("four bytes"));
        starts.push(start + ENVELOPE_BYTES + usize::try_from(stored).expect("small"));
    }
    let chunks: Vec<&[u8]> = starts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
    assert_eq!(chunks.len(), 5, "machine, boot, entries, entries, end");
    let built = |order: &[usize]| -> Vec<u8> {
        let parts = order.iter().flat_map(|chunk| chunks[*chunk].iter().copied());
        bytes[..head].iter().copied().chain(parts).collect()
    };
    for order in [[0, 1, 3, 4].as_slice(), &[0, 1, 3, 2, 4], &[0, 1, 2, 2, 3, 4]] {
        let index = parse(&built(order)).expect("a recording");
        assert!(matches!(index.damage, Some(ReadError::Sequence { .. })), "{order:?}: {:?}", index.damage);
    }
}

/// Chunks whose checksums are right and whose content is not: what a hostile writer can make.
#[test]
fn hostile_chunks_are_refused() {
    let machine = postcard::to_allocvec(&described()).expect("encodes");
    let file = |chunks: &[(ChunkKind, Vec<u8>)]| {
        let mut bytes = envelope::file_head().to_vec();
        bytes.extend(envelope::seal(ChunkKind::Machine, 0, &machine));
        for (sequence, (kind, content)) in (1..).zip(chunks) {
            bytes.extend(envelope::seal(*kind, sequence, content));
        }
        bytes
    };
    let head = CommitHead { generation: 1, epoch: 1, exits: 0, memory: 0, kind: CommitKind::Start };
    let page = |number: u64| [number.to_le_bytes().as_slice(), &[1; PAGE_BYTES]].concat();
    let cases = [
        (ChunkKind::Machine, machine.clone()),
        (ChunkKind::Entries, vec![0; 16]),
        (ChunkKind::Entries, vec![1; 20]),
        (ChunkKind::Pages, vec![0; 100]),
        (ChunkKind::Pages, page(MEMORY / 4096)),
        (ChunkKind::Pages, page(u64::MAX)),
        (ChunkKind::Hashes, vec![0; 15]),
        (ChunkKind::Hashes, vec![0xff; 16]),
        (ChunkKind::Commit, vec![0; 39]),
        (ChunkKind::Commit, vec![0; 40]),
        (ChunkKind::Commit, super::chunk::commit_content(&head, b"no state")),
        (ChunkKind::End, vec![9; 8]),
        (ChunkKind::End, Vec::new()),
    ];
    for (kind, content) in cases {
        let bytes = file(&[(ChunkKind::Boot, b"boot".to_vec()), (kind, content.clone())]);
        let index = parse(&bytes).expect("it begins like a recording");
        assert!(index.damage.is_some(), "{kind:?} {content:?}");
    }
    let with_disk = postcard::to_allocvec(&RecordedMachine { disk_bytes: 8192, ..described() }).expect("encodes");
    let block = |number: u64| page(shared_mem::DISK_PAGE_BASE + number);
    let boot = || (ChunkKind::Boot, b"boot".to_vec());
    let disk = |number| (ChunkKind::Disk, block(number));
    let damaged = |chunks: &[(ChunkKind, Vec<u8>)]| {
        let mut bytes = envelope::file_head().to_vec();
        bytes.extend(envelope::seal(ChunkKind::Machine, 0, &with_disk));
        for (sequence, (kind, content)) in (1..).zip(chunks) {
            bytes.extend(envelope::seal(*kind, sequence, content));
        }
        parse(&bytes).expect("it begins like a recording").damage.is_some()
    };
    assert!(!damaged(&[boot(), boot(), disk(0), disk(1)]));
    let pages = (ChunkKind::Pages, block(1));
    for chunks in [
        vec![disk(0)],
        vec![boot(), disk(2)],
        vec![boot(), (ChunkKind::Disk, page(0))],
        vec![boot(), disk(0), boot()],
        vec![boot(), pages, disk(0)],
    ] {
        assert!(damaged(&chunks), "{:?}", chunks.iter().map(|(kind, _)| kind).collect::<Vec<_>>());
    }
    for memory_bytes in [0, 4095, u64::MAX] {
        let wrong = RecordedMachine { memory_bytes, ..described() };
        let mut bytes = envelope::file_head().to_vec();
        bytes.extend(envelope::seal(ChunkKind::Machine, 0, &postcard::to_allocvec(&wrong).expect("encodes")));
        assert!(parse(&bytes).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Past all checksums.
    #[test]
    fn hostile_bytes_never_panic(kind in 1u32..=8, content in prop::collection::vec(any::<u8>(), 0..300)) {
        let kinds = [
            ChunkKind::Machine, ChunkKind::Boot, ChunkKind::Entries, ChunkKind::Pages, ChunkKind::Hashes,
            ChunkKind::Commit, ChunkKind::End, ChunkKind::Disk,
        ];
        let kind = kinds[usize::try_from(kind - 1).expect("small")];
        let mut bytes = envelope::file_head().to_vec();
        let machine = postcard::to_allocvec(&described()).expect("encodes");
        bytes.extend(envelope::seal(ChunkKind::Machine, 0, &machine));
        bytes.extend(envelope::seal(kind, 1, &content));
        let _any_result = parse(&bytes);
        let mut alone = envelope::file_head().to_vec();
        alone.extend(envelope::seal(kind, 0, &content));
        let _any_result = parse(&alone);
        let _any_result = parse(&content);
    }
}

/// A reader that goes away stands for a disk that is full.
#[test]
fn a_recording_that_cannot_be_written_any_further_says_so_and_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let reader = {
        let path = path.clone();
        std::thread::spawn(move || {
            let mut file = fs::File::open(path).expect("opened");
            file.read_exact(&mut [0; FILE_HEAD_BYTES]).expect("the head");
        })
    };
    let mut writer = RecordingWriter::create(&path, &described()).expect("created");
    reader.join().expect("no panic");
    (1..200_000).for_each(|exit| add(&mut writer, exit));
    writer.settle();
    assert!(writer.failure().is_some_and(|why| why.contains("pipe")), "{:?}", writer.failure());
    let error = writer.end(&RecordedEnd::LeftOff("over".to_owned())).expect_err("not whole");
    assert!(matches!(error, RecordError::EndsEarly { .. }), "{error:?}");
}

/// Entries are handed on in small parts: a few of those are no reason to hold a guest up.
#[test]
fn a_guest_waits_for_the_disk_by_how_much_it_has_said_and_not_how_often() {
    const ENTRIES: u64 = 50_000;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    // Whoever opens a pipe for both waits for nobody.
    let both = fs::File::options().read(true).write(true).open(&path).expect("opened");
    let mut reader = fs::File::open(&path).expect("opened");
    let (said, is_said) = std::sync::mpsc::channel();
    let writing = std::thread::spawn(move || {
        let mut writer = RecordingWriter::create(&path, &described()).expect("created");
        writer.boot(b"a boot file");
        (1..=ENTRIES).for_each(|exit| add(&mut writer, exit));
        said.send(()).expect("somebody waits");
        writer.end(&RecordedEnd::LeftOff("over".to_owned()))
    });
    is_said.recv_timeout(std::time::Duration::from_secs(60)).expect("nothing is read, and the guest goes on");
    drop(both);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).expect("read");
    writing.join().expect("no panic").expect("all of it is written");
    let index = parse(&bytes).expect("a recording");
    assert!(index.entries == ENTRIES && index.damage.is_none(), "{} entries: {:?}", index.entries, index.damage);
}

fn recorded(directory: &Path, guest: &str, args: &[&str]) -> Option<(PathBuf, Vec<u8>)> {
    recorded_elf(directory, guests::bundled(guest).expect("a bundled guest"), args)
}

fn recorded_elf(directory: &Path, elf: &[u8], args: &[&str]) -> Option<(PathBuf, Vec<u8>)> {
    if let Err(error) = crate::machine::open_kvm() {
        let required = std::env::var_os("FTVM_REQUIRE_KVM").is_some_and(|value| value == "1");
        assert!(!required, "FTVM_REQUIRE_KVM=1, but {error}");
        eprintln!("SKIPPED: {error}");
        return None;
    }
    let path = directory.join("recording");
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    let mut console = Vec::new();
    let to = RecordTo { path: &path, guest: "test" };
    let guest = UnprotectedGuest { image: elf, memory_bytes: MEMORY, args: &args, nets: &[], disk: None, input: None };
    let end = unprotected::run_recorded(guest, Some(to), &mut console).expect("it runs");
    let recording = end.recording.expect("it is recorded").expect("all of it");
    assert_eq!(recording, fs::metadata(&path).expect("a file").len());
    Some((path, console))
}

fn replayed(path: &Path, stop: StopAt) -> (ReplayReport, Vec<u8>) {
    let mut console = Vec::new();
    let report = Replay::open(path).expect("opened").run(stop, &mut console).expect("replayed");
    (report, console)
}

#[test]
fn a_recording_replays_to_its_end_and_stops_at_any_exit() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some((path, console)) = recorded(directory.path(), "counter", &["--lines", "30", "--every-us", "50000"]) else {
        return;
    };
    let (report, again) = replayed(&path, StopAt::End);
    assert_eq!(report.stopped, Stopped::GuestEnded { end: "exited with 0".to_owned(), code: Some(0) });
    assert_eq!(again, console);
    assert!(report.commits_verified >= 2 && report.commits_taken == 1, "{report:?}");
    let last = report.exit;
    for exit in [1, 2, last / 2, last - 1, last] {
        let (one, _) = replayed(&path, StopAt::Exit(exit));
        let (other, _) = replayed(&path, StopAt::Exit(exit));
        assert_eq!(one.exit, exit);
        assert_eq!(one, other, "the same history");
    }
    let (report, before) = replayed(&path, StopAt::Epoch(1));
    assert_eq!((report.stopped, report.epoch), (Stopped::AsAsked, Some(1)));
    assert!(console.starts_with(&before));
}

/// Rewrites a recording chunk by chunk, its checksums right again.
fn rewritten(path: &Path, mut change: impl FnMut(ChunkKind, &mut Vec<u8>)) {
    let bytes = fs::read(path).expect("a file");
    let mut from = &bytes[FILE_HEAD_BYTES..];
    let mut to = envelope::file_head().to_vec();
    let mut sequence = 0;
    while let Some(mut opened) = envelope::open(&mut from, sequence).expect("whole") {
        change(opened.kind, &mut opened.plain);
        to.extend(envelope::seal(opened.kind, sequence, &opened.plain));
        sequence += 1;
    }
    fs::write(path, to).expect("written");
}

#[test]
fn a_replay_that_is_not_the_recorded_history_says_where_and_in_what() {
    let directory = tempfile::tempdir().expect("a directory");
    let args = ["--steps", "3000000", "--progress", "100000"];
    let Some((path, _)) = recorded(directory.path(), "torture", &args) else { return };
    let original = fs::read(&path).expect("a file");
    let diverged = |path: &Path| match replayed(path, StopAt::End).0.stopped {
        Stopped::Diverged(report) => report,
        other => panic!("{other:?}"),
    };

    // Another input: a byte of console output that the guest does not write.
    rewritten(&path, |kind, content| {
        if kind == ChunkKind::Entries {
            let last = content.len() - 1;
            content[last] ^= 1;
        }
    });
    let report = diverged(&path);
    assert!(report.line.contains("expected console byte"), "{report}");

    // Another page.
    fs::write(&path, &original).expect("written");
    rewritten(&path, |kind, content| {
        if kind == ChunkKind::Hashes {
            content[8] ^= 1;
        }
    });
    let report = diverged(&path);
    assert_eq!((report.pages_in_all, report.pages.len(), report.registers.len()), (1, 1, 0), "{report}");
    assert_eq!(report.pages[0].got ^ 1, report.pages[0].expected);

    // Other registers.
    fs::write(&path, &original).expect("written");
    let mut start = true;
    rewritten(&path, |kind, content| {
        if kind == ChunkKind::Commit && !std::mem::take(&mut start) {
            let mut state = MachineState::decode(&content[40..]).expect("a state").for_test_with_rbx(77);
            content.truncate(40);
            content.append(&mut state);
        }
    });
    let report = diverged(&path);
    assert_eq!((report.registers.len(), report.pages_in_all), (1, 0), "{report}");
    assert_eq!((report.registers[0].what.as_str(), report.registers[0].expected.as_str()), ("rbx", "0x4d"));

    // Another end.
    fs::write(&path, &original).expect("written");
    rewritten(&path, |kind, content| {
        if kind == ChunkKind::End {
            *content = end_content(&RecordedEnd::Guest(GuestEnd::Exited(77)));
        }
    });
    let report = diverged(&path);
    assert!(report.line.ends_with("expected the guest's end Exited(77), got Exited(0)"), "{report}");
}

#[test]
fn the_moment_before_a_crash_can_be_looked_at() {
    let directory = tempfile::tempdir().expect("a directory");
    // Writes a letter, sets a register, and runs into an instruction that is none.
    let code = [0xba, 0xf8, 0x03, 0, 0, 0xb0, b'x', 0xee, 0xbb, 0x4d, 0, 0, 0, 0x0f, 0x0b];
    let elf = crate::machine::test_elf::program(&code);
    let Some((path, console)) = recorded_elf(directory.path(), &elf, &[]) else { return };
    assert_eq!(console, b"x");
    let (report, again) = replayed(&path, StopAt::End);
    assert!(
        matches!(&report.stopped, Stopped::GuestEnded { end, code: None } if end.starts_with("crashed")),
        "{report}"
    );
    assert_eq!((again, report.commits_verified), (console, 1));
    let (before, _) = replayed(&path, StopAt::Exit(1));
    assert_eq!((before.stopped, before.exit), (Stopped::AsAsked, 1));
    let rbx = before.registers.iter().find(|register| register.name == "rbx").expect("rbx");
    assert_eq!(rbx.value, 0, "not there yet");
    assert!(before.code.starts_with("bb 4d 00 00 00 0f 0b"), "{}", before.code);
}

/// What is good of a damaged recording is replayed.
#[test]
fn a_recording_that_was_cut_off_replays_to_its_last_good_entry() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some((path, console)) = recorded(directory.path(), "counter", &["--lines", "30", "--every-us", "50000"]) else {
        return;
    };
    let bytes = fs::read(&path).expect("a file");
    let index = parse(&bytes).expect("whole");
    let mut exits = Vec::new();
    for commit in &index.commits {
        let end = usize::try_from(commit.end).expect("small");
        fs::write(&path, &bytes[..(end + 40).min(bytes.len() - 1)]).expect("written");
        let (report, before) = replayed(&path, StopAt::End);
        assert!(matches!(report.stopped, Stopped::Damaged { .. }), "{report}");
        assert!(console.starts_with(&before));
        assert_eq!(report.commits_verified + report.commits_taken, report.epoch.expect("a start") + 1);
        exits.push(report.exit);
    }
    assert!(exits.is_sorted() && exits.len() >= 3, "{exits:?}");
}
