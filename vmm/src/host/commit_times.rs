//! What a commit costs the guest, step by step. Told on the trace target [`TARGET`], for measurements: one line for each
//! commit, which the committer writes while the guest runs on.
//!
//! ```text
//! guest runs │ stop: exit completed, inputs settled │ harvest │ copy │ state, close │ resume │ guest runs
//!                                                                      └ committer: checksum, publish
//! ```

use ft_protocol::{Epoch, Span, Time, VmId};

/// The trace target. `RUST_LOG=warn,ftvm::commit=trace` shows it.
pub const TARGET: &str = "ftvm::commit";

/// Whether anybody wants to know.
pub(super) fn wanted() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::TRACE)
}

/// The moments of one commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CommitTimes {
    pub(super) epoch: Epoch,
    pub(super) pages: usize,
    /// The last epoch that was known to be applied: what was written since then stays with the host.
    pub(super) applied: Epoch,
    /// The guest was left, or, where it waited, the commit began.
    pub(super) left: Time,
    /// Harvest begins.
    pub(super) stopped: Time,
    pub(super) harvested: Time,
    pub(super) copied: Time,
    pub(super) closed: Time,
    /// The guest is entered again.
    pub(super) resumed: Time,
}

/// What the committer did meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Publishing {
    pub(super) checksum: Span,
    pub(super) publish: Span,
}

impl CommitTimes {
    /// Writes the line. Fields are in nanoseconds; `pause` is the sum of all steps of the guest's standstill.
    pub(super) fn tell(&self, vm: VmId, publishing: Publishing) {
        let step = |from: Time, to: Time| to.since(from).ns();
        tracing::trace!(
            target: TARGET,
            vm = vm.get(),
            epoch = self.epoch.get(),
            pages = self.pages,
            applied = self.applied.get(),
            pause = step(self.left, self.resumed),
            stop = step(self.left, self.stopped),
            harvest = step(self.stopped, self.harvested),
            copy = step(self.harvested, self.copied),
            state = step(self.copied, self.closed),
            resume = step(self.closed, self.resumed),
            checksum = publishing.checksum.ns(),
            publish = publishing.publish.ns(),
            "committed"
        );
    }
}
