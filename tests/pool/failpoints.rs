//! Every failpoint: a process dies there and is started again, or freezes there and goes on after its successor has taken
//! over. Nobody who listens to the guest can tell.

use crate::chance::{Chance, rounds};
use crate::golden::{Golden, TooShort, long_enough};
use crate::run::{Plan, Run};
use crate::support::kvm;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use vmm::failpoint::FAILPOINTS;

/// Long enough for protection and a takeover on a slow machine.
const STEPS: u64 = 60_000_000;

/// How long a death may be found after the guest's end. Only tests that fail ever wait that long.
const LATE_MAX: Duration = Duration::from_secs(20);

/// Passages at which a process dies or freezes: where things are set up, or anywhere in a guest's life.
fn hits(failpoint: &str, chance: &mut Chance) -> Vec<u64> {
    match failpoint {
        "controller.state.persisting" | "controller.state.persisted" => vec![1, 4, 5],
        "controller.takeover.opened" | "controller.takeover.promoted" => vec![1, 2],
        // Of a takeover; tests of other guests die there when a VM is born.
        "controller.takeover.journal-made" | "controller.takeover.laid-out" => vec![2],
        // Among the parts of the primary, and of its secondary.
        "controller.grant.part-opened" => vec![4, PRIMARY_PARTS + 2],
        // The first entries are those of the boot.
        "host.log.written" | "host.log.appended" => vec![1, 20],
        // The first commit is the boot. With more rounds, more of the others.
        _ if failpoint.contains(".commit.") || failpoint.contains(".apply.") => {
            (0..rounds(1)).map(|round| if round == 1 { 1 } else { 1 + chance.below(9) }).collect()
        }
        _ => vec![1],
    }
}

/// What only a guest passes whose inputs are recorded. At the others it commits, which it does most in checkpoint mode.
pub(crate) const RECORDING_ONLY: [&str; 3] = ["host.log.written", "host.log.appended", REPLAYED];

/// What only a secondary passes whose log has something behind the last commit.
pub(crate) const REPLAYED: &str = "host.takeover.replayed";

/// How a primary dies with an entry in its log that no commit covers.
const WITH_AN_ENTRY: &str = "host.log.appended=kill@20";

/// What only a secondary passes that follows.
pub(crate) const FOLLOWING: &str = "host.follow.";

/// How many parts of its VM a primary without a disk is given.
const PRIMARY_PARTS: u64 = 6;

/// Whether only a takeover passes there.
fn needs_takeover(failpoint: &str, hit: u64) -> bool {
    match failpoint {
        "host.takeover.ordered" | "host.takeover.loaded" => false,
        REPLAYED
        | "controller.takeover.log-closed"
        | "controller.takeover.word-closed"
        | "controller.takeover.sealed"
        | "controller.takeover.log-copied" => true,
        _ => failpoint.starts_with("controller.takeover.") && hit > 1,
    }
}

pub(crate) fn one(golden: &Golden, failpoint: &str, action: &str, hit: u64) {
    long_enough(golden, |golden| try_one(golden, failpoint, action, hit));
}

fn try_one(golden: &Golden, failpoint: &str, action: &str, hit: u64) -> Result<(), TooShort> {
    let armed = format!("{failpoint}={action}@{hit}");
    let own = |prefix: &str| failpoint.starts_with(prefix).then_some(armed.as_str());
    // What only a secondary passes is armed at the second host, the rest at the first, which becomes primary.
    let by_secondary = failpoint == "host.standby.made" || failpoint.starts_with(FOLLOWING);
    let hosts = match failpoint {
        // Nothing is replayed where nothing was logged behind the last commit: the first primary dies with an entry there.
        // Whoever comes next replays it, protected by then or not.
        REPLAYED => [("a", Some(WITH_AN_ENTRY)), ("b", own("host.")), ("c", own("host."))],
        _ if by_secondary => [("a", None), ("b", own("host.")), ("c", None)],
        _ => [("a", own("host.")), ("b", None), ("c", None)],
    };
    let plan = Plan { controller: own("controller."), hosts: &hosts, ..Plan::default() };
    let mut run = Run::start(golden, &plan);
    if needs_takeover(failpoint, hit) && failpoint != REPLAYED {
        run.await_protection()?;
        run.host("a").signal(Signal::SIGKILL);
    }
    let expected_deaths = u32::from(action == "kill") + u32::from(needs_takeover(failpoint, hit));
    let enough = |run: &Run| run.deaths >= expected_deaths && run.freezes >= u32::from(action == "stop");
    run.step_until(&format!("{armed} and its consequences"), |run| run.has_ended() || enough(run));
    // Who died before the guest's end is not always found before it: on a machine that is busy with other things a process
    // takes its time to be gone.
    let deadline = Instant::now() + LATE_MAX;
    while !enough(&run) && Instant::now() < deadline {
        run.step();
    }
    if !enough(&run) {
        let TooShort { report } = run.too_short();
        return Err(TooShort { report: format!("{armed} did not {action}: {report}") });
    }
    let (deaths, freezes) = (run.deaths, run.freezes);
    let takeovers = run.finish();
    // A primary that froze in a commit or in an append is a zombie only if another one has taken over.
    let in_a_write = ["host.commit.", "host.log."].iter().any(|step| failpoint.starts_with(step));
    let zombie = action == "stop" && in_a_write;
    assert!(!zombie || takeovers > 0, "{armed}: nobody took over");
    eprintln!("{armed}: {deaths} deaths, {freezes} freezes, {takeovers} takeovers");
    Ok(())
}

fn all(prefix: &str, action: &str) {
    let Some(_machine) = kvm() else { return };
    let mut chance = Chance::new(&format!("failpoints {prefix} {action}"));
    let golden = Golden::torture(STEPS);
    let recorded = golden.clone().recorded();
    let followed = golden.clone().followed();
    for failpoint in FAILPOINTS.iter().filter(|name| name.starts_with(prefix)) {
        let golden = match failpoint {
            _ if RECORDING_ONLY.contains(failpoint) => &recorded,
            _ if failpoint.starts_with(FOLLOWING) => &followed,
            _ => &golden,
        };
        for hit in hits(failpoint, &mut chance) {
            one(golden, failpoint, action, hit);
        }
    }
}

#[test]
fn there_is_no_failpoint_that_nobody_passes() {
    // Each of the tests below takes all of its prefix from the list, and fails for one at which nothing happened.
    for failpoint in FAILPOINTS {
        assert!(failpoint.starts_with("controller.") || failpoint.starts_with("host."), "{failpoint}: in no test");
    }
    for failpoint in RECORDING_ONLY {
        assert!(FAILPOINTS.contains(&failpoint), "{failpoint} is gone");
    }
}

#[test]
fn a_controller_that_dies_at_any_point_is_followed_by_one_that_goes_on() {
    all("controller.", "kill");
}

#[test]
fn a_host_that_dies_at_any_point_is_succeeded() {
    all("host.", "kill");
}

#[test]
fn a_host_that_freezes_at_any_point_and_thaws_later_harms_nothing() {
    all("host.", "stop");
}
