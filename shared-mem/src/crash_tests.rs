//! I3, enumerated: a host or controller dies between any two stores, with any subset of its unflushed lines lost.
//!
//! Each scenario runs once per event at which somebody can die or be interrupted, and per choice of surviving lines,
//! and compares what recovery gives with what the history says. `planted` shows that the enumeration would notice the
//! loss of any single flush, fence, check or ordering.

mod apply;
mod blob;
mod commit;
mod flips;
mod fresh;
mod hostile;
mod log;
mod log_copy;
mod planted;
mod race;
mod survivors;
mod torn;
mod twice;
mod world;
