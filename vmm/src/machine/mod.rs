//! The machine: one KVM virtual machine with its memory, processor and devices, as the hosts of a cluster run it.
//!
//! ```text
//!   prepare ──> enter | restore ──> run ──> Stop ──> run ...
//!                                    │
//!                                    └─ complete_pending, take_console, save, harvest: one commit
//! ```
//!
//! A machine has no thread of its own: its vCPU runs on whichever thread calls [`Machine::run`], and a [`Kicker`] makes
//! that return from any other. It holds no protocol: what it reports and hands out, its caller commits or not.
//!
//! There are machines of two kinds: for flat guests, which are deterministic between exits, and for Linux guests
//! ([`linux`]), with interrupt chips and time of KVM's. What is said here is true of both.

mod boot;
mod cpu_state;
mod cpuid;
mod crash;
pub mod device;
mod dirty;
mod error;
pub mod flat;
pub mod guests;
pub mod history;
mod host_profile;
mod inputs;
mod kick;
pub mod layout;
pub mod linux;
mod machine_checks;
mod open;
mod prepare;
pub mod probe;
mod run;
mod state;
#[cfg(test)]
pub(crate) mod test_elf;
#[cfg(test)]
mod tests;
mod time;
mod vcpu;
mod vcpus;

pub use boot::{BootError, check_guest, guest_machine, is_unfit_guest};
pub use crash::{CrashKind, CrashReport};
pub use dirty::DirtyPages;
pub use error::{KvmCall, MachineError};
pub use host_profile::host_profile;
pub use inputs::{
    Availability, CONSOLE_INPUT_MAX, ExitNumber, InputError, InputKind, InputSource, LiveInputs, NicIndex, Produced,
    ResumePoint,
};
pub use kick::Kicker;
pub use layout::{GuestMemory, MemoryError, PageIndex};
pub use open::{KVM_DEVICE, OpenKvmError, kvm_device, open_kvm};
pub use prepare::{Machine, MachineConfig, cpu_profile};
pub use run::{ConsoleOutput, Stop};
pub use state::{MachineState, NamedRegister, STATE_VERSION, STATE_VERSION_OLDEST, StateDifference, StateError};
pub use time::GuestTime;

/// For sizes and offsets in memory that is mapped, or that was checked against what is.
fn to_usize(value: u64) -> usize {
    const _: () = assert!(size_of::<usize>() == size_of::<u64>(), "ftvm runs on 64-bit hosts");
    usize::try_from(value).expect("usize has 64 bits")
}
