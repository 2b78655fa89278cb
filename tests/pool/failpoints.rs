//! Every failpoint: a process dies there and is started again, or freezes there and goes on after its successor has taken
//! over. Nobody who listens to the guest can tell.

use crate::run::{Golden, Plan, Run};
use crate::support::kvm;
use ft_protocol::timeline::Happening;
use nix::sys::signal::Signal;
use vmm::failpoint::FAILPOINTS;

/// Long enough for protection and a takeover on a slow machine.
const STEPS: u64 = 80_000_000;

/// Passages at which a process dies or freezes: early ones, where things are set up, and one in the middle.
fn hits(failpoint: &str) -> &'static [u64] {
    match failpoint {
        "controller.state.persisting" | "controller.state.persisted" => &[1, 4, 5],
        "controller.takeover.opened" | "controller.takeover.promoted" => &[1, 2],
        _ if failpoint.contains(".commit.") || failpoint.contains(".apply.") => &[1, 7],
        _ => &[1],
    }
}

/// Whether only a takeover passes there.
fn needs_takeover(failpoint: &str, hit: u64) -> bool {
    match failpoint {
        "host.takeover.ordered" | "host.takeover.loaded" => false,
        "controller.takeover.sealed" => true,
        _ => failpoint.starts_with("controller.takeover.") && hit > 1,
    }
}

fn one(golden: &Golden, failpoint: &str, action: &str, hit: u64) {
    let armed = format!("{failpoint}={action}@{hit}");
    let own = |prefix: &str| failpoint.starts_with(prefix).then_some(armed.as_str());
    // What only a secondary passes is armed at the second host, the rest at the first, which becomes primary.
    let (first, second) = if failpoint == "host.standby.made" { (None, own("host.")) } else { (own("host."), None) };
    let hosts = [("a", first), ("b", second), ("c", None)];
    let plan = Plan { controller: own("controller."), hosts: &hosts, ..Plan::default() };
    let mut run = Run::start(golden, &plan);
    if needs_takeover(failpoint, hit) {
        run.step_until("protection", |run| {
            run.has_ended() || run.happenings.iter().any(|happening| matches!(happening, Happening::Protected { .. }))
        });
        run.host("a").signal(Signal::SIGKILL);
    }
    let expected_deaths = u32::from(action == "kill") + u32::from(needs_takeover(failpoint, hit));
    run.step_until(&format!("{armed} and its consequences"), |run| {
        run.has_ended() || (run.deaths >= expected_deaths && run.freezes >= u32::from(action == "stop"))
    });
    let (deaths, freezes) = (run.deaths, run.freezes);
    assert!(deaths >= expected_deaths, "{armed} did not kill: {}", run.everything());
    assert!(action != "stop" || freezes > 0, "{armed} did not freeze: {}", run.everything());
    let takeovers = run.finish();
    eprintln!("{armed}: {deaths} deaths, {freezes} freezes, {takeovers} takeovers");
}

fn all(prefix: &str, action: &str) {
    let Some(_machine) = kvm() else { return };
    let golden = Golden::torture(STEPS);
    for failpoint in FAILPOINTS.iter().filter(|name| name.starts_with(prefix)) {
        for hit in hits(failpoint) {
            one(&golden, failpoint, action, *hit);
        }
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
