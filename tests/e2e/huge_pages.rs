//! A pool of huge pages.

use crate::support::{Mounted, Place, await_true, count_of, kvm, read_events, signal, skipped};
use nix::sys::signal::Signal;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

const RESERVED: &str = "/proc/sys/vm/nr_hugepages";
const PAGE_MIB: u64 = 2;
/// Each file of the pool takes a page at least: heartbeats of 64 hosts, and a guest of 16 MiB three times.
const PAGES: u64 = 192;

/// One test at a time: they change what the whole machine has.
static RESERVING: Mutex<()> = Mutex::new(());

/// Huge pages that the machine keeps ready as long as this.
struct HugePages {
    before: u64,
    _only: MutexGuard<'static, ()>,
}

impl HugePages {
    /// `None`: the machine gives none; the test is skipped, aloud.
    fn reserve(pages: u64) -> Option<Self> {
        let only = RESERVING.lock().unwrap_or_else(PoisonError::into_inner);
        let count = || fs::read_to_string(RESERVED).ok()?.trim().parse::<u64>().ok();
        let Some(before) = count() else {
            skipped("there are no huge pages here");
            return None;
        };
        let wanted = before + pages;
        let reserved = Self { before, _only: only };
        if fs::write(RESERVED, wanted.to_string()).is_ok() && count() == Some(wanted) {
            return Some(reserved);
        }
        skipped(&format!("{pages} huge pages cannot be reserved here"));
        None
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // They were ours to take, so they are ours to give back; before another test may count them.
        let _ = fs::write(RESERVED, self.before.to_string());
    }
}

#[test]
fn a_guest_on_huge_pages_survives_its_primary() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let Some(_reserved) = HugePages::reserve(PAGES) else { return };
    let Some(pool) = Mounted::hugetlbfs(&place, PAGES * PAGE_MIB) else { return };
    let guest = ["--memory", "16MiB", "builtin:torture", "--", "--steps", "200000000", "--progress", "1000000"];
    let golden = place.run(&[&["run", "--mode", "none"][..], &guest[..]].concat()).ok();

    let events = place.file("events");
    let options = ["run", "--pool-dir", pool.text(), "--respawn", "--events", events.to_str().expect("text")];
    let run = place.start(&[&options[..], &guest[..]].concat());
    await_true("protection", || count_of(&read_events(&events), "protected") == 1);
    signal(run.host("a").expect("it lives"), Signal::SIGKILL);
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout == golden.stdout, "the console is not exact");
    assert_eq!(count_of(&read_events(&events), "live"), 2, "there was a takeover");
    assert_eq!(fs::read_dir(pool.path()).expect("it is mounted").count(), 0, "nothing is left");
}

#[test]
fn a_pool_without_huge_pages_is_refused_in_a_line() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let Some(pool) = Mounted::hugetlbfs(&place, PAGE_MIB) else { return };
    let ended = place.run(&["run", "--pool-dir", pool.text(), "builtin:counter"]);
    let line = ended.one_line(73);
    assert!(line.contains("bytes") && line.contains("vm.nr_hugepages"), "it says what to do: {line}");
    assert_eq!(fs::read_dir(pool.path()).expect("it is mounted").count(), 0, "nothing is left");
}

#[test]
fn what_huge_pages_cannot_do_is_refused_in_a_line() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let Some(_reserved) = HugePages::reserve(PAGES) else { return };
    let Some(pool) = Mounted::hugetlbfs(&place, PAGES * PAGE_MIB) else { return };
    for (option, value, why) in [
        ("--memory", "5MiB", "no multiple of the pool's pages of 2097152 bytes"),
        ("--working-set", "4MiB", "a working set cannot be bounded in a pool of huge pages"),
    ] {
        let ended = place.run(&["run", "--pool-dir", pool.text(), option, value, "builtin:counter"]);
        let line = ended.one_line(73);
        assert!(line.contains(why), "{line}");
    }
}
