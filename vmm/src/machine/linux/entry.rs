//! The first vCPU's registers where a boot protocol hands over; the others wait to be woken by it.

use super::super::error::{KvmCall, MachineError};
use super::boot::BootEntry;
use super::memory_map::{BOOT_PARAMS, GDT_START, PML4, STACK, START_INFO};
use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
const RFLAGS_ALWAYS: u64 = 1 << 1;
/// What a kernel is told that was started by Multiboot.
const MULTIBOOT_MAGIC: u64 = 0x2bad_b002;
const GDT_LIMIT: u16 = 5 * 8 - 1;
const CODE: u16 = 2 * 8;
const DATA: u16 = 3 * 8;
const TASK: u16 = 4 * 8;
const TASK_LIMIT: u32 = 0x67;

/// Sets the first vCPU up to start the kernel.
pub(in super::super) fn enter(vcpu: &VcpuFd, entry: &BootEntry) -> Result<(), MachineError> {
    let mut sregs = vcpu.get_sregs().map_err(KvmCall::GetSregs.failed())?;
    let is_long = matches!(entry, BootEntry::Long { .. });
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
    sregs.cs = kvm_segment { selector: CODE, type_: 0xb, l: is_long.into(), db: (!is_long).into(), ..flat };
    let data = kvm_segment { selector: DATA, type_: 0x3, db: 1, ..flat };
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = data;
    }
    sregs.tr = kvm_segment { limit: TASK_LIMIT, selector: TASK, type_: 0xb, present: 1, ..Default::default() };
    sregs.gdt.base = GDT_START;
    sregs.gdt.limit = GDT_LIMIT;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr4 = 0;
    let mut regs = kvm_regs { rflags: RFLAGS_ALWAYS, ..Default::default() };
    match entry {
        BootEntry::Pvh { rip } => {
            regs.rip = rip.0;
            regs.rbx = START_INFO;
        }
        BootEntry::Multiboot { rip, information } => {
            regs.rip = rip.0;
            regs.rax = MULTIBOOT_MAGIC;
            regs.rbx = information.0;
            // The kernel brings its own; nothing may be where it is itself.
            sregs.gdt.base = 0;
            sregs.gdt.limit = 0;
        }
        BootEntry::Long { rip } => {
            sregs.cr0 |= CR0_PG;
            sregs.cr3 = PML4;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LONG_MODE;
            regs.rip = rip.0;
            regs.rsi = BOOT_PARAMS;
            regs.rsp = STACK;
            regs.rbp = STACK;
        }
    }
    vcpu.set_sregs(&sregs).map_err(KvmCall::SetSregs.failed())?;
    vcpu.set_regs(&regs).map_err(KvmCall::SetRegs.failed())
}
