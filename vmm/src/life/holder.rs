//! Holding the life word.

use super::LifeWord;
use nix::sys::mman::ProtFlags;
use shared_mem::Extent;
use std::marker::PhantomData;
use std::ptr::{self, null_mut};
use std::sync::atomic::Ordering;

/// The kernel's `struct robust_list`.
#[repr(C)]
struct Node {
    next: *mut Node,
}

/// The kernel's `struct robust_list_head`.
#[repr(C)]
struct Head {
    list: Node,
    futex_offset: libc::c_long,
    list_op_pending: *mut Node,
}

/// What the kernel walks through when the thread ends; it must stay where it is.
struct List {
    head: Head,
    entry: Node,
}

/// Holds the life word for as long as the calling thread lives, and not longer than this value.
pub(crate) struct Holder {
    /// Never dropped by itself: the kernel may look at it until the thread is gone.
    list: *mut List,
    word: &'static LifeWord,
    /// The list belongs to one thread.
    not_send: PhantomData<*const ()>,
}

impl Holder {
    /// Takes the word of this heartbeat page. The C library's own list of robust mutexes is replaced for this thread: it
    /// must not use any.
    pub(crate) fn hold(page: &Extent) -> std::io::Result<Self> {
        // The word stays mapped as long as the thread can die: a few bytes for each life of a host.
        let word: &'static LifeWord =
            Box::leak(Box::new(LifeWord::map(page, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?));
        let list = Box::into_raw(Box::new(List {
            head: Head { list: Node { next: null_mut() }, futex_offset: 0, list_op_pending: null_mut() },
            entry: Node { next: null_mut() },
        }));
        // SAFETY: the box was just leaked, so the pointer is valid and nobody else has it.
        let entry = unsafe { &raw mut (*list).entry };
        // SAFETY: as above.
        let head = unsafe { &raw mut (*list).head };
        let offset = ptr::from_ref(word.word()).addr().wrapping_sub(entry.addr()).cast_signed();
        // The list is a ring of the head, whose first field is a node, and one entry.
        // SAFETY: valid and aligned, as above.
        unsafe { entry.write(Node { next: head.cast() }) };
        let ring =
            Head { list: Node { next: entry }, futex_offset: offset as libc::c_long, list_op_pending: null_mut() };
        // SAFETY: as above.
        unsafe { head.write(ring) };
        // SAFETY: gettid has no conditions.
        let thread = unsafe { libc::gettid() }.cast_unsigned();
        // Somebody always waits, so that the kernel always wakes.
        word.word().store(thread | libc::FUTEX_WAITERS, Ordering::SeqCst);
        // SAFETY: the head stays valid until the thread ends, since it is never freed before `drop` unregisters it.
        let result = unsafe { libc::syscall(libc::SYS_set_robust_list, head, size_of::<Head>()) };
        if result != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Self { list, word, not_send: PhantomData })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The life that this value stood for is over: said in the same way as the kernel would.
        self.word.word().store(libc::FUTEX_OWNER_DIED | libc::FUTEX_WAITERS, Ordering::SeqCst);
        let address = ptr::from_ref(self.word.word());
        // SAFETY: a wake of waiters on a mapped word.
        let _ = unsafe { libc::syscall(libc::SYS_futex, address, libc::FUTEX_WAKE, i32::MAX) };
        // SAFETY: an empty list of the right size; from here on the kernel does not look at ours.
        let unregistered = unsafe { libc::syscall(libc::SYS_set_robust_list, null_mut::<Head>(), size_of::<Head>()) };
        if unregistered == 0 {
            // SAFETY: made by Box::into_raw, and the kernel has forgotten it.
            drop(unsafe { Box::from_raw(self.list) });
        }
    }
}
