//! The search for an order, for one key.
//!
//! All invocations and returns stand in one list, by time. The search walks it from the front: an operation that may come
//! next, and answers as it did, is taken and leaves the list; where a return is met, the operation that it belongs to was not
//! taken in time, and the last one that was taken is put back. Whoever comes to a set of taken operations and a state in
//! which the search was before goes another way.

use super::model::{Reply, State, Step};
use ft_protocol::Time;
use std::collections::HashSet;

/// An operation of the search.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    pub(super) step: Step,
    pub(super) invoked: Time,
    /// `None`: at any time after that, or never.
    pub(super) returned: Option<(Time, Reply)>,
}

/// How a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is an order: these, one after the other. Operations of unknown outcome that are missing had no effect.
    Order(Vec<usize>),
    /// There is none. Of all orders that come closest, the one that was met first, and the operation that has no place then.
    Nothing { order: Vec<usize>, stuck: usize },
    /// More configurations than the bound allows.
    TooMany,
}

/// Most configurations that a search may keep in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConfigurationsMax(pub(super) usize);

/// Looks for an order. The key has no value at the beginning.
pub(super) fn find_order(intervals: &[Interval], bound: ConfigurationsMax) -> Found {
    let mut list = List::new(intervals);
    let mut taken = Taken::new();
    let mut seen: HashSet<(Taken, State)> = HashSet::new();
    let mut path: Vec<(usize, State)> = Vec::new();
    let mut state: State = None;
    let mut to_return = intervals.iter().filter(|interval| interval.returned.is_some()).count();
    let mut closest: Option<(Vec<usize>, usize)> = None;
    let mut at = list.first();
    while to_return > 0 {
        let entry = list.entries[at];
        match entry.kind {
            Kind::Invoked => {
                let (reply, next) = intervals[entry.call].step.on(state);
                let fits = intervals[entry.call].returned.is_none_or(|(_, returned)| returned == reply);
                taken.put(entry.call);
                if fits && seen.insert((taken.clone(), next)) {
                    if seen.len() > bound.0 {
                        return Found::TooMany;
                    }
                    path.push((entry.call, state));
                    state = next;
                    list.take(intervals, entry.call);
                    to_return -= usize::from(intervals[entry.call].returned.is_some());
                    at = list.first();
                } else {
                    taken.remove(entry.call);
                    at = entry.after;
                }
            }
            Kind::Returned => {
                if closest.as_ref().is_none_or(|(order, _)| path.len() > order.len()) {
                    closest = Some((path.iter().map(|(call, _)| *call).collect(), entry.call));
                }
                let Some((call, before)) = path.pop() else {
                    let (order, stuck) = closest.unwrap_or_default();
                    return Found::Nothing { order, stuck };
                };
                state = before;
                taken.remove(call);
                list.put_back(intervals, call);
                to_return += usize::from(intervals[call].returned.is_some());
                at = list.entries[list.invocation[call]].after;
            }
        }
    }
    Found::Order(path.into_iter().map(|(call, _)| call).collect())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Invoked,
    Returned,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    kind: Kind,
    call: usize,
    before: usize,
    after: usize,
}

/// The list, with an end of its own at position 0, which stands before the first and after the last entry.
struct List {
    entries: Vec<Entry>,
    /// Where each call's invocation is.
    invocation: Vec<usize>,
    /// Where its return is, if it has one.
    returning: Vec<usize>,
}

const END: usize = 0;

impl List {
    fn new(intervals: &[Interval]) -> Self {
        let mut points: Vec<(Time, Kind, usize)> = Vec::with_capacity(2 * intervals.len());
        for (call, interval) in intervals.iter().enumerate() {
            points.push((interval.invoked, Kind::Invoked, call));
            if let Some((at, _)) = interval.returned {
                points.push((at, Kind::Returned, call));
            }
        }
        // What happened at the same moment is concurrent: invocations first.
        points.sort_unstable();
        let mut list = Self {
            entries: vec![Entry { kind: Kind::Returned, call: usize::MAX, before: points.len(), after: 1 }],
            invocation: vec![END; intervals.len()],
            returning: vec![END; intervals.len()],
        };
        for (index, (_, kind, call)) in points.iter().enumerate() {
            let place = index + 1;
            list.entries.push(Entry {
                kind: *kind,
                call: *call,
                before: index,
                after: (place + 1) % (points.len() + 1),
            });
            match kind {
                Kind::Invoked => list.invocation[*call] = place,
                Kind::Returned => list.returning[*call] = place,
            }
        }
        list
    }

    fn first(&self) -> usize {
        self.entries[END].after
    }

    fn take(&mut self, intervals: &[Interval], call: usize) {
        self.unlink(self.invocation[call]);
        if intervals[call].returned.is_some() {
            self.unlink(self.returning[call]);
        }
    }

    /// In the opposite order of taking, so that every entry finds its neighbours as they were.
    fn put_back(&mut self, intervals: &[Interval], call: usize) {
        if intervals[call].returned.is_some() {
            self.link(self.returning[call]);
        }
        self.link(self.invocation[call]);
    }

    fn unlink(&mut self, place: usize) {
        let Entry { before, after, .. } = self.entries[place];
        self.entries[before].after = after;
        self.entries[after].before = before;
    }

    fn link(&mut self, place: usize) {
        let Entry { before, after, .. } = self.entries[place];
        self.entries[before].after = place;
        self.entries[after].before = place;
    }
}

const WORD_BITS: usize = 64;

/// A set of calls, numbered by their invocation. All but a few of the first ones are in it at any time, and none of the last
/// ones: only the words in between are compared and kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Taken {
    /// Words before the first that is not full.
    full: usize,
    /// The words from there to the last that is not empty, which is never empty.
    rest: Vec<u64>,
}

impl Taken {
    fn new() -> Self {
        Self { full: 0, rest: Vec::new() }
    }

    fn put(&mut self, call: usize) {
        let word = call / WORD_BITS - self.full;
        if word >= self.rest.len() {
            self.rest.resize(word + 1, 0);
        }
        self.rest[word] |= 1 << (call % WORD_BITS);
        let full = self.rest.iter().take_while(|word| **word == u64::MAX).count();
        self.rest.drain(..full);
        self.full += full;
    }

    fn remove(&mut self, call: usize) {
        let word = call / WORD_BITS;
        if word < self.full {
            let opened = self.full - word;
            self.rest.splice(..0, std::iter::repeat_n(u64::MAX, opened));
            self.full = word;
        }
        self.rest[word - self.full] &= !(1 << (call % WORD_BITS));
        while self.rest.last() == Some(&0) {
            self.rest.pop();
        }
    }
}
