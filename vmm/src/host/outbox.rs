//! Packets behind the output gate: they leave in the order in which the guest sent them, each when its epoch is
//! published.

use super::networks::Networks;
use crate::clock;
use crate::machine::device::SentPacket;
use ft_protocol::latency::OutputLatency;
use ft_protocol::{Epoch, Time};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

/// Outputs of one epoch whose times are noted; of those beyond, the time of none is.
const TIMES_MAX: usize = 4096;

/// The gate's own queue. Both the vCPU's thread and the committer may open it; the lock keeps the order.
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    networks: Networks,
}

#[derive(Default)]
struct Waiting {
    packets: VecDeque<(Epoch, Vec<SentPacket>)>,
    /// When the guest came to the exits at which it put something out: since the last cut, and for each epoch that is cut.
    since_cut: Vec<Time>,
    times: VecDeque<(Epoch, Vec<Time>)>,
    latency: OutputLatency,
}

impl Outbox {
    pub(super) fn new(networks: Networks) -> Self {
        Self { waiting: Mutex::default(), networks }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("nothing panics under this lock")
    }

    /// Keeps packets until `epoch` is published.
    pub(super) fn hold(&self, epoch: Epoch, packets: Vec<SentPacket>) {
        let mut waiting = self.lock();
        if !packets.is_empty() {
            waiting.packets.push_back((epoch, packets));
        }
        let times = std::mem::take(&mut waiting.since_cut);
        if !times.is_empty() {
            waiting.times.push_back((epoch, times));
        }
    }

    /// The guest has put something out at an exit that it came to then, which waits for the next epoch.
    pub(super) fn waits(&self, exit_at: Time) {
        let mut waiting = self.lock();
        if waiting.since_cut.len() < TIMES_MAX {
            waiting.since_cut.push(exit_at);
        }
    }

    /// What the guest has put out at the exit that it came to then may leave from now on. What sending it takes is the
    /// network's, and the same without a gate.
    pub(super) fn opens(&self, exit_at: Time) {
        self.lock().latency.note(clock::monotonic().since(exit_at));
    }

    /// How long outputs waited until now.
    pub(super) fn latency(&self) -> OutputLatency {
        self.lock().latency.clone()
    }

    /// Lets everything of this and earlier epochs leave.
    pub(super) fn release(&self, epoch: Epoch) {
        let mut waiting = self.lock();
        let now = clock::monotonic();
        while let Some((_, packets)) = waiting.packets.pop_front_if(|(held, _)| *held <= epoch) {
            self.networks.send(&packets);
        }
        while let Some((_, times)) = waiting.times.pop_front_if(|(held, _)| *held <= epoch) {
            times.into_iter().for_each(|exit_at| waiting.latency.note(now.since(exit_at)));
        }
    }

    /// Sends packets whose inputs are all in the record log. What is held is older, and goes first: nothing is held when
    /// the mode records, since it changed when the last epoch of the mode before was published.
    pub(super) fn send(&self, packets: &[SentPacket]) {
        if packets.is_empty() {
            return;
        }
        let waiting = self.lock();
        assert!(waiting.packets.is_empty(), "packets of the mode before have left");
        self.networks.send(packets);
    }

    /// Tells the networks where the guest is now, as long as this host reigns.
    pub(super) fn announce(&self, reigns: impl Fn() -> bool + Send + Sync + 'static) {
        self.networks.announce(reigns);
    }
}
