//! Read-only is real: what a secondary holds of the guest's memory, the kernel will not let it write.
#![allow(unsafe_code, reason = "tries to map what must not be mapped")]

use crate::support::{Place, await_some, await_true, count_of, kvm, read_events};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A host's own descriptors of files that end like this: the very same open files, not files opened anew.
fn descriptors_of(pid: u32, ending: &str) -> Vec<OwnedFd> {
    let process = Pid::from_raw(i32::try_from(pid).unwrap()).expect("not zero");
    let process = pidfd_open(process, PidfdFlags::empty()).expect("the host lives");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten() {
        let is_it = std::fs::read_link(entry.path()).is_ok_and(|target| target.ends_with(Path::new(ending)));
        let number = entry.file_name().to_string_lossy().parse::<i32>();
        if let (true, Ok(number)) = (is_it, number) {
            found.extend(pidfd_getfd(&process, number, PidfdGetfdFlags::empty()));
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
    for (host, role) in [("b", "secondary"), ("a", "primary")] {
        let pid = await_some("a host", || run.host(host));
        let images = descriptors_of(pid, "image");
        if images.is_empty() {
            // A host may close the descriptor once it has mapped it: then there is nothing to write through.
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
            let lines: Vec<&str> = maps.lines().filter(|line| line.ends_with("/image")).collect();
            assert!(!lines.is_empty(), "the {role} holds the stable image in some way");
            // Private mappings are the guest's working memory; what is shared must not be writable.
            assert!(lines.iter().all(|line| line.contains('p') || !line.contains("w")), "{lines:?}");
        }
        for image in &images {
            assert_eq!(try_to_write(image), (Err(Errno::EBADF), Err(Errno::EACCES)), "the {role}'s");
        }
    }
}
