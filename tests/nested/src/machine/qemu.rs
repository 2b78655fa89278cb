//! The command line of a machine's QEMU.
//!
//! - `+svm`: a real kvm-amd inside; `-la57`: what Debian's kernels are tested with.
//! - One processor of two possible ones, with threads: with `-smp 1` QEMU makes atomic instructions ordinary ones, and two
//!   machines' would not exclude each other on the pool.

use super::Hardware;
use std::path::Path;
use std::process::{Command, Stdio};

/// The program, and Debian's package of it.
pub(super) const PROGRAM: &str = "qemu-system-x86_64";
pub(super) const PACKAGE: &str = "qemu-system-x86";

const KERNEL_WORDS: &str = "console=ttyS0 quiet loglevel=4 8250.nr_uarts=1 panic=-1 oops=panic mitigations=off no_timer_check \
                            tsc=reliable random.trust_cpu=on nokaslr";

/// The command that runs the machine. It ends with the thread that starts it.
pub(super) fn command(hardware: &Hardware, place: &Path) -> Command {
    let Hardware { name, kernel, initrd, memory_mib, pool, address, mac } = hardware;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", PROGRAM, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-cpu", "max,+svm,-la57", "-smp", "1,maxcpus=2", "-accel", "tcg,thread=multi"]);
    match pool {
        None => command.args(["-M", "q35", "-m", &format!("{memory_mib}M")]),
        Some((file, bytes)) => {
            let most = (memory_mib << 20) + bytes + (1 << 30);
            command.args(["-M", "q35,nvdimm=on", "-m", &format!("{memory_mib}M,slots=2,maxmem={most}")]);
            let backend = format!("memory-backend-file,id=pool,mem-path={},size={bytes},share=on", file.display());
            command.args(["-object", &backend, "-device", "nvdimm,memdev=pool,id=nvdimm0"])
        }
    };
    let ip = address.as_ref().map_or_else(String::new, |address| format!(" nested.address={address}"));
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    command.args(["-append", &format!("{KERNEL_WORDS} nested.name={name}{ip}")]);
    command.args(["-serial", &format!("file:{}", place.join("console.log").display())]);
    command.args(["-device", "virtio-serial-pci", "-device", "virtio-rng-pci"]);
    command.args(["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", place.join("agent").display())]);
    command.args(["-device", &format!("virtserialport,chardev=agent,name={}", nested_inside::PORT_NAME)]);
    command.args(["-qmp", &format!("unix:{},server=on,wait=off", place.join("qmp").display())]);
    if let Some(mac) = mac {
        let (local, remote) = (place.join("net.qemu"), place.join("net.relay"));
        let ends = format!(
            "dgram,id=net,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            local.display(),
            remote.display()
        );
        command.args(["-netdev", &ends, "-device", &format!("virtio-net-pci,netdev=net,romfile=,mac={mac}")]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}
