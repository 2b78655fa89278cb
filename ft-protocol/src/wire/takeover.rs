//! Why a takeover is tried, and why it is refused.

use crate::ids::Generation;
use crate::time::Span;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a takeover is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TakeoverReason {
    /// The connection of the primary's host has closed: its process is dead.
    LinkClosed,
    /// The heartbeat of the primary's host has been silent for this long.
    HeartbeatSilent(Span),
    /// The primary wrote a commit record that cannot be applied.
    RecordRefused,
    /// The record log holds what no sane primary writes.
    LogDamaged,
    /// The generation's commit word holds what no sane primary writes.
    WordDamaged,
    /// The primary's host gave the VM up.
    GivenUp,
    /// The primary's host came back as another incarnation, without the VM.
    HostRestarted,
    /// A host that was to become primary did not.
    PromotionFailed,
    /// The primary's host lives, but for this long the primary has neither committed nor said that it has nothing to commit.
    CommitStalled(Span),
}

impl fmt::Display for TakeoverReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkClosed => f.write_str("its connection closed"),
            Self::HeartbeatSilent(span) => write!(f, "its heartbeat is silent for {span}"),
            Self::RecordRefused => f.write_str("it wrote a commit record that was refused"),
            Self::LogDamaged => f.write_str("its record log is damaged"),
            Self::WordDamaged => f.write_str("its commit word is damaged"),
            Self::GivenUp => f.write_str("its host gave the VM up"),
            Self::HostRestarted => f.write_str("its host was restarted"),
            Self::PromotionFailed => f.write_str("it did not go live"),
            Self::CommitStalled(span) => write!(f, "it has committed nothing for {span}, while its host lives"),
        }
    }
}

/// Why a takeover was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TakeoverRefusal {
    /// The asker speaks of a generation that is over.
    #[error("generation {asked} is over, {current} reigns")]
    GenerationOver {
        /// The generation asked for.
        asked: Generation,
        /// The one that reigns.
        current: Generation,
    },
    /// The asker is not the VM's secondary.
    #[error("this host is not the VM's secondary")]
    NotSecondary,
    /// Another takeover of the same generation is under way.
    #[error("another takeover of this generation is under way")]
    UnderWay,
    /// The controller itself sees the primary's heart beat.
    #[error("the primary's heart beats")]
    PrimaryBeats,
    /// The VM's life has ended.
    #[error("the VM has ended")]
    Ended,
    /// There is no such VM.
    #[error("no such VM")]
    UnknownVm,
}
