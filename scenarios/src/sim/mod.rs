//! The deterministic simulator: the real cores of ft-protocol over the real structures of shared-mem, on memory that
//! loses unflushed lines, with a model guest, under one seed, one thread and virtual time.
//!
//! A run has two phases. In the safety phase the faults of its plan happen, and after every event independent checkers
//! hold what they see against the one true history (I1 to I5, I7). Then everything is healed, and within fixed bounds every
//! VM must be protected again (I6), run to its end, and have shown exactly its console. See docs/simulation.md.

mod actor;
mod admission;
mod apply;
mod calm;
mod campaign;
mod check;
mod check_pool;
pub mod cli;
mod client;
mod commit;
mod compound;
mod controller;
mod drain;
mod draw;
mod drive;
mod event_file;
pub mod fault;
mod follow;
mod generation;
mod guest;
mod host;
mod inject;
mod landing;
mod life;
mod machine;
mod net;
mod outcome;
mod plan;
pub mod planted;
mod planted_controller;
mod pool;
mod queue;
mod rebuild;
mod record;
mod replay;
mod shrink;
mod stage;
mod stage_acts;
mod stage_failpoints;
mod stage_targets;
mod truth;
mod vcpu;
mod violation;
mod watch;
mod weather;
mod world;

pub use draw::Range;
pub use event_file::{EventFile, EventFileError};
pub use guest::Registers;
pub(crate) use guest::Saying;
pub(crate) use outcome::{Interrupted, Memory, play};
pub use outcome::{Outcome, SimConfig, run, run_plan, tell_plan};
pub use plan::{FaultProfile, Plan, UnknownProfile};
pub use shrink::shrink;
pub(crate) use stage::STAGED_LINES;
pub use violation::Violation;
pub use weather::{FenceAgent, HOSTS_MAX, VMS_MAX, Weather};

#[cfg(test)]
mod planted_tests;
#[cfg(test)]
mod regressions;
#[cfg(test)]
mod stage_tests;
#[cfg(test)]
mod tests;
