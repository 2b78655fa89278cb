//! virtio-console: one port, whose output and input are those of the machine's console.

use super::ring::{ChainLimits, Refusal, Ring};
use super::transport::{Backend, Fault, QueueKind, Service};
use crate::machine::device::Context;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

const RECEIVE: usize = 0;
const QUEUE_SIZE_MAX: u16 = 64;
const QUEUES: [QueueKind; 2] = [
    QueueKind { size_max: QUEUE_SIZE_MAX, service: Service::Polled },
    QueueKind { size_max: QUEUE_SIZE_MAX, service: Service::Notified },
];
/// Most bytes that one chain carries: with the queue's size this bounds the output of one exit.
const CHAIN: ChainLimits = ChainLimits { descriptors_max: 16, bytes_max: 12 << 10 };

/// Most bytes of output that one exit of the guest brings: they are one entry of a record log, and in the modes without one they are with what
/// was pending before, of one epoch, which the ring of the console has to hold.
pub(crate) const OUTPUT_BYTES_MAX: u64 = QUEUE_SIZE_MAX as u64 * CHAIN.bytes_max;

/// Beside the bytes an entry has their position, and the digest of the exit.
const _: () = assert!(OUTPUT_BYTES_MAX + 64 <= ft_protocol::record::PAYLOAD_BYTES_MAX as u64);

pub(super) struct Console;

impl Console {
    fn receive(ring: &mut Ring<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        for _ in 0..ring.size() {
            let Some(chain) = ring.pop(CHAIN)? else { return Ok(()) };
            let (head, room) = (chain.head, chain.writable.len());
            if chain.readable.len() > 0 || room == 0 {
                return Err(Refusal::Direction { head }.into());
            }
            let bytes = context.take_console_input(room)?;
            if bytes.is_empty() {
                ring.put_back();
                return Ok(());
            }
            // No source gives more than there is room for; should one, the rest is lost.
            let bytes = &bytes[..bytes.len().min(room)];
            if !chain.writable.write(ring.memory, 0, bytes) {
                return Err(Refusal::RingOutside.into());
            }
            ring.finish(&chain, bytes.len())?;
            context.effects.received = true;
        }
        Ok(())
    }

    fn send(ring: &mut Ring<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        for _ in 0..ring.size() {
            let Some(chain) = ring.pop(CHAIN)? else { return Ok(()) };
            if chain.writable.len() > 0 {
                return Err(Refusal::Direction { head: chain.head }.into());
            }
            let mut bytes = vec![0; chain.readable.len()];
            if !chain.readable.read(ring.memory, 0, &mut bytes) {
                return Err(Refusal::RingOutside.into());
            }
            ring.finish(&chain, 0)?;
            context.effects.console.append(&mut bytes);
        }
        Ok(())
    }
}

impl Backend for Console {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn queues(&self) -> &'static [QueueKind] {
        &QUEUES
    }

    fn serve(&mut self, queue: usize, ring: &mut Ring<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        match queue {
            RECEIVE => Self::receive(ring, context),
            _ => Self::send(ring, context),
        }
    }
}
