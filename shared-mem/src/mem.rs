//! How pool memory is reached: two traits, a mapping of real memory, and the flush discipline.
//!
//! # Concurrency model
//! Pool memory is written by other processes at any time. Nothing here ever makes a Rust reference into it: bytes
//! go in and out by volatile copies through one bounds-checked accessor, words by atomics. Bytes that were copied out
//! are private and then checked. Order between processes comes from the atomics only (a release store or
//! read-modify-write after the bytes, an acquire load before them), after a `drain` where bytes were streamed; durability
//! comes from `flush` and `fence` only.

mod access;
mod backing;
mod extent;
mod flush;
mod mapping;
mod stream;
mod truncation;

pub use access::{AccessError, PoolRead, PoolWrite};
pub(crate) use access::{check_bounds, check_word};
pub(crate) use backing::{available_bytes, device_bytes};
pub use backing::{is_device, mapping_bytes, mapping_window, page_bytes};
pub use extent::{Access, Extent, ExtentError};
pub use flush::{FlushKind, ParseFlushKindError, UnsupportedFlushError};
pub use mapping::{MapError, Mapping, ReadOnly, ReadWrite};
pub use truncation::{Guarded, survive_truncation};

/// The unit in which caches lose, and flushes save, bytes.
pub const LINE_BYTES: u64 = 64;
