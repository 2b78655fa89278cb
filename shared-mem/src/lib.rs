//! The pool: files, layout, journal, record log, heartbeat pages, copy-on-write views.
//!
//! Everything is written against the traits of [`mem`], so that the same code runs over mapped memory and over the
//! crash model of [`lossy`]. The layout is described byte by byte in docs/pool-layout.md.

pub mod activity;
pub mod apply;
pub mod apply_limit;
pub mod blob_store;
pub mod boot_image;
pub mod commit_word;
pub mod console;
pub mod control;
#[cfg(test)]
mod crash_tests;
mod crc;
pub mod device_writes;
pub mod disk_image;
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
pub mod pool;
pub mod record_log;
pub mod redo;
pub mod state_area;
pub mod superblock;
pub mod vm_directory;
pub mod working;

pub use activity::ActivityWriter;
pub use apply::{ApplyParts, ApplyStep, ApplyTargets, apply_record, no_step};
pub use apply_limit::ApplyLimit;
pub use blob_store::BlobStore;
pub use commit_word::{CommitWord, PublishError};
pub use console::ConsoleRing;
pub use control::ControlBlock;
pub use header::{HeaderError, ReadHeaderError};
pub use heartbeat::{Beat, HeartbeatReader, HeartbeatWriter};
pub use journal::{JournalGeometry, JournalReader, JournalWriter, Record, RecordLimits, SpillSpace};
pub use lossy::{LossyCache, LossyMemory};
pub use mem::{Access, AccessError, Extent, FlushKind, Mapping, PoolRead, PoolWrite, ReadOnly, ReadWrite};
pub use numbers::{
    BlockIndex, ConsolePosition, DISK_PAGE_BASE, Epoch, Generation, HostSlot, LogPosition, Offset, PAGE_BYTES,
    PAGE_SIZE, PageIndex, PagePlace, VmSlot,
};
pub use pool::{LeavingVm, NewVm, Pool, PoolConfig, PoolError, PoolView, SpaceReserve, VmPartition};
pub use record_log::{LogEntry, LogReader, LogWriter};
pub use redo::{KeepRecord, Kept, RedoArea, load_to_apply};
pub use state_area::StateArea;
pub use vm_directory::{VmGeometry, VmName};
pub use working::WorkingMemory;
