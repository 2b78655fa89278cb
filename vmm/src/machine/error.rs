//! What can go wrong with a machine.

use super::device::{BusError, DeviceStateError};
use super::inputs::InputError;
use super::layout::MemoryError;
use std::fmt;

/// A call to KVM, for error messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvmCall {
    /// `KVM_CREATE_VM`
    CreateVm,
    /// `KVM_SET_TSS_ADDR`
    SetTssAddr,
    /// `KVM_SET_USER_MEMORY_REGION`
    SetUserMemoryRegion,
    /// `KVM_CREATE_VCPU`
    CreateVcpu,
    /// `KVM_GET_SUPPORTED_CPUID`
    GetSupportedCpuid,
    /// `KVM_SET_CPUID2`
    SetCpuid,
    /// `KVM_GET_MSR_INDEX_LIST`
    GetMsrIndexList,
    /// `KVM_X86_SETUP_MCE`
    SetupMce,
    /// `KVM_RUN`
    Run,
    /// `KVM_GET_DIRTY_LOG`
    GetDirtyLog,
    /// `KVM_GET_REGS`
    GetRegs,
    /// `KVM_SET_REGS`
    SetRegs,
    /// `KVM_GET_SREGS`
    GetSregs,
    /// `KVM_SET_SREGS`
    SetSregs,
    /// `KVM_GET_XSAVE`
    GetXsave,
    /// `KVM_SET_XSAVE`
    SetXsave,
    /// `KVM_GET_XCRS`
    GetXcrs,
    /// `KVM_SET_XCRS`
    SetXcrs,
    /// `KVM_GET_MSRS`
    GetMsrs,
    /// `KVM_SET_MSRS`
    SetMsrs,
    /// `KVM_GET_VCPU_EVENTS`
    GetVcpuEvents,
    /// `KVM_SET_VCPU_EVENTS`
    SetVcpuEvents,
    /// `KVM_GET_DEBUGREGS`
    GetDebugRegs,
    /// `KVM_SET_DEBUGREGS`
    SetDebugRegs,
    /// `KVM_GET_MP_STATE`
    GetMpState,
    /// `KVM_SET_MP_STATE`
    SetMpState,
    /// `KVM_GET_CLOCK`
    GetClock,
    /// `KVM_SET_CLOCK`
    SetClock,
    /// `KVM_CREATE_IRQCHIP`
    CreateIrqchip,
    /// `KVM_CREATE_PIT2`
    CreatePit2,
    /// `KVM_IRQ_LINE`
    IrqLine,
    /// `KVM_GET_IRQCHIP`
    GetIrqchip,
    /// `KVM_SET_IRQCHIP`
    SetIrqchip,
    /// `KVM_GET_PIT2`
    GetPit2,
    /// `KVM_SET_PIT2`
    SetPit2,
    /// `KVM_GET_LAPIC`
    GetLapic,
    /// `KVM_SET_LAPIC`
    SetLapic,
    /// `KVM_GET_TSC_KHZ`
    GetTscKhz,
    /// `KVM_SET_TSC_KHZ`
    SetTscKhz,
}

impl KvmCall {
    /// Whether it gives a vCPU something that was saved: refused, what was saved does not suit this KVM.
    #[must_use]
    pub fn sets_state(self) -> bool {
        matches!(
            self,
            Self::SetCpuid
                | Self::SetRegs
                | Self::SetSregs
                | Self::SetXsave
                | Self::SetXcrs
                | Self::SetMsrs
                | Self::SetVcpuEvents
                | Self::SetDebugRegs
                | Self::SetMpState
        )
    }

    pub(super) fn failed(self) -> impl FnOnce(kvm_ioctls::Error) -> MachineError {
        move |source| MachineError::Kvm { call: self, source: std::io::Error::from_raw_os_error(source.errno()) }
    }
}

impl fmt::Display for KvmCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvmCall::CreateVm => "KVM_CREATE_VM",
            KvmCall::SetTssAddr => "KVM_SET_TSS_ADDR",
            KvmCall::SetUserMemoryRegion => "KVM_SET_USER_MEMORY_REGION",
            KvmCall::CreateVcpu => "KVM_CREATE_VCPU",
            KvmCall::GetSupportedCpuid => "KVM_GET_SUPPORTED_CPUID",
            KvmCall::SetCpuid => "KVM_SET_CPUID2",
            KvmCall::GetMsrIndexList => "KVM_GET_MSR_INDEX_LIST",
            KvmCall::SetupMce => "KVM_X86_SETUP_MCE",
            KvmCall::Run => "KVM_RUN",
            KvmCall::GetDirtyLog => "KVM_GET_DIRTY_LOG",
            KvmCall::GetRegs => "KVM_GET_REGS",
            KvmCall::SetRegs => "KVM_SET_REGS",
            KvmCall::GetSregs => "KVM_GET_SREGS",
            KvmCall::SetSregs => "KVM_SET_SREGS",
            KvmCall::GetXsave => "KVM_GET_XSAVE",
            KvmCall::SetXsave => "KVM_SET_XSAVE",
            KvmCall::GetXcrs => "KVM_GET_XCRS",
            KvmCall::SetXcrs => "KVM_SET_XCRS",
            KvmCall::GetMsrs => "KVM_GET_MSRS",
            KvmCall::SetMsrs => "KVM_SET_MSRS",
            KvmCall::GetVcpuEvents => "KVM_GET_VCPU_EVENTS",
            KvmCall::SetVcpuEvents => "KVM_SET_VCPU_EVENTS",
            KvmCall::GetDebugRegs => "KVM_GET_DEBUGREGS",
            KvmCall::SetDebugRegs => "KVM_SET_DEBUGREGS",
            KvmCall::GetMpState => "KVM_GET_MP_STATE",
            KvmCall::SetMpState => "KVM_SET_MP_STATE",
            KvmCall::GetClock => "KVM_GET_CLOCK",
            KvmCall::SetClock => "KVM_SET_CLOCK",
            KvmCall::CreateIrqchip => "KVM_CREATE_IRQCHIP",
            KvmCall::CreatePit2 => "KVM_CREATE_PIT2",
            KvmCall::IrqLine => "KVM_IRQ_LINE",
            KvmCall::GetIrqchip => "KVM_GET_IRQCHIP",
            KvmCall::SetIrqchip => "KVM_SET_IRQCHIP",
            KvmCall::GetPit2 => "KVM_GET_PIT2",
            KvmCall::SetPit2 => "KVM_SET_PIT2",
            KvmCall::GetLapic => "KVM_GET_LAPIC",
            KvmCall::SetLapic => "KVM_SET_LAPIC",
            KvmCall::GetTscKhz => "KVM_GET_TSC_KHZ",
            KvmCall::SetTscKhz => "KVM_SET_TSC_KHZ",
        })
    }
}

/// Why a machine could not be made, run, saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// KVM refused a call.
    #[error("{call} failed")]
    Kvm {
        /// Which.
        call: KvmCall,
        /// Why.
        source: std::io::Error,
    },
    /// This KVM lacks something that no machine can do without.
    #[error("KVM lacks {name}")]
    MissingCapability {
        /// KVM's name for it.
        name: &'static str,
    },
    /// More CPUID entries than KVM takes.
    #[error("a processor of {entries} CPUID entries is too large for KVM")]
    CpuTooLarge {
        /// How many there are.
        entries: usize,
    },
    /// The time-stamp counter is too fast or too slow for the guest, and KVM cannot change that.
    #[error("the guest's time-stamp counter has {shown} kHz, this host's has {here} and KVM cannot scale it")]
    TscRate {
        /// The guest's.
        shown: u32,
        /// This host's.
        here: u32,
    },
    /// Extended processor states larger than any that machines are given.
    #[error("KVM saves {bytes} bytes of extended processor state, {supported} are supported")]
    XsaveTooLarge {
        /// What KVM says.
        bytes: usize,
        /// What fits.
        supported: usize,
    },
    /// KVM took only some of the model-specific registers.
    #[error("{call} stopped at register {index:#x}")]
    Msr {
        /// Reading or writing.
        call: KvmCall,
        /// The register.
        index: u32,
    },
    /// A vCPU's thread cannot be had, or is lost.
    #[error("a vCPU has no thread")]
    Thread(#[source] std::io::Error),
    /// An instruction goes on accessing devices without end.
    #[error("the guest's access at exit {exits} did not finish within {limit} steps")]
    Unsettled {
        /// Exits so far.
        exits: u64,
        /// The bound.
        limit: usize,
    },
    /// Memory that is not laid out as RAM.
    #[error("guest memory does not suit this machine")]
    Memory(#[from] MemoryError),
    /// Devices in one another's way.
    #[error("the devices do not fit on their bus")]
    Bus(#[from] BusError),
    /// An input could not be had.
    #[error("the guest's input failed")]
    Input(#[from] InputError),
    /// A saved device that does not fit.
    #[error("saved device state does not fit")]
    Device(#[from] DeviceStateError),
    /// The machine was saved from another kind of machine, or with another number of vCPUs.
    #[error("the saved machine is of another kind, or has another number of vCPUs")]
    OtherKind,
    /// The machine was saved on another kind of processor.
    #[error("saved on a processor with CPUID digest {saved:#010x}, this host's is {here:#010x}")]
    OtherProcessor {
        /// Of the saved machine.
        saved: u32,
        /// Of this one.
        here: u32,
    },
}
