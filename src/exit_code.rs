//! What ftvm's exit codes mean. `ftvm run` also passes the guest's own code through.

/// Exit codes of all commands.
///
/// | code | meaning |
/// |---|---|
/// | 0 | all is well (`run`: the guest exited with 0) |
/// | 2 | the command line makes no sense |
/// | 65 | the guest file is no flat guest, or does not fit its memory |
/// | 66 | a file, VM or host is missing or cannot be read, or console bytes are gone |
/// | 69 | KVM is missing or unusable |
/// | 70 | an internal error of ftvm |
/// | 73 | no pool: no space, or memory of a size that no guest can have |
/// | 74 | standard output, or a file that was asked for, cannot be written |
/// | 75 | the socket or name is in use, the controller cannot be reached, or it says: not now, try again |
/// | 77 | not permitted, or a host that the controller will never have |
/// | 78 | a scenario file is invalid |
/// | 80 | an expectation failed: the state is wrong |
/// | 81 | the VM is lost: no host is left to run it, or it was deleted |
/// | 82 | the guest crashed |
/// | 83 | this host was fenced: another one has taken over |
/// | 84 | time ran out |
/// | 85 | a recording is damaged, cut off, or none |
/// | 130 | ended by SIGINT |
/// | 131 | ended by SIGQUIT |
/// | 141 | nobody reads standard output any more |
/// | 143 | ended by SIGTERM or SIGHUP |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ExitCode {
    /// All is well.
    Ok = 0,
    /// The command line makes no sense.
    Usage = 2,
    /// The guest file is no flat guest, or does not fit its memory.
    GuestUnusable = 65,
    /// A file is missing or cannot be read.
    FileMissing = 66,
    /// KVM is missing or unusable.
    KvmMissing = 69,
    /// An internal error of ftvm.
    Internal = 70,
    /// No pool: no space, or memory of a size that no guest can have.
    NoPool = 73,
    /// Standard output, or a file that was asked for, cannot be written.
    OutputFailed = 74,
    /// The socket or name is in use, the controller cannot be reached, or it says: not now.
    Unreachable = 75,
    /// Not permitted.
    NotPermitted = 77,
    /// A scenario file is invalid.
    ScenarioInvalid = 78,
    /// An expectation failed: the state is wrong.
    ExpectationFailed = 80,
    /// The VM is lost: no host is left to run it, or it was deleted.
    VmLost = 81,
    /// The guest crashed.
    GuestCrashed = 82,
    /// This host was fenced: another one has taken over.
    Fenced = 83,
    /// Time ran out.
    TimeOut = 84,
    /// A recording is damaged, cut off, or none.
    RecordingDamaged = 85,
    /// Ended by SIGINT.
    Interrupted = 130,
    /// Ended by SIGQUIT.
    Quit = 131,
    /// Nobody reads standard output any more.
    OutputClosed = 141,
    /// Ended by SIGTERM or SIGHUP.
    Terminated = 143,
}

impl ExitCode {
    const ALL: [Self; 21] = [
        Self::Ok,
        Self::Usage,
        Self::GuestUnusable,
        Self::FileMissing,
        Self::KvmMissing,
        Self::Internal,
        Self::NoPool,
        Self::OutputFailed,
        Self::Unreachable,
        Self::NotPermitted,
        Self::ScenarioInvalid,
        Self::ExpectationFailed,
        Self::VmLost,
        Self::GuestCrashed,
        Self::Fenced,
        Self::TimeOut,
        Self::RecordingDamaged,
        Self::Interrupted,
        Self::Quit,
        Self::OutputClosed,
        Self::Terminated,
    ];

    /// The number.
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    /// The code that a child of ftvm's own ended with.
    pub(crate) fn of_child(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| i32::from(known.number()) == code)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

// scenarios tells fenced hosts by their code.
const _: () = assert!(ExitCode::Fenced as i32 == scenarios::timeline::FENCED_EXIT_CODE);
