//! Memory for devices. Addresses are the same for the program and for devices.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ptr::NonNull;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// What the drivers use.
pub struct FlatHal;

fn pages_layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("few pages")
}

// SAFETY: pages come from the allocator, zeroed, aligned, and nobody else's until they are given back; memory is mapped to
// itself, so sharing is nothing to be done.
unsafe impl Hal for FlatHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: drivers ask for at least one page.
        let start = unsafe { alloc_zeroed(pages_layout(pages)) };
        let start = NonNull::new(start).expect("the heap has room for the drivers' queues");
        (start.as_ptr() as PhysAddr, start)
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: by the caller's contract these are pages of `dma_alloc`, of the same number.
        unsafe { dealloc(vaddr.as_ptr(), pages_layout(pages)) };
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        NonNull::new(paddr as *mut u8).expect("the window is not at zero")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}
