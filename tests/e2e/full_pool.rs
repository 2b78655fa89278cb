//! A pool without space: at the start, and while a guest runs.

use crate::support::{Mounted, Place, await_true, count_of, kvm, read_events};
use std::os::unix::fs::MetadataExt as _;

/// What a guest writes at once, so that its record spills even if it is cut into a few.
const TOUCHED_MIB: u64 = 12;
/// What a journal has of its own, whatever is in it: four slots of 2 MiB.
const RESERVED_MIB: u64 = 8;
/// Plenty beside that, so that space is kept.
const LARGE_POOL_MIB: u64 = 768;

/// Runs a guest in a pool of so many MiB, and expects one line that says these things, and that nothing is left.
fn is_refused(pool_mib: u64, guest: &[&str], said: &[&str]) {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let Some(tmpfs) = Mounted::tmpfs(&place, pool_mib) else { return };
    let ended = place.run(&[&["run", "--pool-dir", tmpfs.text()], guest].concat());
    let line = ended.one_line(73);
    assert!(said.iter().all(|part| line.contains(part)), "{line}");
    assert_eq!(std::fs::read_dir(tmpfs.path()).expect("it is mounted").count(), 0, "nothing is left");
}

#[test]
fn a_pool_that_does_not_fit_is_refused_at_the_start() {
    // It says what to do.
    is_refused(1, &["builtin:counter"], &["--pool-dir"]);
}

#[test]
fn a_guest_that_does_not_fit_is_refused_at_the_start() {
    is_refused(64, &["--memory", "256MiB", "builtin:counter"], &["the pool cannot hold the VM", "bytes"]);
}

/// As much as the VM needs, but no large record beside what its slots have.
const TIGHT_POOL_MIB: u64 = 44;
/// And with that.
const ENOUGH_POOL_MIB: u64 = 50;

#[test]
fn a_guest_whose_largest_record_the_pool_could_not_hold_is_refused_at_the_start() {
    is_refused(TIGHT_POOL_MIB, &["--memory", "16MiB", "builtin:torture"], &["the largest commit record", "bytes"]);
}

/// A guest that dirties all its memory in each epoch gets on in a pool that has space for one such record only, also over a
/// takeover.
#[test]
fn a_guest_alone_in_a_pool_just_large_enough_never_stands_still_for_ever() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let Some(tmpfs) = Mounted::tmpfs(&place, ENOUGH_POOL_MIB) else { return };
    let guest = ["builtin:torture", "--", "--steps", "600000000", "--progress", "50000000"];
    let memory = ["--memory", "16MiB"];
    let golden = place.run(&[&["run", "--mode", "none"][..], &memory[..], &guest[..]].concat()).ok();
    let events = place.file("events");
    let options = ["run", "--pool-dir", tmpfs.text(), "--epoch-ms", "1000", "--respawn"];
    let more = ["--heartbeat-ms", "2000", "--events", events.to_str().unwrap()];
    let run = place.start(&[&options[..], &more[..], &memory[..], &guest[..]].concat());
    await_true("protection", || count_of(&read_events(&events), "protected") == 1);
    crate::support::signal(run.host("a").expect("it lives"), nix::sys::signal::Signal::SIGKILL);
    await_true("a takeover", || count_of(&read_events(&events), "live") >= 2);
    await_true("a new secondary", || count_of(&read_events(&events), "protected") >= 2);
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout, golden.stdout, "the console is exact");
}

/// A guest whose record finds no space, because others than VMs took what was kept for it, stands still, says so everywhere,
/// and goes on by itself.
#[test]
fn a_guest_that_waits_for_space_says_so_in_status_events_and_on_standard_error() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let Some(tmpfs) = Mounted::tmpfs(&place, 128) else { return };
    // Larger in one epoch than what a slot has reserved.
    let guest = ["builtin:torture", "--", "--steps", "400000000", "--progress", "2000000"];
    let memory = ["--memory", "32MiB"];
    let golden = place.run(&[&["run", "--mode", "none"][..], &memory[..], &guest[..]].concat()).ok();

    let events = place.file("events");
    let pool = tmpfs.path().join("pool");
    let options = ["pool", "--socket", "sock", "--heartbeat-ms", "2000", "--dir", pool.to_str().unwrap()];
    let controller = place.start(&options);
    await_true("the controller", || place.run(&["status", "--pool", "sock"]).code == Some(0));
    let hosts = ["a", "b"].map(|host| place.start(&["host", "--id", host, "--pool", "sock"]));
    let options = ["run", "--pool", "sock", "--epoch-ms", "200", "--rm", "--events", events.to_str().unwrap()];
    let run = place.start(&[&options[..], &memory[..], &guest[..]].concat());
    await_true("protection", || count_of(&read_events(&events), "protected") == 1);
    let mut filler = tmpfs.fill();
    await_true("a full pool", || {
        // What the controller holds is taken from it.
        let reserve = std::fs::OpenOptions::new().write(true).open(pool.join("reserve")).expect("it is there");
        reserve.set_len(0).expect("it is writable");
        filler = tmpfs.fill();
        count_of(&read_events(&events), "pool-full") >= 1
    });
    await_true("its status", || {
        let status = place.run(&["status", "--pool", "sock"]).ok().stdout;
        String::from_utf8_lossy(&status).contains("waits: the pool has no space for the commit record of epoch ")
    });
    std::fs::remove_file(filler).expect("the filler is there");
    await_true("space again", || count_of(&read_events(&events), "space-again") >= 1);
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout, golden.stdout, "the console is exact");
    for line in ["the guest stands still: the pool has no space", "the pool has space again; the guest goes on after"] {
        assert!(ended.stderr.contains(line), "{ended:?}");
    }
    assert_eq!(count_of(&read_events(&events), "sealed"), 0, "waiting is no failure");
    drop((hosts, controller));
}

/// Two guests stand still at the same time. The pool gets space for one record only: they take turns, and both come to their
/// ends.
#[test]
fn two_guests_that_wait_for_space_at_the_same_time_both_get_on() {
    /// Of a guest of 16 MiB, beside what a slot has; and a little for what else is to be written.
    const ONE_RECORD_MIB: u64 = 20;
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let Some(tmpfs) = Mounted::tmpfs(&place, 256) else { return };
    let memory = ["--memory", "16MiB"];
    let guests = ["3", "7"]
        .map(|seed| ["builtin:torture", "--", "--steps", "400000000", "--progress", "5000000", "--seed", seed]);
    let golden = guests.map(|guest| place.run(&[&["run", "--mode", "none"][..], &memory, &guest].concat()).ok().stdout);
    let pool = tmpfs.path().join("pool");
    let controller =
        place.start(&["pool", "--socket", "sock", "--heartbeat-ms", "2000", "--dir", pool.to_str().unwrap()]);
    await_true("the controller", || place.run(&["status", "--pool", "sock"]).code == Some(0));
    let hosts = ["a", "b"].map(|host| place.start(&["host", "--id", host, "--pool", "sock"]));
    let events = ["one", "two"].map(|name| place.file(name));
    let runs = [0, 1].map(|vm| {
        let options = ["run", "--pool", "sock", "--epoch-ms", "200", "--name", ["one", "two"][vm]];
        place.start(&[&options[..], &["--events", events[vm].to_str().unwrap()], &memory, &guests[vm]].concat())
    });
    let told = |what: &str| events.each_ref().map(|events| count_of(&read_events(events), what));
    await_true("protection of both", || told("protected").iter().all(|count| *count >= 1));
    let mut filler = tmpfs.fill();
    // That of a guest that was given space at once is not told.
    let stand_still =
        || told("pool-full").into_iter().zip(told("space-again")).filter(|(full, again)| full > again).count();
    await_true("two guests that stand still", || {
        // What the controller holds is taken from it, and what the one has not found the other has not either.
        let reserve = std::fs::OpenOptions::new().write(true).open(pool.join("reserve")).expect("it is there");
        reserve.set_len(0).expect("it is writable");
        filler = tmpfs.fill();
        stand_still() == 2
    });
    let filler = std::fs::OpenOptions::new().write(true).open(filler).expect("it is there");
    let left = filler.metadata().expect("it is there").len() - (ONE_RECORD_MIB << 20);
    filler.set_len(left).expect("it is writable");
    await_true("space for both", || told("space-again").iter().all(|count| *count >= 1));
    for ((run, golden), name) in runs.into_iter().zip(golden).zip(["one", "two"]) {
        let ended = run.end();
        assert_eq!(ended.code, Some(0), "{name}: {ended:?}");
        assert!(ended.stdout == golden, "{name}: the console is not exact");
    }
    assert_eq!(told("sealed"), [0, 0], "waiting is no failure");
    drop((hosts, controller));
}

/// What an idle guest's journal keeps for its next large record goes back when others have filled the pool.
#[test]
fn an_idle_guest_keeps_no_space_that_others_need() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let Some(tmpfs) = Mounted::tmpfs(&place, LARGE_POOL_MIB) else { return };
    let pool = tmpfs.path().join("pool");
    let controller =
        place.start(&["pool", "--socket", "sock", "--heartbeat-ms", "2000", "--dir", pool.to_str().unwrap()]);
    await_true("the controller", || place.run(&["status", "--pool", "sock"]).code == Some(0));
    let hosts = ["a", "b"].map(|host| place.start(&["host", "--id", host, "--pool", "sock"]));
    let touch = (TOUCHED_MIB * 1024).to_string();
    let guest = ["builtin:idle", "--", "--ticks", "1000", "--tick-ms", "3600000", "--touch-kib", &touch];
    place
        .run(&[&["run", "--pool", "sock", "--name", "g", "--detach", "--memory", "64MiB"][..], &guest[..]].concat())
        .ok();

    let journal = pool.join("vm-0/journal.1");
    let taken_mib = || std::fs::metadata(&journal).map_or(0, |metadata| (metadata.blocks() * 512) >> 20);
    let at_rest = || {
        let report = place.run(&["pool", "inspect", "--json", pool.to_str().unwrap()]).stdout;
        let report: serde_json::Value = serde_json::from_slice(&report).expect("JSON");
        let vm = &report["vms"][0];
        let committed = vm["journals"][0]["committed"].as_u64().unwrap_or(0);
        committed > 1 && vm["control"]["freed"].as_u64() == Some(committed)
    };
    await_true("a large record that is applied, and its space", || at_rest() && taken_mib() > RESERVED_MIB);
    let filler = tmpfs.fill();
    await_true("the space to be given back", || taken_mib() <= RESERVED_MIB);
    std::fs::remove_file(filler).expect("the filler is there");
    drop((hosts, controller));
}

/// Without space for a large commit record, or for the next generation's journal, the guest waits; it loses nothing.
#[test]
fn a_pool_that_becomes_full_costs_time_but_no_byte() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let Some(tmpfs) = Mounted::tmpfs(&place, 128) else { return };
    let guest = ["builtin:torture", "--", "--steps", "400000000", "--progress", "2000000"];
    let memory = ["--memory", "32MiB"];
    let golden = place.run(&[&["run", "--mode", "none"][..], &memory[..], &guest[..]].concat()).ok();

    let events = place.file("events");
    let options = ["run", "--pool-dir", tmpfs.text(), "--epoch-ms", "200", "--respawn"];
    let more = ["--heartbeat-ms", "2000", "--events", events.to_str().unwrap()];
    let run = place.start(&[&options[..], &more[..], &memory[..], &guest[..]].concat());
    await_true("protection", || count_of(&read_events(&events), "protected") == 1);
    let filler = tmpfs.fill();
    let primary = run.host("a").expect("it lives");
    crate::support::signal(primary, nix::sys::signal::Signal::SIGKILL);
    await_true("the death of the primary's host", || count_of(&read_events(&events), "host-down") >= 1);
    std::fs::remove_file(filler).expect("the filler is there");
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout, golden.stdout, "the console is exact");
    assert!(count_of(&read_events(&events), "live") >= 2, "there was a takeover");
}

/// On a device every journal has all of its space from the start, in one piece that does not begin where another one has
/// begun. A guest is taken where there is room for those to come, and then outlives one host after the other.
#[test]
fn a_device_takes_only_guests_for_which_it_has_room_after_every_failure() {
    const KILLS: usize = 6;
    const HOSTS: [&str; 3] = ["a", "b", "c"];
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let on_device_of = |mib: u64| {
        let device = place.pool().join(format!("device-{mib}"));
        std::fs::File::create(&device).and_then(|file| file.set_len(mib << 20)).expect("there is room");
        let dir = device.to_str().expect("a plain path");
        let pool = place.start(&["pool", "--socket", "sock", "--heartbeat-ms", "2000", "--dir", dir]);
        await_true("the controller", || place.run(&["status", "--pool", "sock"]).code == Some(0));
        pool
    };
    let guest = ["--memory", "16MiB", "builtin:torture", "--", "--steps", "600000000", "--progress", "50000000"];
    // For its own journal and one more, but for no third.
    let small = on_device_of(190);
    let refused = place.run(&[&["run", "--pool", "sock"][..], &guest].concat());
    let line = refused.one_line(73);
    assert!(line.contains("room for all journals to come needs") && line.contains("bytes"), "{line}");
    crate::support::signal(small.pid(), nix::sys::signal::Signal::SIGTERM);
    small.end().ok();

    let golden = place.run(&[&["run", "--mode", "none"][..], &guest].concat()).ok();
    let _pool = on_device_of(260);
    let start = |name: &str| place.start(&["host", "--id", name, "--pool", "sock"]);
    let mut hosts = HOSTS.map(start);
    let events = place.file("events");
    let run = place.start(&[&["run", "--pool", "sock", "--events", events.to_str().unwrap()][..], &guest].concat());
    for kill in 1..=KILLS {
        let has_ended = || count_of(&read_events(&events), "ended") > 0;
        await_true("protection, or the end", || count_of(&read_events(&events), "protected") >= kill || has_ended());
        if has_ended() {
            break;
        }
        let happened = read_events(&events);
        let host = happened.iter().rev().find_map(|event| event["happened"]["live"]["host"].as_u64());
        let joined = |event: &&serde_json::Value| event["happened"]["host-joined"]["host"].as_u64() == host;
        let name =
            happened.iter().rev().find(joined).and_then(|event| event["happened"]["host-joined"]["name"].as_str());
        let index = HOSTS.iter().position(|host| Some(*host) == name).expect("it runs on one of them");
        crate::support::signal(hosts[index].pid(), nix::sys::signal::Signal::SIGKILL);
        let dead = std::mem::replace(&mut hosts[index], start(HOSTS[index]));
        assert_eq!(dead.end().code, None, "it was killed");
        await_true("a takeover, or the end", || count_of(&read_events(&events), "live") > kill || has_ended());
    }
    assert_eq!(run.end().ok().stdout, golden.stdout, "each byte once");
    assert!(count_of(&read_events(&events), "live") > 3, "too few hosts died for this to mean anything");
}
