//! The machines' image: a host of ftvm, with a real kvm-amd.

use super::{ImageError, add, basis};
use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::programs::{BuildError, Programs, libraries, stripped};
use std::path::Path;

/// Without these a machine is no host: its devices, the pool, KVM.
const MODULES: [&str; 11] = [
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "virtio_blk",
    "kvm_amd",
    "libnvdimm",
    "nfit",
    "nd_pmem",
    "dax_pmem",
    "device_dax",
    "tun",
];
/// These are good to have; not every kernel has them as modules.
const MODULES_OPTIONAL: [&str; 4] = ["ccp", "virtio_rng", "bridge", "vsock"];

pub(super) fn archive(
    kernel: &Kernel,
    programs: &Programs,
    busybox: &Path,
    (guest_kernel, guest_initrd): (&Kernel, &Path),
) -> Result<Archive, ImageError> {
    let modules = kernel.modules(&MODULES, &MODULES_OPTIONAL)?;
    let mut archive = basis(busybox, include_str!("host-init"), &modules)?;
    for program in ["ftvm", "nested-agent"] {
        let file = programs.path(program);
        archive.file(&format!("bin/{program}"), 0o755, &stripped(&file).map_err(BuildError::Strip)?);
        for library in libraries(&file).map_err(BuildError::Libraries)? {
            add(&mut archive, &library.to_string_lossy(), 0o755, &library)?;
        }
    }
    add(&mut archive, "guest/vmlinux", 0o644, &guest_kernel.vmlinux)?;
    add(&mut archive, "guest/bzImage", 0o644, &guest_kernel.image)?;
    add(&mut archive, "guest/initrd", 0o644, guest_initrd)?;
    Ok(archive)
}
