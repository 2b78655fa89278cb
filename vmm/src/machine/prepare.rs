//! Making a machine: all that is slow, so that a standby can be made long before it is needed.

use super::cpu_state::{StateSupport, enter_flat, savable_msrs};
use super::cpuid::{self, CpuFeatures};
use super::device::{
    Bus, BusError, CLOCK_PORTS, ClockDevice, Device, ENTROPY_PORTS, EXIT_PORTS, EntropyDevice, ExitDevice,
    SERIAL_PORTS, SerialDevice, WAIT_PORTS, WaitDevice,
};
use super::error::{KvmCall, MachineError};
use super::flat::Entry;
use super::host_profile;
use super::inputs::{InputSource, LiveInputs};
use super::kick::{Kicker, without_signals};
use super::layout::{GuestMemory, RamRegion, checked_ram_bytes, ram_regions};
use super::linux::chips::Platform;
use super::linux::power::PowerDevice;
use super::linux::{self, BootEntry, LinuxMachine, VcpuCount};
use super::machine_checks;
use super::run::Progress;
use super::vcpu::Vcpu;
use super::vcpus::{VcpuIndex, Vcpus};
use ft_protocol::cpu::CpuProfile;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES, Msrs, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VmFd};
use std::ops::Range;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

/// Where KVM on some Intel processors keeps a task state segment of its own: three pages in the hole.
const KVM_TSS_ADDRESS: usize = 0xfffb_d000;

/// How a machine is put together.
pub struct MachineConfig {
    /// Where the guest's inputs come from.
    pub inputs: Box<dyn InputSource>,
    /// Devices in the MMIO window, with their guest physical ranges.
    pub mmio_devices: Vec<(Range<u64>, Box<dyn Device>)>,
    /// The processor that the guest is shown; `None`: this host's.
    pub cpu: Option<CpuProfile>,
    /// The machine is for such a Linux guest; `None`: for a flat one.
    pub linux: Option<LinuxMachine>,
}

impl MachineConfig {
    /// Inputs from this host, and no devices but those that every machine has.
    #[must_use]
    pub fn live() -> Self {
        Self { inputs: Box::new(LiveInputs::default()), mmio_devices: Vec::new(), cpu: None, linux: None }
    }
}

/// A virtual machine that is ready to be started or restored.
pub struct Machine {
    // Fields drop in this order: the vCPUs and the VM must be gone before the memory is unmapped.
    pub(super) vcpus: Vcpus,
    pub(super) vm: VmFd,
    pub(super) memory: GuestMemory,
    pub(super) ram: Vec<RamRegion>,
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
    pub(super) inputs: Box<dyn InputSource>,
    pub(super) progress: Progress,
    pub(super) support: StateSupport,
    pub(super) features: CpuFeatures,
    pub(super) cpuid_digest: u32,
    /// What only the machine of a Linux guest has.
    pub(super) platform: Option<Platform>,
    /// The list of registers to save, and the space to read them into.
    pub(super) msrs: Msrs,
}

impl Machine {
    /// Makes the VM and its vCPUs over `memory`, without touching the memory's content.
    ///
    /// # Errors
    /// A KVM that lacks something, memory of another layout, devices in each other's way.
    pub fn prepare(kvm: &Kvm, memory: GuestMemory, config: MachineConfig) -> Result<Self, MachineError> {
        without_signals(|| Self::build(kvm, memory, config))
    }

    fn build(kvm: &Kvm, memory: GuestMemory, config: MachineConfig) -> Result<Self, MachineError> {
        check_capabilities(kvm)?;
        let ram = ram_regions(checked_ram_bytes(&memory)?)?;
        let support = StateSupport::probe(kvm)?;
        let vm = kvm.create_vm().map_err(KvmCall::CreateVm.failed())?;
        if kvm.check_extension(Cap::SetTssAddr) {
            vm.set_tss_address(KVM_TSS_ADDRESS).map_err(KvmCall::SetTssAddr.failed())?;
        }
        add_memory_slots(&vm, &memory)?;

        let platform = config.linux.map(|linux| Platform::create(kvm, &vm, linux.vcpus)).transpose()?;

        let mut cpuid = match &config.cpu {
            Some(shown) => cpuid::table(shown)?,
            None => offered_cpuid(kvm)?,
        };
        let count = config.linux.map_or(VcpuCount::ONE, |linux| linux.vcpus);
        if config.linux.is_some() {
            cpuid = linux::for_vcpu(&cpuid, 0, count);
        }
        let mut vcpus = Vec::new();
        for index in 0..count.get() {
            let fd = vm.create_vcpu(index.into()).map_err(KvmCall::CreateVcpu.failed())?;
            match index {
                0 => fd.set_cpuid2(&cpuid),
                _ => fd.set_cpuid2(&linux::for_vcpu(&cpuid, index, count)),
            }
            .map_err(KvmCall::SetCpuid.failed())?;
            if config.linux.is_some() {
                machine_checks::set_up(&fd)?;
            }
            vcpus.push(Vcpu::new(fd, vm.run_size()));
        }
        if let (Some(_), Some(shown)) = (config.linux, config.cpu.as_ref().and_then(CpuProfile::tsc_khz)) {
            vcpus.iter().try_for_each(|vcpu| host_profile::give_tsc(kvm, vcpu.fd(), shown))?;
        }
        let mut msrs = savable_msrs(kvm, vcpus[0].fd(), config.linux.is_some())?;
        if let Some(shown) = &config.cpu {
            msrs.retain(|msr| shown.moves_msr(msr.index));
        }

        let mut mmio = Bus::default();
        for (range, device) in config.mmio_devices {
            mmio.insert(range, device)?;
        }
        let ports = match config.linux {
            Some(linux) => {
                let mut ports = linux_ports()?;
                if linux.has_board {
                    let ram_bytes = ram.iter().map(|ram| ram.length).sum();
                    linux::board::insert((&mut ports, &mut mmio), linux.vcpus, ram_bytes)?;
                }
                ports.connect_interrupts();
                mmio.connect_interrupts();
                ports
            }
            None => flat_ports()?,
        };
        Ok(Self {
            vcpus: Vcpus::new(vcpus)?,
            vm,
            memory,
            ram,
            ports,
            mmio,
            inputs: config.inputs,
            progress: Progress::default(),
            support,
            features: CpuFeatures::of(&cpuid),
            cpuid_digest: cpuid::digest(&cpuid),
            platform,
            msrs,
        })
    }

    /// Sets the vCPU up to start the flat guest that [`flat::load`](super::flat::load) put into this memory.
    ///
    /// # Errors
    /// KVM refuses the state.
    pub fn enter(&mut self, entry: &Entry) -> Result<(), MachineError> {
        enter_flat(self.vcpus.still(VcpuIndex::FIRST).fd(), entry, &self.features)
    }

    /// Sets the first vCPU up to start the Linux guest that [`linux::load`] put into this memory.
    ///
    /// # Errors
    /// KVM refuses the state.
    pub fn enter_linux(&mut self, entry: &BootEntry) -> Result<(), MachineError> {
        assert!(self.platform.is_some(), "the machine was made for Linux");
        linux::entry::enter(self.vcpus.still(VcpuIndex::FIRST).fd(), entry)
    }

    /// Whether what comes for the guest has to be told by a kick: such a guest takes no exits of its own where it waits.
    #[must_use]
    pub fn is_linux(&self) -> bool {
        self.platform.is_some()
    }

    /// What makes [`Machine::run`] return, from any thread.
    #[must_use]
    pub fn kicker(&self) -> Kicker {
        self.vcpus.kicker().clone()
    }

    /// The guest's memory. Writes through it are harvested too.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Bytes of the guest's memory, which are the bytes of its image.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.ram.iter().map(|ram| ram.length).sum()
    }
}

/// What this host's processor offers to guests that may move to another host.
///
/// # Errors
/// KVM does not say.
pub fn cpu_profile(kvm: &Kvm) -> Result<CpuProfile, MachineError> {
    Ok(cpuid::profile(&offered_cpuid(kvm)?))
}

pub(super) fn offered_cpuid(kvm: &Kvm) -> Result<CpuId, MachineError> {
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(KvmCall::GetSupportedCpuid.failed())?;
    cpuid::level(&mut cpuid);
    if cpuid::loses_xcr0() {
        cpuid::without_xsave(&mut cpuid);
    }
    Ok(cpuid)
}

fn check_capabilities(kvm: &Kvm) -> Result<(), MachineError> {
    let needed = [
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
        (Cap::Xsave, "KVM_CAP_XSAVE"),
    ];
    match needed.into_iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        Some((_, name)) => Err(MachineError::MissingCapability { name }),
        None => Ok(()),
    }
}

#[allow(unsafe_code, reason = "KVM is given the addresses of the guest's memory")]
fn add_memory_slots(vm: &VmFd, memory: &GuestMemory) -> Result<(), MachineError> {
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let start = region.get_host_address(MemoryRegionAddress(0)).expect("a mapped region has a first byte");
        let slot = kvm_userspace_memory_region {
            slot,
            flags: KVM_MEM_LOG_DIRTY_PAGES,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: start as u64,
        };
        // SAFETY: the range is a mapping that the machine keeps for longer than the VM, and that Rust code only ever
        // accesses through volatile copies.
        unsafe { vm.set_user_memory_region(slot) }.map_err(KvmCall::SetUserMemoryRegion.failed())?;
    }
    Ok(())
}

/// The ports of Linux guests. The exit port is for programs that want to end the machine with a code of their own.
fn linux_ports() -> Result<Bus, BusError> {
    let mut ports = Bus::default();
    ports.insert(SERIAL_PORTS, Box::new(SerialDevice::default()))?;
    ports.insert(EXIT_PORTS, Box::new(ExitDevice))?;
    for device in PowerDevice::ALL {
        ports.insert(device.ports(), Box::new(device))?;
    }
    Ok(ports)
}

fn flat_ports() -> Result<Bus, BusError> {
    let mut ports = Bus::default();
    ports.insert(SERIAL_PORTS, Box::new(SerialDevice::default()))?;
    ports.insert(EXIT_PORTS, Box::new(ExitDevice))?;
    ports.insert(CLOCK_PORTS, Box::new(ClockDevice::default()))?;
    ports.insert(ENTROPY_PORTS, Box::new(EntropyDevice))?;
    ports.insert(WAIT_PORTS, Box::new(WaitDevice))?;
    Ok(ports)
}
