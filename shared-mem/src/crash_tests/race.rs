//! The sealer, the applier and a writer who damages word and record, in every order: nothing is applied past the end.

use super::world::{Controller, GENERATION, GEOMETRY, Held, LIMITS, Primary, World, hold, violation};
use crate::apply_limit::ApplyLimit;
use crate::journal::Record;
use crate::mem::PoolWrite;
use crate::numbers::{Epoch, Offset, PAGE_BYTES};
use crate::redo::load_to_apply;

/// What one step is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Of the applier: look, copy, begin, apply.
    Apply,
    /// Of the writer: overwrite the word, then the record.
    Damage,
    /// The seal.
    Seal,
}

/// All orders of four steps of the applier, two of the writer, and the seal.
fn orders() -> Vec<Vec<Step>> {
    let mut found = Vec::new();
    grow(&mut Vec::new(), [4, 2, 1], &mut found);
    found
}

fn grow(order: &mut Vec<Step>, left: [u32; 3], found: &mut Vec<Vec<Step>>) {
    if left == [0; 3] {
        return found.push(order.clone());
    }
    for (index, step) in [Step::Apply, Step::Damage, Step::Seal].into_iter().enumerate() {
        if left[index] > 0 {
            let mut left = left;
            left[index] -= 1;
            order.push(step);
            grow(order, left, found);
            order.pop();
        }
    }
}

/// How far the applier has got; `None`: it has given up.
#[derive(Debug)]
enum Applier {
    Looks,
    Copies,
    Begins(Vec<u8>),
    Applies(Vec<u8>),
    Done,
}

struct Race<'a> {
    controller: &'a Controller,
    world: &'a World,
    limit: ApplyLimit,
    epoch: Epoch,
    applier: Applier,
    damaged: u32,
}

impl Race<'_> {
    fn step(&mut self, step: Step) -> Held {
        match step {
            Step::Apply => self.apply(),
            Step::Damage => self.damage(),
            Step::Seal => self.seal().map(drop),
        }
    }

    fn apply(&mut self) -> Held {
        self.applier = match std::mem::replace(&mut self.applier, Applier::Done) {
            Applier::Looks => {
                let end =
                    self.limit.end(GENERATION).map_or_else(|| self.controller.journal.word().map(|w| w.epoch), Ok);
                if end.is_ok_and(|end| self.epoch <= end) { Applier::Copies } else { Applier::Done }
            }
            Applier::Copies => {
                let mut copy = Vec::new();
                let (journal, redo) = (&self.controller.journal, &self.controller.redo);
                match load_to_apply(journal, redo, self.epoch, &LIMITS, &mut copy) {
                    Ok(_) => Applier::Begins(copy),
                    Err(_) => Applier::Done,
                }
            }
            Applier::Begins(copy) if self.limit.begin(GENERATION, self.epoch) => Applier::Applies(copy),
            Applier::Begins(_) | Applier::Done => Applier::Done,
            Applier::Applies(copy) => {
                let record = Record::parse(&copy, GENERATION, self.epoch, &LIMITS).map_err(violation)?;
                self.controller.apply_copy(&record)?;
                Applier::Done
            }
        };
        Ok(())
    }

    fn damage(&mut self) -> Held {
        self.damaged += 1;
        let at = if self.damaged == 1 { Offset::new(64) } else { GEOMETRY.slot_at(self.epoch).plus(100) };
        let garbage = if self.damaged == 1 { vec![0xa5; 8] } else { vec![0xa5; 2 * PAGE_BYTES] };
        self.world.journal.write(at, &garbage).map_err(violation)
    }

    fn seal(&self) -> Held<Epoch> {
        let applied = Epoch::new(self.controller.applied()?);
        let closed = Some((&self.controller.journal, self.controller.journal.seal()));
        let find = |begun| self.controller.redo.end_of(GENERATION, closed, (applied, begun), &LIMITS);
        self.limit.seal(GENERATION, find).map_err(violation)
    }
}

/// Every order; returns how many there were.
pub(super) fn races() -> Held<usize> {
    let fresh = World::new();
    let mut primary = Primary::new(&fresh);
    primary.step()?;
    let orders = orders();
    for order in &orders {
        let world = fresh.fork();
        let controller = Controller::new(&world);
        let epoch = Epoch::new(1);
        let limit = ApplyLimit::default();
        let mut race =
            Race { controller: &controller, world: &world, limit, epoch, applier: Applier::Looks, damaged: 0 };
        for step in order {
            race.step(*step)?;
        }
        let (applied, end) = (controller.applied()?, race.limit.end(GENERATION));
        hold(end.is_some_and(|end| applied <= end.get()), || {
            format!("applied {applied}, the generation ended at {end:?}: {order:?}")
        })?;
        controller.check_history(applied)?;
    }
    Ok(orders.len())
}

#[test]
fn nothing_is_applied_past_the_end_in_any_order() {
    assert_eq!(races().unwrap(), 105);
}
