//! One virtual processor: entering it, and what it comes out with.
#![allow(unsafe_code, reason = "the page shared with KVM is read where kvm-ioctls gives no size of a port access")]

use super::crash::CrashKind;
use super::error::{KvmCall, MachineError};
use super::kick::Kicker;
use kvm_bindings::{KVM_EXIT_IO_OUT, kvm_run};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::ptr::NonNull;

/// Why the processor is not in the guest any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// A port access, to be served through [`Vcpu::port_access`].
    Port,
    /// An access to an address without RAM, to be served through [`Vcpu::mmio_access`].
    Mmio,
    /// A kick or another signal; accesses served before are now finished.
    Interrupted,
    /// The guest cannot run on.
    Crash(CrashKind),
}

/// A port access: `data` holds one or several words of `width` bytes.
pub(super) struct PortAccess<'a> {
    pub(super) port: u16,
    pub(super) width: usize,
    pub(super) is_write: bool,
    pub(super) data: &'a mut [u8],
}

/// An access to an address without RAM.
pub(super) struct MmioAccess<'a> {
    pub(super) address: u64,
    pub(super) is_write: bool,
    pub(super) data: &'a mut [u8],
}

/// A vCPU, and the way to stop it.
pub(super) struct Vcpu {
    fd: VcpuFd,
    kicker: Kicker,
    /// Bytes of the area shared with KVM, which holds the data of port accesses.
    run_size: usize,
    /// An access was served but KVM has not finished its instruction yet.
    unfinished: bool,
}

impl Vcpu {
    pub(super) fn new(mut fd: VcpuFd, run_size: usize) -> Self {
        let immediate_exit = NonNull::from(&mut fd.get_kvm_run().immediate_exit);
        // SAFETY: the page is mapped until `fd` goes, and `drop` detaches the kicker before that; all writes to the byte
        // go through the kicker.
        let kicker = unsafe { Kicker::new(immediate_exit) };
        Self { fd, kicker, run_size, unfinished: false }
    }

    pub(super) fn kicker(&self) -> &Kicker {
        &self.kicker
    }

    pub(super) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Whether registers are not to be read before [`Vcpu::complete`].
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Runs the guest until it exits.
    pub(super) fn run(&mut self) -> Result<Exit, MachineError> {
        self.enter(false)
    }

    /// Finishes the instruction whose access was served, without running any further. That can take more accesses.
    pub(super) fn complete(&mut self) -> Result<Exit, MachineError> {
        self.enter(true)
    }

    fn enter(&mut self, only_complete: bool) -> Result<Exit, MachineError> {
        self.kicker.entering(only_complete);
        let exit = match self.fd.run() {
            Ok(exit) => Ok(Some(classify(&exit))),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Ok(None),
            Err(error) => Err(error),
        };
        self.kicker.left();
        let exit = match exit.map_err(KvmCall::Run.failed())? {
            Some(exit) => self.with_details(exit),
            None => Exit::Interrupted,
        };
        self.unfinished = matches!(exit, Exit::Port | Exit::Mmio);
        Ok(exit)
    }

    fn with_details(&mut self, exit: Exit) -> Exit {
        let run = self.fd.get_kvm_run();
        match exit {
            Exit::Crash(CrashKind::InternalError { .. }) => {
                // SAFETY: this exit reason says that the union holds `internal`; any bits are a valid number.
                let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
                Exit::Crash(CrashKind::InternalError { suberror })
            }
            Exit::Crash(CrashKind::UnexpectedExit { .. }) => {
                Exit::Crash(CrashKind::UnexpectedExit { reason: run.exit_reason })
            }
            other => other,
        }
    }

    /// The access behind [`Exit::Port`].
    pub(super) fn port_access(&mut self) -> PortAccess<'_> {
        assert!(self.unfinished, "the last exit was an access");
        let run_size = self.run_size;
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason says that the union holds `io`; any bits are valid in its fields.
        let io = unsafe { run.__bindgen_anon_1.io };
        let run: *mut kvm_run = run;
        let width = usize::from(io.size);
        let length = width * usize::try_from(io.count).expect("usize has 64 bits");
        let offset = usize::try_from(io.data_offset).expect("usize has 64 bits");
        assert!(offset.checked_add(length).is_some_and(|end| end <= run_size), "KVM keeps the data in the shared area");
        // SAFETY: the bounds were checked above.
        let start = unsafe { run.cast::<u8>().add(offset) };
        // SAFETY: the range is inside the mapped area, which KVM leaves alone until the next `KVM_RUN`; the lifetime is
        // that of the exclusive borrow of the vCPU.
        let data = unsafe { std::slice::from_raw_parts_mut(start, length) };
        PortAccess { port: io.port, width, is_write: u32::from(io.direction) == KVM_EXIT_IO_OUT, data }
    }

    /// The access behind [`Exit::Mmio`].
    pub(super) fn mmio_access(&mut self) -> MmioAccess<'_> {
        assert!(self.unfinished, "the last exit was an access");
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason says that the union holds `mmio`; any bits are valid in its fields.
        let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
        let length = mmio.data.len().min(usize::try_from(mmio.len).expect("usize has 64 bits"));
        MmioAccess { address: mmio.phys_addr, is_write: mmio.is_write != 0, data: &mut mmio.data[..length] }
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.kicker.detach();
    }
}

fn classify(exit: &VcpuExit<'_>) -> Exit {
    match exit {
        VcpuExit::IoIn(..) | VcpuExit::IoOut(..) => Exit::Port,
        VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..) => Exit::Mmio,
        VcpuExit::Intr => Exit::Interrupted,
        VcpuExit::Shutdown => Exit::Crash(CrashKind::TripleFault),
        VcpuExit::Hlt => Exit::Crash(CrashKind::Halted),
        VcpuExit::InternalError => Exit::Crash(CrashKind::InternalError { suberror: 0 }),
        VcpuExit::FailEntry(reason, _) => Exit::Crash(CrashKind::FailedEntry { reason: *reason }),
        _ => Exit::Crash(CrashKind::UnexpectedExit { reason: 0 }),
    }
}
