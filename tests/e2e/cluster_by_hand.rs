//! `ftvm pool`, `ftvm host` and `ftvm status` without `ftvm run`.

use crate::support::{ByHand, Place, Running, await_true, kvm};
use nix::sys::signal::Signal;

fn start_pool(place: &Place, socket: &str) -> Running {
    let dir = place.pool().join("pool");
    let pool = place.start(&["pool", "--socket", socket, "--dir", dir.to_str().unwrap()]);
    await_true("the controller", || place.run(&["status", "--pool", socket]).code == Some(0));
    pool
}

#[test]
fn a_cluster_is_started_looked_at_and_ended() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let pool = start_pool(&place, "sock");
    let status = place.run(&["status", "--pool", "sock"]).ok();
    assert_eq!(status.stdout, b"no hosts, no VMs\n");

    let hosts = ["one", "two"].map(|id| place.start(&["host", "--id", id, "--pool", "sock"]));
    await_true("both hosts", || {
        let status = place.run(&["status", "--pool", "sock"]).ok();
        let text = String::from_utf8(status.stdout).expect("text");
        text.contains("host one  up") && text.contains("host two  up")
    });
    let json = place.run(&["status", "--pool", "sock", "--json"]).ok();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["hosts"].as_array().map(Vec::len), Some(2));

    let twin = place.run(&["host", "--id", "one", "--pool", "sock"]);
    assert!(twin.one_line(75).contains("choose another --id"), "{twin:?}");
    let nameless = place.run(&["host", "--id", "Not A Name", "--pool", "sock"]);
    assert!(nameless.one_line(77).contains("bad host name"), "{nameless:?}");

    for host in hosts {
        host.signal(Signal::SIGTERM);
        assert_eq!(host.end().code, Some(0));
    }
    pool.signal(Signal::SIGTERM);
    assert_eq!(pool.end().code, Some(0));
    assert!(!place.file("sock").exists(), "the socket is gone");
    assert!(place.pool().join("pool").join("superblock").exists(), "the pool stays");
}

#[test]
fn a_second_controller_is_refused() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let pool = start_pool(&place, "sock");
    let dir = place.pool().join("pool");
    let other = place.pool().join("other");
    let same_socket = place.run(&["pool", "--socket", "sock", "--dir", other.to_str().unwrap()]);
    assert!(same_socket.one_line(75).contains("socket sock is in use"), "{same_socket:?}");
    let same_pool = place.run(&["pool", "--socket", "sock2", "--dir", dir.to_str().unwrap()]);
    assert!(same_pool.one_line(75).contains("is in use by another controller"), "{same_pool:?}");
    // The first one is none the worse for it.
    place.run(&["status", "--pool", "sock"]).ok();
    pool.signal(Signal::SIGTERM);
    assert_eq!(pool.end().code, Some(0));
}

/// One of two that are started at once over a dead controller's socket gets the pool. What the other one does must not
/// matter to who comes to the first.
#[test]
fn a_controller_whose_socket_is_gone_makes_it_anew() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let pool = start_pool(&place, "sock");
    let dir = place.pool().join("pool");
    let one = place.start(&["host", "--id", "one", "--pool", "sock"]);
    let is_up = |id: &str| {
        let status = place.run(&["status", "--pool", "sock"]);
        String::from_utf8_lossy(&status.stdout).contains(&format!("host {id}  up"))
    };
    await_true("the first host", || is_up("one"));
    std::fs::remove_file(place.file("sock")).unwrap();
    let loser = place.run(&["pool", "--socket", "sock", "--dir", dir.to_str().unwrap()]);
    loser.one_line(75);
    await_true("a new socket", || place.run(&["status", "--pool", "sock"]).code == Some(0));
    assert!(is_up("one"), "whoever was connected has noticed nothing");
    let two = place.start(&["host", "--id", "two", "--pool", "sock"]);
    await_true("the second host", || is_up("two"));
    // Nor does it take away what is not its own any more.
    std::fs::remove_file(place.file("sock")).unwrap();
    std::fs::write(place.file("sock"), "not a socket").unwrap();
    for running in [one, two, pool] {
        running.signal(Signal::SIGTERM);
        assert_eq!(running.end().code, Some(0));
    }
    assert_eq!(std::fs::read_to_string(place.file("sock")).unwrap(), "not a socket");
}

#[test]
fn what_is_no_pool_is_refused() {
    let place = Place::new();
    std::fs::write(place.pool().join("letter"), "dear reader").unwrap();
    let ended = place.run(&["pool", "--socket", "sock", "--dir", place.pool().to_str().unwrap()]);
    assert!(ended.one_line(73).contains("is not empty"), "{ended:?}");
    assert_eq!(std::fs::read_to_string(place.pool().join("letter")).unwrap(), "dear reader");
    let file = place.write("socket-taken", "not a socket");
    let ended = place.run(&["pool", "--socket", file.to_str().unwrap(), "--dir", "pool"]);
    ended.one_line(75);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "not a socket", "a file of the user's is not replaced");
}

/// Whether it died before the VM was registered or behind it, before it could say so: who asked for the VM waits for the next
/// controller, and there is one VM in the end.
#[test]
fn a_controller_that_dies_while_a_vm_is_made_is_waited_for() {
    let Some(_machine) = kvm() else { return };
    // Two hosts have joined before.
    for (failpoint, detach) in [("persisting", false), ("persisted", false), ("persisting", true), ("persisted", true)]
    {
        let mut cluster = ByHand::start_armed(&["a", "b"], &format!("controller.state.{failpoint}=kill@3"));
        let guest = ["--name", "g", "builtin:counter", "--", "--lines", "300"];
        let golden = cluster.golden(&guest[2..]);
        let how: &[&str] = if detach { &["run", "--detach", "--unread", "wait"] } else { &["run"] };
        let run = cluster.start_command(how, &guest);
        cluster.await_dead_pool();
        cluster.start_pool();
        let ended = run.end();
        assert_eq!(ended.code, Some(0), "{failpoint}: {ended:?}");
        if detach {
            assert_eq!(ended.stdout, b"g\n", "{failpoint}");
            assert_eq!(cluster.command(&["console", "g"], &[]).ok().stdout, golden, "{failpoint}");
        } else {
            assert_eq!(ended.stdout, golden, "{failpoint}");
        }
        assert_eq!(cluster.status()["vms"].as_array().map(Vec::len), Some(1), "{failpoint}");
    }
}
