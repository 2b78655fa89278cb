//! Packets behind the output gate: they leave in the order in which the guest sent them, each when its epoch is
//! published.

use super::networks::Networks;
use crate::machine::device::SentPacket;
use ft_protocol::Epoch;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

/// The gate's own queue. Both the vCPU's thread and the committer may open it; the lock keeps the order.
pub(super) struct Outbox {
    waiting: Mutex<VecDeque<(Epoch, Vec<SentPacket>)>>,
    networks: Networks,
}

impl Outbox {
    pub(super) fn new(networks: Networks) -> Self {
        Self { waiting: Mutex::new(VecDeque::new()), networks }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Epoch, Vec<SentPacket>)>> {
        self.waiting.lock().expect("nothing panics under this lock")
    }

    /// Keeps packets until `epoch` is published.
    pub(super) fn hold(&self, epoch: Epoch, packets: Vec<SentPacket>) {
        if !packets.is_empty() {
            self.lock().push_back((epoch, packets));
        }
    }

    /// Lets everything of this and earlier epochs leave.
    pub(super) fn release(&self, epoch: Epoch) {
        let mut waiting = self.lock();
        while let Some((_, packets)) = waiting.pop_front_if(|(held, _)| *held <= epoch) {
            self.networks.send(&packets);
        }
    }

    /// Sends packets whose inputs are all in the record log. What is held is older, and goes first: nothing is held when
    /// the mode records, since it changed when the last epoch of the mode before was published.
    pub(super) fn send(&self, packets: &[SentPacket]) {
        if packets.is_empty() {
            return;
        }
        let waiting = self.lock();
        assert!(waiting.is_empty(), "packets of the mode before have left");
        self.networks.send(packets);
    }

    /// Tells the networks where the guest is now.
    pub(super) fn announce(&self) {
        self.networks.announce();
    }
}
