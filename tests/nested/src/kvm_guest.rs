//! The guest that tests KVM: a kernel of its own (`kvm-guest/`), started by Multiboot as such tests are. It is compiled for
//! 64 bits and then put into a 32-bit ELF file, because those are the ones that loaders take.

use crate::tool::{self, ToolError};
use std::path::Path;
use std::process::Command;

const SOURCES: [&str; 3] = ["boot.S", "kernel.c", "tests.c"];
/// A kernel: nothing of a system's, no registers that nobody saves, all addresses in 32 bits.
const FLAGS: [&str; 20] = [
    "-m64",
    "-O2",
    "-std=gnu11",
    "-ffreestanding",
    "-fno-builtin",
    "-fno-pic",
    "-fno-pie",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-mno-red-zone",
    "-mno-sse",
    "-mno-mmx",
    "-mno-80387",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack",
    "-Wl,-z,max-page-size=4096",
];

/// Builds the guest.
///
/// # Errors
/// There is no compiler, or it does not like the sources.
pub fn build() -> Result<Vec<u8>, ToolError> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("kvm-guest");
    let unusable = |source| ToolError::Start { program: "the compiler: no temporary directory".to_owned(), source };
    let place = tempfile::tempdir().map_err(unusable)?;
    let (long, packed) = (place.path().join("guest.64"), place.path().join("guest"));
    let mut compiler = Command::new("cc");
    compiler.current_dir(&sources).args(FLAGS).arg("-Wl,-T,kernel.ld").args(SOURCES).arg("-o").arg(&long);
    tool::run(&mut compiler, "gcc")?;
    tool::run(Command::new("objcopy").args(["-O", "elf32-i386"]).arg(&long).arg(&packed), "binutils")?;
    std::fs::read(&packed).map_err(unusable)
}
