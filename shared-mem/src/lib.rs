//! The pool: files, layout, journal, record log, heartbeat pages, copy-on-write views.
//!
//! Everything is written against the traits of [`mem`], so that the same code runs over mapped memory and over the
//! crash model of [`lossy`]. The layout is described byte by byte in docs/pool-layout.md.

pub mod apply;
pub mod blob_store;
pub mod commit_word;
pub mod console;
pub mod control;
pub mod guarded_word;
mod header;
pub mod heartbeat;
pub mod journal;
pub mod lossy;
pub mod mem;
pub mod numbers;
#[cfg(any(test, feature = "planted-bugs"))]
pub mod planted;
#[cfg(not(any(test, feature = "planted-bugs")))]
mod planted;
pub mod record_log;
pub mod state_area;
pub mod superblock;
pub mod vm_directory;

pub use header::{HeaderError, ReadHeaderError};
