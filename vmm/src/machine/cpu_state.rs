//! Reads and writes everything that a vCPU carries from one instruction to the next.
#![allow(
    unsafe_code,
    reason = "KVM_SET_XSAVE reads as many bytes as KVM says, which is checked when a machine is made"
)]

use super::cpuid::CpuFeatures;
use super::error::{KvmCall, MachineError};
use super::flat::{Entry, GDT_START, PML4_START, SELECTORS, TSS_LIMIT, TSS_START};
use super::machine_checks;
use kvm_bindings::{
    Msrs, kvm_clock_data, kvm_debugregs, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use std::sync::OnceLock;

/// Words of extended processor state that KVM reads and writes.
pub(super) const XSAVE_WORDS: usize = size_of::<kvm_xsave>() / size_of::<u32>();

/// Ticks of a kHz clock are as many in a millisecond.
const NS_PER_MS: u128 = 1_000_000;

const MSR_IA32_TSC: u32 = 0x10;
const MSR_IA32_TSC_DEADLINE: u32 = 0x6e0;

/// A write of these has KVM store the time at the address that they hold, where the guest may have something else by now. A
/// guest writes them whenever it wants to know.
const MSRS_WALL_CLOCK: [u32; 2] = [0x11, 0x4b56_4d00];

/// The types of memory, which older kernels keep but do not list: eight ranges with their masks, the fixed ranges, the default.
const MSRS_MEMORY_TYPES: [u32; 28] = [
    0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f,
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x2ff,
];
/// Control, status, address and more of each bank of machine checks, which no kernel lists.
const MSRS_MACHINE_CHECKS: std::ops::Range<u32> = 0x400..0x400 + 4 * machine_checks::BANKS;
/// Most registers that KVM reads or writes in one call.
const MSRS_MAX: usize = 256;

/// Minutes, at any frequency.
const TSC_FAR: u64 = 1 << 42;

const CR0_FLAT: u64 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_FLAT: u64 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
const RFLAGS_FLAT: u64 = RFLAGS_ALWAYS | RFLAGS_IOPL_3;
const RFLAGS_ALWAYS: u64 = 1 << 1;
const RFLAGS_IOPL_3: u64 = 3 << 12;
const SEGMENT_CODE: u8 = 0xb;
const SEGMENT_DATA: u8 = 0x3;
const SEGMENT_BUSY_TSS: u8 = 0xb;
const GDT_LIMIT: u16 = 7 * 8 - 1;

/// A vCPU's state, in KVM's own structures.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CpuState {
    pub(super) regs: kvm_regs,
    pub(super) sregs: kvm_sregs,
    /// The legacy region, SSE and AVX state, as `XSAVE` lays them out.
    pub(super) xsave: Box<[u32; XSAVE_WORDS]>,
    pub(super) xcrs: Option<kvm_xcrs>,
    pub(super) events: Option<kvm_vcpu_events>,
    pub(super) debug_regs: Option<kvm_debugregs>,
    /// `KVM_MP_STATE_*`
    pub(super) mp_state: u32,
    /// Index and value, in the order in which they are to be written.
    pub(super) msrs: Vec<(u32, u64)>,
    /// Nanoseconds of the VM's own clock; the VM's first vCPU has them.
    pub(super) clock_ns: Option<u64>,
    /// The local APIC, where KVM keeps it.
    pub(super) lapic: Option<Box<kvm_lapic_state>>,
}

/// What this KVM offers for reading and writing state, asked for once.
#[derive(Debug, Clone, Copy)]
pub(super) struct StateSupport {
    xcrs: bool,
    events: bool,
    debug_regs: bool,
    mp_state: bool,
    clock: bool,
}

/// Reads the VM's own clock, in nanoseconds.
pub(super) fn read_clock(vm: &VmFd, support: &StateSupport) -> Result<Option<u64>, MachineError> {
    Ok(if_supported(support.clock, || vm.get_clock(), KvmCall::GetClock)?.map(|clock| clock.clock))
}

/// Sets the VM's own clock, which must be right before a vCPU runs.
pub(super) fn write_clock(vm: &VmFd, clock: Option<u64>, support: &StateSupport) -> Result<(), MachineError> {
    if let Some(clock) = clock.filter(|_| support.clock) {
        let clock = kvm_clock_data { clock, ..Default::default() };
        vm.set_clock(&clock).map_err(KvmCall::SetClock.failed())?;
    }
    Ok(())
}

impl StateSupport {
    pub(super) fn probe(kvm: &Kvm) -> Result<Self, MachineError> {
        let bytes = usize::try_from(kvm.check_extension_int(Cap::Xsave2)).unwrap_or(0);
        let supported = size_of::<kvm_xsave>();
        if bytes > supported {
            return Err(MachineError::XsaveTooLarge { bytes, supported });
        }
        Ok(Self {
            xcrs: kvm.check_extension(Cap::Xcrs),
            events: kvm.check_extension(Cap::VcpuEvents),
            debug_regs: kvm.check_extension(Cap::Debugregs),
            mp_state: kvm.check_extension(Cap::MpState),
            clock: kvm.check_extension(Cap::AdjustClock),
        })
    }
}

/// The registers that can be read and written back, in the order in which they have to be written: the time-stamp
/// counter before the deadline that is compared with it.
pub(super) fn savable_msrs(kvm: &Kvm, vcpu: &VcpuFd, has_chips: bool) -> Result<Msrs, MachineError> {
    static FLAT: OnceLock<Vec<u32>> = OnceLock::new();
    // With a local APIC inside KVM there are some more.
    static WITH_CHIPS: OnceLock<Vec<u32>> = OnceLock::new();
    let found = if has_chips { &WITH_CHIPS } else { &FLAT };
    let indices = match found.get() {
        Some(indices) => indices,
        None => {
            let probed = probe_msrs(kvm, vcpu, has_chips)?;
            found.get_or_init(|| probed)
        }
    };
    let entries: Vec<_> = indices.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
    Ok(Msrs::from_entries(&entries).expect("KVM's own list is within KVM's bound"))
}

fn probe_msrs(kvm: &Kvm, vcpu: &VcpuFd, has_chips: bool) -> Result<Vec<u32>, MachineError> {
    let list = kvm.get_msr_index_list().map_err(KvmCall::GetMsrIndexList.failed())?;
    let mut candidates = list.as_slice().to_vec();
    if has_chips {
        // What only a kernel's own privilege reaches.
        candidates.extend(MSRS_MEMORY_TYPES.into_iter().chain(MSRS_MACHINE_CHECKS));
    }
    let mut indices = Vec::new();
    for index in candidates {
        if !MSRS_WALL_CLOCK.contains(&index) && !indices.contains(&index) && can_move_msr(vcpu, index) {
            indices.push(index);
        }
    }
    // What KVM lists comes first, and is within its bound.
    indices.truncate(MSRS_MAX);
    indices.sort_by_key(|index| match *index {
        MSR_IA32_TSC => (0, *index),
        MSR_IA32_TSC_DEADLINE => (2, *index),
        _ => (1, *index),
    });
    Ok(indices)
}

/// KVM lists registers that it then refuses to read or to write.
fn can_move_msr(vcpu: &VcpuFd, index: u32) -> bool {
    let mut one =
        Msrs::from_entries(&[kvm_msr_entry { index, ..Default::default() }]).expect("one is within the bound");
    vcpu.get_msrs(&mut one).is_ok_and(|read| read == 1) && vcpu.set_msrs(&one).is_ok_and(|written| written == 1)
}

impl CpuState {
    /// Reads the state, without the VM's clock; every access must be finished.
    pub(super) fn read(
        vcpu: &VcpuFd,
        support: &StateSupport,
        msrs: &mut Msrs,
        has_chips: bool,
    ) -> Result<Self, MachineError> {
        // First: it has KVM take in what other vCPUs have sent this one.
        let mp_state = if_supported(support.mp_state, || vcpu.get_mp_state(), KvmCall::GetMpState)?;
        let regs = vcpu.get_regs().map_err(KvmCall::GetRegs.failed())?;
        let sregs = vcpu.get_sregs().map_err(KvmCall::GetSregs.failed())?;
        let xsave = Box::new(vcpu.get_xsave().map_err(KvmCall::GetXsave.failed())?.region);
        let xcrs = if_supported(support.xcrs, || vcpu.get_xcrs(), KvmCall::GetXcrs)?;
        let debug_regs = if_supported(support.debug_regs, || vcpu.get_debug_regs(), KvmCall::GetDebugRegs)?;
        let read = vcpu.get_msrs(msrs).map_err(KvmCall::GetMsrs.failed())?;
        if let Some(entry) = msrs.as_slice().get(read) {
            return Err(MachineError::Msr { call: KvmCall::GetMsrs, index: entry.index });
        }
        // Behind the deadline of its timer: one that passes in between is saved as both a deadline and an interrupt, which is
        // a tick too many at worst. The other way round it would be neither.
        let lapic = if_supported(has_chips, || vcpu.get_lapic(), KvmCall::GetLapic)?;
        let events = if_supported(support.events, || vcpu.get_vcpu_events(), KvmCall::GetVcpuEvents)?;
        Ok(Self {
            regs,
            sregs,
            xsave,
            xcrs,
            events,
            debug_regs,
            mp_state: mp_state.unwrap_or_default().mp_state,
            msrs: msrs.as_slice().iter().map(|entry| (entry.index, entry.data)).collect(),
            clock_ns: None,
            lapic: lapic.map(Box::new),
        })
    }

    /// The same state so much later, as far as its clocks go.
    pub(super) fn later(&self, ns: u64, tsc_khz: u32) -> Self {
        let ticks = u128::from(ns) * u128::from(tsc_khz) / NS_PER_MS;
        let ticks = u64::try_from(ticks).unwrap_or(0);
        let mut later = self.clone();
        for (index, value) in &mut later.msrs {
            if *index == MSR_IA32_TSC {
                *value = value.wrapping_add(ticks);
            }
        }
        later.clock_ns = later.clock_ns.map(|clock| clock.saturating_add(ns));
        later
    }

    /// Writes the state. The VM's clock is to be set before.
    pub(super) fn write(&self, vcpu: &VcpuFd, support: &StateSupport) -> Result<(), MachineError> {
        vcpu.set_sregs(&self.sregs).map_err(KvmCall::SetSregs.failed())?;
        vcpu.set_regs(&self.regs).map_err(KvmCall::SetRegs.failed())?;
        if let Some(xcrs) = self.xcrs.as_ref().filter(|_| support.xcrs) {
            vcpu.set_xcrs(xcrs).map_err(KvmCall::SetXcrs.failed())?;
        }
        let xsave = kvm_xsave { region: *self.xsave, ..Default::default() };
        // SAFETY: `StateSupport::probe` made sure that KVM reads no more than this structure.
        unsafe { vcpu.set_xsave(&xsave) }.map_err(KvmCall::SetXsave.failed())?;
        if let Some(debug_regs) = self.debug_regs.as_ref().filter(|_| support.debug_regs) {
            vcpu.set_debug_regs(debug_regs).map_err(KvmCall::SetDebugRegs.failed())?;
        }
        // Behind the segment registers, which enable it; before the deadline of its timer.
        if let Some(lapic) = &self.lapic {
            vcpu.set_lapic(lapic).map_err(KvmCall::SetLapic.failed())?;
        }
        self.write_msrs(vcpu)?;
        if support.mp_state {
            let mp_state = kvm_bindings::kvm_mp_state { mp_state: self.mp_state };
            vcpu.set_mp_state(mp_state).map_err(KvmCall::SetMpState.failed())?;
        }
        if let Some(events) = self.events.as_ref().filter(|_| support.events) {
            vcpu.set_vcpu_events(events).map_err(KvmCall::SetVcpuEvents.failed())?;
        }
        Ok(())
    }

    /// Sets the time-stamp counter to what it will certainly not be. KVM takes a value that is within a second of what it
    /// expects for an attempt to synchronise processors, and keeps its own; after this, none is.
    pub(super) fn write_other_tsc(&self, vcpu: &VcpuFd) -> Result<(), MachineError> {
        let Some((index, tsc)) = self.msrs.iter().find(|(index, _)| *index == MSR_IA32_TSC) else { return Ok(()) };
        let entry = kvm_msr_entry { index: *index, data: tsc ^ TSC_FAR, ..Default::default() };
        let msrs = Msrs::from_entries(&[entry]).expect("one is within the bound");
        match vcpu.set_msrs(&msrs).map_err(KvmCall::SetMsrs.failed())? {
            1 => Ok(()),
            _ => Err(MachineError::Msr { call: KvmCall::SetMsrs, index: *index }),
        }
    }

    fn write_msrs(&self, vcpu: &VcpuFd) -> Result<(), MachineError> {
        let entries: Vec<_> = self
            .msrs
            .iter()
            .map(|(index, data)| kvm_msr_entry { index: *index, data: *data, ..Default::default() })
            .collect();
        let msrs = Msrs::from_entries(&entries).expect("saved states hold no more registers than KVM takes");
        let written = vcpu.set_msrs(&msrs).map_err(KvmCall::SetMsrs.failed())?;
        match entries.get(written) {
            Some(entry) => Err(MachineError::Msr { call: KvmCall::SetMsrs, index: entry.index }),
            None => Ok(()),
        }
    }
}

fn if_supported<T>(
    supported: bool,
    read: impl FnOnce() -> Result<T, kvm_ioctls::Error>,
    call: KvmCall,
) -> Result<Option<T>, MachineError> {
    if supported { read().map(Some).map_err(call.failed()) } else { Ok(None) }
}

/// Sets up a vCPU to start a flat guest.
pub(super) fn enter_flat(vcpu: &VcpuFd, entry: &Entry, features: &CpuFeatures) -> Result<(), MachineError> {
    let mut sregs = vcpu.get_sregs().map_err(KvmCall::GetSregs.failed())?;
    let data = user_segment(SELECTORS.user_data, SEGMENT_DATA);
    sregs.cs = kvm_segment { l: 1, db: 0, ..user_segment(SELECTORS.user_code, SEGMENT_CODE) };
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = data;
    }
    sregs.tr = kvm_segment {
        base: TSS_START,
        limit: u32::try_from(TSS_LIMIT).expect("a short segment"),
        selector: SELECTORS.task,
        type_: SEGMENT_BUSY_TSS,
        present: 1,
        ..Default::default()
    };
    sregs.ldt = kvm_segment { type_: 2, unusable: 1, ..Default::default() };
    sregs.gdt.base = GDT_START;
    sregs.gdt.limit = GDT_LIMIT;
    // Without handlers every exception becomes a triple fault.
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_FLAT;
    sregs.cr3 = PML4_START;
    sregs.cr4 = CR4_FLAT;
    if features.xcr0.is_some() {
        sregs.cr4 |= CR4_OSXSAVE;
    }
    if features.fsgsbase {
        sregs.cr4 |= CR4_FSGSBASE;
    }
    sregs.efer = EFER_LONG_MODE;
    vcpu.set_sregs(&sregs).map_err(KvmCall::SetSregs.failed())?;
    if let Some(xcr0) = features.xcr0 {
        let mut xcrs = vcpu.get_xcrs().map_err(KvmCall::GetXcrs.failed())?;
        xcrs.nr_xcrs = 1;
        xcrs.xcrs[0].xcr = 0;
        xcrs.xcrs[0].value = xcr0;
        vcpu.set_xcrs(&xcrs).map_err(KvmCall::SetXcrs.failed())?;
    }
    let regs = kvm_regs {
        rip: entry.rip.0,
        rsp: entry.rsp.0,
        rdi: entry.boot_info.0,
        rflags: RFLAGS_FLAT,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(KvmCall::SetRegs.failed())
}

fn user_segment(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment { limit: u32::MAX, selector, type_, present: 1, dpl: 3, db: 1, s: 1, g: 1, ..Default::default() }
}
