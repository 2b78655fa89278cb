//! The guest that all of them run: Debian's kernel, the project's initrd.

use std::process::Command;

const KERNEL: &str = "/guest/vmlinux";
const INITRD: &str = "/guest/initrd";
const WORDS: &str = "console=ttyS0 quiet loglevel=3 8250.nr_uarts=1 panic=-1 mitigations=off no_timer_check tsc=reliable \
                     random.trust_cpu=on nokaslr";
/// The first line that comes from user space.
pub(crate) const FIRST_LINE: &str = "init: up";

/// What the guest does, and in how much memory.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub(crate) memory_mib: u64,
    /// A program of its image with its arguments, with commas between.
    pub(crate) runs: String,
}

impl Guest {
    fn words(&self) -> String {
        format!("{WORDS} guest.run={}", self.runs)
    }

    /// Options of `ftvm run`.
    pub(crate) fn for_ftvm(&self, command: &mut Command) {
        command.args(["--kernel", KERNEL, "--initrd", INITRD, "--cmdline", &self.words()]);
        command.args(["--memory", &format!("{}MiB", self.memory_mib)]);
    }

    /// Options of QEMU.
    pub(crate) fn for_qemu(&self, command: &mut Command) {
        command.args(["-kernel", KERNEL, "-initrd", INITRD, "-append", &self.words()]);
        command.args(["-m", &format!("{}M", self.memory_mib)]);
    }
}
