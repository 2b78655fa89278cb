//! The networks of a guest, on the host that runs it.

use crate::machine::device::SentPacket;

/// What a guest's network devices are connected to.
#[derive(Default)]
pub(super) struct Networks {}

impl Networks {
    /// Sends packets in their order. What a network has no room for is lost, as networks do.
    pub(super) fn send(&self, _packets: &[SentPacket]) {}

    /// Says on every network that the guest's addresses are here now.
    pub(super) fn announce(&self) {}
}
