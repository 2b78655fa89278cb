//! What a guest's network devices are connected to on the host that runs it, and the segment for where there is no
//! privilege for more.
//!
//! A [`NetPort`] is a host's end of a network. Frames that come go into a bounded queue, in a thread of the port's own,
//! and wake whoever waits; frames that leave are sent at once or lost, and counted, as networks do.
//!
//! A segment is an Ethernet over Unix datagram sockets with a [`Switch`] in its middle (`ftvm switch`):
//!
//! ```text
//!   port                              switch, at its path
//!    │── empty datagram: here I am ──>│
//!    │<── empty datagram ─────────────│ from a socket of this port's own
//!    │   (both connect: the kernel then queues by bytes, not by ten datagrams, and
//!    │    a port that hangs fills its own socket only)
//!    │<══ one frame a datagram ══════>│
//! ```
//!
//! Empty datagrams on a connection mean nothing: whoever sends one learns whether the other is still there.

pub mod client;
mod error;
mod frame;
mod port;
mod segment;
mod switch;
#[allow(unsafe_code, reason = "an ioctl that names the interface")]
pub(crate) mod tap;
#[cfg(test)]
mod tests;

pub use error::NetError;
pub use frame::{BadMac, MacAddress};
pub use port::{NetPort, PortCounters, frame_queue};
pub use switch::{Faults, Stretch, Switch, SwitchCounters, SwitchError, Trouble};

pub(crate) use tap::TUN_DEVICE;

use ft_protocol::spec::NetBackend;
use std::time::{Duration, Instant};

/// How long a TAP device is waited for that another process has: one that has just been killed has it a moment longer.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
/// Time between two looks at it.
const BUSY_LOOK: Duration = Duration::from_millis(20);

/// Says whether a network can be reached from here, now.
///
/// # Errors
/// It cannot; the error says what to do.
pub fn check(backend: &NetBackend) -> Result<(), NetError> {
    check_within(backend, BUSY_PATIENCE)
}

fn check_within(backend: &NetBackend, patience: Duration) -> Result<(), NetError> {
    let deadline = Instant::now() + patience;
    let name = match backend {
        NetBackend::Segment(path) => return segment::check(path.as_ref()),
        NetBackend::Tap(name) => name,
    };
    loop {
        match tap::open(name) {
            Err(NetError::TapBusy { .. }) if Instant::now() < deadline => std::thread::sleep(BUSY_LOOK),
            opened => return opened.map(drop),
        }
    }
}
