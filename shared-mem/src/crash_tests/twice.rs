//! Recovery is cut short, too: who recovers dies at an event of it, and the next one goes on from what both have left.
//!
//! Every first crash with some second ones, drawn from its number; and the recovery that has most to do with every second
//! one. `FTVM_CRASH_ROUNDS` says how many are drawn.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::survivors::{Choice, choices};
use super::torn::Damage;
use super::world::{Controller, EPOCHS, GENERATION, Held, LIMITS, Primary, Stop, World, hold, violation};
use crate::numbers::Epoch;
use crate::planted::{PlantedBug, plant};

/// How many second crashes are drawn for each first one, unless the environment says so.
const ROUNDS: u64 = 4;

thread_local! {
    /// What is planted while somebody recovers, and only then.
    static IN_RECOVERY: Cell<Option<PlantedBug>> = const { Cell::new(None) };
}

fn rounds() -> u64 {
    let given = std::env::var("FTVM_CRASH_ROUNDS").ok();
    given.map_or(ROUNDS, |text| text.parse().expect("FTVM_CRASH_ROUNDS is a number"))
}

/// When somebody dies, and what outlives them.
#[derive(Debug, Clone, Copy)]
struct Crash {
    at: u64,
    choice: Choice,
}

impl Crash {
    /// One of the choices for a crash at an event.
    fn drawn(at: u64, draw: u64) -> Self {
        let all: Vec<Choice> = choices(draw).collect();
        let index = usize::try_from(draw).unwrap_or(0) % all.len();
        Self { at, choice: all[index] }
    }
}

/// What happens before the recovery, the recovery, and what must hold after it: returns the events of the recovery.
type Case = fn(&World, Crash, Option<Crash>) -> Held<u64>;

/// Lets a controller recover, up to the second crash.
fn recover(controller: &Controller, second: Option<Crash>, recovery: impl FnOnce() -> Held) -> Held<u64> {
    let before = controller.cache.events();
    if let Some(crash) = second {
        controller.cache.die_after(crash.at);
    }
    plant(IN_RECOVERY.get());
    let recovered = recovery();
    plant(None);
    // Of one who is dead only what is left counts.
    if !controller.cache.is_dead() {
        recovered?;
    }
    let events = controller.cache.events() - before;
    if let Some(crash) = second {
        controller.cache.crash(&mut *crash.choice.survivors());
    }
    Ok(events)
}

/// The primary dies; the controller dies in taking over.
fn commits(fresh: &World, first: Crash, second: Option<Crash>) -> Held<u64> {
    let world = fresh.fork();
    let (mut primary, controller) = (Primary::new(&world), Controller::new(&world));
    primary.cache.die_after(first.at);
    while primary.run()? == Stop::SlotsFull {
        controller.poll()?;
    }
    primary.cache.crash(&mut *first.choice.survivors());
    let sealed = Cell::new(None);
    let events = recover(&controller, second, || {
        sealed.set(controller.journal.seal().ok().map(Epoch::get));
        controller.take_over(&primary).map(drop)
    })?;
    let next_life = Controller::new(&world);
    let last = next_life.take_over(&primary)?;
    hold(sealed.get().is_none_or(|sealed| sealed == last), || format!("sealed at {sealed:?}, then at {last}"))?;
    Ok(events)
}

fn applying(fresh: &World, first: Crash, second: Option<Crash>, damage: Option<Damage>) -> Held<u64> {
    let world = fresh.fork();
    let (mut primary, controller) = (Primary::new(&world), Controller::new(&world));
    controller.cache.die_after(first.at);
    while primary.run()? == Stop::SlotsFull && !controller.cache.is_dead() {
        controller.poll()?;
    }
    controller.poll()?;
    controller.cache.crash(&mut *first.choice.survivors());
    primary.run()?;
    let next_life = Controller::new(&world);
    next_life.check_whole()?;
    let next = Epoch::new(next_life.applied()? + 1);
    let is_begun = next_life.redo.is_begun(GENERATION, next, &LIMITS).map_err(violation)?;
    if let Some(damage) = damage.filter(|_| is_begun && next.get() <= EPOCHS) {
        damage.inflict(&world, next)?;
    }
    let events = recover(&next_life, second, || next_life.poll())?;
    let last_life = Controller::new(&world);
    last_life.check_whole()?;
    let stop = loop {
        match primary.run()? {
            Stop::SlotsFull => last_life.poll()?,
            stop => break stop,
        }
    };
    hold(stop == Stop::AllDone, || format!("{stop:?} at the end"))?;
    last_life.take_over(&primary)?;
    Ok(events)
}

/// The controller dies, and the next one dies in going on.
fn applies(fresh: &World, first: Crash, second: Option<Crash>) -> Held<u64> {
    applying(fresh, first, second, None)
}

/// The same, and the record that was begun is lost in between: its copy must outlive both.
fn torn(fresh: &World, first: Crash, second: Option<Crash>) -> Held<u64> {
    applying(fresh, first, second, Some(Damage::Garbage))
}

/// Events of one who does all of its work.
fn whole_run(case: Case, fresh: &World) -> Held<u64> {
    let world = fresh.fork();
    let (mut primary, controller) = (Primary::new(&world), Controller::new(&world));
    while primary.run()? == Stop::SlotsFull {
        controller.poll()?;
    }
    controller.poll()?;
    Ok(if std::ptr::fn_addr_eq(case, commits as Case) { primary.cache.events() } else { controller.cache.events() })
}

/// Spreads numbers that follow each other.
fn mixed(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

/// Every first crash without a second one.
fn firsts(case: Case) -> Held {
    let fresh = World::new();
    (0..=whole_run(case, &fresh)?).try_for_each(|at| case(&fresh, Crash::drawn(at, mixed(at)), None).map(drop))
}

/// Returns how many pairs of crashes there were.
fn pairs(case: Case) -> Held<usize> {
    let fresh = World::new();
    let (mut cases, mut longest) = (0, (0, Crash::drawn(0, 0)));
    for at in 0..=whole_run(case, &fresh)? {
        let first = Crash::drawn(at, mixed(at));
        let events = case(&fresh, first, None)?;
        if events > longest.0 {
            longest = (events, first);
        }
        for round in 0..rounds() {
            let draw = mixed(at * rounds() + round);
            case(&fresh, first, Some(Crash::drawn(draw % (events + 1), draw)))?;
            cases += 1;
        }
    }
    let (events, first) = longest;
    for at in 0..=events {
        for choice in choices(at) {
            case(&fresh, first, Some(Crash { at, choice }))?;
            cases += 1;
        }
    }
    eprintln!("{cases} pairs of crashes");
    Ok(cases)
}

#[test]
fn a_controller_may_die_while_it_takes_over_from_a_dead_primary() {
    let cases = pairs(commits).unwrap();
    assert!(cases > 10_000, "{cases} cases");
}

#[test]
fn a_controller_may_die_while_it_goes_on_where_one_has_died() {
    let cases = pairs(applies).unwrap();
    assert!(cases > 10_000, "{cases} cases");
}

#[test]
fn the_copy_of_a_record_outlives_two_controllers() {
    let cases = pairs(torn).unwrap();
    assert!(cases > 10_000, "{cases} cases");
}

/// What only a second crash can show: the first life did all that it should, and who recovered forgot one thing.
#[test]
fn recovery_needs_its_protections_itself() {
    let needed: [(PlantedBug, Case); 14] = [
        (PlantedBug::ApplyPageFlush, commits),
        (PlantedBug::ApplyPageFence, commits),
        (PlantedBug::ApplyBlockFlush, commits),
        (PlantedBug::ApplyBlockFence, commits),
        (PlantedBug::AppliedFirst, commits),
        (PlantedBug::ApplyPageFlush, applies),
        (PlantedBug::ApplyPageFence, applies),
        (PlantedBug::ApplyBlockFlush, applies),
        (PlantedBug::ApplyStateFlush, applies),
        (PlantedBug::ApplyStateFence, applies),
        (PlantedBug::ApplyConsoleDataFlush, applies),
        (PlantedBug::ApplyConsoleDataFence, applies),
        (PlantedBug::ApplyConsoleTailFirst, applies),
        (PlantedBug::AppliedFirst, applies),
    ];
    let with = |bug, check: &dyn Fn() -> Held| {
        IN_RECOVERY.set(Some(bug));
        let noticed = catch_unwind(AssertUnwindSafe(check)).map_or(true, |held| held.is_err());
        IN_RECOVERY.set(None);
        plant(None);
        noticed
    };
    for (bug, case) in needed {
        assert!(!with(bug, &|| firsts(case)), "{bug:?} shows without a second crash");
        assert!(with(bug, &|| pairs(case).map(drop)), "no second crash shows {bug:?}");
    }
}
