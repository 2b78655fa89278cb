//! Bugs that tests plant, to show that the checkers would notice them: in the simulator's drivers (here) and in the pool
//! (`shared_mem::planted`).
//!
//! Without the feature `planted-bugs` (and outside this crate's tests) nothing can be planted and the checks vanish;
//! the command line cannot plant anything.

/// A step of a driver that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlantedBug {
    /// Output leaves before the record that covers it is published.
    ReleaseBeforePublish,
    /// A fenced primary lets its output go.
    ZombieReleases,
    /// Held output leaves youngest first.
    ReleaseReversed,
    /// The seal is looked at before the commit word is stored to, not with it.
    CheckThenStore,
    /// A refused publication is taken for done.
    IgnoreRefusal,
    /// Pages that only devices wrote are not in the record.
    ForgetDevicePages,
    /// The dirty set is cleared when the guest runs again.
    ClearDirtyLate,
    /// Console output of the moment between the order to stop and the stop is lost.
    DropPendingConsole,
    /// The registers of a record are those of the order to stop.
    StaleRegisters,
    /// The end of the guest is not in its last record.
    ForgetEnd,
    /// A slot is written again one record early.
    ReuseSlotEarly,
    /// The guest's wait ends without a word to the core.
    ForgetWake,
    /// A host says that a standby is made when it is only begun.
    ReadyTooEarly,
    /// A standby is never made.
    ForgetStandby,
    /// A takeover trusts the timeout: nothing is sealed.
    SealNothing,
    /// The seal takes effect only when the next generation is open.
    SealLate,
    /// The seal's answer is what is applied, not what is committed.
    SealAnswersApplied,
    /// Records after the seal are taken for applied.
    PromoteBeforeDrained,
    /// The next generation uses the journal of the one before.
    KeepGeneration,
    /// The cluster state is stored after the new primary was told.
    PersistAfterPromotion,
    /// The cluster state is never stored.
    ForgetPersist,
    /// Two hosts are told to become primary.
    TwoTakeovers,
    /// The doorbell rings before the publication, and is believed.
    BelieveDoorbell,
    /// The slot's release is not made good by the next controller.
    ForgetFreed,
    /// The console ring takes no account of its readers.
    OverrunReaders,
    /// A new controller takes the generation's journal for never made.
    ForgetJournal,
    /// The primary's descriptor of the stable image lets it write.
    GrantImageWrite,
    /// The seal leaves the record log open.
    LogNotSealed,
    /// A packet leaves before the log has what it follows from.
    OutputBeforeLog,
    /// A new generation's log begins empty.
    LogNotCarried,
    /// What has left by the log is said again by the successor.
    SaidAgain,
    /// A successor goes on behind the exit in the middle of which the log ends, without what is missing of it.
    RestOfExitForgotten,
    /// A successor whose log has ended behind a commit that was never published lets devices take what has come for it there.
    DeliveredBehindEnd,
    /// A vCPU is stopped in the middle of an exit.
    StopsAmidExit,
    /// Nobody is ever asked to end a host.
    ForgetFence,
    /// A host says that it has all memory that there is.
    ClaimMemory,
    /// A host says that its processor can do what only the others' can.
    ClaimAbilities,
    /// A host that is to give a role up keeps it.
    KeepRoles,
    /// A primary that is to be moved goes on.
    NeverYield,
    /// A standby gets a descriptor of the journal that lets it write.
    GrantJournalToStandby,
}

#[cfg(any(test, feature = "planted-bugs"))]
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

#[cfg(any(test, feature = "planted-bugs"))]
pub use switch::plant;
#[cfg(any(test, feature = "planted-bugs"))]
pub(crate) use switch::planted;

#[cfg(not(any(test, feature = "planted-bugs")))]
pub(crate) const fn planted(_: PlantedBug) -> bool {
    false
}
