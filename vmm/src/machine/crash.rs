//! What is left to say about a guest that cannot run on.

use kvm_bindings::{kvm_regs, kvm_sregs};
use std::fmt;

/// How the guest came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashKind {
    /// A triple fault: for a flat guest, any processor exception.
    TripleFault,
    /// KVM met an instruction or a state that it cannot handle.
    InternalError {
        /// KVM's number for what went wrong.
        suberror: u32,
    },
    /// The processor refused the guest's state.
    FailedEntry {
        /// The processor's reason.
        reason: u64,
    },
    /// The guest halted with nothing to wake it.
    Halted,
    /// KVM reported an exit that this machine has no use for.
    UnexpectedExit {
        /// KVM's number of the exit.
        reason: u32,
    },
}

impl fmt::Display for CrashKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CrashKind::TripleFault => f.write_str("processor exception (triple fault)"),
            CrashKind::InternalError { suberror } => write!(f, "KVM internal error {suberror}"),
            CrashKind::FailedEntry { reason } => write!(f, "failed VM entry {reason:#x}"),
            CrashKind::Halted => f.write_str("halted for ever"),
            CrashKind::UnexpectedExit { reason } => write!(f, "unexpected KVM exit {reason}"),
        }
    }
}

/// The crash and the registers at it, printed as one line. Some processors reset them at a triple fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrashReport {
    /// What happened.
    pub kind: CrashKind,
    /// General registers.
    pub regs: kvm_regs,
    /// The last address that faulted.
    pub cr2: u64,
    /// Root of the page tables.
    pub cr3: u64,
}

impl CrashReport {
    pub(super) fn new(kind: CrashKind, regs: kvm_regs, sregs: &kvm_sregs) -> Self {
        Self { kind, regs, cr2: sregs.cr2, cr3: sregs.cr3 }
    }
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = &self.regs;
        write!(f, "{} at rip={:#x} rsp={:#x} cr2={:#x} cr3={:#x}", self.kind, r.rip, r.rsp, self.cr2, self.cr3)?;
        let named =
            [("rflags", r.rflags), ("rax", r.rax), ("rbx", r.rbx), ("rcx", r.rcx), ("rdx", r.rdx), ("rsi", r.rsi)];
        let rest = [("rdi", r.rdi), ("rbp", r.rbp), ("r8", r.r8), ("r9", r.r9), ("r10", r.r10), ("r11", r.r11)];
        let last = [("r12", r.r12), ("r13", r.r13), ("r14", r.r14), ("r15", r.r15)];
        named.iter().chain(&rest).chain(&last).try_for_each(|(name, value)| write!(f, " {name}={value:#x}"))
    }
}
