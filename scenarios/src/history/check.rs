//! Whole histories: key by key.

use super::model::{Answer, Call, Operation, Reply, Step, ValueId};
use super::search::{ConfigurationsMax, Found, Interval, find_order};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// Bounds of a check. Each operation of unknown outcome may double the configurations of a key that has no order: use many
/// keys where many answers get lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Configurations of one key's search that are kept in memory; a search that needs more is given up.
    pub configurations_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { configurations_max: 1_000_000 }
    }
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Operations looked at.
    pub operations: usize,
    /// Those of unknown outcome.
    pub pending: usize,
    /// Keys.
    pub keys: usize,
    /// What came of it.
    pub verdict: Verdict,
}

/// Whether a history is linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Linearizable,
    /// It is not.
    Violated(Box<Violation>),
    /// A search was given up.
    Undecided {
        /// The key.
        key: String,
    },
}

/// A key whose operations have no order that explains their answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// An order of operations that comes as close as any.
    pub order: Vec<Call>,
    /// The operation that has no place behind it.
    pub stuck: Call,
}

/// As much of the order as is shown.
const SHOWN_MAX: usize = 8;

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "key `{}`: no order explains the answers. The closest ends with", self.key)?;
        for call in self.order.iter().skip(self.order.len().saturating_sub(SHOWN_MAX)) {
            writeln!(f, "  {call}")?;
        }
        write!(f, "and has no place for\n  {}", self.stuck)
    }
}

/// Checks a history; every key has no value at its beginning. What happened at the same nanosecond counts as concurrent.
#[must_use]
pub fn check(history: &[Call], bounds: Bounds) -> Checked {
    let mut keys: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in history {
        keys.entry(&call.key).or_default().push(call);
    }
    let verdicts = keys.iter().map(|(key, calls)| check_key(key, calls, bounds));
    Checked {
        operations: history.len(),
        pending: history.iter().filter(|call| call.returned.is_none()).count(),
        keys: keys.len(),
        verdict: worst(verdicts),
    }
}

/// A violation is one whatever could not be decided elsewhere.
fn worst(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    let mut worst = Verdict::Linearizable;
    for verdict in verdicts {
        match verdict {
            Verdict::Violated(_) => return verdict,
            Verdict::Undecided { .. } => worst = verdict,
            Verdict::Linearizable => {}
        }
    }
    worst
}

fn check_key(key: &str, calls: &[&Call], bounds: Bounds) -> Verdict {
    let mut numbers = Numbers::default();
    // A read of unknown outcome says nothing and does nothing.
    let says = |call: &&&Call| call.returned.is_some() || call.operation != Operation::Get;
    let mut calls: Vec<&Call> = calls.iter().filter(says).copied().collect();
    // Numbered by their invocation, so that those that are through are the first ones.
    calls.sort_by_key(|call| call.invoked);
    let intervals: Vec<Interval> = calls.iter().map(|call| numbers.interval(call)).collect();
    match find_order(&intervals, ConfigurationsMax(bounds.configurations_max)) {
        Found::Order(_) => Verdict::Linearizable,
        Found::TooMany => Verdict::Undecided { key: key.to_owned() },
        Found::Nothing { order, stuck } => Verdict::Violated(Box::new(Violation {
            key: key.to_owned(),
            order: order.into_iter().map(|call| calls[call].clone()).collect(),
            stuck: calls[stuck].clone(),
        })),
    }
}

/// The numbers of a key's values.
#[derive(Default)]
struct Numbers<'a> {
    known: HashMap<&'a str, ValueId>,
}

impl<'a> Numbers<'a> {
    fn of(&mut self, value: &'a str) -> ValueId {
        let next = ValueId(u32::try_from(self.known.len()).expect("a history has less than 2^32 values"));
        *self.known.entry(value).or_insert(next)
    }

    fn interval(&mut self, call: &'a Call) -> Interval {
        let step = match &call.operation {
            Operation::Get => Step::Get,
            Operation::Set(value) => Step::Set(self.of(value)),
            Operation::Cas { expected, new } => Step::Cas { expected: self.of(expected), new: self.of(new) },
            Operation::Delete => Step::Delete,
        };
        let returned = call.returned.as_ref().map(|(at, answer)| {
            let reply = match answer {
                Answer::Done => Reply::Done,
                Answer::Value(value) => Reply::Value(self.of(value)),
                Answer::Missing => Reply::Missing,
                Answer::Mismatch => Reply::Mismatch,
            };
            (*at, reply)
        });
        Interval { step, invoked: call.invoked, returned }
    }
}
