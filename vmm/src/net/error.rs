//! Why a network cannot be used.

use std::io;
use std::path::PathBuf;

/// Why a network cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Nobody listens at the segment's socket.
    #[error("no switch at {path}: start one with `ftvm switch {path}`")]
    NoSwitch {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No sockets or threads.
    #[error("cannot make a network port")]
    Resources(#[source] io::Error),
    /// The kernel has no TAP devices.
    #[error("cannot open /dev/net/tun: load the module tun, or give the container the device")]
    NoTun(#[source] io::Error),
    /// Not a name that an interface can have.
    #[error("`{name}` cannot name a TAP device: 1 to 15 bytes, without slash or white space")]
    TapName {
        /// The name.
        name: String,
    },
    /// There is no such interface.
    #[error("there is no TAP device {name}: as root, `ip tuntap add dev {name} mode tap` and `ip link set {name} up`")]
    NoTap {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface is not ours to use.
    #[error(
        "TAP device {name} is not permitted: as root, `ip tuntap add dev {name} mode tap user USER` and `ip link set {name} up`"
    )]
    TapNotPermitted {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something else uses it.
    #[error("TAP device {name} is in use: by another guest, which has to end first, or by another program")]
    TapBusy {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something else is wrong with it.
    #[error("TAP device {name} cannot be used")]
    Tap {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}
