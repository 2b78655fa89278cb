//! What KVM offers.

use super::Finding;
use crate::chain;
use crate::machine::{KVM_DEVICE, OpenKvmError, Stop, open_kvm, probe};
use kvm_ioctls::{Cap, Kvm};
use std::path::Path;

/// A capability, and what is worse without it.
struct Wanted {
    name: &'static str,
    cap: Cap,
    /// None: no machine can do without it.
    without: Option<&'static str>,
}

const WANTED: [Wanted; 13] = [
    Wanted { name: "KVM_CAP_USER_MEMORY", cap: Cap::UserMemory, without: None },
    Wanted { name: "KVM_CAP_IMMEDIATE_EXIT", cap: Cap::ImmediateExit, without: None },
    Wanted { name: "KVM_CAP_EXT_CPUID", cap: Cap::ExtCpuid, without: None },
    Wanted { name: "KVM_CAP_XSAVE", cap: Cap::Xsave, without: None },
    Wanted { name: "KVM_CAP_XCRS", cap: Cap::Xcrs, without: Some("guests have no AVX") },
    Wanted { name: "KVM_CAP_VCPU_EVENTS", cap: Cap::VcpuEvents, without: Some("pending exceptions are not saved") },
    Wanted { name: "KVM_CAP_DEBUGREGS", cap: Cap::Debugregs, without: Some("debug registers are not saved") },
    Wanted { name: "KVM_CAP_MP_STATE", cap: Cap::MpState, without: Some("a halted processor is not saved as such") },
    Wanted { name: "KVM_CAP_ADJUST_CLOCK", cap: Cap::AdjustClock, without: Some("the VM's own clock starts afresh") },
    Wanted { name: "KVM_CAP_SET_TSS_ADDR", cap: Cap::SetTssAddr, without: Some("some Intel processors need it") },
    Wanted { name: "KVM_CAP_IRQCHIP", cap: Cap::Irqchip, without: Some("no Linux guests") },
    Wanted { name: "KVM_CAP_IRQFD", cap: Cap::Irqfd, without: Some("no Linux guests") },
    Wanted { name: "KVM_CAP_DIRTY_LOG_RING", cap: Cap::DirtyLogRing, without: Some("dirty pages come from the log") },
];

pub(super) fn examine() -> Vec<Finding> {
    match open_kvm() {
        Ok(kvm) => {
            let mut findings = vec![
                Finding::ok(KVM_DEVICE, format!("present and permitted, API version {}", kvm.get_api_version())),
                flavour(),
            ];
            findings.extend(WANTED.iter().map(|wanted| capability(&kvm, wanted)));
            findings.push(flat_guests(&kvm));
            findings.push(kernel_guests(&kvm));
            findings
        }
        Err(error) => vec![no_device(&error), flavour()],
    }
}

fn no_device(error: &OpenKvmError) -> Finding {
    let advice = match error {
        OpenKvmError::Missing { .. } => "inside a virtual machine, turn nested virtualisation on for it",
        OpenKvmError::NotPermitted { .. } => "log in again after joining the group",
        OpenKvmError::Unusable { .. } => "see the kernel's log about kvm",
        OpenKvmError::Version { .. } => "use a stock Linux kernel",
    };
    Finding::missing(KVM_DEVICE, chain(error), advice)
}

/// By the processor's flags and the modules that are loaded.
fn flavour() -> Finding {
    const NAME: &str = "KVM flavour";
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_flag = |flag: &str| {
        cpu.lines()
            .filter(|line| line.starts_with("flags"))
            .any(|line| line.split_whitespace().any(|word| word == flag))
    };
    let has_module = |module: &str| Path::new("/sys/module").join(module).exists();
    if has_flag("svm") || has_module("kvm_amd") {
        Finding::ok(NAME, "hardware (AMD-V)")
    } else if has_flag("vmx") || has_module("kvm_intel") {
        Finding::ok(NAME, "hardware (Intel VT-x)")
    } else {
        let how = if has_module("kvm_pvm") { "software-virtualised (kvm_pvm)" } else { "no svm or vmx flag" };
        Finding::degraded(
            NAME,
            how,
            "flat guests run natively; use a host with hardware virtualisation for Linux guests",
        )
    }
}

fn capability(kvm: &Kvm, wanted: &Wanted) -> Finding {
    match (kvm.check_extension_int(wanted.cap), wanted.without) {
        (value @ 1.., _) => {
            Finding::ok(wanted.name, if value == 1 { "yes".to_owned() } else { format!("yes ({value})") })
        }
        (_, None) => Finding::missing(wanted.name, "no", "use a newer kernel"),
        (_, Some(without)) => {
            Finding::degraded(wanted.name, format!("no: {without}"), "use a newer kernel if you need it")
        }
    }
}

fn flat_guests(kvm: &Kvm) -> Finding {
    const NAME: &str = "flat guests";
    const ADVICE: &str = "report this with the output of `ftvm doctor --json`";
    match probe::flat_guest(kvm) {
        Ok(Stop::Exited(0)) => Finding::ok(NAME, "one was run"),
        Ok(Stop::Crashed(report)) => Finding::missing(NAME, format!("the trial crashed: {report}"), ADVICE),
        Ok(stop) => Finding::missing(NAME, format!("the trial stopped with {stop:?}"), ADVICE),
        Err(error) => Finding::missing(NAME, chain(&error), ADVICE),
    }
}

fn kernel_guests(kvm: &Kvm) -> Finding {
    const NAME: &str = "Linux guests";
    const ADVICE: &str = "use a host with hardware virtualisation; flat guests are not affected";
    match probe::kernel_code(kvm) {
        Ok(true) => Finding::ok(NAME, "kernel code (privilege level 0) was run"),
        Ok(false) => Finding::degraded(NAME, "kernel code (privilege level 0) does not run on this KVM", ADVICE),
        Err(error) => Finding::degraded(NAME, chain(&error), ADVICE),
    }
}
