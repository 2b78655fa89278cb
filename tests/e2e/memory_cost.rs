//! What protection costs in memory: the pool holds the guest once, a standby next to nothing.

use crate::support::{Place, await_some, await_true, count_of, kvm_alone, read_events, signal};
use nix::sys::signal::Signal;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

const MIB: u64 = 1 << 20;
const PAGE_SIZE: u64 = 4096;
const GUEST_MIB: u64 = 256;
/// Journals, record logs, console, machine state: everything but the image.
const POOL_EXTRA_MIB_MAX: u64 = 64;
/// The program itself, its threads, and the pages that a standby VM needs.
const STANDBY_MIB_MAX: u64 = 24;

/// A field of /proc/PID/smaps_rollup in bytes.
fn rollup(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the host lives");
    let line = text.lines().find(|line| line.starts_with(field)).unwrap_or_else(|| panic!("no {field} in {text}"));
    let kib: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
    kib * 1024
}

/// Memory that nobody else shares.
fn private(pid: u32) -> u64 {
    rollup(pid, "Private_Clean:") + rollup(pid, "Private_Dirty:")
}

/// Bytes that the files of a directory take.
fn allocated(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).expect("the pool is there").flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => allocated(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

#[test]
fn the_pool_holds_the_guest_once_and_a_standby_nearly_nothing() {
    let Some(_machine) = kvm_alone() else { return };
    let place = Place::new();
    let events = place.file("events");
    let memory = format!("{GUEST_MIB}MiB");
    // Every page is written: the worst case for whoever keeps copies.
    let guest = ["builtin:torture", "--", "--steps", "3000000000", "--progress", "10000000"];
    let options = ["run", "--memory", &memory, "--heartbeat-ms", "2000", "--events", events.to_str().unwrap()];
    let mut run = place.start(&[&options[..], &guest[..]].concat());
    await_true("protection", || count_of(&read_events(&events), "protected") == 1);
    let progress = |line: &str| run.stdout().windows(line.len()).any(|window| window == line.as_bytes());
    await_true("a guest that has written all its memory", || progress("progress 000030"));

    let standby = await_some("the secondary", || run.host("b"));
    let spare = await_some("the spare", || run.host("c"));
    let primary = await_some("the primary", || run.host("a"));
    let (standby, spare, primary) = (private(standby), private(spare), private(primary));
    let pool = allocated(place.pool());
    eprintln!(
        "guest {GUEST_MIB} MiB: pool {} MiB, primary {} MiB, standby {} MiB, spare {} MiB (private memory)",
        pool / MIB,
        primary / MIB,
        standby / MIB,
        spare / MIB
    );
    assert!(run.runs());
    assert!(pool >= GUEST_MIB * MIB, "the image is reserved in full");
    assert!(pool <= (GUEST_MIB + POOL_EXTRA_MIB_MAX) * MIB, "the pool takes {} MiB", pool / MIB);
    assert!(standby <= STANDBY_MIB_MAX * MIB, "the standby takes {} MiB", standby / MIB);
    run.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(run.end().code, Some(143));
}

/// Pages of its own that a process has where it maps a VM's image: its copies.
fn copies(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("the host lives");
    let mut kib = 0;
    let mut is_image = false;
    for line in text.lines() {
        if let Some(field) = line.strip_prefix("Anonymous:") {
            let field = field.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
            kib += if is_image { field } else { 0 };
        } else if line.contains('-') && !line.contains("kB") {
            is_image = line.ends_with("/image");
        }
    }
    kib * 1024 / PAGE_SIZE
}

/// What a host says of a commit.
#[derive(Clone, Copy, Debug)]
struct Commit {
    epoch: u64,
    pages: u64,
    applied: u64,
}

/// The commits that a host has told of in its first life.
fn commits(place: &Place, host: &str) -> Vec<Commit> {
    let logs = place.leftovers().into_iter().map(|directory| directory.join(format!("{host}.1.stderr")));
    let text = logs.filter_map(|path| std::fs::read_to_string(path).ok()).collect::<String>();
    let parse = |line: &str| {
        let (_, fields) = line.split_once("committed ")?;
        let field =
            |name| fields.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        Some(Commit { epoch: field("epoch")?, pages: field("pages")?, applied: field("applied")? })
    };
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().filter_map(parse).collect()
}

/// The most copies that a primary which keeps at most `bound` can have had at any time: behind each of its commits no more
/// than that, or what was written in the epochs that were not applied by then; until the next one what it finds written
/// comes on top.
fn copies_max(commits: &[Commit], bound: u64) -> u64 {
    let kept = |index: usize| {
        let commit: Commit = commits[index];
        let unapplied = commits[..=index].iter().rev().take_while(|other| other.epoch > commit.applied);
        unapplied.map(|other| other.pages).sum::<u64>().max(bound)
    };
    let behind = (0..commits.len()).map(|index| kept(index) + commits.get(index + 1).map_or(0, |next| next.pages));
    behind.max().expect("it has committed").max(commits[0].pages)
}

/// In the modes that record, commits are rare; a bound has them come as often as it needs them.
#[test]
fn the_bound_holds_in_the_modes_that_record() {
    let Some(_machine) = kvm_alone() else { return };
    let bound = 16 * MIB / PAGE_SIZE;
    for mode in ["replay", "lockstep"] {
        let place = Place::new();
        let events = place.file("events");
        let options = ["run", "--mode", mode, "--working-set", "16MiB", "--memory", "96MiB", "--heartbeat-ms", "2000"];
        let guest = ["--events", events.to_str().unwrap(), "builtin:torture", "--", "--steps", "100000000000"];
        let mut run = place.start(&[&options[..], &guest[..], &["--progress", "2000000"][..]].concat());
        await_true("protection", || count_of(&read_events(&events), "protected") == 1);
        let hosts = [await_some("the primary", || run.host("a")), await_some("the secondary", || run.host("b"))];
        let mut samples = [Vec::new(), Vec::new()];
        let progress = |run: &crate::support::Running| run.stdout().iter().filter(|byte| **byte == b'\n').count();
        let from = progress(&run);
        await_true("a guest that has written all its memory", || {
            samples.iter_mut().zip(hosts).for_each(|(samples, host)| samples.push(copies(host)));
            progress(&run) > from + 150
        });
        assert!(run.runs());
        for (samples, who) in samples.iter_mut().zip(["primary", "secondary"]) {
            samples.sort_unstable();
            let (median, most) = (samples[samples.len() / 2], samples[samples.len() - 1]);
            eprintln!("{mode}: the {who} has {median} copies most of the time, {most} at most, of {bound}");
            assert!(median <= bound + bound / 4, "{mode}: the {who} has {median} copies most of the time, of {bound}");
        }
        run.signal(Signal::SIGTERM);
        assert_eq!(run.end().code, Some(143));
    }
}

/// What a primary held of 96 MiB.
struct Held {
    /// Sampled in the first half of the guest's life, in pages, ascending.
    copies: Vec<u64>,
    commits: Vec<Commit>,
}

impl Held {
    fn median(&self) -> u64 {
        self.copies[self.copies.len() / 2]
    }

    fn most(&self) -> u64 {
        *self.copies.last().expect("it was sampled")
    }
}

#[test]
fn a_primary_keeps_no_more_copies_than_its_bound_and_loses_nothing_by_it() {
    let Some(_machine) = kvm_alone() else { return };
    let place = Place::new();
    let guest = ["--memory", "96MiB", "builtin:torture", "--", "--steps", "600000000", "--progress", "2000000"];
    let golden = place.run(&[&["run", "--mode", "none"][..], &guest[..]].concat()).ok();
    let held = |name: &str, bound: &[&str]| {
        let events = place.file(name);
        let options =
            ["run", "--respawn", "--epoch-ms", "4", "--heartbeat-ms", "2000", "--events", events.to_str().unwrap()];
        let mut command = place.ftvm(&[&options[..], bound, &guest[..]].concat());
        command.env("RUST_LOG", format!("warn,{}=trace", vmm::host::COMMIT_TRACE));
        let mut run = place.start_command(command);
        await_true("protection", || count_of(&read_events(&events), "protected") == 1);
        let primary = await_some("the primary", || run.host("a"));
        let mut samples = Vec::new();
        await_true("half of the guest's life", || {
            samples.push(copies(primary));
            run.stdout().len() * 2 > golden.stdout.len()
        });
        // The epoch in which the last sample was taken is told of at its end.
        let last = commits(&place, "a").last().map_or(0, |commit| commit.epoch);
        await_true("its next commits", || commits(&place, "a").last().is_some_and(|commit| commit.epoch > last + 1));
        let commits = commits(&place, "a");
        assert!(run.runs());
        signal(primary, Signal::SIGKILL);
        let ended = run.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout == golden.stdout, "{bound:?}: the console is not exact");
        assert!(count_of(&read_events(&events), "live") >= 2, "there was a takeover");
        samples.sort_unstable();
        Held { copies: samples, commits }
    };
    let bound = 16 * MIB / PAGE_SIZE;
    let free = held("events.free", &[]);
    let bounded = held("events.bounded", &["--working-set", "16MiB"]);
    let most = copies_max(&bounded.commits, bound);
    let largest = bounded.commits.iter().map(|commit| commit.pages).max();
    eprintln!(
        "copies of the primary, in pages: {} without a bound; with one of {bound}: {} most of the time, {} at most, {most} \
         allowed by {} epochs of at most {largest:?}",
        free.most(),
        bounded.median(),
        bounded.most(),
        bounded.commits.len(),
    );
    let guest_pages = 96 * MIB / PAGE_SIZE;
    assert!(free.median() > guest_pages * 5 / 6, "the guest does not write enough to show anything: {}", free.median());
    assert!(bounded.most() <= most, "{} pages, {most} allowed", bounded.most());
    assert!(bounded.median() <= bound + bound / 2, "{} pages most of the time", bounded.median());
}
