//! TAP devices.

use super::error::NetError;
use super::port::Link;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
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

/// Opens the TAP device of this name, which must be there: the kernel would make one for whoever may have it made, connected to
/// nothing, and gone when it is closed.
pub(super) fn open(name: &str) -> Result<Tap, NetError> {
    check_name(name)?;
    // As this thread sees them; what is mounted at /sys may be another network's.
    match if_nametoindex(name) {
        Ok(_) => attach(name),
        Err(errno) => Err(not_found(name, errno)),
    }
}

/// Why a name leads to no interface: there is none, or it cannot be looked for.
fn not_found(name: &str, errno: Errno) -> NetError {
    match errno {
        Errno::ENODEV | Errno::ENXIO => NetError::NoTap { name: name.to_owned(), source: errno.into() },
        errno => NetError::Resources(errno.into()),
    }
}

fn check_name(name: &str) -> Result<(), NetError> {
    let fits =
        (1..libc::IFNAMSIZ).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if !fits {
        return Err(NetError::TapName { name: name.chars().take(32).collect() });
    }
    Ok(())
}

/// The name fits.
fn attach(name: &str) -> Result<Tap, NetError> {
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

#[cfg(test)]
pub(crate) mod tests {
    use super::{attach, not_found, open};
    use crate::net::{NetError, check_within};
    use ft_protocol::spec::NetBackend;
    use nix::errno::Errno;
    use std::os::fd::AsRawFd;
    use std::time::{Duration, Instant};

    nix::ioctl_write_int!(tunsetpersist, b'T', 203);

    /// Makes a TAP device that stays until the test's network goes.
    pub(crate) fn make(name: &str) -> Result<(), NetError> {
        let tap = attach(name)?;
        // SAFETY: the kernel takes a flag.
        unsafe { tunsetpersist(tap.file.as_raw_fd(), 1) }.expect("whoever has made it may keep it");
        Ok(())
    }

    /// Runs a test where network devices may be made and nobody else sees them: in a network namespace of a thread's own.
    /// Skipped, aloud, where this user may not have one.
    pub(crate) fn in_own_network(test: impl FnOnce() + Send) {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // SAFETY: changes only which network devices this thread, which is the test's own, and those that it starts see.
                if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                    eprintln!("SKIPPED {name}: no network namespace can be made here");
                } else if let Err(error @ (NetError::NoTun(_) | NetError::TapNotPermitted { .. })) = make("probe0") {
                    eprintln!("SKIPPED {name}: {}", crate::chain(&error));
                } else {
                    test();
                }
            });
        });
    }

    #[test]
    fn a_name_that_cannot_be_looked_for_is_not_told_to_be_nobodys() {
        assert!(matches!(not_found("tap7", Errno::ENODEV), NetError::NoTap { .. }));
        for errno in [Errno::EMFILE, Errno::EPERM, Errno::ENOMEM] {
            assert!(matches!(not_found("tap7", errno), NetError::Resources(_)), "{errno}");
        }
    }

    #[test]
    fn a_tap_device_that_another_holds_is_waited_for_and_then_named() {
        in_own_network(|| {
            let backend = NetBackend::Tap("tap7".to_owned());
            make("tap7").expect("it is not there");
            let holder = open("tap7").expect("nobody has it");
            let refused = check_within(&backend, Duration::from_millis(50)).expect_err("it is in use");
            assert!(matches!(refused, NetError::TapBusy { .. }) && refused.to_string().contains("tap7"), "{refused}");
            // Who has just been killed holds it until the kernel has taken its process apart.
            let (begun, is_begun) = std::sync::mpsc::channel();
            let began = Instant::now();
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    is_begun.recv().expect("the other looks");
                    drop(holder);
                });
                begun.send(()).expect("the holder waits");
                check_within(&backend, Duration::from_secs(60)).expect("it is let go");
            });
            assert!(began.elapsed() < Duration::from_secs(60));
        });
    }

    /// Found by an acceptance test: root had a device made that nothing was connected to.
    #[test]
    fn a_tap_device_that_is_not_there_is_not_made() {
        in_own_network(|| {
            for _ in 0..2 {
                let refused = open("tap9").err().expect("nobody has made it");
                assert!(matches!(refused, NetError::NoTap { .. }), "{refused}");
                assert!(refused.to_string().contains("ip tuntap add dev tap9 mode tap"), "{refused}");
            }
        });
    }
}
