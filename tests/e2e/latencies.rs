//! How long outputs wait, as primaries measure it: told from the first output on, and what a client outside can see of it.

use crate::support::{
    ByHand, SegmentSwitch, await_some, await_true, guest_at, has_ended, is_protected, kvm_alone, read_events,
};
use ft_protocol::Span;
use ft_protocol::latency::OutputLatency;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const ECHO_PORT: u16 = 7;
/// Longer than any test: such a guest says one line and waits.
const FOR_EVER_US: &str = "4000000000";
/// A datagram may be lost; the guest's answer to another one is never taken for its own.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// Twice as long as a primary that has something to tell of its outputs tells nothing.
const LONGEST_SILENCE: Duration = Duration::from_secs(2);

/// What was measured of each generation that is over.
fn measured(events: &Path) -> Vec<(u64, OutputLatency)> {
    let of = |event: &Value| {
        let told = &event["happened"]["outputs-measured"];
        let latency = serde_json::from_value(told["latency"].clone()).ok()?;
        Some((told["generation"].as_u64()?, latency))
    };
    read_events(events).iter().filter_map(of).collect()
}

/// A guest that says one line and no more: its generation has one output, which is told all the same.
fn one_output_is_told(mode: &str) {
    let Some(_machine) = kvm_alone() else { return };
    let mut cluster = ByHand::start(&["a", "b"]);
    let events = cluster.place.file("events.jsonl");
    let options = ["--name", "quiet", "--mode", mode, "--events", events.to_str().expect("a plain path")];
    let guest = ["builtin:counter", "--", "--lines", "2", "--every-us", FOR_EVER_US];
    let running = cluster.start_command(&["run"], &[&options[..], &guest[..]].concat());
    await_true("the first line", || running.stdout() == b"line 000001\n");
    let vm = cluster.await_vm("quiet", "a word on its only output", |vm| {
        is_protected(vm) && vm["output_latency"]["count"].as_u64() > Some(0)
    });
    let told = vm["output_latency"]["count"].as_u64().expect("a number");
    cluster.kill_host(vm["primary"].as_str().expect("it runs somewhere"));
    cluster.await_vm("quiet", "a takeover", |vm| vm["takeovers"].as_u64() > Some(0));
    let first = || measured(&events).into_iter().find(|(generation, _)| *generation == 1);
    let (_, latency) = await_some("the histogram of its generation", first);
    assert_eq!(latency.count(), told, "{mode}");
    assert_eq!(running.stdout(), b"line 000001\n", "nothing is said again");
    cluster.command(&["delete", "quiet"], &[]).ok();
    running.end().one_line(81);
}

#[test]
fn the_only_output_of_a_generation_is_told_in_checkpoint_mode() {
    one_output_is_told("checkpoint");
}

#[test]
fn the_only_output_of_a_generation_is_told_in_replay_mode() {
    one_output_is_told("replay");
}

/// Sends one datagram after the other to an echoing guest; how long the answers took, the shortest first.
fn round_trips(switch: &SegmentSwitch, count: u32) -> Vec<Span> {
    let host = switch.join();
    let socket = host.open_udp(9).expect("a port");
    let mut times = Vec::new();
    for number in 0..count {
        let sent = number.to_le_bytes().to_vec();
        let time = await_some("an answer", || {
            let since = Instant::now();
            socket.send_to(&sent, guest_at(ECHO_PORT)).expect("there is room");
            let answer = std::iter::from_fn(|| socket.receive(ANSWER_TIME_MAX)).find(|(bytes, _)| *bytes == sent);
            answer.map(|_| since.elapsed())
        });
        times.push(Span::from_ns(u64::try_from(time.as_nanos()).expect("minutes at most")));
    }
    times.sort_unstable();
    times
}

/// An output waits within the time that its client waits for it: whatever the machine does meanwhile, the histogram has, for
/// each rank, no more than the client saw. And it is no small part of it where outputs wait for commits.
fn a_client_outside_sees_no_less(mode: &str, share_min: Option<u64>) {
    const EXCHANGES: u32 = 60;
    let Some(_machine) = kvm_alone() else { return };
    let cluster = ByHand::start(&["a", "b"]);
    let switch = SegmentSwitch::start(&cluster.place, &[]);
    let options = ["--name", "echo", "--mode", mode];
    let guest = [&switch.option(), "builtin:netecho", "--", "--connections", "1"];
    let running = cluster.start_command(&["run"], &[&options[..], &guest[..]].concat());
    cluster.await_vm("echo", "protection", is_protected);
    let seen = round_trips(&switch, EXCHANGES);
    // The last word of a guest that ends may come too late; while it waits for more, all of them are told.
    let (mut told, mut since) = (None, Instant::now());
    cluster.await_vm("echo", "a word on all outputs", |vm| {
        let now = vm["output_latency"]["count"].as_u64();
        if told.replace(now) != Some(now) {
            since = Instant::now();
        }
        now >= Some(u64::from(EXCHANGES)) && since.elapsed() > LONGEST_SILENCE
    });
    // The guest ends with its first connection.
    drop(crate::support::connect(&switch.join(), ECHO_PORT));
    cluster.await_vm("echo", "the guest's end", has_ended);
    running.end().ok();
    // Told after the end, which whoever reads the console may not have waited for: the controller remembers it.
    let told = cluster.command(&["events", "--no-follow", "--json"], &[]).ok().stdout;
    let events = cluster.place.write("told.jsonl", told);
    let (generation, latency) = measured(&events).pop().expect("its generation is over");
    assert_eq!(generation, 1, "nobody died");
    let outputs = latency.count();
    assert!(outputs >= u64::from(EXCHANGES), "{outputs} outputs were counted");
    for thousandths in (50..=1000).step_by(50) {
        let rank = usize::try_from((outputs * thousandths).div_ceil(1000)).expect("a few hundred");
        let Some(seen) = seen.get(rank - 1) else { break };
        let waited = latency.quantile(thousandths).ns();
        // A bucket's end is an eighth above its beginning.
        let bound = seen.ns() + seen.ns() / 8 + 128;
        assert!(waited <= bound, "{mode}: {waited} ns at {thousandths} of 1000, the client waited {} ns", seen.ns());
    }
    let (median, shortest) = (latency.quantile(500), seen[0]);
    eprintln!("{mode}: outputs waited {median} (median of {outputs}), the client {shortest} at least");
    if let Some(share) = share_min {
        assert!(median.ns() * share >= shortest.ns(), "{mode}: {median} of {shortest} is next to nothing");
    }
}

#[test]
fn a_client_sees_what_is_measured_in_checkpoint_mode() {
    a_client_outside_sees_no_less("checkpoint", Some(20));
}

#[test]
fn a_client_sees_what_is_measured_in_replay_mode() {
    a_client_outside_sees_no_less("replay", None);
}

/// Making a large VM takes long; a controller that stands still is as slow as can be.
#[test]
fn a_vm_that_takes_long_to_make_says_so() {
    let Some(_machine) = kvm_alone() else { return };
    let cluster = ByHand::start(&["a"]);
    cluster.stop_pool();
    let running = cluster.start_command(&["run"], &["--name", "slow", "builtin:counter", "--", "--lines", "3"]);
    await_true("a line of progress", || running.stderr().contains("the pool makes room for a VM of 64 MiB"));
    cluster.continue_pool();
    let ended = running.end().ok();
    assert_eq!(ended.stdout, b"line 000001\nline 000002\nline 000003\n");
    assert!(ended.stderr.lines().all(|line| line.starts_with("ftvm: the pool makes room")), "{}", ended.stderr);
}
