//! Runs of scenarios that are looked into.

use super::violation::Violation;
use super::world::World;
use crate::language::Scenario;
use ft_protocol::Span;
use ft_protocol::ids::{Generation, VmId};
use ft_protocol::timeline::Happening;
use ft_protocol::wire::TakeoverReason;
use std::path::Path;

fn scenario(text: &str) -> Scenario {
    Scenario::parse(Path::new("x.toml"), text).expect("it is a scenario")
}

/// Twenty seconds took 200 MB, a few minutes all memory that there is: each record kept all that the guest had ever been given.
#[test]
fn what_the_checkers_keep_of_a_run_grows_with_its_length_only() {
    let text =
        "[vm]\nguest = \"builtin:torture\"\n[[step]]\nat = \"5s\"\naction = \"kill\"\nhost = \"primary\"\n[expect]\n";
    let mut world = World::of_scenario(&scenario(text), 1);
    world.run();
    assert_eq!(world.violation, None);
    let (facts, lived) = (&world.checker.vms[0], world.truths[0].history.len());
    assert!(facts.last_committed().get() > 500 && lived > 3_000, "it has lived");
    assert!(facts.ticks_kept() <= 3 * lived, "{} ticks are kept of {lived}", facts.ticks_kept());
}

/// One that was held there for no time at all was excused for good, and with it whoever accused anybody.
#[test]
fn who_was_held_at_a_failpoint_for_a_moment_must_not_be_accused_later() {
    let accused_behind = |delay: &str| {
        let held = format!("[[step]]\nfailpoint = \"host.commit.published\"\non = \"a\"\n{delay}action = \"mark\"\n");
        let text = format!("[vm]\nguest = \"builtin:torture\"\n{held}[expect]\n");
        let mut world = World::of_scenario(&scenario(&text), 1);
        world.run();
        assert_eq!(world.violation, None);
        let (vm, generation) = (VmId::new(0), Generation::FIRST);
        let reason = TakeoverReason::HeartbeatSilent(Span::from_ms(100));
        world.check_told(&Happening::PrimaryGone { vm, generation, reason });
        (world.hosts.iter().any(|host| host.actor.held_ns > 0), world.violation)
    };
    let found = accused_behind("delay = \"1ms\"\n");
    assert!(matches!(found, (true, Some(Violation::FalseAccusation { .. }))), "{found:?}");
    assert_eq!(accused_behind("delay = \"200ms\"\n"), (true, None), "it may have been silent for so long");
}
