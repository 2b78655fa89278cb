//! The history of a guest as its inputs tell it: what is recorded, and how a replay holds itself to it.
//!
//! An [`Entry`] is one input (or a mark of an output) with the number of the guest's exit at which it came. Between two
//! inputs a guest computes the same on every host, so the entries since a commit and the state at that commit are the
//! guest's whole history. The [`Cursor`] decides, request by request, what a replayed guest is given, and notices when it
//! asks for something else than the guest that was recorded; every entry carries a [`HistoryDigest`] of all exits up to its
//! own, so that a guest that has gone another way is found out even if it asks for the same things.

mod ahead;
mod cursor;
#[cfg(test)]
mod cursor_tests;
mod digest;
mod divergence;
mod entry;
#[cfg(test)]
mod entry_tests;
mod log_end;
mod patience;
mod space;

pub use ahead::Ahead;
pub use cursor::{Answer, Cursor, CursorError, EntrySource, Extent, OutputsLogged, Request};
pub use digest::{Access, HistoryDigest};
pub use divergence::{Divergence, DivergenceKind};
pub use entry::{
    CODEC_VERSION, CommitPoint, Entry, EntryBody, EntryError, EntryKind, PAYLOAD_BYTES_MAX, frame_digest, sent_digest,
};
pub use log_end::{Landing, LogEnd, ReplayEnd};
pub use patience::Patience;
pub use space::LogSpace;
