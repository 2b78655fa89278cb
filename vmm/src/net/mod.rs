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
mod tap;
#[cfg(test)]
mod tests;

pub use error::NetError;
pub use frame::{BadMac, MacAddress};
pub use port::{NetPort, PortCounters, frame_queue};
pub use switch::{Faults, Stretch, Switch, SwitchCounters, SwitchError, Trouble};

pub(crate) use tap::TUN_DEVICE;

use ft_protocol::spec::NetBackend;

/// Says whether a network can be reached from here, now.
///
/// # Errors
/// It cannot; the error says what to do.
pub fn check(backend: &NetBackend) -> Result<(), NetError> {
    match backend {
        NetBackend::Segment(path) => segment::check(path.as_ref()),
        NetBackend::Tap(name) => tap::open(name).map(drop),
    }
}
