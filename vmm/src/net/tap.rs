//! TAP devices.

use super::error::NetError;
use super::port::Link;
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

/// The device that TAP devices are had from.
pub(crate) const TUN_DEVICE: &str = "/dev/net/tun";

nix::ioctl_write_int!(tunsetiff, b'T', 202);

/// `struct ifreq` as TUNSETIFF takes it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>(), "the kernel copies all of it");

/// A TAP device.
pub(super) struct Tap {
    file: File,
}

/// Opens the TAP device of this name; without the right to make devices it must be there already.
pub(super) fn open(name: &str) -> Result<Tap, NetError> {
    let fits =
        (1..libc::IFNAMSIZ).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if !fits {
        return Err(NetError::TapName { name: name.chars().take(32).collect() });
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(TUN_DEVICE)
        .map_err(NetError::NoTun)?;
    let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    request.flags = libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI).expect("flags of sixteen bits");
    let address = (&raw mut request).addr() as libc::c_ulong;
    // SAFETY: the kernel reads and writes one request of this size at the address of a local one.
    match unsafe { tunsetiff(file.as_raw_fd(), address) } {
        Ok(_) => Ok(Tap { file }),
        Err(errno) => {
            let (name, source) = (name.to_owned(), errno.into());
            Err(match errno {
                Errno::EPERM | Errno::EACCES => NetError::TapNotPermitted { name, source },
                Errno::EBUSY => NetError::TapBusy { name, source },
                _ => NetError::Tap { name, source },
            })
        }
    }
}

impl Link for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(frame)
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        (&self.file).write(frame).map(drop)
    }
}
