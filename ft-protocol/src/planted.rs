//! Bugs that the simulator's tests plant in the cores, to show that its checkers would notice them.
//!
//! Without the feature `planted-bugs` nothing can be planted and the checks vanish.

/// A decision that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(unreachable_pub, reason = "public with the feature only")]
pub enum PlantedBug {
    /// Outputs leave when their record is written, before it is published.
    GateOpensEarly,
    /// A fenced primary lets the outputs of the refused record go.
    FencedReleases,
    /// A host that is silent or gone is taken for fit.
    DeadHostFit,
    /// The secondary is placed without regard to where the primary is.
    SamePlace,
    /// A takeover trusts the timeout: nothing is sealed.
    TimeoutTrusted,
    /// A host is promoted before all that is committed is applied.
    PromoteUndrained,
    /// The next reign has the generation of the one before.
    GenerationKept,
    /// A generation is opened without having been persisted.
    PromoteUnpersisted,
    /// A stalled commit is never suspected.
    StallIgnored,
    /// A guest that waits is taken for one that hangs.
    IdleAccused,
    /// A guest whose end is committed but not applied is taken for one that hangs.
    EndUnknown,
    /// A host that was told to become primary and did not is told again.
    FailedPromotionForgotten,
    /// A host that beats but never comes back is waited for for ever.
    HostAwaited,
    /// The labels of hosts are not looked at.
    DomainsIgnored,
    /// A host is given a machine state that it cannot read.
    FormatIgnored,
    /// A deleted VM's generations are given again.
    GenerationsReused,
    /// A deleted VM's generation is not sealed.
    DeletedUnsealed,
    /// A switchover that an earlier controller had begun is neither resumed nor given up.
    SwitchoverForgotten,
    /// Who waits for a VM to be moved or protected otherwise is told nothing when its life ends.
    WaitersForgotten,
    /// A VM is moved back although its old place is not healthy.
    FailbackBlind,
    /// What a secondary says of an order to follow that is over is taken for said of the present one.
    StaleReportBelieved,
    /// A secondary looks for events only behind commits that were published.
    NothingBehindCommit,
    /// The log of a generation is given back while the driver reads it.
    LogClosedUnderDrain,
    /// A host that was to take a VM over is given it after it has died and come back, whatever it holds by then.
    WinnerUnseated,
    /// Secondaries do not make room for a guest that runs nowhere.
    StandbysStay,
    /// The room that a console had where its log is moved is taken for what it had where the record is applied.
    FloorsMixed,
    /// The beats of a host that has died and come back are taken for those of the primary that it has lost.
    BeatsOfNewLife,
    /// A promotion may take as long as the one before that took too long.
    PromotionBoundFixed,
    /// A host that gave a VM up before its guest ran is asked again at once.
    RefusersAsked,
    /// The primary is told another mode before it has said that it is in the one before.
    ModeOrdersOverlap,
    /// A host passes on what its machine says of an order to follow that is over.
    StaleReportSent,
    /// A secondary that follows goes on behind a commit that is not published.
    FollowerRunsOn,
    /// Records are applied without regard to the secondary that follows.
    FollowerNotAwaited,
    /// A replay gives an input that the guest may go without one exit early.
    InputEarly,
    /// A replay passes the mark of an exit before all that came there is known.
    MarkPassedEarly,
    /// An exit of which some entry is known counts as known.
    HalfExitComplete,
    /// A replay takes packets of the last entry's own exit for released.
    PacketSwallowed,
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use super::PlantedBug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<PlantedBug>> = const { Cell::new(None) };
    }

    /// Plants a bug on this thread, or removes it.
    pub fn plant(bug: Option<PlantedBug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn planted(bug: PlantedBug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

/// Whether a test fails with this bug: what a simulator's profiles hardly meet, the tests of the cores have to notice.
#[cfg(all(test, feature = "planted-bugs"))]
pub(crate) fn is_noticed_by(bug: PlantedBug, test: fn()) -> bool {
    plant(Some(bug));
    let failed = std::panic::catch_unwind(test).is_err();
    plant(None);
    failed
}

#[cfg(feature = "planted-bugs")]
pub use switch::plant;
#[cfg(feature = "planted-bugs")]
pub(crate) use switch::planted;

#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn planted(_: PlantedBug) -> bool {
    false
}
