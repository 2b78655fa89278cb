//! What the operating system offers beside KVM.
#![allow(unsafe_code, reason = "two system calls that no library wraps")]

use super::Finding;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use shared_mem::FlushKind;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;
/// A 64 MiB guest with its journal and three hosts.
const MEMORY_WANTED: u64 = 512 * MIB;
const SHM_WANTED: u64 = 512 * MIB;
/// A controller holds some dozen descriptors for each host and VM.
const FILES_WANTED: u64 = 1024;

pub(super) fn examine() -> Vec<Finding> {
    vec![
        memory(),
        shared_memory(),
        tun(),
        open_files(),
        locked_memory(),
        pidfd(),
        userfaultfd(),
        huge_pages(),
        flush(),
        qemu(),
    ]
}

fn memory() -> Finding {
    const NAME: &str = "memory";
    match meminfo("MemAvailable") {
        Some(kib) if kib * KIB >= MEMORY_WANTED => Finding::ok(NAME, format!("{} MiB available", kib * KIB / MIB)),
        Some(kib) => {
            let detail = format!("{} MiB available", kib * KIB / MIB);
            Finding::degraded(NAME, detail, format!("have {} MiB, or run small guests", MEMORY_WANTED / MIB))
        }
        None => Finding::degraded(NAME, "/proc/meminfo cannot be read", "mount /proc"),
    }
}

fn shared_memory() -> Finding {
    const NAME: &str = "/dev/shm";
    match statvfs("/dev/shm") {
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size();
            let detail = format!("{} MiB free of {} MiB", free / MIB, stat.blocks() * stat.fragment_size() / MIB);
            if free >= SHM_WANTED {
                Finding::ok(NAME, detail)
            } else {
                Finding::degraded(
                    NAME,
                    detail,
                    "the pool lives there: `mount -o remount,size=2G /dev/shm`, or docker's --shm-size",
                )
            }
        }
        Err(error) => Finding::missing(NAME, error.desc(), "mount a tmpfs there: the pool lives in it"),
    }
}

fn tun() -> Finding {
    const NAME: &str = "/dev/net/tun";
    match OpenOptions::new().read(true).write(true).open(NAME) {
        Ok(_) => Finding::ok(NAME, "present and permitted"),
        Err(error) => Finding::degraded(NAME, error.to_string(), "only guests on a TAP network need it"),
    }
}

fn open_files() -> Finding {
    const NAME: &str = "open files limit";
    limit(NAME, Resource::RLIMIT_NOFILE, |soft| soft >= FILES_WANTED, u64::to_string, "raise it with `ulimit -n 4096`")
}

fn locked_memory() -> Finding {
    let show = |bytes: &u64| format!("{} MiB", bytes / MIB);
    limit("locked memory limit", Resource::RLIMIT_MEMLOCK, |_| true, show, "")
}

fn limit(
    name: &'static str,
    resource: Resource,
    enough: impl Fn(u64) -> bool,
    show: impl Fn(&u64) -> String,
    advice: &str,
) -> Finding {
    let show = |value: u64| if value == RLIM_INFINITY { "unlimited".to_owned() } else { show(&value) };
    match getrlimit(resource) {
        Ok((soft, hard)) => {
            let detail = format!("{} (hard {})", show(soft), show(hard));
            if enough(soft) { Finding::ok(name, detail) } else { Finding::degraded(name, detail, advice) }
        }
        Err(error) => Finding::degraded(name, error.desc(), advice),
    }
}

fn pidfd() -> Finding {
    const NAME: &str = "pidfd";
    let process = std::process::id();
    // SAFETY: takes two numbers and no pointer.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) };
    match descriptor(result) {
        Ok(_) => Finding::ok(NAME, "yes"),
        Err(error) => Finding::degraded(
            NAME,
            error.to_string(),
            "Linux 5.3 has it; without, a host's death is seen by its socket",
        ),
    }
}

/// What pools on DAX devices are written by; those in tmpfs need nothing.
fn flush() -> Finding {
    let kinds = [FlushKind::Clwb, FlushKind::ClflushOpt, FlushKind::Clflush].into_iter();
    let kinds: Vec<String> = kinds.filter(|kind| kind.is_supported()).map(|kind| kind.to_string()).collect();
    Finding::ok("cache line flush", format!("{} (pools on DAX use the first; --flush forces one)", kinds.join(", ")))
}

fn userfaultfd() -> Finding {
    const NAME: &str = "userfaultfd";
    // SAFETY: takes a number and no pointer.
    let result = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    match descriptor(result) {
        Ok(_) => Finding::ok(NAME, "yes"),
        Err(error) => {
            Finding::degraded(NAME, error.to_string(), "not needed for pools in tmpfs; see vm.unprivileged_userfaultfd")
        }
    }
}

/// Closes the descriptor that a system call gave.
fn descriptor(result: libc::c_long) -> Result<OwnedFd, io::Error> {
    match i32::try_from(result) {
        // SAFETY: the system call has just made it, and nobody else knows of it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn huge_pages() -> Finding {
    const NAME: &str = "huge pages";
    match (meminfo("HugePages_Total"), meminfo("HugePages_Free"), meminfo("Hugepagesize")) {
        (Some(total @ 1..), Some(free), Some(kib)) => {
            Finding::ok(NAME, format!("{free} of {total} free, {kib} KiB each"))
        }
        _ => Finding::degraded(NAME, "none", "not needed; vm.nr_hugepages reserves some for large pools"),
    }
}

fn qemu() -> Finding {
    const NAME: &str = "qemu-system-x86_64";
    let path = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&path).map(|directory| directory.join(NAME)).find(|file| file.is_file()) {
        Some(file) => Finding::ok(NAME, file.display().to_string()),
        None => {
            Finding::degraded(NAME, "not in PATH", "only the nested tests need it: Debian's package is qemu-system-x86")
        }
    }
}

/// A number from /proc/meminfo, in the unit that it has there.
fn meminfo(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}
