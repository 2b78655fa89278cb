//! The virtio devices of a flat guest. `docs/flat-guest.md` says where they are.
#![no_std]
#![allow(unsafe_code, reason = "the guest's memory and hardware")]

extern crate alloc;

mod hal;
mod heap;
mod net;
mod window;

pub use hal::FlatHal;
pub use heap::init_heap;
pub use net::{Cidr, Network, answer_end, listen_again};
pub use smoltcp;
pub use window::{Disk, SECTOR_BYTES, disk};
