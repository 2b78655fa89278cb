//! Pool memory that loses what was not written back: the crash model that tests and the simulator run on.
//!
//! # The model
//! Each host (and the controller) has a [`LossyCache`]; all its accesses to all memories go through it. A store is
//! visible to everybody at once (caches are coherent), but it sits in the cache of the storing host until a `flush`
//! of its line followed by a `fence`, both by the same host. When a host crashes, every line that is dirty in its
//! cache keeps some prefix of the stores made to it since it was last durable, down to none and up to all, chosen
//! line by line and independently (that covers evictions at any moment); of the store after that prefix any subset
//! of the 8-byte words may be kept too. Aligned 8-byte words never tear. A line that another host stores to, or
//! that another host flushes, moves to or is written back by that host, as coherent hardware does.
//!
//! The model is stricter than hardware in one place: a fence covers the memory it is called on, not all memories.
//! It forgets intermediate contents of a line beyond the last [`VERSIONS_MAX`] stores.
//!
//! Stores (one per line touched), flushes and fences are counted as events; a cache can be told to die at the n-th.
//! From then on every access through it fails with [`AccessError::Unreachable`](crate::mem::AccessError).

mod cache;
mod memory;
mod page;
mod survivors;

pub use cache::LossyCache;
pub use memory::LossyMemory;
pub use page::VERSIONS_MAX;
pub use survivors::{DirtyLine, KeepAll, KeepNone, Kept, RandomSurvivors, Survivors};

#[cfg(test)]
mod tests;
