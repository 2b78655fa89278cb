//! What the guest gets from ports and from addresses without RAM.

use super::support::{at_code, booted_elf, exit_code, guest_code, kvm, run_to_end};
use crate::machine::device::{Context, Device, DeviceId, DeviceStateError};
use crate::machine::layout::{MMIO_START, anonymous_memory};
use crate::machine::test_elf::{CODE_START, TestSegment, elf, program};
use crate::machine::{InputError, Machine, MachineConfig, Stop, flat};
use vm_memory::{Bytes, GuestAddress};

#[test]
fn exit_codes_have_32_bits() {
    let Some(kvm) = kvm() else { return };
    assert_eq!(exit_code(&kvm, guest_code!("mov edx, 0xf4", "mov eax, 0x12345678", "out dx, eax")), 0x1234_5678);
    assert_eq!(exit_code(&kvm, guest_code!("mov eax, 0x12345678", "out 0xf4, al")), 0x78);
}

#[test]
fn unknown_ports_read_as_ones_and_ignore_writes() {
    let Some(kvm) = kvm() else { return };
    let code = guest_code!("mov edx, 0xcf8", "xor eax, eax", "out dx, eax", "in eax, dx", "out 0xf4, eax");
    assert_eq!(exit_code(&kvm, code), u32::MAX);
}

#[test]
fn unknown_mmio_reads_as_ones_and_ignores_writes() {
    let Some(kvm) = kvm() else { return };
    let code = guest_code!("mov ebx, 0xd0000000", "xor eax, eax", "mov [rbx], eax", "mov eax, [rbx]", "out 0xf4, eax");
    assert_eq!(exit_code(&kvm, code), u32::MAX);
}

#[test]
fn string_output_arrives_in_order() {
    let Some(kvm) = kvm() else { return };
    let code = guest_code!(
        "lea rsi, [rip + 4f]",
        "mov ecx, 10",
        "mov edx, 0x3f8",
        "rep outsb",
        "xor eax, eax",
        "out 0xf4, al",
        "4:",
        ".ascii \"0123456789\"",
    );
    let (end, console) = run_to_end(&mut at_code(&kvm, code));
    assert_eq!((end, console.as_str()), (Stop::Exited(0), "0123456789"));
}

/// A word that counts its reads and goes to memory when it is written.
#[derive(Default)]
struct Register {
    value: u32,
    reads: u32,
}

const REGISTER: DeviceId = DeviceId(100);
const REGISTER_OFFSET: u64 = 0x1000;
const REGISTER_TARGET: u64 = 0x30_0000;

impl Device for Register {
    fn id(&self) -> DeviceId {
        REGISTER
    }
    fn read(&mut self, offset: u64, data: &mut [u8], _context: &mut Context<'_>) -> Result<(), InputError> {
        assert_eq!(offset, 4);
        self.reads += 1;
        data.copy_from_slice(&(self.value + self.reads).to_le_bytes());
        Ok(())
    }
    fn write(&mut self, offset: u64, data: &[u8], context: &mut Context<'_>) -> Result<(), InputError> {
        assert_eq!(offset, 4);
        self.value = u32::from_le_bytes(data.try_into().expect("a word"));
        context.memory.write_slice(data, GuestAddress(REGISTER_TARGET)).expect("RAM");
        Ok(())
    }
    fn save(&self) -> Vec<u8> {
        [self.value.to_le_bytes(), self.reads.to_le_bytes()].concat()
    }
    fn restore(&mut self, saved: &[u8]) -> Result<(), DeviceStateError> {
        let (value, reads) = saved.split_at_checked(4).ok_or(DeviceStateError::Impossible { device: REGISTER })?;
        self.value = u32::from_le_bytes(value.try_into().expect("four bytes"));
        self.reads =
            u32::from_le_bytes(reads.try_into().map_err(|_| DeviceStateError::Impossible { device: REGISTER })?);
        Ok(())
    }
}

#[test]
fn mmio_devices_serve_accesses_and_reach_memory() {
    let Some(kvm) = kvm() else { return };
    let code = guest_code!(
        "mov ebx, 0xd0001004",
        "mov dword ptr [rbx], 1000",
        "mov eax, [rbx]",
        "add eax, [rbx]",
        "out 0xf4, eax",
    );
    let start = MMIO_START + REGISTER_OFFSET;
    let config = || MachineConfig {
        mmio_devices: vec![(start..start + 0x100, Box::new(Register::default()) as Box<dyn Device>)],
        ..MachineConfig::live()
    };
    let fresh = || Machine::prepare(&kvm, anonymous_memory(4 << 20).expect("memory"), config()).expect("a machine");
    let mut machine = fresh();
    let entry = flat::load(machine.memory(), &program(code), &[]).expect("a guest");
    machine.enter(&entry).expect("a start");
    assert_eq!(machine.run().expect("runs"), Stop::Exited(1001 + 1002));
    assert_eq!(machine.memory().read_obj::<u32>(GuestAddress(REGISTER_TARGET)).expect("RAM"), 1000);
    // The device is part of the state.
    let state = machine.save().expect("saved");
    let mut other = fresh();
    other.restore(&state).expect("restored");
    assert!(other.save().expect("saved").devices == state.devices);
}

#[test]
fn memory_behind_the_hole_can_be_used() {
    let Some(kvm) = kvm() else { return };
    let code =
        guest_code!("mov rbx, 0x100000000", "mov dword ptr [rbx + 8], 77", "mov eax, [rbx + 8]", "out 0xf4, al",);
    let bytes = (3 << 30) + (2 << 20);
    let mut machine = booted_elf(&kvm, bytes, &program(code), &[]);
    assert_eq!(run_to_end(&mut machine).0, Stop::Exited(77));
    // A program may be linked there, too.
    let far = 4u64 << 30;
    let code = guest_code!("mov al, 5", "out 0xf4, al");
    let file = elf(far, &[TestSegment { address: far, bytes: code, memory_bytes: 0x1000 }]);
    assert_eq!(run_to_end(&mut booted_elf(&kvm, bytes, &file, &[])).0, Stop::Exited(5));
    assert_ne!(far, CODE_START);
}

#[test]
fn the_entry_state_is_as_documented() {
    let Some(kvm) = kvm() else { return };
    // Everything but RDI and RSP is zero; the return address, too.
    let code = guest_code!(
        "or rax, rbx",
        "or rax, rcx",
        "or rax, rdx",
        "or rax, rsi",
        "or rax, rbp",
        "or rax, r8",
        "or rax, r9",
        "or rax, r10",
        "or rax, r11",
        "or rax, r12",
        "or rax, r13",
        "or rax, r14",
        "or rax, r15",
        "or rax, [rsp]",
        "jnz 4f",
        "mov rcx, rsp",
        "and ecx, 15",
        "cmp ecx, 8",
        "jne 4f",
        "cmp edi, 0x90000",
        "jne 4f",
        "mov ax, cs",
        "and al, 3",
        "cmp al, 3",
        "jne 4f",
        "fnstcw [rsp - 8]",
        "cmp word ptr [rsp - 8], 0x37f",
        "jne 4f",
        "stmxcsr [rsp - 8]",
        "cmp dword ptr [rsp - 8], 0x1f80",
        "jne 4f",
        "xor eax, eax",
        "out 0xf4, al",
        "4:",
        "mov al, 1",
        "out 0xf4, al",
    );
    assert_eq!(exit_code(&kvm, code), 0);
}
