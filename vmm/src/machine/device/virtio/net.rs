//! virtio-net: frames in and out, without offloads.
//!
//! A packet is asked for only when the driver has left a buffer that takes any frame, so what was asked for can always be
//! handed on, and stays with the source otherwise.

use super::ring::{ChainLimits, Refusal, Ring};
use super::transport::{Backend, Fault, QueueKind, Service};
use crate::machine::device::{Context, SentPacket};
use crate::machine::inputs::NicIndex;
use virtio_bindings::bindings::virtio_net::VIRTIO_NET_F_MAC;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;

/// Most bytes of an Ethernet frame: 1500 of payload and the header.
pub const FRAME_BYTES_MAX: usize = 1514;
/// Least bytes of an Ethernet frame: its header.
pub const FRAME_BYTES_MIN: usize = 14;

/// `struct virtio_net_hdr_v1`.
const HEADER_BYTES: usize = 12;
/// Where that has the number of buffers of a received packet.
const BUFFERS_AT: usize = 10;
const RECEIVE: usize = 0;

const QUEUE_SIZE_MAX: u16 = 256;
const QUEUES: [QueueKind; 2] = [
    QueueKind { size_max: QUEUE_SIZE_MAX, service: Service::Polled },
    QueueKind { size_max: QUEUE_SIZE_MAX, service: Service::Notified },
];

/// Drivers may offer more than any frame needs, and send more than any network takes.
const BUFFER: ChainLimits = ChainLimits { descriptors_max: 16, bytes_max: 64 << 10 };

pub(super) struct Net {
    nic: NicIndex,
    mac: [u8; 6],
}

impl Net {
    pub(super) fn new(nic: NicIndex, mac: [u8; 6]) -> Self {
        Self { nic, mac }
    }

    fn receive(&self, ring: &mut Ring<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        for _ in 0..ring.size() {
            let Some(chain) = ring.pop(BUFFER)? else { return Ok(()) };
            let (head, room) = (chain.head, chain.writable.len());
            if chain.readable.len() > 0 {
                return Err(Refusal::Direction { head }.into());
            }
            if room < HEADER_BYTES + FRAME_BYTES_MAX {
                let least = HEADER_BYTES + FRAME_BYTES_MAX;
                return Err(Refusal::TooFewBytes { head, least, got: room }.into());
            }
            let Some(frame) = context.inputs.packet(context.exit, self.nic)? else {
                ring.put_back();
                return Ok(());
            };
            // No network gives such a frame; a log may.
            if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame.len()) {
                ring.put_back();
                continue;
            }
            let mut header = [0; HEADER_BYTES];
            header[BUFFERS_AT] = 1;
            let written = chain.writable.write(ring.memory, 0, &header)
                && chain.writable.write(ring.memory, HEADER_BYTES, &frame);
            if !written {
                return Err(Refusal::RingOutside.into());
            }
            ring.finish(&chain, HEADER_BYTES + frame.len())?;
            context.effects.received = true;
        }
        Ok(())
    }

    fn send(&self, ring: &mut Ring<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        for _ in 0..ring.size() {
            let Some(chain) = ring.pop(BUFFER)? else { return Ok(()) };
            let (head, length) = (chain.head, chain.readable.len());
            if chain.writable.len() > 0 {
                return Err(Refusal::Direction { head }.into());
            }
            let least = HEADER_BYTES + FRAME_BYTES_MIN;
            if length < least {
                return Err(Refusal::TooFewBytes { head, least, got: length }.into());
            }
            if length > HEADER_BYTES + FRAME_BYTES_MAX {
                // Lost, like a frame that is too long for any other network.
                ring.finish(&chain, 0)?;
                continue;
            }
            let mut frame = vec![0; length - HEADER_BYTES];
            if !chain.readable.read(ring.memory, HEADER_BYTES, &mut frame) {
                return Err(Refusal::RingOutside.into());
            }
            ring.finish(&chain, 0)?;
            context.effects.packets.push(SentPacket { nic: self.nic, frame });
        }
        Ok(())
    }
}

impl Backend for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC
    }

    fn queues(&self) -> &'static [QueueKind] {
        &QUEUES
    }

    fn config(&self) -> &[u8] {
        &self.mac
    }

    fn serve(&mut self, queue: usize, ring: &mut Ring<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        match queue {
            RECEIVE => self.receive(ring, context),
            _ => self.send(ring, context),
        }
    }
}
