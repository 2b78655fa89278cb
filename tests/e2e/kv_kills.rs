//! Clients of the guest `kv` while the hosts under it die, one after the other: no connection breaks, no acknowledged write is
//! lost, and what all clients saw together could have been shown by one store that nothing ever happened to.
//!
//! `FTVM_KV_KILLS` makes the runs longer: so many kills in each mode.

use crate::support::{
    PATIENCE, Place, Running, SegmentSwitch, await_some, await_true, connect, count_of, guest_at, kvm, read_events,
    signal,
};
use nix::sys::signal::Signal;
use scenarios::kv_load::{self, LoadPlan};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const KV_PORT: u16 = 7000;
const KILLS_DEFAULT: usize = 50;
/// Load between protection and the next kill: some hundred operations.
const LOAD_BETWEEN_KILLS: Duration = Duration::from_millis(200);

fn kills() -> usize {
    let text = std::env::var("FTVM_KV_KILLS").ok();
    text.map_or(KILLS_DEFAULT, |text| text.parse().expect("FTVM_KV_KILLS is a number"))
}

fn plan(seed: u64) -> LoadPlan {
    let answer_time_max = 2 * PATIENCE;
    LoadPlan { to: guest_at(KV_PORT), clients: 6, keys: 24, pause: Duration::from_millis(2), seed, answer_time_max }
}

/// A protected guest in a private cluster, whose events are followed.
struct Protected {
    run: Running,
    events: PathBuf,
}

impl Protected {
    fn start(place: &Place, mode: &str, options: &[&str]) -> Self {
        let events = place.file("events");
        let path = events.to_str().expect("a plain path").to_owned();
        // A loaded machine must not look like a hanging host: only the kills count here.
        let cluster = ["run", "--mode", mode, "--respawn", "--heartbeat-ms", "2000", "--events", &path];
        Self { run: place.start(&[&cluster[..], options].concat()), events }
    }

    fn events(&self) -> Vec<Value> {
        read_events(&self.events)
    }

    /// The host on which the guest runs, if it is protected there.
    fn protected_on(&self) -> Option<String> {
        let events = self.events();
        let last = |kind: &str| {
            let happened = |event: &Value| event["happened"].get(kind).cloned();
            events.iter().enumerate().rev().find_map(|(at, event)| Some((at, happened(event)?)))
        };
        let ((live_at, live), (protected_at, _)) = (last("live")?, last("protected")?);
        let is_protected = protected_at > live_at && last("unprotected").is_none_or(|(at, _)| at < protected_at);
        let mut joined = events.iter().rev().filter_map(|event| event["happened"].get("host-joined"));
        let name = joined.find(|joined| joined["host"] == live["host"])?["name"].as_str()?.to_owned();
        is_protected.then_some(name)
    }

    /// Kills the host that the guest runs on, and waits until another one has taken over.
    fn kill_primary(&self) {
        let primary = await_some("protection", || self.protected_on());
        std::thread::sleep(LOAD_BETWEEN_KILLS);
        let before = count_of(&self.events(), "live");
        let pid = await_some("the primary's process", || self.run.host(&primary));
        signal(pid, Signal::SIGKILL);
        await_true("the takeover", || count_of(&self.events(), "live") > before);
    }
}

fn survives_kills(mode: &str, seed: u64) {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let switch = SegmentSwitch::start(&place, &[]);
    let guest = Protected::start(&place, mode, &[&switch.option(), "builtin:kv"]);
    let host = switch.join();
    drop(connect(&host, KV_PORT));
    let (plan, is_over, kills) = (plan(seed), AtomicBool::new(false), kills());
    let load = std::thread::scope(|scope| {
        let load = scope.spawn(|| kv_load::run(&host, &plan, None, || is_over.load(Ordering::Relaxed)));
        for _ in 0..kills {
            // Clients that gave up have something to say.
            if !load.is_finished() {
                guest.kill_primary();
            }
        }
        std::thread::sleep(LOAD_BETWEEN_KILLS);
        is_over.store(true, Ordering::Relaxed);
        load.join().expect("clients do not panic")
    });
    let load = load.unwrap_or_else(|error| panic!("mode {mode}, seed {seed}: {}", vmm::chain(&error)));
    let report = serde_json::to_string(&load.report).expect("plain data");
    let checked = load.check().unwrap_or_else(|violation| panic!("mode {mode}, seed {seed}: {violation}; {report}"));
    eprintln!("mode {mode}, {kills} kills: {report}; {} operations in order", checked.operations);
    assert!(load.report.acknowledged_writes > 20 * kills as u64, "there was load: {report}");
    kv_load::stop(&host, &plan).expect("the guest is there");
    let diverged: Vec<_> =
        guest.events().into_iter().filter(|event| !event["happened"]["diverged"].is_null()).collect();
    assert!(diverged.is_empty(), "what it does is the same each time: {diverged:?}");
    let ended = guest.run.end().ok();
    let last = format!("after {} writes\n", load.sequence);
    assert!(ended.stdout.ends_with(last.as_bytes()), "{}", String::from_utf8_lossy(&ended.stdout));
}

#[test]
fn clients_of_kv_do_not_notice_kills_in_checkpoint_mode() {
    survives_kills("checkpoint", 1);
}

#[test]
fn clients_of_kv_do_not_notice_kills_in_replay_mode() {
    survives_kills("replay", 2);
}

#[test]
fn clients_of_kv_do_not_notice_kills_in_lockstep_mode() {
    survives_kills("lockstep", 3);
}

/// Nobody could tell a load that finds nothing from one that looks at nothing.
#[test]
fn a_store_that_forgets_is_found_out() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let switch = SegmentSwitch::start(&place, &[]);
    // The same address for both: clients remember it.
    let net = format!("{},mac=02:00:00:00:00:02", switch.option());
    let kv = || place.start(&["run", "--mode=none", &net, "builtin:kv"]);
    let first = kv();
    let host = switch.join();
    let plan = LoadPlan { answer_time_max: Duration::from_secs(2), ..plan(3) };
    drop(connect(&host, KV_PORT));
    let is_over = AtomicBool::new(false);
    let load = std::thread::scope(|scope| {
        let load = scope.spawn(|| kv_load::run(&host, &plan, None, || is_over.load(Ordering::Relaxed)));
        std::thread::sleep(LOAD_BETWEEN_KILLS);
        first.signal(Signal::SIGKILL);
        let second = kv();
        std::thread::sleep(10 * LOAD_BETWEEN_KILLS);
        is_over.store(true, Ordering::Relaxed);
        let load = load.join().expect("clients do not panic").expect("the second guest answers");
        kv_load::stop(&host, &plan).expect("it is there");
        second.end().ok();
        load
    });
    let violation = load.check().expect_err("the first guest's writes are gone");
    assert!(matches!(violation, kv_load::LoadViolation::Write(_)), "{violation}");
    assert!(load.report.resets + load.report.timeouts > 0, "{:?}", load.report);
}

#[test]
fn the_load_command_tells_what_it_saw() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let switch = SegmentSwitch::start(&place, &[]);
    let path = switch.path.to_str().expect("a plain path").to_owned();
    let load = |options: &[&str]| place.run(&[&["load", "kv", &path, "--time", "300ms"][..], options].concat());
    assert!(load(&["--answer-time", "300ms"]).one_line(75).contains("cannot connect"), "nobody is there");
    let guest = place.start(&["run", "--mode=none", &switch.option(), "builtin:kv", "--", "--port", "77"]);
    await_true("the guest", || guest.stdout().starts_with(b"kv at "));
    let history = place.file("history");
    let ended = load(&["--to", "10.0.0.2:77", "--stop", "--history", history.to_str().expect("a plain path")]).ok();
    let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    let answered = report["answered"].as_u64().expect("a number");
    assert!(answered > 0 && report["resets"] == 0, "{report}");
    let history = scenarios::history::read(&history).expect("a history");
    assert_eq!(history.len() as u64, answered);
    guest.end().ok();
}

/// The load was right by itself, and the history that it left was not.
#[test]
fn the_history_of_a_second_load_is_linearizable_by_itself() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let switch = SegmentSwitch::start(&place, &[]);
    let path = switch.path.to_str().expect("a plain path").to_owned();
    let guest = place.start(&["run", "--mode=none", &switch.option(), "builtin:kv"]);
    await_true("the guest", || guest.stdout().starts_with(b"kv at "));
    let load = |options: &[&str]| place.run(&[&["load", "kv", &path, "--time", "300ms"][..], options].concat()).ok();
    let histories = ["first", "second"].map(|name| place.file(name));
    let [first, second] = histories.each_ref().map(|path| path.to_str().expect("a plain path"));
    load(&["--history", first]);
    load(&["--history", second, "--stop"]);
    let [first, second] = histories.each_ref().map(|path| scenarios::history::read(path).expect("a history"));
    let checked = scenarios::history::check(&second, scenarios::history::Bounds::default());
    assert!(matches!(checked.verdict, scenarios::history::Verdict::Linearizable), "{:?}", checked.verdict);
    // The same seed asks for the same; what it writes must be told from what the first load wrote.
    let asked = |calls: &[scenarios::history::Call], until: ft_protocol::Time| -> BTreeSet<String> {
        let of_load = calls.iter().filter(|call| call.invoked >= until);
        let written = of_load.filter_map(|call| match &call.operation {
            scenarios::history::Operation::Set(value) => Some(value.clone()),
            _ => None,
        });
        written.collect()
    };
    let began = second.iter().filter_map(|call| call.returned.as_ref()).map(|(at, _)| *at).min().expect("answers");
    let common: Vec<String> =
        asked(&first, ft_protocol::Time::ZERO).intersection(&asked(&second, began)).cloned().collect();
    assert_eq!(common, Vec::<String>::new());
    guest.end().ok();
}
