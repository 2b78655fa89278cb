//! The journal of one generation: a commit word and the slots that hold commit records.
//!
//! ```text
//! file:  header (64) | commit word (at 64) | ... 4096 | slot 0 | slot 1 | ...
//! slot:  record header (64) ... 4096 | pages | page index | meta
//! ```
//! The record of epoch E turns epoch E-1 into E and lies in slot E mod `slots`. Pages come first and the index after
//! them, so that the number of pages need not be known when the record is begun.

mod layout;
mod reader;
mod record;
mod spill;
mod writer;

pub(crate) use layout::RecordHeader;
pub(crate) use layout::WORD_AT;
pub use layout::{FormatJournalError, JournalGeometry, META_BYTES_MAX, PAGE_COST, format_journal};
pub(crate) use reader::load_slot;
pub use reader::{JournalReader, LoadError, OpenJournalError};
pub use record::{Pages, Record, RecordError, RecordLimits};
pub(crate) use record::{RecordCrcs, checked_bytes, generation_in, is_header_of};
pub use spill::{AllReserved, SPILL_STEP, SpillError, SpillSpace};
pub use writer::{FinishedRecord, JournalError, JournalWriter, RecordWriter, UnchecksummedRecord};

#[cfg(test)]
mod tests;
