//! A virtqueue as a device uses it: chains of descriptors, checked before anybody looks at what they point to.
//!
//! Everything here comes from the guest. A chain that breaks the rules is a [`Refusal`]; the transport then stops the
//! device until the driver resets it.

use crate::machine::layout::GuestMemory;
use crate::machine::to_usize;
use std::sync::atomic::{Ordering, fence};
use virtio_bindings::bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// What a device accepts of one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainLimits {
    /// Most descriptors.
    pub(super) descriptors_max: usize,
    /// Most bytes, of all descriptors together.
    pub(super) bytes_max: u64,
}

/// What is wrong with a queue or a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// The queue cannot be where the driver put it, or has no possible size.
    #[error("queue {queue} is not possible")]
    Queue {
        /// Which.
        queue: usize,
    },
    /// The available ring offers more chains than it has room for.
    #[error("the available index is {ahead} ahead, in a queue of {size}")]
    Jump {
        /// How far.
        ahead: u16,
        /// The queue's size.
        size: u16,
    },
    /// A ring is not in RAM.
    #[error("a ring is outside RAM")]
    RingOutside,
    /// The chain has no descriptor, or leads out of the table.
    #[error("chain {head} is broken after {descriptors} descriptors")]
    Broken {
        /// First descriptor.
        head: u16,
        /// How many were there.
        descriptors: usize,
    },
    /// The chain is longer than the device takes; a loop is endless.
    #[error("chain {head} has more than {limit} descriptors")]
    TooManyDescriptors {
        /// First descriptor.
        head: u16,
        /// Most.
        limit: usize,
    },
    /// The chain's buffers are larger than the device takes.
    #[error("chain {head} has more than {limit} bytes")]
    TooManyBytes {
        /// First descriptor.
        head: u16,
        /// Most.
        limit: u64,
    },
    /// The chain's buffers are too small for what belongs into them.
    #[error("chain {head} has {got} bytes where {least} are due")]
    TooFewBytes {
        /// First descriptor.
        head: u16,
        /// Least.
        least: usize,
        /// What there is.
        got: usize,
    },
    /// A buffer is not in RAM.
    #[error("chain {head} has a buffer outside RAM, at {address:#x} with {length} bytes")]
    BufferOutside {
        /// First descriptor.
        head: u16,
        /// Its address.
        address: u64,
        /// Its length.
        length: u32,
    },
    /// A buffer that the device reads follows one that it writes, or there is one of a kind that the queue does not have.
    #[error("chain {head} has a buffer of the wrong direction")]
    Direction {
        /// First descriptor.
        head: u16,
    },
}

/// A stretch of a buffer, known to be in RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    address: GuestAddress,
    length: usize,
}

/// Some buffers, one behind the other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Buffers {
    segments: Vec<Segment>,
    bytes: usize,
}

/// A chain that keeps the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    /// First descriptor.
    pub(super) head: u16,
    /// What the device reads.
    pub(super) readable: Buffers,
    /// What the device writes.
    pub(super) writable: Buffers,
}

/// A queue that is in use.
pub(super) struct Ring<'a> {
    pub(super) queue: &'a mut Queue,
    pub(super) memory: &'a GuestMemory,
    /// Set when a buffer is given back.
    pub(super) used: &'a mut bool,
}

impl Buffers {
    /// All bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    fn push(&mut self, address: GuestAddress, length: u32) {
        let length = to_usize(length.into());
        self.segments.push(Segment { address, length });
        self.bytes += length;
    }

    /// Copies the bytes from `at` on out of guest memory; false if there are fewer.
    pub(super) fn read(&self, memory: &GuestMemory, at: usize, out: &mut [u8]) -> bool {
        let mut done = 0;
        self.each_part(at, out.len(), |address, length| {
            let read = memory.read_slice(&mut out[done..done + length], address).is_ok();
            done += length;
            read
        })
    }

    /// Copies bytes into guest memory, from `at` on; false if there is no room for them.
    pub(super) fn write(&self, memory: &GuestMemory, at: usize, bytes: &[u8]) -> bool {
        let mut done = 0;
        self.each_part(at, bytes.len(), |address, length| {
            let written = memory.write_slice(&bytes[done..done + length], address).is_ok();
            done += length;
            written
        })
    }

    /// The parts of guest memory that `at..at + length` comes to; false if there are fewer bytes, or a part is refused.
    fn each_part(&self, at: usize, length: usize, mut part: impl FnMut(GuestAddress, usize) -> bool) -> bool {
        if at.checked_add(length).is_none_or(|end| end > self.bytes) {
            return false;
        }
        let (mut skip, mut left) = (at, length);
        for segment in &self.segments {
            let from = skip.min(segment.length);
            skip -= from;
            let take = (segment.length - from).min(left);
            if take > 0 {
                // Inside a stretch that was found in RAM, so the sum cannot overflow.
                if !part(GuestAddress(segment.address.0 + from as u64), take) {
                    return false;
                }
                left -= take;
            }
        }
        left == 0
    }
}

impl Ring<'_> {
    /// Most chains that can wait in the queue.
    pub(super) fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The next chain that the driver offers.
    pub(super) fn pop(&mut self, limits: ChainLimits) -> Result<Option<Chain>, Refusal> {
        let size = self.queue.size();
        let offered = self.queue.avail_idx(self.memory, Ordering::Acquire).map_err(|_| Refusal::RingOutside)?;
        let ahead = offered.0.wrapping_sub(self.queue.next_avail());
        if ahead == 0 {
            return Ok(None);
        }
        if ahead > size {
            return Err(Refusal::Jump { ahead, size });
        }
        let mut offers = self.queue.iter(self.memory).map_err(|_| Refusal::RingOutside)?;
        let descriptors = offers.next().ok_or(Refusal::RingOutside)?;
        let head = descriptors.head_index();
        let mut chain = Chain { head, readable: Buffers::default(), writable: Buffers::default() };
        let (mut count, mut bytes, mut ended) = (0, 0u64, false);
        for descriptor in descriptors {
            count += 1;
            bytes += u64::from(descriptor.len());
            if count > limits.descriptors_max {
                return Err(Refusal::TooManyDescriptors { head, limit: limits.descriptors_max });
            }
            if bytes > limits.bytes_max {
                return Err(Refusal::TooManyBytes { head, limit: limits.bytes_max });
            }
            let (address, length) = (descriptor.addr(), descriptor.len());
            if length > 0 && !self.memory.check_range(address, to_usize(length.into())) {
                return Err(Refusal::BufferOutside { head, address: address.0, length });
            }
            match descriptor.is_write_only() {
                true => chain.writable.push(address, length),
                false if chain.writable.segments.is_empty() => chain.readable.push(address, length),
                false => return Err(Refusal::Direction { head }),
            }
            ended = !descriptor.has_next();
        }
        // The crate ends a chain silently where its next descriptor cannot be had.
        if ended { Ok(Some(chain)) } else { Err(Refusal::Broken { head, descriptors: count }) }
    }

    /// Leaves the chain that was taken last with the driver, as if it had not been taken.
    pub(super) fn put_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a chain back, with so many bytes written into it.
    pub(super) fn finish(&mut self, chain: &Chain, written: usize) -> Result<(), Refusal> {
        let written = u32::try_from(written).expect("chains are limited to far less");
        self.queue.add_used(self.memory, chain.head, written).map_err(|_| Refusal::RingOutside)?;
        *self.used = true;
        Ok(())
    }

    /// Whether the driver wants to hear of buffers that were given back. A ring that cannot be read is one that does.
    pub(super) fn wants_interrupts(&self) -> bool {
        // The used index first, then the flag: a driver sets the flag first, and looks at the index then.
        fence(Ordering::SeqCst);
        let flag = u16::try_from(VRING_AVAIL_F_NO_INTERRUPT).expect("a flag of sixteen bits");
        let flags = self.memory.load::<u16>(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed);
        flags.map_or(true, |flags| u16::from_le(flags) & flag == 0)
    }

    /// Tells the driver that it need not notify: the device looks at the queue at every exit.
    pub(super) fn silence(&mut self) -> Result<(), Refusal> {
        let flag = u16::try_from(VRING_USED_F_NO_NOTIFY).expect("a flag of sixteen bits");
        self.memory
            .store(flag.to_le(), GuestAddress(self.queue.used_ring()), Ordering::Relaxed)
            .map_err(|_| Refusal::RingOutside)
    }
}
