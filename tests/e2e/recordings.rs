//! Guests that are recorded, and executed once more.

use crate::support::{ByHand, Place, Running, SegmentSwitch, await_true, connect, count_of, kvm, read_events, signal};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where kv listens.
const KV_PORT: u16 = 7000;
/// How long `kv` is recorded where somebody wants it long, in seconds.
const KV_SECONDS: &str = "FTVM_RECORD_KV_SECONDS";

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Replays to the end: the report, and the console.
fn replayed(place: &Place, recording: &Path, code: i32) -> (Value, Vec<u8>) {
    let with_console = place.run(&["replay", text(recording), "--print-console"]);
    assert_eq!(with_console.code, Some(code), "{}", with_console.stderr);
    let report = place.run(&["replay", text(recording), "--json"]);
    assert_eq!(report.code, Some(code), "{}", report.stderr);
    (serde_json::from_slice(&report.stdout).expect("the report is JSON"), with_console.stdout)
}

fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[test]
fn unprotected_guests_replay_as_they_were() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let guests: [&[&str]; 3] = [
        &["builtin:counter", "--", "--lines", "60", "--every-us", "50000"],
        &["builtin:torture", "--", "--steps", "60000000", "--progress", "1000000"],
        &["builtin:idle", "--", "--ticks", "25", "--tick-ms", "100"],
    ];
    for guest in guests {
        let file = place.file("recording");
        let options = ["run", "--mode=none", "--memory=16MiB", "--record", text(&file)];
        let ended = place.run(&[&options[..], guest].concat()).ok();
        let (report, console) = replayed(&place, &file, 0);
        assert!(console == ended.stdout, "{guest:?}: another console");
        assert_eq!((&report["why"], number(&report, "commits_taken")), (&"guest-ended".into(), 1), "{report}");
        assert!(number(&report, "commits_verified") >= 1, "{report}");

        // Any exit, twice, is the same moment.
        let half = (number(&report, "exit") / 2).to_string();
        let memory = |name: &str| {
            let dump = place.file(name);
            let arguments = ["replay", text(&file), "--to-exit", &half, "--json", "--dump-memory", text(&dump)];
            let report = place.run(&arguments).ok().stdout;
            (serde_json::from_slice::<Value>(&report).expect("JSON"), std::fs::read(dump).expect("dumped"))
        };
        let ((one, one_memory), (other, other_memory)) = (memory("one"), memory("other"));
        assert!(one == other && one_memory == other_memory, "{one} {other}");
        assert_eq!((one["exit"].to_string(), one_memory.len()), (half, 16 << 20));
    }
}

#[test]
fn what_cannot_be_replayed_is_named() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let file = place.file("recording");
    let guest = ["builtin:counter", "--", "--lines", "40", "--every-us", "50000"];
    let options = ["run", "--mode=none", "--memory=4MiB", "--record", text(&file)];
    place.run(&[&options[..], &guest].concat()).ok();
    let bytes = std::fs::read(&file).expect("a recording");

    assert!(place.run(&["replay", text(&file), "--to-exit", "99999999"]).one_line(66).contains("goes from"));
    assert!(place.run(&["replay", text(&file), "--to-epoch", "9999"]).one_line(66).contains("goes from"));
    assert!(place.run(&["replay", text(&place.file("nowhere"))]).one_line(66).contains("nowhere"));
    let pipe = place.file("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe can be made");
    for no_file in [std::path::Path::new("."), &pipe] {
        assert!(place.run(&["replay", text(no_file)]).one_line(66).contains("not a regular file"));
    }
    for mode in ["none", "replay"] {
        let run = ["run", "--no-input", "--mode", mode, "--record", text(&pipe), guest[0]];
        assert!(place.run(&run).one_line(74).contains("not a regular file"), "{mode}");
    }
    let run = place.run(&["run", "--no-input", "--events", text(&pipe), guest[0]]);
    assert!(run.one_line(74).contains("nobody reads this pipe"), "{run:?}");
    let other = place.write("other", "something else");
    assert!(place.run(&["replay", text(&other)]).one_line(85).contains("not a recording"));
    let mut without_kvm = place.ftvm(&["replay", text(&file)]);
    without_kvm.env("FTVM_KVM_DEVICE", "/nowhere/kvm");
    assert!(place.start_command(without_kvm).end().one_line(69).contains("/nowhere/kvm"));
    let not_logged = ["run", "--mode=checkpoint", "--record", text(&file), guest[0]];
    assert!(place.run(&not_logged).one_line(2).contains("--mode"));
    assert!(place.run(&["run", "--mode=none", "--record", "/nowhere/x", guest[0]]).one_line(74).contains("/nowhere/x"));
    assert!(
        place.run(&["run", "--mode=replay", "--record", "/nowhere/x", guest[0]]).one_line(74).contains("/nowhere/x")
    );

    std::fs::write(&file, &bytes[..bytes.len() - 100]).expect("cut off");
    let (report, _) = replayed(&place, &file, 85);
    assert_eq!(report["why"], "damaged", "{report}");
    assert!(number(&report, "exit") > 0);
    let mut flipped = bytes.clone();
    let at = bytes.len() * 3 / 4;
    flipped[at] ^= 4;
    std::fs::write(&file, &flipped).expect("damaged");
    let (report, _) = replayed(&place, &file, 85);
    assert!(number(&report, "good_bytes") <= at as u64, "{report}");
}

/// A protected guest, recorded over kills of its hosts and of the controller.
#[test]
fn a_recording_goes_on_over_takeovers_and_controllers() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let guest = ["builtin:torture", "--", "--steps", "400000000", "--progress", "200000"];
    let (run, file, events) = start_recorded(&place, &guest);
    for takeover in 0..3 {
        await_true("protection", || count_of(&read_events(&events), "protected") > takeover);
        let live = count_of(&read_events(&events), "live");
        signal(primary(&run, &events), Signal::SIGKILL);
        await_true("the takeover", || count_of(&read_events(&events), "live") > live);
        if takeover == 1 {
            signal(run.controller().expect("a controller"), Signal::SIGKILL);
        }
    }
    let ended = run.end().ok();
    let (report, console) = replayed(&place, &file, 0);
    assert!(console == ended.stdout, "another console");
    assert_eq!(report["why"], "guest-ended", "{report}");
    assert!(number(&report, "commits_verified") >= 3, "{report}");
    assert_eq!(place.leftovers(), Vec::<PathBuf>::new());
    // Cut off in its last commit: the replay comes to the guest's end, but the recording does not say so.
    let bytes = std::fs::read(&file).expect("a recording");
    std::fs::write(&file, &bytes[..bytes.len() - 150]).expect("cut off");
    let (report, console) = replayed(&place, &file, 85);
    assert_eq!(report["why"], "damaged", "{report}");
    assert!(ended.stdout.starts_with(&console), "another console");
}

/// How a VM is protected changes in its life: the next controller finds its recording nevertheless.
#[test]
fn a_recording_goes_on_over_a_mode_that_changed() {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&[]);
    cluster.kill_pool();
    let file = cluster.place.file("recording");
    let record = format!("g={}", file.display());
    cluster.start_pool_with(&["--record", &record], "");
    ["a", "b"].into_iter().for_each(|host| cluster.start_host(host));
    let guest = ["builtin:torture", "--", "--steps", "600000000", "--progress", "200000"];
    let run = cluster.start_command(&["run", "--name", "g", "--mode", "replay"], &guest);
    for mode in ["checkpoint", "replay"] {
        cluster.await_vm("g", "protection", |vm| vm["secondary"] != Value::Null);
        cluster.command(&["mode"], &["g", mode]).ok();
        cluster.kill_pool();
        cluster.start_pool_with(&["--record", &record], "");
    }
    let ended = run.end().ok();
    let (report, console) = replayed(&cluster.place, &file, 0);
    assert!(console == ended.stdout, "another console");
    assert_eq!(report["why"], "guest-ended", "{report}");
}

/// A disk with a first content, recorded over takeovers: what the guest reads of it, and what it wrote at each commit.
#[test]
fn a_recorded_disk_is_replayed_from_its_first_content() {
    const STEPS: &str = "2500";
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let image = place.file("disk.img");
    let disk = format!("--disk={},size=512KiB", image.display());
    // What an earlier guest with the same seed has left, its successor finds as it is to be.
    let disk_guest = |steps| ["builtin:disk", "--", "--seed", "5", "--flush-every", "16", "--steps", steps];
    place.run(&[&["run", "--mode=none", &disk][..], &disk_guest("300")].concat()).ok();
    let before = std::fs::read(&image).expect("the disk");
    assert!(before.iter().any(|byte| *byte != 0));
    let guest = [&[disk.as_str()][..], &disk_guest(STEPS), &["--every-us", "3000"]].concat();
    let (run, file, events) = start_recorded(&place, &guest);
    for takeover in 0..2 {
        await_true("protection", || count_of(&read_events(&events), "protected") > takeover);
        let live = count_of(&read_events(&events), "live");
        signal(primary(&run, &events), Signal::SIGKILL);
        await_true("the takeover", || count_of(&read_events(&events), "live") > live);
    }
    let ended = run.end().ok();
    let (report, console) = replayed(&place, &file, 0);
    assert!(console == ended.stdout, "another console");
    assert_eq!(report["why"], "guest-ended", "{report}");
    assert!(number(&report, "commits_verified") >= 2, "{report}");
}

/// Begins to run and to record a guest in replay mode.
fn start_recorded(place: &Place, guest: &[&str]) -> (Running, PathBuf, PathBuf) {
    let (file, events) = (place.file("recording"), place.file("events"));
    let options = ["run", "--mode=replay", "--respawn", "--memory=16MiB", "--epoch-ms=300", "--heartbeat-ms=2000"];
    let files = ["--record", text(&file), "--events", text(&events)];
    let run = place.start(&[&options[..], &files[..], guest].concat());
    (run, file, events)
}

/// The process of the host that the last event of its kind says is live.
fn primary(run: &Running, events: &Path) -> u32 {
    crate::support::await_some("a live primary", || {
        let events = read_events(events);
        let live = events.iter().rev().find_map(|event| event["happened"].get("live"))?;
        let host = live["host"].as_u64()?;
        let joined = |event: &Value| {
            let joined = event["happened"].get("host-joined")?;
            (joined["host"].as_u64() == Some(host)).then(|| joined["name"].as_str().map(str::to_owned))?
        };
        run.host(&events.iter().find_map(joined)?)
    })
}

/// A guest that is not deterministic: found out by a takeover, it goes on in checkpoint mode, recorded.
#[test]
fn a_rebel_is_found_out_and_goes_on() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let (run, file, events) = start_recorded(&place, &["builtin:rebel", "--", "--lines", "400", "--every-us", "10000"]);
    await_true("protection", || count_of(&read_events(&events), "protected") > 0);
    await_true("output under protection", || run.stdout().len() > 2000);
    signal(primary(&run, &events), Signal::SIGKILL);
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("diverged at exit"), "it is said aloud: {}", ended.stderr);
    let events = read_events(&events);
    assert_eq!(count_of(&events, "diverged"), 1);
    let report = events.iter().find_map(|event| event["happened"].get("diverged")).expect("counted");
    let line = report["report"].as_str().expect("a line");
    assert!(line.contains("expected") && line.contains("got"), "{line}");
    assert!(line.contains("executed twice more from") && line.contains("not deterministic"), "{line}");
    assert!(line.contains("of page 0x"), "it is told in what: {line}");
    // Nothing that had left is said again: its lines are all of one length.
    let text = String::from_utf8_lossy(&ended.stdout);
    let numbers: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("line ")?.get(..6)).collect();
    let expected: Vec<_> = (1..=400).map(|line| format!("{line:06}")).collect();
    assert_eq!(numbers, expected, "each line once, in order");
    // The recording is whole; executed once more, such a guest diverges again.
    let (report, _) = replayed(&place, &file, 80);
    assert_eq!(report["why"], "diverged", "{report}");
}

/// The store, under load, recorded for a while.
#[test]
fn a_recorded_store_replays_to_the_same_memory_at_every_commit() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let seconds = std::env::var(KV_SECONDS).unwrap_or_else(|_| "4".to_owned());
    let file = place.file("recording");
    let switch = SegmentSwitch::start(&place, &[]);
    let options = ["run", "--mode=none", "--record", text(&file), &switch.option(), "builtin:kv"];
    let guest = place.start(&options);
    drop(connect(&switch.join(), KV_PORT));
    let time = format!("{seconds}s");
    place.run(&["load", "kv", text(&switch.path), "--time", &time]).ok();
    guest.signal(Signal::SIGTERM);
    guest.end();
    // Whoever recorded was killed: the recording is good to its last commit, at least.
    let (report, _) = replayed(&place, &file, 85);
    let wanted = seconds.parse::<u64>().expect("a number of seconds");
    assert!(number(&report, "commits_verified") >= wanted, "{report}");
    eprintln!("{seconds} s of kv: {report}");
}

/// Packets that come while an epoch is committed are taken behind the commit, at whatever exit the guest stood.
#[test]
fn a_protected_store_under_load_replays_as_it_was() {
    let Some(_machine) = kvm() else { return };
    for mode in ["replay", "lockstep"] {
        let place = Place::new();
        let file = place.file("recording");
        let switch = SegmentSwitch::start(&place, &[]);
        let options = ["run", "--mode", mode, "--heartbeat-ms=2000", "--record", text(&file), &switch.option()];
        let run = place.start(&[&options[..], &["builtin:kv"]].concat());
        drop(connect(&switch.join(), KV_PORT));
        place.run(&["load", "kv", text(&switch.path), "--clients", "4", "--time", "6s", "--stop"]).ok();
        run.end().ok();
        let (report, _) = replayed(&place, &file, 0);
        assert_eq!(report["why"], "guest-ended", "{report}");
        assert!(number(&report, "commits_verified") >= 3, "{report}");
    }
}
