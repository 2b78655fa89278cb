//! Bugs that tests plant in the simulator's drivers, to show that its checkers would notice them.
//!
//! Without the feature `planted-bugs` (and outside this crate's tests) nothing can be planted and the checks vanish;
//! the command line cannot plant anything.

/// One protection that can be switched off, or one step that can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each names what goes wrong")]
pub enum PlantedBug {
    ReleaseBeforePublish,
    ReleaseOnStop,
    CheckThenStore,
    IgnoreRefusedPublish,
    ForgetDevicePages,
    ClearDirtyLate,
    DropPendingConsole,
    StateOfNextStep,
    SlotFreeTooEarly,
    SealNothing,
    SealAnswersApplied,
    SealAfterOpening,
    OpenAfterPersistSkipped,
    PersistLate,
    ApplyUncommitted,
    ApplyStale,
    FreeBeforeApply,
    ConsoleIgnoresReaders,
    KeepGeneration,
    GrantImageWrite,
    GrantJournalToStandby,
    ReadyWithoutStandby,
    LoadOlderState,
    LoadBeforeDrained,
    RecoverForgetsWord,
    HaltKeepsRunning,
    StandbyForgotten,
    BeatWithoutHost,
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
