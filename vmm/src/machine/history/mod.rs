//! Recording a machine's inputs, and giving them to another machine in its place.
//!
//! ```text
//!   recorded:   LiveInputs ──> Recorder ──> guest          replayed:   HistorySource ──> Replayer ──> guest
//!                                 │
//!                                 └─> HistorySink          takeover:   ReplayThenLive: the one, then the other
//! ```
//!
//! Both are input sources like any other; what comes when and what is a divergence is decided in
//! [`ft_protocol::record`].

mod late;
mod recorder;
mod replayer;
mod takeover;

pub use late::LateSource;
pub use recorder::{HistorySink, Recorder};
pub use replayer::{HistoryError, HistorySource, ReplayMeter, Replayer};
pub use takeover::ReplayThenLive;
