//! A QEMU inside the machines: this machine's own, as Debian packages it, with its libraries and firmware.

use super::{ImageError, add};
use crate::cpio::Archive;
use crate::machine;
use crate::programs::{BuildError, libraries};
use std::path::Path;

/// Where the program looks for firmware.
const PLACES: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];
/// Firmware of the machines that are compared: what there is of it.
const FIRMWARE: [&str; 7] =
    ["bios-256k.bin", "bios-microvm.bin", "qboot.rom", "pvh.bin", "linuxboot.bin", "linuxboot_dma.bin", "kvmvapic.bin"];

pub(super) fn add_to(archive: &mut Archive) -> Result<(), ImageError> {
    let program = machine::program()?;
    add(archive, "usr/bin/qemu-system-x86_64", 0o755, &program)?;
    for library in libraries(&program).map_err(BuildError::Libraries)? {
        add(archive, &library.to_string_lossy(), 0o755, &library)?;
    }
    for place in PLACES {
        for name in FIRMWARE {
            let file = Path::new(place).join(name);
            if file.exists() {
                add(archive, &file.to_string_lossy(), 0o644, &file)?;
            }
        }
    }
    Ok(())
}
