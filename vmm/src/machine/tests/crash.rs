//! Guests that cannot run on end with a report, not with an error of the machine.

use super::support::{at_code, guest_code, kvm, run_to_end};
use crate::machine::{CrashKind, CrashReport, Stop};
use kvm_ioctls::Kvm;

fn crash(kvm: &Kvm, code: &[u8]) -> CrashReport {
    let mut machine = at_code(kvm, code);
    match run_to_end(&mut machine).0 {
        Stop::Crashed(report) => {
            assert!(matches!(machine.run(), Ok(Stop::Crashed(again)) if again == report), "it stays crashed");
            *report
        }
        other => panic!("expected a crash, got {other:?}"),
    }
}

#[test]
fn exceptions_are_triple_faults() {
    let Some(kvm) = kvm() else { return };
    let guests = [
        ("an undefined instruction", guest_code!("ud2")),
        ("a null pointer", guest_code!("xor eax, eax", "mov eax, [rax]")),
        ("a return from the entry point", guest_code!("ret")),
        ("a division by zero", guest_code!("xor ecx, ecx", "div ecx")),
        ("a write to the page tables", guest_code!("mov eax, 0x1000", "mov [rax], eax")),
        ("an address without memory", guest_code!("mov eax, 0x10000000", "mov [rax], eax")),
        ("a stack that grows for ever", guest_code!("4:", "push rax", "jmp 4b")),
        ("a privileged instruction", guest_code!("hlt")),
        ("a system call", guest_code!("syscall")),
        ("a breakpoint", guest_code!("int3")),
    ];
    for (what, code) in guests {
        let report = crash(&kvm, code);
        let expected = matches!(report.kind, CrashKind::TripleFault | CrashKind::InternalError { .. });
        assert!(expected, "{what}: {report}");
    }
}

#[test]
fn reports_are_one_line_with_the_registers() {
    let Some(kvm) = kvm() else { return };
    let text = crash(&kvm, guest_code!("mov r15d, 0xabcdef", "ud2")).to_string();
    assert!(text.starts_with("processor exception (triple fault) at rip="), "{text}");
    assert!(!text.contains('\n') && text.contains(" r15="), "{text}");
}
