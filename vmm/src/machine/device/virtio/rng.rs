//! virtio-rng: entropy, from the machine's inputs.

use super::ring::{ChainLimits, Refusal, Ring};
use super::transport::{Backend, Fault, QueueKind, Service};
use crate::machine::device::Context;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

const QUEUES: [QueueKind; 1] = [QueueKind { size_max: 16, service: Service::Notified }];
const CHAIN: ChainLimits = ChainLimits { descriptors_max: 16, bytes_max: 64 << 10 };
/// Most bytes given at a time: each is an entry of the record log. A driver that wants more asks again.
const ENTROPY_BYTES_MAX: usize = 256;

pub(super) struct Rng;

impl Backend for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queues(&self) -> &'static [QueueKind] {
        &QUEUES
    }

    fn serve(&mut self, _queue: usize, ring: &mut Ring<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        for _ in 0..ring.size() {
            let Some(chain) = ring.pop(CHAIN)? else { return Ok(()) };
            if chain.readable.len() > 0 || chain.writable.len() == 0 {
                return Err(Refusal::Direction { head: chain.head }.into());
            }
            let mut bytes = vec![0; chain.writable.len().min(ENTROPY_BYTES_MAX)];
            context.inputs.entropy(context.exit, &mut bytes)?;
            if !chain.writable.write(ring.memory, 0, &bytes) {
                return Err(Refusal::RingOutside.into());
            }
            ring.finish(&chain, bytes.len())?;
        }
        Ok(())
    }
}
