//! The Linux guests' image: busybox, virtio drivers, and programs that give ftvm work to do.

use super::{ImageError, add, basis};
use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::programs::Programs;
use std::path::Path;

const MODULES: [&str; 4] = ["virtio_mmio", "virtio_net", "virtio_blk", "virtio_console"];
const MODULES_OPTIONAL: [&str; 1] = ["virtio_rng"];

pub(super) fn archive(kernel: &Kernel, programs: &Programs, busybox: &Path) -> Result<Archive, ImageError> {
    let modules = kernel.modules(&MODULES, &MODULES_OPTIONAL)?;
    let mut archive = basis(busybox, include_str!("guest-init"), &modules)?;
    let program = "linux-guest";
    add(&mut archive, &format!("bin/{program}"), 0o755, &programs.path(program))?;
    for name in ["echod", "kvd", "diskwriter", "burner", "ticker"] {
        archive.link(&format!("bin/{name}"), program);
    }
    Ok(archive)
}
