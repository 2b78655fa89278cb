//! Activity words: a word per VM in the heartbeat page of its primary's host, in which the primary says what it does.
//!
//! They lie beside the beats, and are written by other threads than those. What a word means is the protocol's; zero means
//! that nothing was said yet.

use std::sync::atomic::Ordering;

use crate::heartbeat::HEARTBEAT_BYTES;
use crate::mem::{AccessError, PoolRead, PoolWrite};
use crate::numbers::Offset;

/// VMs that have a word in each page.
pub const ACTIVITY_WORDS: u16 = 256;

/// The words lie in two blocks, around the middle of the page, which belongs to the host's life word.
const BLOCKS: [u64; 2] = [1024, 3072];
const BLOCK_WORDS: u16 = 128;
const WORD_BYTES: u64 = 8;

const _: () = assert!(BLOCKS[1] + BLOCK_WORDS as u64 * WORD_BYTES <= HEARTBEAT_BYTES);
const _: () = assert!(ACTIVITY_WORDS as usize == BLOCK_WORDS as usize * BLOCKS.len());

fn place(vm: u16) -> Result<Offset, AccessError> {
    let (block, word) = (usize::from(vm / BLOCK_WORDS), u64::from(vm % BLOCK_WORDS));
    let block = BLOCKS.get(block).ok_or(AccessError::Unreachable)?;
    Ok(Offset::new(block + word * WORD_BYTES))
}

/// A primary's word.
#[derive(Debug)]
pub struct ActivityWriter<M> {
    memory: M,
    vm: u16,
}

impl<M: PoolWrite> ActivityWriter<M> {
    /// The word of a VM in the page of this host.
    #[must_use]
    pub fn new(memory: M, vm: u16) -> Self {
        Self { memory, vm }
    }

    /// Says something.
    ///
    /// # Errors
    /// When the pool refuses: the host is cut off.
    pub fn say(&self, word: u64) -> Result<(), AccessError> {
        // No flush: coherence shows the word to everybody, and none of them needs it to outlive its host.
        self.memory.store_u64(place(self.vm)?, word, Ordering::Relaxed)
    }
}

/// What the primary of a VM said last on this host; zero when nothing was ever said.
///
/// # Errors
/// When the page has no word for the VM, or the pool refuses.
pub fn activity<M: PoolRead>(page: &M, vm: u16) -> Result<u64, AccessError> {
    page.load_u64(place(vm)?, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heartbeat::{HeartbeatReader, HeartbeatWriter};
    use crate::lossy::{LossyCache, LossyMemory};

    #[test]
    fn every_vm_has_a_word_of_its_own_that_no_beat_touches() {
        let memory = LossyMemory::new(HEARTBEAT_BYTES, &LossyCache::new());
        for vm in 0..ACTIVITY_WORDS {
            assert_eq!(activity(&&memory, vm), Ok(0));
            ActivityWriter::new(&memory, vm).say(u64::from(vm) + 1).unwrap();
        }
        let mut writer = HeartbeatWriter::new(&memory, 1);
        writer.beat(1).unwrap();
        writer.beat(2).unwrap();
        let reader = HeartbeatReader::new(&memory);
        for vm in 0..ACTIVITY_WORDS {
            assert_eq!(reader.activity(vm), Ok(u64::from(vm) + 1));
        }
        assert_eq!(reader.sample().unwrap().count, 2);
        assert!(reader.activity(ACTIVITY_WORDS).is_err());
        let life_word = 2048..2056;
        assert!((0..ACTIVITY_WORDS).all(|vm| !life_word.contains(&place(vm).unwrap().get())));
    }
}
