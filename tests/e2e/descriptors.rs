//! Read-only is real: what a secondary holds of the guest's memory, the kernel will not let it write.
#![allow(unsafe_code, reason = "tries to map what must not be mapped")]

use crate::support::{Place, await_some, await_true, count_of, kvm, read_events};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A host's own descriptors of files in this directory, with the files' names: the very same open files, not files opened
/// anew.
fn descriptors_of(pid: u32, directory: &Path) -> Vec<(String, OwnedFd)> {
    let process = Pid::from_raw(i32::try_from(pid).unwrap()).expect("not zero");
    let process = pidfd_open(process, PidfdFlags::empty()).expect("the host lives");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let Ok(number) = entry.file_name().to_string_lossy().parse() else { continue };
        let Ok(descriptor) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else { continue };
        if target.starts_with(directory) {
            let name = target.file_name().expect("a file has a name").to_string_lossy().into_owned();
            found.push((name, descriptor));
        }
    }
    found
}

/// What writing through a descriptor, and mapping it for writing, come to.
fn try_to_write(fd: &OwnedFd) -> (Result<usize, Errno>, Result<(), Errno>) {
    let written = nix::sys::uio::pwrite(fd, b"harm", 0);
    let length = NonZeroUsize::new(4096).expect("not zero");
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice; it is expected to fail, and never touched.
    let mapped = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, fd, 0) };
    (written, mapped.map(|_| ()))
}

#[test]
fn neither_secondary_nor_primary_can_write_the_stable_image() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let events = place.file("events");
    let options = ["run", "--events", events.to_str().unwrap(), "builtin:idle", "--", "--ticks", "1000000"];
    let run = place.start(&options);
    await_true("protection", || count_of(&read_events(&events), "protected") == 1);
    // What each may write beside its own heartbeat page: the primary its generation's journal and record log, others nothing.
    for (host, own) in
        [("a", &["heartbeat.0", "journal.1", "log.1"][..]), ("b", &["heartbeat.1"]), ("c", &["heartbeat.2"])]
    {
        let pid = await_some("a host", || run.host(host));
        let descriptors = descriptors_of(pid, place.pool());
        let has_image = descriptors.iter().any(|(name, _)| name == "image");
        assert_eq!(has_image, host != "c", "primary and secondary hold the stable image, the spare does not");
        for (name, descriptor) in descriptors.iter().filter(|(name, _)| !own.contains(&name.as_str())) {
            assert_eq!(try_to_write(descriptor), (Err(Errno::EBADF), Err(Errno::EACCES)), "{name} of host {host}");
        }
    }
}
