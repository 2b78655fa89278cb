//! The superblock: what kind of pool this is. Written once, when all else of the pool is there.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use thiserror::Error;

use crate::header::{Closing, Header, HeaderError, OPEN, Preamble};
use crate::mem::{AccessError, PoolWrite};
use crate::numbers::{Offset, PAGE_SIZE, len_u64};
use crate::planted::{self, Laid, PlantedBug};

/// Length of the superblock's file.
pub const SUPERBLOCK_BYTES: u64 = PAGE_SIZE;

/// Where the second copy lies, since layout 4.
pub const COPY_AT: Offset = Offset::new(PAGE_SIZE / 2);

/// Version of the whole layout, as docs/pool-layout.md describes it.
pub const LAYOUT_VERSION: u32 = 5;

/// The first layout in which superblock, VM directory and cluster state are there twice.
pub const TWICE_SINCE: u32 = 4;

/// The first layout in which the control block of a VM is there twice.
pub const CONTROL_TWICE_SINCE: u32 = 5;

/// The oldest layout that is still opened; the controller makes it one of [`LAYOUT_VERSION`] then.
pub const LAYOUT_VERSION_OLDEST: u32 = 1;

/// Most VMs that a pool can be made for.
pub const VM_SLOTS_MAX: u16 = 4096;

/// Most hosts that a pool can be made for.
pub const HOST_SLOTS_MAX: u16 = 1024;

/// Largest cluster state that a pool can be made for.
pub const CLUSTER_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SuperblockBytes {
    preamble: Preamble,
    pool_id: [u8; 16],
    vm_slots: U32,
    host_slots: U32,
    cluster_bytes: U64,
    reserved: [u8; 72],
    closing: Closing,
}

impl Header for SuperblockBytes {
    const MAGIC: [u8; 8] = *b"FTVMPOOL";
    const VERSION: u32 = LAYOUT_VERSION;
    const OLDEST: u32 = LAYOUT_VERSION_OLDEST;
    const UNCHECKED: PlantedBug = PlantedBug::SuperblockCrc;
}

const _: () = assert!(size_of::<SuperblockBytes>() == 128);

/// A superblock that this version cannot work with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SuperblockError {
    /// Damaged, something else, or another version.
    #[error("the superblock is refused")]
    Header(#[from] HeaderError),
    /// Numbers out of range.
    #[error("a pool for {vm_slots} VMs, {host_slots} hosts and {cluster_bytes} bytes of cluster state is out of range")]
    OutOfRange {
        /// VMs named.
        vm_slots: u32,
        /// Hosts named.
        host_slots: u32,
        /// Cluster state named.
        cluster_bytes: u64,
    },
    /// The two copies are of different pools.
    #[error("its pool is {second:02x?}, that of the first copy {first:02x?}")]
    Copies {
        /// The pool of the first copy.
        first: [u8; 16],
        /// The pool of the second one.
        second: [u8; 16],
    },
}

/// Which copy of the superblock is not sound, and what is wrong with it.
pub type WrongTwin = (&'static str, SuperblockError);

/// What kind of pool this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Version of the pool's layout.
    pub layout: u32,
    /// Tells pools apart; random.
    pub pool_id: [u8; 16],
    /// Entries of the VM directory.
    pub vm_slots: u16,
    /// Heartbeat pages.
    pub host_slots: u16,
    /// Largest cluster state, a multiple of the page size.
    pub cluster_bytes: u64,
}

impl Superblock {
    /// Parses a private copy of a superblock.
    ///
    /// # Errors
    /// When it is damaged, something else, of another version, or out of range.
    pub fn parse(bytes: &[u8]) -> Result<Self, SuperblockError> {
        let found = SuperblockBytes::parse(bytes)?;
        let out_of_range = SuperblockError::OutOfRange {
            vm_slots: found.vm_slots.get(),
            host_slots: found.host_slots.get(),
            cluster_bytes: found.cluster_bytes.get(),
        };
        let superblock = Self {
            layout: found.preamble.version(),
            pool_id: found.pool_id,
            vm_slots: u16::try_from(found.vm_slots.get()).map_err(|_| out_of_range)?,
            host_slots: u16::try_from(found.host_slots.get()).map_err(|_| out_of_range)?,
            cluster_bytes: found.cluster_bytes.get(),
        };
        if superblock.is_in_range() { Ok(superblock) } else { Err(out_of_range) }
    }

    /// Parses a private copy of the superblock's whole file: what it says, and what is wrong with one of its two copies.
    ///
    /// # Errors
    /// When neither is sound; of the first one, then.
    pub fn parse_twin(bytes: &[u8]) -> Result<(Self, Option<WrongTwin>), SuperblockError> {
        let copy_at = usize::try_from(COPY_AT.get()).unwrap_or(usize::MAX);
        let copy = Self::parse(bytes.get(copy_at..).unwrap_or_default());
        match (Self::parse(bytes), copy) {
            (Ok(found), Ok(copy)) if found == copy => Ok((found, None)),
            (Ok(found), _) if found.layout < TWICE_SINCE => Ok((found, None)),
            (Ok(found), Ok(copy)) => {
                // Both are whole: one was written before the other, which counts.
                Ok((
                    found,
                    Some(("second copy", SuperblockError::Copies { first: found.pool_id, second: copy.pool_id })),
                ))
            }
            (Ok(found), Err(error)) => Ok((found, Some(("second copy", error)))),
            (Err(error), Ok(found)) => Ok((found, Some(("first copy", error)))),
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// Whether a pool can be made like this.
    #[must_use]
    pub const fn is_in_range(&self) -> bool {
        self.vm_slots >= 1
            && self.vm_slots <= VM_SLOTS_MAX
            && self.host_slots >= 1
            && self.host_slots <= HOST_SLOTS_MAX
            && self.cluster_bytes >= PAGE_SIZE
            && self.cluster_bytes <= CLUSTER_BYTES_MAX
            && self.cluster_bytes.is_multiple_of(PAGE_SIZE)
    }

    /// Writes the superblock durably.
    ///
    /// # Errors
    /// When the pool refuses.
    pub fn store<M: PoolWrite>(&self, memory: &M) -> Result<(), AccessError> {
        let bytes = self.to_bytes();
        for at in [Offset::ZERO, COPY_AT] {
            memory.write(at, &bytes)?;
            planted::settle(memory, at, len_u64(bytes.len()), Laid::Superblock)?;
        }
        Ok(())
    }

    /// Writes copies anew that do not say this, each in its place, while the other one stands: that needs no space. Says what
    /// was wrong with them.
    ///
    /// # Errors
    /// When the pool refuses.
    pub fn mend<M: PoolWrite>(&self, memory: &M) -> Result<Vec<WrongTwin>, AccessError> {
        let own = self.to_bytes();
        let mut wrong = Vec::new();
        for (copy, at) in [("first copy", Offset::ZERO), ("second copy", COPY_AT)] {
            let mut bytes = vec![0; own.len()];
            memory.read(at, &mut bytes)?;
            if bytes == own {
                continue;
            }
            let error = match Self::parse(&bytes) {
                Err(error) => error,
                Ok(other) => SuperblockError::Copies { first: self.pool_id, second: other.pool_id },
            };
            wrong.push((copy, error));
            memory.write(at, &own)?;
            planted::settle(memory, at, len_u64(own.len()), Laid::SuperblockMend)?;
        }
        Ok(wrong)
    }

    /// The superblock as stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        SuperblockBytes {
            preamble: SuperblockBytes::preamble().of_version(self.layout),
            pool_id: self.pool_id,
            vm_slots: U32::new(self.vm_slots.into()),
            host_slots: U32::new(self.host_slots.into()),
            cluster_bytes: U64::new(self.cluster_bytes),
            reserved: [0; 72],
            closing: OPEN,
        }
        .sealed_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_refused() {
        let superblock = Superblock {
            layout: LAYOUT_VERSION,
            pool_id: [7; 16],
            vm_slots: 64,
            host_slots: 16,
            cluster_bytes: 1 << 20,
        };
        let bytes = superblock.to_bytes();
        assert_eq!(Superblock::parse(&bytes), Ok(superblock));
        for bit in 0..bytes.len() * 8 {
            let mut copy = bytes.clone();
            copy[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::parse(&copy).is_err(), "bit {bit}");
        }
        for layout in [LAYOUT_VERSION_OLDEST - 1, LAYOUT_VERSION + 1] {
            let other = Superblock { layout, ..superblock };
            let result = Superblock::parse(&other.to_bytes());
            assert!(matches!(result, Err(SuperblockError::Header(HeaderError::Version { .. }))), "{result:?}");
        }
        let oldest = Superblock { layout: LAYOUT_VERSION_OLDEST, ..superblock };
        assert_eq!(Superblock::parse(&oldest.to_bytes()), Ok(oldest));
        let mut page = bytes.clone();
        page.resize(usize::try_from(COPY_AT.get()).unwrap(), 0);
        page.extend_from_slice(&bytes);
        assert_eq!(Superblock::parse_twin(&page), Ok((superblock, None)));
        for bit in 0..page.len() * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            let (found, wrong) = Superblock::parse_twin(&page).unwrap();
            let in_a_copy = !(bytes.len()..page.len() - bytes.len()).contains(&(bit / 8));
            assert_eq!((found, wrong.is_some()), (superblock, in_a_copy), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
        let none = Superblock { vm_slots: 0, ..superblock };
        assert!(matches!(Superblock::parse(&none.to_bytes()), Err(SuperblockError::OutOfRange { .. })));
    }
}
