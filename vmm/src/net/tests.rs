use super::client::SegmentHost;
use super::switch::PORTS_MAX;
use super::{Faults, MacAddress, NetError, NetPort, Switch, SwitchError, check};
use crossbeam_channel::Receiver;
use ft_protocol::spec::NetBackend;
use nix::sys::socket::{MsgFlags, UnixAddr, sendto};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

struct Segment {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Segment {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { path: directory.path().join("switch"), _directory: directory }
    }

    fn switch(&self) -> Switch {
        Switch::start(&self.path, Faults::default()).expect("a switch")
    }

    fn port(&self) -> (NetPort, Receiver<Vec<u8>>) {
        NetPort::open(&backend(&self.path), || {}).expect("a port")
    }
}

fn backend(path: &Path) -> NetBackend {
    NetBackend::Segment(path.to_str().expect("text").to_owned())
}

fn device(number: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, number])
}

fn frame(from: MacAddress, to: MacAddress, content: u8) -> Vec<u8> {
    [&to.0[..], &from.0, &[0x88, 0xb5], &[content; 46]].concat()
}

fn next(frames: &Receiver<Vec<u8>>) -> Vec<u8> {
    frames.recv_timeout(PATIENCE).expect("a frame comes")
}

fn await_true(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_switch_learns_who_is_where() {
    let segment = Segment::new();
    let switch = segment.switch();
    let (a, from_a) = segment.port();
    let (b, from_b) = segment.port();
    let (_c, from_c) = segment.port();
    await_true("three ports", || switch.counters().ports == 3);
    let hello = frame(device(1), MacAddress::BROADCAST, 1);
    a.send(&hello);
    assert_eq!((next(&from_b), next(&from_c)), (hello.clone(), hello));
    let answer = frame(device(2), device(1), 2);
    b.send(&answer);
    assert_eq!(next(&from_a), answer);
    let again = frame(device(1), device(2), 3);
    a.send(&again);
    assert_eq!(next(&from_b), again);
    assert!(from_c.is_empty(), "what is for others does not come here");
    // A frame is counted behind its sending, so its receiver may be here first.
    await_true("all is counted", || (switch.counters().received, switch.counters().forwarded) == (3, 4));
}

#[test]
fn frames_for_nobody_are_counted() {
    let segment = Segment::new();
    let switch = segment.switch();
    let (a, _from_a) = segment.port();
    a.send(&frame(device(1), MacAddress::BROADCAST, 1));
    await_true("nobody else is there", || switch.counters().nowhere == 1);
    let (_b, from_b) = segment.port();
    a.send(&frame(device(2), device(1), 2));
    await_true("it is where the frame comes from", || switch.counters().nowhere == 2);
    let counters = switch.counters();
    assert_eq!((counters.received, counters.forwarded, counters.lost), (2, 0, 0));
    assert!(from_b.is_empty());
}

#[test]
fn a_device_that_moves_is_found_by_its_announcement() {
    let segment = Segment::new();
    let switch = segment.switch();
    let (client, from_client) = segment.port();
    let (old, _from_old) = segment.port();
    old.announce(device(7));
    assert_eq!(next(&from_client), device(7).announcement());
    drop(old);
    let (new, from_new) = segment.port();
    new.announce(device(7));
    assert_eq!(next(&from_client), device(7).announcement());
    let sent = frame(device(1), device(7), 5);
    client.send(&sent);
    assert_eq!(next(&from_new), sent);
    // The dead port is noticed when something is sent to all.
    client.send(&frame(device(1), MacAddress::BROADCAST, 6));
    await_true("the dead port is dropped", || switch.counters().ports == 2);
}

/// Found by an acceptance test: ports that died without a word took all places for good, as nobody ever sent to them.
#[test]
fn ports_that_died_silently_make_room_for_others() {
    let segment = Segment::new();
    let switch = segment.switch();
    let address = UnixAddr::new(&segment.path).expect("a path");
    let silent: Vec<_> = (1..=PORTS_MAX)
        .map(|number| {
            let silent = super::segment::autobound().expect("a socket");
            sendto(silent.as_raw_fd(), &[], &address, MsgFlags::empty()).expect("a switch");
            await_true("it is admitted", || switch.counters().ports == number as u64);
            silent
        })
        .collect();
    let late = segment.port();
    assert_eq!(switch.counters().ports, PORTS_MAX as u64, "those who live keep their places");
    drop((late, silent));
    let (a, _from_a) = segment.port();
    let (_b, from_b) = segment.port();
    await_true("only those two are there", || switch.counters().ports == 2);
    a.send(&frame(device(1), MacAddress::BROADCAST, 1));
    assert_eq!(next(&from_b)[14], 1);
}

#[test]
fn a_burst_gets_through_and_a_port_that_hangs_holds_up_nobody() {
    let segment = Segment::new();
    let _switch = segment.switch();
    // A port that greets and then takes nothing.
    let hung = super::segment::autobound().expect("a socket");
    let address = UnixAddr::new(&segment.path).expect("a path");
    sendto(hung.as_raw_fd(), &[], &address, MsgFlags::empty()).expect("a switch");
    let (a, _from_a) = segment.port();
    let (b, from_b) = segment.port();
    b.announce(device(2));
    for content in 0..200 {
        a.send(&frame(device(1), MacAddress::BROADCAST, content));
        // One at a time is what a hung port must not stop; bursts come below.
        assert_eq!(next(&from_b)[14], content);
    }
    for content in 0..50 {
        a.send(&frame(device(1), device(2), content));
    }
    for content in 0..50 {
        assert_eq!(next(&from_b)[14], content, "in order, without loss");
    }
}

#[test]
fn ports_find_a_switch_that_comes_later_or_again() {
    let segment = Segment::new();
    let refused = check(&backend(&segment.path)).expect_err("nobody is there");
    assert!(matches!(refused, NetError::NoSwitch { .. }) && refused.to_string().contains("ftvm switch"), "{refused}");
    let (a, _from_a) = segment.port();
    let (_b, from_b) = segment.port();
    a.send(&frame(device(1), MacAddress::BROADCAST, 0));
    assert_eq!(a.counters().send_lost, 1);
    for round in 1..3 {
        let switch = segment.switch();
        check(&backend(&segment.path)).expect("a switch");
        await_true("both ports connect", || switch.counters().ports == 2);
        await_true("frames arrive", || {
            a.send(&frame(device(1), MacAddress::BROADCAST, round));
            from_b.try_iter().any(|frame| frame[14] == round)
        });
    }
}

#[test]
fn a_path_is_taken_once_and_a_dead_switch_is_replaced() {
    let segment = Segment::new();
    let switch = segment.switch();
    assert!(matches!(Switch::start(&segment.path, Faults::default()), Err(SwitchError::Taken { .. })));
    drop(switch);
    assert!(!segment.path.exists());
    drop(std::os::unix::net::UnixDatagram::bind(&segment.path).expect("a socket that its owner left behind"));
    drop(segment.switch());
    std::fs::write(&segment.path, b"precious").expect("a file");
    assert!(matches!(Switch::start(&segment.path, Faults::default()), Err(SwitchError::Taken { .. })));
    assert_eq!(std::fs::read(&segment.path).expect("still there"), b"precious");
}

#[test]
fn cut_cables_carry_nothing() {
    let segment = Segment::new();
    let switch = segment.switch();
    let (a, _from_a) = segment.port();
    let (_b, from_b) = segment.port();
    switch.set_cut(true);
    a.send(&frame(device(1), MacAddress::BROADCAST, 1));
    await_true("it is lost", || switch.counters().lost == 1);
    switch.set_cut(false);
    a.send(&frame(device(1), MacAddress::BROADCAST, 2));
    assert_eq!(next(&from_b)[14], 2);
}

#[test]
fn what_is_no_frame_is_not_carried() {
    let segment = Segment::new();
    let switch = segment.switch();
    let (a, _from_a) = segment.port();
    let (_b, from_b) = segment.port();
    for length in [0, 13, 1515, 5000] {
        a.send(&vec![0; length]);
    }
    assert_eq!(a.counters().send_lost, 4);
    a.send(&[0xff; 1514]);
    assert_eq!(next(&from_b).len(), 1514);
    assert_eq!(switch.counters().received, 1);
}

#[test]
fn tap_devices_that_cannot_be_had_are_explained() {
    for name in ["", "a/b", "sixteen-bytes-xx", "a b"] {
        let refused = check(&NetBackend::Tap(name.to_owned())).expect_err("no name");
        assert!(matches!(refused, NetError::TapName { .. } | NetError::NoTun(_)), "{refused}");
    }
}

#[test]
fn a_connection_to_nobody_fails_in_time() {
    let segment = Segment::new();
    let _switch = segment.switch();
    let host = SegmentHost::join(&segment.path, device(1), [10, 0, 0, 1].into(), 24).expect("a place");
    let failed = host.connect("10.0.0.9:7".parse().expect("an address"), Duration::from_millis(20));
    assert!(failed.is_err_and(|error| error.to_string().contains("does not answer")));
}
