//! Every order, tried one by one.

use super::*;
use proptest::prelude::*;

/// What the store would answer: written a second time on purpose, and not as the checker has it.
fn apply(store: &mut Option<String>, operation: &Operation) -> Answer {
    match operation {
        Operation::Get => store.clone().map_or(Answer::Missing, Answer::Value),
        Operation::Set(value) => {
            *store = Some(value.clone());
            Answer::Done
        }
        Operation::Cas { expected, new } => match store {
            None => Answer::Missing,
            Some(value) if value != expected => Answer::Mismatch,
            Some(value) => {
                value.clone_from(new);
                Answer::Done
            }
        },
        Operation::Delete => store.take().map_or(Answer::Missing, |_| Answer::Done),
    }
}

/// Whether any order of all operations that returned, and of some that did not, explains the answers.
fn any_order_explains(left: &[&Call], store: &Option<String>) -> bool {
    if left.iter().all(|call| call.returned.is_none()) {
        return true;
    }
    left.iter().enumerate().any(|(index, call)| {
        let over_before = |other: &&Call| other.returned.as_ref().is_some_and(|(at, _)| *at < call.invoked);
        if left.iter().any(over_before) {
            return false;
        }
        let mut store = store.clone();
        let answer = apply(&mut store, &call.operation);
        if call.returned.as_ref().is_some_and(|(_, returned)| *returned != answer) {
            return false;
        }
        let rest: Vec<&Call> =
            left.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, call)| *call).collect();
        any_order_explains(&rest, &store)
    })
}

fn values() -> impl Strategy<Value = String> {
    prop_oneof!["a", "b"].prop_map(String::from)
}

fn operations() -> impl Strategy<Value = Operation> {
    prop_oneof![
        Just(Operation::Get),
        values().prop_map(Operation::Set),
        (values(), values()).prop_map(|(expected, new)| Operation::Cas { expected, new }),
        Just(Operation::Delete),
    ]
}

fn answers() -> impl Strategy<Value = Answer> {
    prop_oneof![Just(Answer::Done), values().prop_map(Answer::Value), Just(Answer::Missing), Just(Answer::Mismatch)]
}

/// An operation that takes effect at some moment; what it answers may be changed afterwards.
#[derive(Clone, Debug)]
struct Planned {
    operation: Operation,
    moment: u64,
    before: u64,
    after: u64,
    lost: bool,
    lie: Option<Answer>,
}

fn planned() -> impl Strategy<Value = Planned> {
    let lie = prop_oneof![12 => Just(None), 1 => answers().prop_map(Some)];
    (operations(), 0..20_u64, 0..8_u64, 0..8_u64, proptest::bool::weighted(0.2), lie).prop_map(
        |(operation, moment, before, after, lost, lie)| Planned { operation, moment, before, after, lost, lie },
    )
}

/// A run of a real store, seen by clients of whom some are mistaken.
fn histories() -> impl Strategy<Value = Vec<Call>> {
    proptest::collection::vec(planned(), 1..8).prop_map(|mut plan| {
        plan.sort_by_key(|planned| planned.moment);
        let mut store = None;
        let mut history = Vec::new();
        for (client, planned) in (0..).zip(plan) {
            let answer = apply(&mut store, &planned.operation);
            let answer = planned.lie.unwrap_or(answer);
            let returned = (!planned.lost).then_some((planned.moment + planned.after, answer));
            history.push(call(client, planned.operation, planned.moment.saturating_sub(planned.before), returned));
        }
        history
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn the_search_finds_an_order_exactly_where_there_is_one(history in histories()) {
        let calls: Vec<&Call> = history.iter().collect();
        prop_assert_eq!(is_linearizable(&history), any_order_explains(&calls, &None));
    }
}

/// The property above would hold of histories of one kind, too.
#[test]
fn histories_of_both_kinds_are_drawn() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let drawn: Vec<bool> = (0..400)
        .map(|_| histories().new_tree(&mut runner).expect("a history can be drawn").current())
        .map(|history| is_linearizable(&history))
        .collect();
    let linearizable = drawn.iter().filter(|is| **is).count();
    assert!((80..=390).contains(&linearizable), "{linearizable} of {}", drawn.len());
}
