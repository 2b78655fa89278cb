use super::*;
use crate::cluster::{ChildExit, HostName, HostSignal};
use crate::event::{Event, EventLog, HappeningKind, What};
use crate::history;
use crate::runner::{Clue, MachineFacts, Manifest, Report, Verdict};
use ft_protocol::timeline::Happening;
use ft_protocol::wire::{LiveReport, TakeoverReason};
use ft_protocol::{Epoch, Generation, HostId, Time, VmId};
use std::path::PathBuf;

const START: Time = Time::from_ns(1_000_000_000);
const VM: VmId = VmId::new(0);

fn manifest() -> Manifest {
    Manifest {
        scenario: "a<b".to_owned(),
        description: Some("one \"dies\" & comes back".to_owned()),
        path: PathBuf::from("a.toml"),
        cell: Vec::new(),
        seed: 7,
        again: "ftvm scenario run --seed 7 a.toml".to_owned(),
        commit: "abc".to_owned(),
        unix_seconds: 0,
        started_at_ns: START.ns(),
        vms: vec!["guest".to_owned()],
        steps: Vec::new(),
        machine: MachineFacts { kernel: "6".to_owned(), processor: "cpu".to_owned(), processors: 2, memory_mib: 1 },
    }
}

fn events(length_ms: u64) -> Vec<(u64, What)> {
    let host = |number| HostId::new(number);
    let live = |at: u64, generation, number| {
        let at = START + ft_protocol::Span::from_ms(at);
        let report = LiveReport { ordered_at: at, loaded_at: at, live_at: at, replayed_at: None, entries: 0 };
        What::Happened(Happening::Live { vm: VM, generation: Generation::new(generation), host: host(number), report })
    };
    let mut events = Vec::new();
    for (number, name) in [(0, "a"), (1, "b")] {
        events.push((0, What::Happened(Happening::HostJoined { host: host(number), name: name.to_owned() })));
        events.push((0, What::HostStarted { host: HostName::new(name), pid: 1 }));
    }
    events.push((1, What::Happened(Happening::VmCreated { vm: VM, name: "guest".to_owned() })));
    events.push((2, What::Happened(Happening::Promoted { vm: VM, generation: Generation::new(1), host: host(0) })));
    events.push((3, live(3, 1, 0)));
    events.push((4, What::Happened(Happening::Protected { vm: VM, generation: Generation::new(1), host: host(1) })));
    events.push((5, What::ConsoleMoved { vm: VM, tail: 10 }));
    events.push((10, What::StepFired { step: "death".to_owned() }));
    events.push((10, What::Signalled { host: HostName::new("a"), signal: HostSignal::Kill }));
    let generation = Generation::new(1);
    let reason = TakeoverReason::LinkClosed;
    events.push((11, What::Happened(Happening::PrimaryGone { vm: VM, generation, reason })));
    events.push((12, What::Happened(Happening::Sealed { vm: VM, generation, final_epoch: Epoch::new(3) })));
    events.push((13, What::Happened(Happening::Drained { vm: VM, applied: Epoch::new(3) })));
    events.push((15, live(15, 2, 1)));
    events.push((16, What::HostExited { host: HostName::new("a"), exit: ChildExit::Signal(9), stderr: String::new() }));
    events.push((40, What::ConsoleMoved { vm: VM, tail: 20 }));
    for at in (100..length_ms).step_by(250) {
        let epoch = if at < 2_000 { at } else { 2_000 };
        events.push((at, sampled(VM, 2, epoch, 20)));
    }
    events
}

fn sampled(vm: VmId, generation: u64, epoch: u64, console: u64) -> What {
    let unprotected = (epoch >= 2_000).then(|| "host `c` is preparing to be secondary".to_owned());
    What::Sampled { vm, generation, epoch, console, unprotected }
}

fn folder(length_ms: u64) -> (tempfile::TempDir, RunFolder) {
    folder_of(events(length_ms))
}

fn folder_of(events: Vec<(u64, What)>) -> (tempfile::TempDir, RunFolder) {
    let directory = tempfile::tempdir().unwrap();
    let mut log = EventLog::create(&directory.path().join("events.jsonl"), START).unwrap();
    for (at, what) in events {
        log.append(&Event { at: START + ft_protocol::Span::from_ms(at), what }).unwrap();
    }
    let found = "0 < 1".to_owned();
    let verdict = Verdict::decided("1 takeovers".to_owned(), false, found, Some(9));
    let report = Report {
        scenario: "a".to_owned(),
        path: PathBuf::from("a.toml"),
        seed: 7,
        holds: false,
        skipped: None,
        verdicts: vec![verdict],
        steps: Vec::new(),
        duration_ms: 1.0,
        again: String::new(),
        summary: None,
        directory: None,
    };
    let write = |name: &str, json: String| std::fs::write(directory.path().join(name), json).unwrap();
    write("manifest.json", serde_json::to_string(&manifest()).unwrap());
    write("report.json", serde_json::to_string(&report).unwrap());
    let folder = RunFolder::read(directory.path()).unwrap();
    (directory, folder)
}

#[test]
fn a_run_is_told_in_words() {
    let (_directory, folder) = folder(5_000);
    let text = explain(&folder);
    for part in [
        "a<b (seed 7, commit abc): it FAILED",
        "expected: 1 takeovers (a.toml:9)\nfound:    0 < 1",
        "vm guest, end of generation 1 on host a: a takeover after `SIGKILL` of host a at 10.0 ms; noticed after 1.00 ms because \
         its connection closed; sealed after 2.00 ms at epoch 3; the guest runs on host b after 5.00 ms; its first console output came \
         after 30.0 ms; it was not protected again before the end.",
        "STEP   death",
        "FAULT  SIGKILL to a",
        "vm guest: nothing was committed for 2.75 s from here on, epoch 2000",
        "vm guest: not protected: host `c` is preparing to be secondary",
        "again: ftvm scenario run --seed 7 a.toml",
    ] {
        assert!(text.contains(part), "{part}\n--- is not in ---\n{text}");
    }
}

#[test]
fn a_long_story_is_told_around_what_failed() {
    let mut events = events(200_000);
    for second in 1..200 {
        events.push((second * 1_000 + 1, What::StepFired { step: format!("step-{second}") }));
    }
    events.push((100_500, What::ConsoleMoved { vm: VM, tail: 30 }));
    events.push((150_500, What::Happened(Happening::Unprotected { vm: VM, host: HostId::new(0) })));
    events.sort_by_key(|(at, _)| *at);
    let (directory, mut read) = folder_of(events);
    let text = explain(&read);
    assert!(!text.contains("step-100\n") && text.contains("step-199\n"), "nobody knows when it failed: {text}");
    let report = read.report.as_mut().unwrap();
    let verdict = |clue| Verdict { clue: Some(clue), ..report.verdicts[0].clone() };
    let clues = [
        Clue::Console { vm: VM, byte: 25 },
        Clue::Happened { kind: HappeningKind::Unprotected, times: 1 },
        Clue::At(START + ft_protocol::Span::from_ms(50_500)),
        Clue::Console { vm: VM, byte: 1_000 },
        Clue::Happened { kind: HappeningKind::Unprotected, times: 2 },
    ];
    report.verdicts = clues.map(verdict).to_vec();
    let text = explain(&read);
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is not in {text}"));
    let mut last = place("around what failed and in the end");
    for part in [
        "lines are left out",
        "STEP   step-40\n",
        "STEP   step-50\n",
        "HERE   1 takeovers: 0 < 1",
        "STEP   step-51\n",
        "lines are left out",
        "STEP   step-100\n",
        "HERE   1 takeovers: 0 < 1",
        "STEP   step-101\n",
        "lines are left out",
        "STEP   step-150\n",
        "HERE   1 takeovers: 0 < 1",
        "STEP   step-151\n",
        "STEP   step-199\n",
    ] {
        let here = last + text[last..].find(part).unwrap_or_else(|| panic!("{part} is not behind {last} in {text}"));
        last = here + 1;
    }
    assert_eq!(text.matches("HERE").count(), 3, "of the others nobody knows when: {text}");
    assert!(!text.contains("step-75\n"));
    drop(directory);
}

#[test]
fn what_clients_did_is_told_in_numbers() {
    // Of a run that did not come to its end: they are not among its events.
    let (directory, _) = folder(500);
    let at = |ms: u64| START.ns() + ms * 1_000_000;
    let lines = [
        format!("{{\"id\":0,\"at_ns\":{},\"begin\":\"quick\"}}", at(10)),
        format!("{{\"id\":1,\"at_ns\":{},\"begin\":\"slow\"}}", at(20)),
        format!("{{\"id\":0,\"at_ns\":{},\"end\":\"well\"}}", at(21)),
        format!("{{\"id\":1,\"at_ns\":{},\"end\":\"well\"}}", at(90)),
        format!("{{\"id\":2,\"at_ns\":{},\"begin\":\"lost\"}}", at(95)),
        "torn".to_owned(),
    ];
    std::fs::write(directory.path().join("load.history.jsonl"), lines.map(|line| line + "\n").concat()).unwrap();
    let read = RunFolder::read(directory.path()).unwrap();
    let text = explain(&read);
    for part in [
        "workload load: 3 operations, 1 without an answer; the slowest took 70.0 ms from 20.0 ms on: slow\n",
        "  never answered: lost, at 95.0 ms\n",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(html(&read).contains("latency ms"));
    let mut events = events(500);
    let told = |id, entry| What::WorkloadTold { workload: "load".to_owned(), id, entry };
    events.push((60, told(None, history::Entry::Note("the peer is gone\nHERE".to_owned()))));
    events.push((70, told(Some(3), history::Entry::Begin("a\nb".to_owned()))));
    events.push((75, told(Some(3), history::Entry::End("well".to_owned()))));
    let (_directory, read) = folder_of(events);
    let text = explain(&read);
    let slowest = "workload load: 1 operations, 0 without an answer; the slowest took 5.00 ms from 70.0 ms on: a b\n";
    for part in ["workload load: the peer is gone HERE\n", slowest] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn a_page_needs_nothing_else_and_believes_no_text() {
    let (directory, read) = folder(5_000);
    write_html(directory.path()).unwrap();
    let page = std::fs::read_to_string(directory.path().join(HTML)).unwrap();
    assert_eq!(page, html(&read), "the same run gives the same page");
    assert!(page.contains("a&lt;b") && !page.contains("a<b") && page.contains("0 &lt; 1"), "{page}");
    assert!(!page.contains("<script") && !page.contains("http"), "it loads nothing");
    for part in
        ["class=\"primary\"", "class=\"secondary\"", "class=\"blackout\"", "class=\"fault\"", "class=\"curve c0\""]
    {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(page.matches("<svg").count(), 1);
}

#[test]
fn of_several_vms_each_is_named() {
    let other = VmId::new(1);
    let mut events = events(5_000);
    assert!(!html(&folder_of(events.clone()).1).contains("class=\"legend"), "one VM needs no name");
    let mut push = |at, what| events.push((at, what));
    push(41, What::Happened(Happening::VmCreated { vm: other, name: "o<ther".to_owned() }));
    let at = START + ft_protocol::Span::from_ms(42);
    let report = LiveReport { ordered_at: at, loaded_at: at, live_at: at, replayed_at: None, entries: 0 };
    let (generation, host) = (Generation::new(1), HostId::new(1));
    push(42, What::Happened(Happening::Live { vm: other, generation, host, report }));
    for (at, tail) in [(50, 5), (90, 9)] {
        push(at, What::ConsoleMoved { vm: other, tail });
        push(at, sampled(other, 1, at, tail));
    }
    push(4_000, sampled(other, 1, 3_000, 9));
    events.sort_by_key(|(at, _)| *at);
    let page = html(&folder_of(events).1);
    for part in [
        "class=\"curve c1\"",
        "<title>o&lt;ther</title>",
        "class=\"legend c0\"",
        "class=\"legend c1\"",
        ">o&lt;ther</text>",
        "40.0 ms, o&lt;ther</title>",
        "class=\"vm\"",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(!page.contains("o<ther"));
}

#[test]
fn a_long_run_is_shown_minute_by_minute() {
    let (_directory, folder) = folder(600_000);
    let page = html(&folder);
    assert_eq!(page.matches("<svg").count(), 1 + 10, "all of it, and each minute");
    assert!(page.contains(">5:00</text>"), "minutes are counted");
}

#[test]
fn what_is_no_run_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let error = RunFolder::read(directory.path()).unwrap_err();
    assert!(error.to_string().contains("is this the directory of a run?"), "{error}");
    std::fs::write(directory.path().join("manifest.json"), "{}").unwrap();
    assert!(RunFolder::read(directory.path()).unwrap_err().to_string().contains("is not what a run leaves"));
}

#[test]
fn files_of_a_run_that_were_damaged_are_told_or_refused() {
    use rand::{RngExt as _, SeedableRng as _};
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
    let path = directory.path().join("events.jsonl");
    let mut log = EventLog::create(&path, START).unwrap();
    for (at, what) in events(3_000) {
        log.append(&Event { at: START + ft_protocol::Span::from_ms(at), what }).unwrap();
    }
    let whole =
        [("manifest.json", serde_json::to_vec(&manifest()).unwrap()), ("events.jsonl", std::fs::read(&path).unwrap())];
    let (mut random, mut read) = (rand_chacha::ChaCha8Rng::seed_from_u64(6), 0);
    let numbers = ["18446744073709551615", "0", "-1", "9223372036854775808", "65535", "1e300"];
    for _ in 0..400 {
        for (name, bytes) in &whole {
            let mut text = bytes.clone();
            for _ in 0..random.random_range(1..4) {
                let mut at = random.random_range(0..text.len());
                if random.random_range(0..20) == 0 {
                    text[at] = random.random();
                    continue;
                }
                // What has other numbers is still JSON.
                at = (0..at).rev().find(|at| text[*at].is_ascii_digit()).unwrap_or(at);
                while at > 0 && text[at - 1].is_ascii_digit() {
                    at -= 1;
                }
                let digits = text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                text.splice(at..at + digits, numbers[random.random_range(0..numbers.len())].bytes());
            }
            write(name, &text);
        }
        if let Ok(folder) = RunFolder::read(directory.path()) {
            read += 1;
            assert!(!explain(&folder).is_empty() && html::html(&folder).ends_with("</html>\n"));
        }
    }
    assert!(read > 20, "only {read} could be read at all");
}

/// Found by an acceptance review: a switchover was told in the words of a takeover, and its end as that of another change.
#[test]
fn a_switchover_is_told_as_one() {
    let mut events = events(100);
    let at_death = events.iter().position(|(at, _)| *at == 10).unwrap();
    let generation = Generation::new(1);
    let yielded = What::Happened(Happening::Yielded { vm: VM, generation });
    events.splice(at_death..at_death + 2, [(10, yielded)]);
    let (_directory, folder) = folder_of(events);
    let text = explain(&folder);
    let told = text.lines().find(|line| line.contains("end of generation 1")).unwrap();
    let expected = "vm guest, end of generation 1 on host a: a switchover; sealed after 2.00 ms at epoch 3; the guest runs on host b after \
                    5.00 ms; its first console output came after 30.0 ms; it was not protected again before the end.";
    assert_eq!(told, expected);
}
