//! One controller among several: elected by a lease in etcd, and followed by hosts and clients when it changes.

use crate::support::{Ended, Etcd, Place, Running, await_some, await_true, is_stopped, kvm, signal};
use nix::sys::signal::Signal;
use vmm::membership::Registry;

const FILE: &str = "cluster.toml";
/// Longer than a process waits for its turn on a machine that has much to do.
const LEASE: &str = "10";
/// Longer than anything takes here.
const LONG_LEASE: &str = "600";

/// A cluster's etcd, its file, and controllers that could be its own.
struct Cluster {
    place: Place,
    etcd: Etcd,
    registry: Registry,
}

impl Cluster {
    fn start() -> Option<Self> {
        let etcd = Etcd::start()?;
        let place = Place::new();
        place.write(FILE, format!("[etcd]\nendpoints = [\"{}\"]\ncluster = \"prod\"\n", etcd.endpoint()));
        let registry = Registry::parse(&etcd.endpoint(), "prod").expect("an endpoint and a name");
        Some(Self { place, etcd, registry })
    }

    /// Starts a controller over the one pool, with a socket of its own.
    fn start_pool(&self, socket: &str, lease_seconds: &str) -> Running {
        let dir = self.place.pool().join("pool");
        let place = ["pool", "--socket", socket, "--dir", dir.to_str().expect("a plain path")];
        let cluster = ["--cluster", FILE, "--lease-seconds", lease_seconds, "--heartbeat-ms", "2000"];
        self.place.start(&[&place[..], &cluster].concat())
    }

    /// The socket of the controller, as etcd has it.
    fn elected(&self) -> Option<String> {
        let place = self.registry.controller().ok().flatten()?;
        let told = place.to_string();
        told.rsplit('/').next().map(ToOwned::to_owned)
    }

    fn command(&self, command: &[&str]) -> Ended {
        self.place.run(&[command, &["--cluster", FILE]].concat())
    }

    fn await_elected(&self, socket: &str) {
        await_true(&format!("the election of {socket}"), || self.elected().as_deref() == Some(socket));
        await_true(&format!("the controller at {socket}"), || self.command(&["status"]).code == Some(0));
    }
}

#[test]
fn another_controller_begins_when_one_is_gone() {
    let Some(cluster) = Cluster::start() else { return };
    let nobody = cluster.command(&["status"]);
    assert!(nobody.one_line(75).contains("has no controller at the moment"), "{nobody:?}");
    let one = cluster.start_pool("one", LEASE);
    cluster.await_elected("one");
    let mut two = cluster.start_pool("two", LEASE);
    await_true("somebody who waits", || two.stderr().contains("waits to be controller"));
    assert!(!cluster.place.file("two").exists() && two.runs(), "who waits does not listen");
    one.signal(Signal::SIGKILL);
    assert_eq!(one.end().code, None);
    cluster.await_elected("two");
    // Who ends in good order leaves the place at once.
    let three = cluster.start_pool("three", LONG_LEASE);
    await_true("somebody else who waits", || three.stderr().contains("waits to be controller"));
    two.signal(Signal::SIGTERM);
    assert_eq!(two.end().code, Some(0));
    cluster.await_elected("three");
    let members = cluster.command(&["pool", "members"]).ok();
    assert!(String::from_utf8_lossy(&members.stdout).starts_with("controller: process "), "{members:?}");
    three.signal(Signal::SIGTERM);
    assert_eq!(three.end().code, Some(0));
    assert_eq!(cluster.registry.controller().expect("etcd answers"), None);
}

/// It cannot end by itself: the kernel ends it, before its lease is over.
#[test]
fn a_stopped_controller_is_dead_before_another_one_begins() {
    let Some(cluster) = Cluster::start() else { return };
    let mut one = cluster.start_pool("one", LEASE);
    cluster.await_elected("one");
    let two = cluster.start_pool("two", LEASE);
    await_true("somebody who waits", || two.stderr().contains("waits to be controller"));
    one.signal(Signal::SIGSTOP);
    await_true("the stop", || is_stopped(one.pid()) || !one.runs());
    await_some("the other one", || {
        let elected = cluster.elected()?;
        (elected == "two").then(|| assert!(!one.runs(), "it could go on at any moment"))
    });
    assert_eq!(one.end().code, None, "the kernel ended it");
    cluster.await_elected("two");
}

#[test]
fn a_controller_outlives_an_etcd_that_is_back_in_time_and_ends_without_one() {
    let Some(mut cluster) = Cluster::start() else { return };
    let mut one = cluster.start_pool("one", LONG_LEASE);
    cluster.await_elected("one");
    cluster.etcd.kill();
    let lost = cluster.command(&["status"]);
    assert!(lost.one_line(75).contains("etcd does not answer"), "{lost:?}");
    cluster.etcd.start_again();
    cluster.await_elected("one");
    assert!(one.runs());
    one.signal(Signal::SIGTERM);
    assert_eq!(one.end().code, Some(0));

    let short = cluster.start_pool("short", LEASE);
    cluster.await_elected("short");
    cluster.etcd.kill();
    let ended = short.end();
    assert_eq!(ended.code, Some(75), "{}", ended.stderr);
    assert!(ended.stderr.contains("no longer the controller, its lease in etcd is lost"), "{}", ended.stderr);
    // Without etcd nobody begins; with it, one does.
    let again = cluster.start_pool("again", LEASE);
    await_true("somebody who waits", || again.stderr().contains("etcd does not answer"));
    cluster.etcd.start_again();
    cluster.await_elected("again");
}

#[test]
fn hosts_and_a_guests_reader_follow_the_controller_when_it_is_killed() {
    follow_the_controller(Signal::SIGKILL, None);
}

/// It hands the cluster over: hosts end with `ftvm shutdown` only.
#[test]
fn hosts_and_a_guests_reader_follow_the_controller_when_it_is_ended() {
    follow_the_controller(Signal::SIGTERM, Some(0));
}

fn follow_the_controller(ended_by: Signal, code: Option<i32>) {
    let Some(_machine) = kvm() else { return };
    let Some(cluster) = Cluster::start() else { return };
    let one = cluster.start_pool("one", LEASE);
    cluster.await_elected("one");
    let hosts = ["a", "b"].map(|name| cluster.place.start(&["host", "--name", name, "--cluster", FILE]));
    await_true("the hosts' registration", || {
        cluster.registry.hosts().is_ok_and(|hosts| hosts.iter().map(|place| place.host.as_str()).eq(["a", "b"]))
    });
    let guest = ["--memory", "4MiB", "builtin:torture", "--", "--steps", "200000000", "--progress", "500000"];
    let golden = cluster.place.run(&[&["run", "--mode", "none"][..], &guest].concat()).ok().stdout;
    let mut run = cluster.place.start(&[&["run", "--cluster", FILE][..], &guest].concat());
    await_true("the guest's first lines", || run.stdout().len() > 100 || !run.runs());
    assert!(run.runs(), "{}", run.stderr());
    let _two = cluster.start_pool("two", LEASE);
    one.signal(ended_by);
    assert_eq!(one.end().code, code);
    assert!(run.stdout().len() < golden.len(), "the rest is to come by the other controller");
    cluster.await_elected("two");
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout == golden, "{} bytes instead of {}", ended.stdout.len(), golden.len());
    for host in &hosts {
        signal(host.pid(), Signal::SIGTERM);
    }
    for host in hosts {
        assert_eq!(host.end().code, Some(0));
    }
    assert_eq!(cluster.registry.hosts().expect("etcd answers"), [], "who ends is no longer registered");
}
