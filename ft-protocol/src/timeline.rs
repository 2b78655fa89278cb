//! What happens in a cluster, as told to watchers: the one source for status lines, timelines and scenario checks.

use crate::commit_meta::GuestEnd;
use crate::fence::FenceOutcome;
use crate::ids::{Epoch, Generation, HostId, VmId};
use crate::latency::{LatencySummary, OutputLatency};
use crate::spec::Mode;
use crate::time::Span;
use crate::wire::{FollowStatus, LiveReport, TakeoverReason, TakeoverRefusal};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest line of a host or guest that is passed on, in bytes.
pub const LINE_BYTES_MAX: usize = 1024;

/// What a host or guest says of itself, as one line of bounded length: it goes into messages, logs and the cluster state.
#[must_use]
pub fn one_line(text: &str) -> String {
    line_of(text, LINE_BYTES_MAX)
}

/// Longest report of a divergence, in bytes: it names registers and pages.
pub const REPORT_BYTES_MAX: usize = 2048;

/// A report of a divergence, as one line of bounded length.
#[must_use]
pub fn one_report(text: &str) -> String {
    line_of(text, REPORT_BYTES_MAX)
}

fn line_of(text: &str, bytes_max: usize) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.floor_char_boundary(bytes_max));
    line
}

/// What a VM needs space of the pool for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// The commit record of this epoch.
    Record(Epoch),
    /// Journal and record log of the generation.
    Journal,
}

/// Space that the pool does not have. The guest stands still until it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// What for.
    pub wanted: Wanted,
    /// Bytes that it still takes.
    pub needed: u64,
    /// Bytes that the pool has left.
    pub available: u64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.wanted {
            Wanted::Record(epoch) => write!(f, "the pool has no space for the commit record of epoch {}", epoch.get())?,
            Wanted::Journal => f.write_str("the pool has no space for the next generation's journal")?,
        }
        write!(f, ": {} more bytes are needed, {} are left", self.needed, self.available)
    }
}

/// One happening, as the controller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Happening {
    /// A host joined or came back.
    HostJoined {
        /// Its number.
        host: HostId,
        /// Its name.
        name: String,
    },
    /// A host's connection closed: its process is dead.
    HostDown {
        /// Its number.
        host: HostId,
        /// Its name.
        name: String,
    },
    /// A host's heartbeat fell silent.
    HostSilent {
        /// Its number.
        host: HostId,
        /// Its name.
        name: String,
    },
    /// A silent host beats again.
    HostBeats {
        /// Its number.
        host: HostId,
        /// Its name.
        name: String,
    },
    /// A VM was made.
    VmCreated {
        /// Its number.
        vm: VmId,
        /// Its name.
        name: String,
    },
    /// A VM was deleted, its part of the pool given back.
    VmDeleted {
        /// Its number.
        vm: VmId,
        /// Its name.
        name: String,
    },
    /// The primary is known, or thought, to be gone.
    PrimaryGone {
        /// The VM.
        vm: VmId,
        /// The generation that ends.
        generation: Generation,
        /// How it is known.
        reason: TakeoverReason,
    },
    /// A takeover was refused.
    TakeoverRefused {
        /// The VM.
        vm: VmId,
        /// Who asked.
        host: HostId,
        /// Why not.
        refusal: TakeoverRefusal,
    },
    /// The generation's commit word and log are sealed.
    Sealed {
        /// The VM.
        vm: VmId,
        /// The sealed generation.
        generation: Generation,
        /// The last epoch published under it.
        final_epoch: Epoch,
    },
    /// Everything that was committed is applied.
    Drained {
        /// The VM.
        vm: VmId,
        /// The last applied epoch.
        applied: Epoch,
    },
    /// A host was told to become primary.
    Promoted {
        /// The VM.
        vm: VmId,
        /// The new generation.
        generation: Generation,
        /// Who.
        host: HostId,
    },
    /// A new primary's guest runs.
    Live {
        /// The VM.
        vm: VmId,
        /// Its generation.
        generation: Generation,
        /// Where.
        host: HostId,
        /// Its beginnings, step by step.
        report: LiveReport,
    },
    /// A standby is ready: the VM is protected.
    Protected {
        /// The VM.
        vm: VmId,
        /// The reigning generation.
        generation: Generation,
        /// The secondary's host.
        host: HostId,
    },
    /// The secondary is gone, or the spare of a VM that is to have one: the VM is not protected.
    Unprotected {
        /// The VM.
        vm: VmId,
        /// The host that was secondary, or spare.
        host: HostId,
    },
    /// A planned switchover began.
    SwitchoverBegan {
        /// The VM.
        vm: VmId,
        /// The primary's host.
        from: HostId,
        /// Where the guest is to go.
        to: HostId,
    },
    /// A primary has committed all of its guest and stopped it for a switchover.
    Yielded {
        /// The VM.
        vm: VmId,
        /// The generation that ends.
        generation: Generation,
    },
    /// A switchover did not come about; the guest runs on.
    SwitchoverCancelled {
        /// The VM.
        vm: VmId,
        /// One line.
        reason: String,
    },
    /// A deposed primary found its words sealed.
    Fenced {
        /// The VM.
        vm: VmId,
        /// The generation that it reigned.
        generation: Generation,
        /// Where.
        host: HostId,
    },
    /// A fence agent has tried to end a deposed host.
    FenceTried {
        /// The host.
        host: HostId,
        /// What came of it.
        outcome: FenceOutcome,
    },
    /// A host cannot fill its role.
    GaveUp {
        /// The VM.
        vm: VmId,
        /// Where.
        host: HostId,
        /// One line.
        reason: String,
    },
    /// A commit record was refused; its epoch and later ones of the generation are lost.
    RecordRefused {
        /// The VM.
        vm: VmId,
        /// The generation whose primary wrote it.
        generation: Generation,
        /// The record's epoch.
        epoch: Epoch,
        /// One line.
        reason: String,
    },
    /// Console output in a record log was refused: the generation ends.
    LogRefused {
        /// The VM.
        vm: VmId,
        /// The generation whose primary wrote it.
        generation: Generation,
        /// One line.
        reason: String,
    },
    /// A VM is protected in this mode from now on, and was in another one before: by order, or behind a divergence or a lost
    /// log. A change that was under way when the controller died is not told by the next one.
    ModeChanged {
        /// The VM.
        vm: VmId,
        /// The reigning generation.
        generation: Generation,
        /// The mode.
        mode: Mode,
    },
    /// A replay of a guest did not do what the record log says; the VM is protected in checkpoint mode from now on.
    Diverged {
        /// The VM.
        vm: VmId,
        /// The reigning generation.
        generation: Generation,
        /// Where the replay ran.
        host: HostId,
        /// One line: at which exit, expected and got; registers and pages that differ.
        report: String,
    },
    /// A part of a record log is damaged. What lies before it was, or will be, replayed; the guest goes on from there by
    /// itself, and its outputs that have left are not said again.
    LogLost {
        /// The VM.
        vm: VmId,
        /// The generation whose log it is.
        generation: Generation,
        /// One line: from where on, and what is wrong there.
        report: String,
    },
    /// The pool has no space for what the VM needs next: its guest stands still until it has.
    PoolFull {
        /// The VM.
        vm: VmId,
        /// The reigning generation.
        generation: Generation,
        /// What is missing.
        shortage: Shortage,
    },
    /// There was space again for a VM that waited for it. Not told when the generation that waited has ended.
    SpaceAgain {
        /// The VM.
        vm: VmId,
        /// The reigning generation.
        generation: Generation,
        /// How long it had to wait, as far as this controller knows.
        waited: Span,
    },
    /// A generation is over, or its time in a mode, its guest's life, the VM, or the whole cluster: how long the outputs waited
    /// that were not told of yet, from the guest's exit to their release, as far as the primary could still say.
    OutputsMeasured {
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
        /// The mode that it was protected in; `None` where a controller came back in the midst of the generation: then these
        /// are all of the generation's so far, those that were told before among them.
        #[serde(default)]
        mode: Option<Mode>,
        /// In a few numbers.
        summary: LatencySummary,
        /// All of it.
        latency: OutputLatency,
    },
    /// The secondary executes what the primary executes from this epoch on, and compares.
    Following {
        /// The VM.
        vm: VmId,
        /// The generation that it follows.
        generation: Generation,
        /// Where.
        host: HostId,
        /// The epoch.
        base: Epoch,
    },
    /// The secondary does not follow any more; it goes on standing by unless that is said, too.
    FollowingEnded {
        /// The VM.
        vm: VmId,
        /// The generation that it followed.
        generation: Generation,
        /// Where.
        host: HostId,
        /// One line.
        reason: String,
        /// How it went.
        status: FollowStatus,
        /// How long after each commit it came there.
        lags: OutputLatency,
    },
    /// No host can run the VM; it waits in the pool.
    Stranded {
        /// The VM.
        vm: VmId,
        /// The epoch that it can be resumed from.
        recoverable: Epoch,
    },
    /// A guest's life has ended.
    Ended {
        /// The VM.
        vm: VmId,
        /// How.
        end: GuestEnd,
    },
    /// A VM's part of the pool is damaged: nobody can go on from it. It is kept, and left alone.
    Damaged {
        /// The VM.
        vm: VmId,
        /// Its last generation.
        generation: Generation,
        /// One line: what is wrong with it.
        reason: String,
    },
    /// Something in the pool that is there twice was damaged, and is whole again.
    PoolMended {
        /// One line: what it was.
        what: String,
    },
    /// A switchover is done: the guest runs at its new place.
    SwitchedOver {
        /// The VM.
        vm: VmId,
        /// The generation that began.
        generation: Generation,
        /// How long the guest stood still, from its last instruction on the old host until the new one's word that it runs.
        blackout: Span,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_becomes_a_short_line() {
        assert_eq!(one_line("a\nb\u{1b}[31m"), "a b [31m");
        let long = one_line(&"ä".repeat(LINE_BYTES_MAX));
        assert!(long.len() <= LINE_BYTES_MAX && long.len() > LINE_BYTES_MAX - 2, "{}", long.len());
    }
}
