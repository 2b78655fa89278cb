//! Guests with networks and disks, without protection.

use crate::support::{Place, SegmentSwitch, connect, guest_at, kvm};
use scenarios::disk_image;
use serde_json::Value;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;
use vmm::net::client::SegmentHost;

const ECHO_PORT: u16 = 7;
const BLOCK_BYTES: usize = 4096;

/// Bytes that do not repeat soon.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Sends over one connection what must come back.
fn echo_over_tcp(host: &SegmentHost, length: usize, seed: u32) {
    let sent = noise(length, seed);
    let mut stream = connect(host, ECHO_PORT);
    let mut back = Vec::new();
    // No more than fits the buffers on the way, so that nobody waits for this test to read.
    for part in sent.chunks(16 << 10) {
        stream.write_all(part).expect("sent");
        let mut chunk = vec![0; part.len()];
        stream.read_exact(&mut chunk).expect("echoed");
        back.append(&mut chunk);
    }
    assert!(back == sent, "connection {seed}: something else came back");
}

/// Sends datagrams until one has come back.
fn echo_over_udp(host: &SegmentHost) {
    let socket = host.open_udp(9).expect("a port");
    let sent = noise(1400, 99);
    let back = crate::support::await_some("a datagram", || {
        socket.send_to(&sent, guest_at(ECHO_PORT)).expect("there is room");
        socket.receive(Duration::from_secs(1))
    });
    assert!(back == (sent, guest_at(ECHO_PORT)), "something else came back: {} bytes", back.0.len());
}

#[test]
fn netecho_sends_back_what_comes() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let switch = SegmentSwitch::start(&place, &["--json"]);
    let guest = place.start(&["run", "--mode=none", &switch.option(), "builtin:netecho", "--", "--connections", "4"]);
    let host = switch.join();
    echo_over_udp(&host);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let host = &host;
            scope.spawn(move || echo_over_tcp(host, 200_000, seed));
        }
    });
    let ended = guest.end().ok();
    let console = String::from_utf8(ended.stdout).expect("text");
    assert!(console.starts_with("netecho at 10.0.0.2/24 port 7\n"), "{console}");
    assert!(console.ends_with("netecho served 4 connections, 800000 bytes\n"), "{console}");
    drop(host);
    let report: Value = serde_json::from_slice(&switch.end()).expect("JSON");
    assert!(report["forwarded"].as_u64().expect("a number") > 1000, "{report}");
}

#[test]
fn connections_outlive_lost_and_late_frames() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let switch = SegmentSwitch::start(&place, &["--loss", "0.02", "--delay", "1ms", "--seed", "5", "--json"]);
    let guest = place.start(&["run", "--mode=none", &switch.option(), "builtin:netecho", "--", "--connections", "1"]);
    echo_over_tcp(&switch.join(), 300_000, 1);
    let ended = guest.end().ok();
    assert!(ended.stdout.ends_with(b"netecho served 1 connections, 300000 bytes\n"), "{ended:?}");
    let report: Value = serde_json::from_slice(&switch.end()).expect("JSON");
    assert!(report["lost"].as_u64().expect("a number") > 0, "{report}");
}

/// Number and digest of the blocks that the guest `disk` says it has verified.
fn verified(console: &[u8]) -> (u64, u64) {
    let console = std::str::from_utf8(console).expect("text");
    let line = console.lines().last().expect("a last line");
    let words: Vec<&str> = line.split(' ').collect();
    let ["verified", blocks, "blocks", "after", _, "steps,", "digest", digest] = words[..] else { panic!("{line}") };
    (blocks.parse().expect("a number"), u64::from_str_radix(digest, 16).expect("a digest"))
}

#[test]
fn disk_writes_what_its_seed_says() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let image = place.file("disk.img");
    let disk = |option: String, steps: &str| {
        let steps = ["--steps", steps, "--seed", "11", "--flush-every", "50"];
        let arguments = [&["run", "--mode=none", &option, "builtin:disk", "--"][..], &steps].concat();
        verified(&place.run(&arguments).ok().stdout)
    };
    let written = disk(format!("--disk={},size=1MiB", image.display()), "700");
    let found = disk_image::verify(&image, 11, 700).expect("the image of a moment");
    assert!(found.steps.contains(&700) && found.written > 200, "{found:?}");
    assert_eq!((found.written, found.digest), written, "host and guest see the same");
    // An image that is there is gone on with.
    let written = disk(format!("--disk={}", image.display()), "900");
    let found = disk_image::verify(&image, 11, 900).expect("the image of a moment");
    assert_eq!((found.written, found.digest), written);
    images_are_judged(&place, &image, written);
}

/// `ftvm disk verify`, of the image that 900 steps of seed 11 have left.
fn images_are_judged(place: &Place, image: &Path, (blocks, digest): (u64, u64)) {
    let verify = |file: &Path, options: &[&str]| {
        place.run(&[&["disk", "verify", file.to_str().expect("a path")], options].concat())
    };
    let seed = ["--seed", "11"];
    let whole = verify(image, &[&seed[..], &["--steps", "900", "--json"]].concat()).ok();
    let report: Value = serde_json::from_slice(&whole.stdout).expect("JSON");
    assert_eq!(
        (report["blocks"].as_u64(), report["digest"].as_str()),
        (Some(blocks), Some(&*format!("{digest:016x}")))
    );
    let said = verify(image, &[&seed[..], &["--steps", "900"]].concat()).ok();
    assert!(said.stdout.ends_with(format!("digest {digest:016x}\n").as_bytes()), "{said:?}");
    // Of a guest that did not come to its end only if that is asked for.
    let early = verify(image, &[&seed[..], &["--steps", "1000"]].concat());
    assert!(early.one_line(80).contains("with --unfinished any step will do"), "{early:?}");
    verify(image, &[&seed[..], &["--steps", "1000", "--unfinished"]].concat()).ok();
    let other = verify(image, &["--seed", "12", "--steps", "900"]);
    assert!(other.one_line(80).contains("disk.img"), "{other:?}");
    let mut bytes = std::fs::read(image).expect("the image");
    let block = bytes.iter().position(|byte| *byte != 0).expect("a block that was written") / BLOCK_BYTES;
    bytes[block * BLOCK_BYTES + 300] ^= 1;
    let torn = place.file("torn.img");
    std::fs::write(&torn, &bytes).expect("a copy");
    assert!(
        verify(&torn, &[&seed[..], &["--steps", "900"]].concat()).one_line(80).contains(&format!("block {block} "))
    );
    let missing = verify(&place.file("none.img"), &[&seed[..], &["--steps", "900"]].concat());
    assert!(missing.one_line(66).contains("none.img"), "{missing:?}");
    assert_eq!(verify(image, &seed).code, Some(2), "how many steps nobody can guess");
}

#[test]
fn devices_that_cannot_be_had_are_named() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let refused = |code: i32, options: &[&str]| {
        let arguments = [&["run", "--mode=none"][..], options, &["builtin:disk"]].concat();
        place.run(&arguments).one_line(code).to_owned()
    };
    let missing = place.file("nowhere");
    let missing = missing.to_str().expect("a plain path");
    assert!(refused(75, &["--net", &format!("segment={missing}")]).contains("ftvm switch"));
    assert!(refused(2, &["--net", "tap=no/such/name"]).contains("cannot name a TAP device"));
    assert!(refused(66, &["--disk", missing]).contains("nowhere"));
    assert!(refused(2, &["--disk", &format!("{missing},size=1000")]).contains("4096"));
    assert!(!Path::new(missing).exists(), "nothing is left behind");
    let small = place.write("small", vec![0; 4096]);
    let other = format!("{},size=1MiB", small.display());
    assert!(refused(2, &["--disk", &other]).contains("has 4096 bytes"));
    let many = ["--net", "segment=x"].repeat(5);
    assert!(refused(2, &many).contains("--net"));
    // Without devices the guests say so themselves.
    for guest in ["builtin:disk", "builtin:netecho"] {
        assert_eq!(place.run(&["run", "--mode=none", guest]).code, Some(3), "{guest}");
    }
}

#[test]
fn a_switch_that_is_there_is_not_replaced_but_a_dead_one_is() {
    let place = Place::new();
    let switch = SegmentSwitch::start(&place, &[]);
    let path = switch.path.to_str().expect("a plain path").to_owned();
    assert!(place.run(&["switch", &path]).one_line(75).contains("taken"));
    let file = place.write("file", "precious");
    assert_eq!(place.run(&["switch", file.to_str().expect("a plain path")]).code, Some(75));
    assert_eq!(std::fs::read(&file).expect("it is still there"), b"precious");
    switch.kill();
    let again = SegmentSwitch::start(&place, &["--loss", "1"]);
    again.end();
    assert_eq!(place.run(&["switch", &path, "--loss", "2"]).code, Some(2));
}
