//! The controller dies at any event of seeing, applying and freeing.

use super::survivors::{Choice, choices};
use super::world::{Controller, EPOCHS, Held, Primary, Stop, World, hold};

/// When the primary goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    /// After the controller's lines are lost.
    AfterTheCrash,
    /// Between the controller's last event and the loss of its lines: the primary has seen what is lost then.
    BeforeTheCrash,
}

/// Primary and controller take turns until all is committed, or somebody is dead.
fn run_together(primary: &mut Primary, controller: &Controller) -> Held<Stop> {
    loop {
        match primary.run()? {
            Stop::SlotsFull if !controller.cache.is_dead() => controller.poll()?,
            stop => return Ok(stop),
        }
    }
}

fn events_of_a_whole_run(fresh: &World) -> Held<u64> {
    let world = fresh.fork();
    let (mut primary, controller) = (Primary::new(&world), Controller::new(&world));
    run_together(&mut primary, &controller)?;
    controller.poll()?;
    controller.check_history(EPOCHS)?;
    Ok(controller.cache.events())
}

fn crash_case(fresh: &World, at: u64, meanwhile: Meanwhile, choice: Choice) -> Held {
    let world = fresh.fork();
    let (mut primary, controller) = (Primary::new(&world), Controller::new(&world));
    controller.cache.die_after(at);
    run_together(&mut primary, &controller)?;
    controller.poll()?;
    if meanwhile == Meanwhile::BeforeTheCrash {
        primary.run()?;
    }
    controller.cache.crash(&mut *choice.survivors());
    primary.run()?;
    let next_life = Controller::new(&world);
    next_life.check_whole()?;
    let stop = run_together(&mut primary, &next_life)?;
    hold(stop == Stop::AllDone, || format!("{stop:?} at the end"))?;
    next_life.take_over(&primary).map(|_| ())
}

/// Every crash point of the controller; returns how many cases there were.
pub(super) fn crashes() -> Held<usize> {
    let fresh = World::new();
    let mut cases = 0;
    for at in 0..=events_of_a_whole_run(&fresh)? {
        for choice in choices(at) {
            for meanwhile in [Meanwhile::AfterTheCrash, Meanwhile::BeforeTheCrash] {
                crash_case(&fresh, at, meanwhile, choice)?;
                cases += 1;
            }
        }
    }
    Ok(cases)
}

#[test]
fn a_controller_may_die_at_any_event() {
    let cases = crashes().unwrap();
    assert!(cases > 5_000, "{cases} cases");
}
