//! The heap: the largest stretch of free RAM.

use flat_rt::BootInfo;
use linked_list_allocator::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Bytes of heap at most: more is not needed, and its list is walked.
const HEAP_BYTES_MAX: u64 = 256 << 20;

/// Makes the heap. Once, before anything is allocated. Gives its size.
pub fn init_heap(boot: &BootInfo) -> usize {
    let region = boot.free_regions().max_by_key(|region| region.length).expect("there is free RAM");
    let bytes = usize::try_from(region.length.min(HEAP_BYTES_MAX)).expect("64-bit");
    let mut heap = HEAP.lock();
    assert!(heap.size() == 0, "the heap is made once");
    // SAFETY: by the ABI nobody else uses free RAM, and this function takes it once.
    unsafe { heap.init(region.start as *mut u8, bytes) };
    bytes
}
