//! What clients of a key-value store saw, and whether one store that nothing ever happened to could have shown it to them:
//! linearizability (Herlihy and Wing 1990).
//!
//! The search is that of Wing and Gong (1993) with Lowe's memory of configurations that came to nothing (2017), one key at a
//! time: a history is linearizable if and only if its part for each key is. An operation whose outcome is not known may have
//! taken effect at any time after it was invoked, or never.

mod check;
mod file;
mod model;
mod search;
#[cfg(test)]
mod tests;

pub use check::{Bounds, Checked, Verdict, Violation, check};
pub use file::{Deed, Entry, HistoryError, Line, Recorder, UnderWay, content, deeds, lines, parse, read};
pub use model::{Answer, Call, ClientId, Operation};
