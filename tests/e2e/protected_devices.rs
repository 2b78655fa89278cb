//! Guests with networks and disks, protected: whoever talks to them, or reads their disks, finds no trace of kills.

use crate::support::{ByHand, PATIENCE, SOCKET, SegmentSwitch, await_some, guest_at, has_ended, is_protected, kvm};
use scenarios::disk_image;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::SocketAddrV4;
use vmm::net::client::{SegmentHost, SegmentStream};

const ECHO_PORT: u16 = 7;
const HOSTS: [&str; 3] = ["a", "b", "c"];
/// Bytes that are on their way when a host is killed.
const EXCHANGE_BYTES: usize = 24 << 10;

/// Kills of primaries in each run, or `FTVM_DEVICE_KILLS`.
fn kills() -> u32 {
    let text = std::env::var("FTVM_DEVICE_KILLS").ok();
    text.map_or(10, |text| text.parse().expect("FTVM_DEVICE_KILLS is a number"))
}

/// Bytes that do not repeat soon.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Connects with all the patience that a takeover on a loaded machine may take.
fn connect(host: &SegmentHost, to: SocketAddrV4) -> SegmentStream {
    await_some("a connection", || host.connect(to, PATIENCE).ok())
}

/// The host that a VM runs on, once another one stands by.
fn protected_primary(cluster: &ByHand, vm: &str) -> String {
    let status = cluster.await_vm(vm, "a secondary", |vm| is_protected(vm) && vm["primary"].is_string());
    status["primary"].as_str().expect("a name").to_owned()
}

/// Kills the primary, and starts its host again.
fn kill_primary(cluster: &mut ByHand, vm: &str) {
    let primary = protected_primary(cluster, vm);
    cluster.kill_host(&primary);
    cluster.start_host(&primary);
}

fn connections_outlive_kills(mode: &str, kills: u32) {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&HOSTS);
    let switch = SegmentSwitch::start(&cluster.place, &[]);
    let options = ["--name", "echo", "--mode", mode, &switch.option(), "builtin:netecho", "--", "--connections", "2"];
    let guest = cluster.start_command(&["run"], &options);
    let host = switch.join();
    let mut stream = connect(&host, guest_at(ECHO_PORT));
    for kill in 0..kills {
        let sent = noise(EXCHANGE_BYTES, kill);
        stream.write_all(&sent).expect("no connection is reset");
        kill_primary(&mut cluster, "echo");
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).expect("no connection is reset");
        assert!(back == sent, "kill {kill}: something else came back");
    }
    let vm = cluster.vm("echo").expect("it runs");
    assert!(vm["takeovers"].as_u64().expect("a number") >= u64::from(kills), "{vm}");
    assert_eq!(vm["nets"].as_array().map(Vec::len), Some(1), "{vm}");
    // Measured by the primaries themselves; each that dies has said at least what it had a second before.
    let latency = cluster.await_vm("echo", "outputs", |vm| vm["output_latency"]["count"].as_u64() > Some(0));
    eprintln!("{mode}: {}", latency["output_latency"]);
    // A connection that began before the first kill ends well, and so does one that begins after the last.
    drop(connect(&host, guest_at(ECHO_PORT)));
    drop(stream);
    let ended = guest.end().ok();
    let console = String::from_utf8(ended.stdout).expect("text");
    let bytes = EXCHANGE_BYTES * usize::try_from(kills).expect("a few");
    assert!(console.ends_with(&format!("netecho served 2 connections, {bytes} bytes\n")), "{console}");
}

#[test]
fn connections_outlive_kills_in_checkpoint_mode() {
    connections_outlive_kills("checkpoint", kills());
}

#[test]
fn connections_outlive_kills_in_replay_mode() {
    connections_outlive_kills("replay", kills());
}

#[test]
fn connections_outlive_kills_in_lockstep_mode() {
    connections_outlive_kills("lockstep", kills());
}

fn a_disk_outlives_kills(mode: &str, kills: u32) {
    // As long as the kills take: each is a takeover and a new secondary.
    let steps_wanted = 1500 * u64::from(kills);
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&HOSTS);
    let image = cluster.place.file("disk.img");
    let disk = format!("--disk={},size=1MiB", image.display());
    let (steps, name) = (steps_wanted.to_string(), ["--name", "disk", "--mode", mode, &disk]);
    let arguments =
        ["builtin:disk", "--", "--seed", "11", "--flush-every", "64", "--every-us", "300", "--steps", &steps];
    let guest = cluster.start_command(&["run"], &[&name[..], &arguments[..]].concat());
    for _ in 0..kills {
        kill_primary(&mut cluster, "disk");
        assert_eq!(std::fs::read(&image).expect("the file").iter().find(|byte| **byte != 0), None, "not yet");
    }
    let vm = cluster.vm("disk").expect("it is there");
    assert!(!has_ended(&vm) && vm["takeovers"].as_u64().expect("a number") >= u64::from(kills), "{vm}");
    assert_eq!(vm["disk_bytes"], 1 << 20);
    // While the guest runs, its disk is in the pool only.
    let out = cluster.place.file("too-early");
    let early = cluster.command(&["disk", "export", "disk", out.to_str().expect("a plain path")], &[]);
    assert!(early.one_line(75).contains("when it has ended") && !out.exists(), "{early:?}");
    let ended = guest.end().ok();
    let console = String::from_utf8(ended.stdout).expect("text");
    let found = disk_image::verify(&image, 11, steps_wanted).expect("the image of a moment");
    assert!(found.steps.contains(&steps_wanted), "{found:?}");
    let digest =
        format!("verified {} blocks after {steps_wanted} steps, digest {:016x}\n", found.written, found.digest);
    assert!(console.ends_with(&digest), "{found:?}: {console}");
    let exported = cluster.place.file("exported.img");
    cluster.command(&["disk", "export", "disk", exported.to_str().expect("a plain path")], &[]).ok();
    assert!(std::fs::read(&exported).expect("exported") == std::fs::read(&image).expect("written back"));
}

#[test]
fn a_disk_outlives_kills_in_checkpoint_mode() {
    a_disk_outlives_kills("checkpoint", kills());
}

#[test]
fn a_disk_outlives_kills_in_replay_mode() {
    a_disk_outlives_kills("replay", kills());
}

#[test]
fn a_disk_outlives_kills_in_lockstep_mode() {
    a_disk_outlives_kills("lockstep", kills());
}

#[test]
fn a_file_is_the_disk_of_one_guest_and_gives_it_its_first_content() {
    let Some(_machine) = kvm() else { return };
    let cluster = ByHand::start(&["a", "b"]);
    let image = cluster.place.file("disk.img");
    let disk = format!("--disk={},size=256KiB", image.display());
    let options = ["builtin:disk", "--", "--steps", "200", "--seed", "3"];
    let run = |place: &crate::support::Place| place.run(&[&["run", &disk][..], &options].concat()).ok();
    let first = run(&cluster.place).stdout;
    let written = disk_image::verify(&image, 3, 200).expect("the image of a moment");
    // What a guest finds at its birth is what the one before has left: the same steps leave the same.
    let second = run(&cluster.place).stdout;
    assert_eq!(first, second);
    assert_eq!(disk_image::verify(&image, 3, 200).expect("the image of a moment"), written);
    // A guest that does not end leaves the file alone.
    let before = std::fs::read(&image).expect("the file");
    let endless = ["builtin:disk", "--", "--steps", "100000000", "--seed", "4"];
    let limit = [&["run", &disk, "--time-limit", "2s"][..], &endless].concat();
    assert_eq!(cluster.place.run(&limit).code, Some(84));
    assert!(std::fs::read(&image).expect("the file") == before);
    // A summary that cannot be written costs nothing that the guest has written.
    let summary = format!("--json={}", cluster.place.file("missing/summary").display());
    for pool in [&[][..], &["--pool", SOCKET]] {
        std::fs::remove_file(&image).expect("it is there");
        let ended = cluster.place.run(&[&["run", &disk, &summary][..], pool, &options].concat());
        assert!(ended.one_line(74).contains("missing/summary"), "{ended:?}");
        assert_eq!(disk_image::verify(&image, 3, 200).expect("the image of a moment"), written);
    }
    let ended = cluster.place.run(&["run", &summary, "--pool", SOCKET, "--rm", "--name", "gone", "builtin:counter"]);
    ended.one_line(74);
    assert!(cluster.vm("gone").is_none(), "it is deleted all the same");
    // Not a disk, or somebody else's.
    let odd = cluster.place.write("odd", vec![1; 1000]);
    let odd = format!("--disk={}", odd.display());
    assert!(cluster.place.run(&["run", &odd, "builtin:disk"]).one_line(2).contains("4096"));
    let _lock = std::fs::File::open(&image).map(|file| file.try_lock().map(|()| file));
    assert!(cluster.place.run(&["run", &disk, "builtin:disk"]).one_line(75).contains("in use"));
}

#[test]
fn devices_that_cannot_be_had_are_named_before_anything_is_started() {
    let Some(_machine) = kvm() else { return };
    let cluster = ByHand::start(&["a"]);
    let refused = |code: i32, options: &[&str]| {
        let arguments = [options, &["builtin:netecho"]].concat();
        cluster.command(&["run"], &arguments).one_line(code).to_owned()
    };
    assert!(refused(75, &["--net", "segment=nowhere"]).contains("ftvm switch"));
    assert!(refused(66, &["--disk", "nowhere"]).contains("nowhere"));
    let group = ["--net", "segment=nowhere,mac=01:00:00:00:00:01"];
    assert_eq!(cluster.command(&["run"], &[&group[..], &["builtin:netecho"]].concat()).code, Some(2));
    let status: Value = cluster.status();
    assert_eq!(status["vms"].as_array().map(Vec::len), Some(0), "{status}");
}
