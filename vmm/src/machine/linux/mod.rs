//! Linux guests: an unmodified kernel with an initrd and a command line, on a machine with in-kernel interrupt chips. Kernels
//! that are started by Multiboot are such guests, too.
//! `docs/linux-guest.md` tells its user what the machine is like.
//!
//! ```text
//!   LinuxGuest ──encode──> boot image in the pool ──decode──> load ──> BootEntry ──> enter
//!                                                              └─ kernel, initrd, boot parameters, ACPI tables
//! ```
//!
//! Such a guest is not deterministic between exits: interrupts come when they come. So it is protected in checkpoint mode
//! only. Everything in this module but `chips` and `entry` only works on bytes and memory, and needs no KVM.

mod acpi;
pub(super) mod board;
mod boot;
mod bundle;
pub(super) mod chips;
mod cpuid;
pub(super) mod entry;
mod memory_map;
mod multiboot;
pub(super) mod power;
#[cfg(test)]
mod tests;

pub use boot::{BootEntry, LinuxGuestError, load};
pub use bundle::{
    BundleError, COMMAND_LINE_BYTES_MAX, HEADER_BYTES, LinuxGuest, LinuxMachine, VcpuCount, VcpuCountError,
};
pub(super) use cpuid::for_vcpu;
pub use multiboot::MultibootError;

/// COM1's interrupt.
pub(super) const SERIAL_GSI: u32 = 4;
/// The first interrupt of the virtio devices, one for each slot.
pub(super) const FIRST_VIRTIO_GSI: u32 = 16;
