//! Histories whose verdict is known.

use super::*;
use Answer::{Done, Mismatch, Missing};
use Operation::{Delete, Get};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

#[test]
fn one_after_the_other() {
    let history = [
        call(0, Get, 0, Some((1, Missing))),
        call(0, set("a"), 2, Some((3, Done))),
        call(1, Get, 4, Some((5, value("a")))),
        call(1, cas("b", "c"), 6, Some((7, Mismatch))),
        call(1, cas("a", "c"), 8, Some((9, Done))),
        call(0, Delete, 10, Some((11, Done))),
        call(0, Delete, 12, Some((13, Missing))),
        call(0, cas("c", "d"), 14, Some((15, Missing))),
    ];
    assert!(is_linearizable(&history));
}

#[test]
fn a_read_that_is_too_late_for_the_old_value() {
    let stale = |invoked| {
        [
            call(0, set("a"), 0, Some((1, Done))),
            call(0, set("b"), 2, Some((10, Done))),
            call(1, Get, invoked, Some((20, value("a")))),
        ]
    };
    assert!(is_linearizable(&stale(9)), "it may come before the write that is under way");
    assert!(is_linearizable(&stale(10)), "what is at the same moment is concurrent");
    assert!(!is_linearizable(&stale(11)), "the write is over");
}

#[test]
fn reads_that_disagree_about_an_order() {
    let read = |client, at, seen: &str| call(client, Get, at, Some((at + 1, value(seen))));
    let writes = [call(0, set("a"), 0, Some((100, Done))), call(1, set("b"), 0, Some((100, Done)))];
    let agreed = [read(2, 10, "a"), read(2, 20, "b"), read(3, 30, "b")];
    assert!(is_linearizable(&[&writes[..], &agreed].concat()));
    let back = [read(2, 10, "a"), read(2, 20, "b"), read(3, 30, "a")];
    assert!(!is_linearizable(&[&writes[..], &back].concat()), "each was written once");
}

#[test]
fn a_lost_write() {
    let history = [call(0, set("a"), 0, Some((1, Done))), call(1, Get, 2, Some((3, Missing)))];
    assert!(!is_linearizable(&history));
}

#[test]
fn a_swap_that_was_done_twice() {
    let history = [
        call(0, set("a"), 0, Some((1, Done))),
        call(1, cas("a", "b"), 2, Some((9, Done))),
        call(2, cas("a", "c"), 2, Some((9, Done))),
    ];
    assert!(!is_linearizable(&history), "only one of them can have found it");
}

#[test]
fn what_nobody_wrote() {
    let checked = check(&[call(0, Get, 0, Some((1, value("ghost"))))], Bounds::default());
    let Verdict::Violated(violation) = checked.verdict else { panic!("{:?}", checked.verdict) };
    assert_eq!(violation.order, []);
    assert!(violation.to_string().contains("client 0: Get of `k`"), "{violation}");
}

#[test]
fn an_operation_of_unknown_outcome_may_take_effect_late_or_never() {
    let unknown = call(0, set("a"), 5, None);
    let read = |at, answer| call(1, Get, at, Some((at + 1, answer)));
    assert!(is_linearizable(&[unknown.clone(), read(10, Missing), read(20, Missing)]));
    assert!(is_linearizable(&[unknown.clone(), read(10, Missing), read(20, value("a"))]));
    assert!(!is_linearizable(&[unknown.clone(), read(10, value("a")), read(20, Missing)]), "once it has, it has");
    assert!(!is_linearizable(&[read(0, value("a")), unknown]), "not before it was invoked");
    assert!(is_linearizable(&[call(0, Get, 0, None)]));
}

#[test]
fn keys_are_looked_at_by_themselves() {
    let mut other = call(1, Get, 2, Some((3, Missing)));
    other.key = "other".to_owned();
    let history = [call(0, set("a"), 0, Some((1, Done))), other];
    let checked = check(&history, Bounds::default());
    assert_eq!((checked.keys, checked.operations, checked.pending), (2, 2, 0));
    assert_eq!(checked.verdict, Verdict::Linearizable);
}

#[test]
fn a_search_that_is_too_large_is_given_up_and_not_decided() {
    // So many writes at one moment, and a read of what none of them wrote.
    let mut history: Vec<Call> = (0..12).map(|n| call(n, set(&n.to_string()), 0, Some((10, Done)))).collect();
    history.push(call(99, Get, 20, Some((21, value("ghost")))));
    let checked = check(&history, Bounds { configurations_max: 100 });
    assert_eq!(checked.verdict, Verdict::Undecided { key: "k".to_owned() });
    assert!(!is_linearizable(&history), "with more room it is decided");
}

/// What a store under load leaves: ten clients; one answer in `lost_every` never came.
fn long(operations: u64, seed: u64, lost_every: u64) -> Vec<Call> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut store: Option<String> = None;
    (0..operations)
        .map(|n| {
            // Takes effect at its own moment, within an interval that overlaps those of about ten others.
            let moment = n * 10;
            let (before, after) = (random.random_range(0..50), random.random_range(0..50));
            let (operation, answer) = match random.random_range(0..4) {
                0 => (Get, store.clone().map_or(Missing, Answer::Value)),
                1 => {
                    store = Some(n.to_string());
                    (set(&n.to_string()), Done)
                }
                2 => {
                    let expected = store.clone().unwrap_or_default();
                    let answer = if store.is_some() { Done } else { Missing };
                    store = store.take().map(|_| n.to_string());
                    (cas(&expected, &n.to_string()), answer)
                }
                _ => (Delete, if store.take().is_some() { Done } else { Missing }),
            };
            let returned = (n % lost_every != lost_every - 1).then_some((moment + after, answer));
            call(u32::try_from(n % 10).unwrap(), operation, moment.saturating_sub(before), returned)
        })
        .collect()
}

#[test]
fn long_histories_of_one_key_are_decided() {
    assert!(is_linearizable(&long(4_000, 7, 200)));
    let mut history = long(4_000, 7, u64::MAX);
    assert!(is_linearizable(&history));
    let wrong = history.iter_mut().rev().find(|call| matches!(call.returned, Some((_, Answer::Value(_)))));
    wrong.expect("there are reads").returned.as_mut().unwrap().1 = value("0");
    assert!(!is_linearizable(&history));
}
