//! The one place where errors become a line on standard error and an exit code.

use crate::exit_code::ExitCode;
use nix::errno::Errno;
use scenarios::cluster::ClusterError;
use scenarios::guest::GuestError;
use scenarios::protected::RunError;
use shared_mem::superblock::SuperblockError;
use shared_mem::{HeaderError, PoolError};
use std::error::Error;
use std::io;
use vmm::client::ClientError;
use vmm::controller::ControllerError;
use vmm::disk_file::DiskFileError;
use vmm::host::HostError;
use vmm::machine::flat::FlatGuestError;
use vmm::machine::linux::LinuxGuestError;
use vmm::machine::{BootError, MachineError, OpenKvmError};
use vmm::net::{NetError, SwitchError};
use vmm::recording::ReadError;
use vmm::recording::replay::ReplayError;
use vmm::transport::{ConnectError, GreetingError};
use vmm::unprotected::UnprotectedError;

const FREE_SPACE: &str =
    "free memory there (on hugetlbfs: raise vm.nr_hugepages), ask for less --memory, or choose another --pool-dir";

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: ExitCode,
    line: String,
}

impl Failure {
    /// A failure that an error explains.
    pub(crate) fn new(code: ExitCode, error: &(dyn Error + 'static)) -> Self {
        Self { code, line: vmm::chain(error) }
    }

    /// A failure in one line of its own.
    pub(crate) fn line(code: ExitCode, line: impl Into<String>) -> Self {
        Self { code, line: line.into() }
    }

    /// What the user can do about it.
    pub(crate) fn with_advice(mut self, advice: &str) -> Self {
        self.line = format!("{}; {advice}", self.line);
        self
    }

    /// The place in a file that it is about.
    pub(crate) fn at(mut self, place: &str) -> Self {
        self.line = format!("{place}: {}", self.line);
        self
    }

    /// What the program ends with.
    pub(crate) fn code(&self) -> ExitCode {
        self.code
    }

    /// Says it on standard error.
    pub(crate) fn report(self) -> ExitCode {
        eprintln!("ftvm: {}", self.line.replace('\n', " "));
        self.code
    }
}

impl From<OpenKvmError> for Failure {
    fn from(error: OpenKvmError) -> Self {
        Self::new(kvm_code(&error), &error)
    }
}

fn kvm_code(error: &OpenKvmError) -> ExitCode {
    match error {
        OpenKvmError::NotPermitted { .. } => ExitCode::NotPermitted,
        OpenKvmError::Missing { .. } | OpenKvmError::Unusable { .. } | OpenKvmError::Version { .. } => {
            ExitCode::KvmMissing
        }
    }
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        let code = match &error {
            GuestError::Missing { .. } | GuestError::Unreadable { .. } | GuestError::UnknownBuiltin { .. } => {
                ExitCode::FileMissing
            }
            GuestError::NotPermitted { .. } => ExitCode::NotPermitted,
            GuestError::TooLarge { .. } => ExitCode::GuestUnusable,
            GuestError::Unfit { source, .. } => boot_code(source),
            GuestError::Carrier(_) => ExitCode::Internal,
        };
        Self::new(code, &error)
    }
}

fn boot_code(error: &BootError) -> ExitCode {
    match error {
        BootError::Flat(FlatGuestError::Memory(_)) | BootError::Linux(LinuxGuestError::Memory(_)) => ExitCode::NoPool,
        BootError::Machine(_) => ExitCode::Internal,
        BootError::Flat(_) | BootError::Linux(_) => ExitCode::GuestUnusable,
    }
}

impl From<UnprotectedError> for Failure {
    fn from(error: UnprotectedError) -> Self {
        let code = match &error {
            UnprotectedError::Kvm(error) => kvm_code(error),
            UnprotectedError::Memory(_) => ExitCode::NoPool,
            UnprotectedError::Guest(error) => boot_code(error),
            UnprotectedError::Console(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::OutputClosed,
            UnprotectedError::Console(_) => ExitCode::OutputFailed,
            UnprotectedError::Record(_) => ExitCode::OutputFailed,
            UnprotectedError::Machine(_) => ExitCode::Internal,
            UnprotectedError::Net(error) => net_code(error),
            UnprotectedError::Disk(error) => disk_code(error),
        };
        Self::new(code, &error)
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        Self::new(net_code(&error), &error)
    }
}

fn net_code(error: &NetError) -> ExitCode {
    match error {
        NetError::NoSwitch { .. } | NetError::TapBusy { .. } => ExitCode::Unreachable,
        NetError::NoTun(source) if source.kind() == io::ErrorKind::PermissionDenied => ExitCode::NotPermitted,
        NetError::TapNotPermitted { .. } => ExitCode::NotPermitted,
        NetError::TapName { .. } => ExitCode::Usage,
        NetError::NoTun(_) | NetError::NoTap { .. } | NetError::Tap { .. } => ExitCode::FileMissing,
        NetError::Resources(_) => ExitCode::Internal,
    }
}

fn disk_code(error: &DiskFileError) -> ExitCode {
    match error {
        DiskFileError::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            ExitCode::NotPermitted
        }
        DiskFileError::Open { .. } => ExitCode::FileMissing,
        DiskFileError::InUse { .. } => ExitCode::Unreachable,
        DiskFileError::OtherSize { .. } | DiskFileError::Unfit { .. } => ExitCode::Usage,
        DiskFileError::Write { .. } => ExitCode::OutputFailed,
    }
}

impl From<DiskFileError> for Failure {
    fn from(error: DiskFileError) -> Self {
        Self::new(disk_code(&error), &error)
    }
}

impl From<SwitchError> for Failure {
    fn from(error: SwitchError) -> Self {
        let code = match &error {
            SwitchError::Taken { .. } => ExitCode::Unreachable,
            SwitchError::Bind { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ExitCode::NotPermitted
            }
            SwitchError::Bind { .. } => ExitCode::Unreachable,
            SwitchError::Resources(_) => ExitCode::Internal,
        };
        Self::new(code, &error)
    }
}

impl From<ReplayError> for Failure {
    fn from(error: ReplayError) -> Self {
        let code = match &error {
            ReplayError::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ExitCode::NotPermitted
            }
            ReplayError::Open { .. }
            | ReplayError::OutOfReach { .. }
            | ReplayError::Unreadable { source: ReadError::File(_), .. } => ExitCode::FileMissing,
            ReplayError::Unreadable { .. } | ReplayError::NoBeginning { .. } => ExitCode::RecordingDamaged,
            ReplayError::Changed(_) | ReplayError::State(_) => ExitCode::RecordingDamaged,
            ReplayError::Kvm(error) => kvm_code(error),
            ReplayError::Cpu(_) => ExitCode::KvmMissing,
            ReplayError::Memory(_) | ReplayError::Disk(_) => ExitCode::NoPool,
            ReplayError::Guest(FlatGuestError::Memory(_)) => ExitCode::NoPool,
            ReplayError::Guest(_) => ExitCode::GuestUnusable,
            ReplayError::Machine(error) => replayed_machine_code(error),
            ReplayError::Console(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::OutputClosed,
            ReplayError::Console(_) => ExitCode::OutputFailed,
        };
        Self::new(code, &error)
    }
}

/// Checksums do not keep anybody from writing a recording that was never made.
fn replayed_machine_code(error: &MachineError) -> ExitCode {
    match error {
        MachineError::OtherProcessor { .. }
        | MachineError::OtherKind
        | MachineError::CpuTooLarge { .. }
        | MachineError::Device(_) => ExitCode::RecordingDamaged,
        MachineError::Kvm { call, .. } | MachineError::Msr { call, .. } if call.sets_state() => ExitCode::KvmMissing,
        _ => ExitCode::Internal,
    }
}

fn connect_code(error: &ConnectError) -> ExitCode {
    match error {
        ConnectError::PathTooLong { .. } | ConnectError::Address { .. } => ExitCode::Usage,
        ConnectError::Device { source: Errno::EACCES | Errno::EPERM, .. }
        | ConnectError::Unreachable { source: Errno::EACCES | Errno::EPERM, .. }
        | ConnectError::Listen { source: Errno::EACCES | Errno::EPERM, .. } => ExitCode::NotPermitted,
        ConnectError::Refused { source: GreetingError::Stream(_) | GreetingError::Stranger, .. } => {
            ExitCode::Unreachable
        }
        ConnectError::Refused { .. } | ConnectError::NotServed { .. } => ExitCode::NotPermitted,
        ConnectError::Nowhere { source, .. } => connect_code(source),
        ConnectError::Unreachable { .. }
        | ConnectError::Register { .. }
        | ConnectError::NotElected { .. }
        | ConnectError::InUse { .. }
        | ConnectError::Listen { .. }
        | ConnectError::Device { .. } => ExitCode::Unreachable,
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        use ft_protocol::wire::RequestError;
        let code = match &error {
            ClientError::Connect(error) => connect_code(error),
            ClientError::Refused(RequestError::PoolRefused(_) | RequestError::NoCapacity(_)) => ExitCode::NoPool,
            ClientError::Refused(RequestError::UnknownVm(_) | RequestError::UnknownHost(_)) => ExitCode::FileMissing,
            ClientError::Refused(RequestError::NotNow(_) | RequestError::NameTaken(_)) => ExitCode::Unreachable,
            ClientError::Refused(RequestError::Damaged(_)) => ExitCode::VmLost,
            ClientError::Refused(_) => ExitCode::Usage,
            ClientError::Rejected { .. }
            | ClientError::NoAnswer(_)
            | ClientError::GivenUp
            | ClientError::Receive(_)
            | ClientError::Send(_) => ExitCode::Unreachable,
            ClientError::WrongAnswer | ClientError::Wait(_) => ExitCode::Internal,
        };
        let failure = Self::new(code, &error);
        match error {
            ClientError::Refused(RequestError::PoolRefused(_)) => failure.with_advice(FREE_SPACE),
            _ => failure,
        }
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        if let ClusterError::Client(error) = error {
            return error.into();
        }
        let code = match &error {
            ClusterError::HostCount { .. } => ExitCode::Usage,
            ClusterError::Directory { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ExitCode::NotPermitted
            }
            ClusterError::Directory { .. } => ExitCode::NoPool,
            ClusterError::NotReady { .. } => ExitCode::TimeOut,
            ClusterError::ControllerEnded { .. } | ClusterError::HostEnded(_) => {
                error.child_exit_code().and_then(ExitCode::of_child).unwrap_or(ExitCode::Unreachable)
            }
            _ => ExitCode::Internal,
        };
        match error.child_line().and_then(|line| line.strip_prefix("ftvm: ")) {
            // The child has said it all, advice included.
            Some(line) => Self::line(code, line),
            None => Self::new(code, &error),
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Guest(error) => error.into(),
            RunError::Cluster(error) => error.into(),
            RunError::Client(error) => error.into(),
            RunError::EventLog { .. } => Self::new(ExitCode::OutputFailed, &error),
            RunError::UnknownVm { .. } => Self::new(ExitCode::FileMissing, &error),
            RunError::ConsoleRead(_) | RunError::ConsoleAhead { .. } => Self::new(ExitCode::FileMissing, &error),
            RunError::ControllerGone { .. } | RunError::ControllerDied | RunError::Unfinished { .. } => {
                Self::new(ExitCode::Unreachable, &error)
            }
            RunError::Deleted { .. } | RunError::Lost { .. } => Self::new(ExitCode::VmLost, &error),
            _ => Self::new(ExitCode::Internal, &error),
        }
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let code = match &error {
            HostError::Connect(error) => connect_code(error),
            HostError::Kvm(error) => kvm_code(error),
            HostError::Rejected { .. } => ExitCode::Unreachable,
            HostError::Refused { .. } => ExitCode::NotPermitted,
            HostError::Failpoint(_) => ExitCode::Usage,
            HostError::Machine(_) => ExitCode::KvmMissing,
            HostError::Kernel { .. } => ExitCode::Internal,
        };
        Self::new(code, &error)
    }
}

impl From<ControllerError> for Failure {
    fn from(error: ControllerError) -> Self {
        let (code, advice) = match &error {
            ControllerError::Socket(error) => (connect_code(error), None),
            ControllerError::Pool { source, .. } => pool_code(source),
            ControllerError::State { .. } => (ExitCode::ExpectationFailed, Some(LOOK_CLOSER)),
            ControllerError::Failpoint(_) => (ExitCode::Usage, None),
            ControllerError::LeaseLost => (ExitCode::Unreachable, None),
            ControllerError::PoolFailed { .. } | ControllerError::Kernel { .. } | ControllerError::Election(_) => {
                (ExitCode::Internal, None)
            }
        };
        let failure = Self::new(code, &error);
        match advice {
            Some(advice) => failure.with_advice(advice),
            None => failure,
        }
    }
}

fn pool_code(error: &PoolError) -> (ExitCode, Option<&'static str>) {
    match error {
        PoolError::AlreadyLocked(_) => (ExitCode::Unreachable, Some("end it, or choose another --dir")),
        PoolError::NoSpace { .. } => (ExitCode::NoPool, Some(FREE_SPACE)),
        PoolError::NotAPool(_) => (ExitCode::NoPool, Some("choose another --dir")),
        // Whose it is nobody here can know.
        PoolError::NotEmpty(_) => (ExitCode::NoPool, Some("choose another --dir, or an empty one")),
        PoolError::SuperblockMissing { .. } => (ExitCode::ExpectationFailed, Some(PUT_SUPERBLOCK_BACK)),
        PoolError::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            (ExitCode::NotPermitted, None)
        }
        PoolError::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            (ExitCode::NoPool, Some(FREE_SPACE))
        }
        PoolError::Superblock { source: SuperblockError::Header(HeaderError::Version { .. }), .. } => {
            (ExitCode::NoPool, None)
        }
        PoolError::Superblock { .. }
        | PoolError::Directory(_)
        | PoolError::Cluster(_)
        | PoolError::Device { .. }
        | PoolError::FileLength { .. } => (ExitCode::ExpectationFailed, Some(LOOK_CLOSER)),
        _ => (ExitCode::NoPool, None),
    }
}

/// What to do with a pool that has lost its superblock. Nobody is told to remove anything: VMs are in it.
pub(crate) const PUT_SUPERBLOCK_BACK: &str = "put `superblock` back from a copy of this pool, and `ftvm pool check DIR` says whether \
    all is well; only if nothing in it is needed, choose another --dir";

/// What to do with a damaged pool.
const LOOK_CLOSER: &str = "`ftvm pool check DIR` says what is damaged; put it back, or choose another --dir";

#[cfg(test)]
mod tests {
    use super::*;
    use vmm::machine::KvmCall;

    #[test]
    fn a_recording_that_contradicts_itself_is_damaged_and_no_error_of_ours() {
        let code = |error| Failure::from(ReplayError::Machine(error)).code();
        assert_eq!(code(MachineError::OtherProcessor { saved: 1, here: 2 }), ExitCode::RecordingDamaged);
        assert_eq!(code(MachineError::OtherKind), ExitCode::RecordingDamaged);
        let refused = |call| MachineError::Kvm { call, source: io::ErrorKind::InvalidInput.into() };
        assert_eq!(code(refused(KvmCall::SetCpuid)), ExitCode::KvmMissing);
        assert_eq!(code(MachineError::Msr { call: KvmCall::SetMsrs, index: 7 }), ExitCode::KvmMissing);
        assert_eq!(code(refused(KvmCall::Run)), ExitCode::Internal);
    }
}
