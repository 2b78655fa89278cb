//! The primary dies, or is frozen, at any event of its commits.

use std::cell::Cell;
use std::rc::Rc;

use super::survivors::{Choice, choices};
use super::world::{Controller, Held, Primary, Stop, World, hold};

/// What the controller does while the primary lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Applies after each commit.
    Eager,
    /// Does nothing until the primary waits for slots.
    Late,
}

/// What happens between the primary's last event and the loss of its cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    CrashAtOnce,
    /// The controller looks at the frozen primary's word, and acts on it.
    ObservedFirst,
}

fn run_together(primary: &mut Primary, controller: &Controller, pace: Pace) -> Held<Stop> {
    loop {
        match primary.step()? {
            None if pace == Pace::Late => {}
            None => controller.poll()?,
            Some(Stop::SlotsFull) => controller.poll()?,
            Some(stop) => return Ok(stop),
        }
    }
}

fn events_of_a_whole_run(fresh: &World, pace: Pace) -> Held<u64> {
    let world = fresh.fork();
    let (mut primary, controller) = (Primary::new(&world), Controller::new(&world));
    let stop = run_together(&mut primary, &controller, pace)?;
    hold(stop == Stop::AllDone, || format!("{stop:?}"))?;
    let last = controller.take_over(&primary)?;
    hold(last == super::world::EPOCHS, || format!("ended at {last}"))?;
    Ok(primary.cache.events())
}

fn crash_case(fresh: &World, at: u64, pace: Pace, moment: Moment, choice: Choice) -> Held {
    let world = fresh.fork();
    let (mut primary, controller) = (Primary::new(&world), Controller::new(&world));
    primary.cache.die_after(at);
    run_together(&mut primary, &controller, pace)?;
    if moment == Moment::ObservedFirst {
        controller.poll()?;
    }
    primary.cache.crash(&mut *choice.survivors());
    controller.take_over(&primary).map(|_| ())
}

/// Every crash point of the commits; returns how many cases there were.
pub(super) fn crashes() -> Held<usize> {
    let fresh = World::new();
    let mut cases = 0;
    for pace in [Pace::Eager, Pace::Late] {
        for at in 0..=events_of_a_whole_run(&fresh, pace)? {
            for choice in choices(at) {
                for moment in [Moment::CrashAtOnce, Moment::ObservedFirst] {
                    crash_case(&fresh, at, pace, moment, choice)?;
                    cases += 1;
                }
            }
        }
    }
    Ok(cases)
}

/// The primary is frozen at an event, the controller takes over (and dies right after, in one variant), and then the
/// zombie runs on: it must find itself fenced before it releases anything, and harm nothing.
fn zombie_case(fresh: &World, at: u64, sealer_dies: Option<Choice>) -> Held {
    let world = fresh.fork();
    let mut primary = Primary::new(&world);
    let sealed_at = Rc::new(Cell::new(None));
    let (at_freeze, note) = (world.clone(), Rc::clone(&sealed_at));
    primary.cache.interrupt_after(at, move || {
        let controller = Controller::new(&at_freeze);
        note.set(controller.journal.seal().ok().map(|epoch| epoch.get()));
        if let Some(choice) = sealer_dies {
            controller.cache.crash(&mut *choice.survivors());
        }
    });
    let controller = Controller::new(&world);
    let stop = run_together(&mut primary, &controller, Pace::Late)?;
    let Some(sealed_at) = sealed_at.get() else {
        return hold(stop == Stop::AllDone, || format!("{stop:?} without a seal"));
    };
    let released = primary.released;
    // A publish that the seal has counted in may report success later; nothing beyond it may.
    hold(released <= sealed_at, || format!("zombie released {released} after the seal at {sealed_at}"))?;
    hold(stop == Stop::Fenced || sealed_at == super::world::EPOCHS, || format!("{stop:?}"))?;
    let last = controller.take_over(&primary)?;
    hold(last == sealed_at, || format!("sealed twice: {sealed_at}, {last}"))
}

/// Every point at which a primary can be frozen; returns how many cases there were.
pub(super) fn zombies() -> Held<usize> {
    let fresh = World::new();
    let mut cases = 0;
    for at in 0..=events_of_a_whole_run(&fresh, Pace::Late)? {
        let dying = choices(at).map(Some);
        for sealer_dies in std::iter::once(None).chain(dying) {
            zombie_case(&fresh, at, sealer_dies)?;
            cases += 1;
        }
    }
    Ok(cases)
}

#[test]
fn a_primary_may_die_at_any_event() {
    let cases = crashes().unwrap();
    assert!(cases > 10_000, "{cases} cases");
}

#[test]
fn a_frozen_primary_finds_itself_fenced() {
    let cases = zombies().unwrap();
    assert!(cases > 1_000, "{cases} cases");
}
