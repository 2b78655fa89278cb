//! The life word of a host: tells of its death before the kernel has taken its memory apart.
//!
//! A killed process closes its sockets only after all its memory is gone, which takes milliseconds for each GiB that its
//! guests have written. A robust futex (Documentation/locking/robust-futex-ABI.rst) is told earlier: when the thread that
//! holds it dies, the kernel sets FUTEX_OWNER_DIED and wakes a waiter on the thread's way out, before anything else. So
//! the thread that writes the heartbeat holds a futex in the heartbeat page for as long as it lives, and the controller
//! waits for it. Takeover time does not depend on the size of the memory.
//!
//! Nothing rests on it: where the kernel has no futex_waitv (before 5.16), the closed socket or the silent heartbeat tells.

mod holder;
mod watch;

pub(crate) use holder::Holder;
pub(crate) use watch::Watch;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use shared_mem::mem::{Guarded, is_device, page_bytes};
use shared_mem::{Extent, PAGE_BYTES};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where in a heartbeat page the life word is; the beats are at its beginning.
const LIFE_WORD_AT: usize = 2048;

const _: () = assert!(LIFE_WORD_AT.is_multiple_of(size_of::<u32>()) && LIFE_WORD_AT < PAGE_BYTES);

/// A mapping of a heartbeat page, for its life word.
#[derive(Debug)]
struct LifeWord {
    page: NonNull<c_void>,
    length: usize,
    /// The host may cut its page off.
    guarded: Guarded,
}

// SAFETY: the page is only accessed through the atomic word, which any thread may do.
unsafe impl Send for LifeWord {}
// SAFETY: as above.
unsafe impl Sync for LifeWord {}

impl LifeWord {
    fn map(page: &Extent, protection: ProtFlags) -> std::io::Result<Self> {
        if is_device(page)? {
            // The host may be of another kernel's, which marks no word of ours.
            return Err(std::io::ErrorKind::Unsupported.into());
        }
        let fd = page.try_clone().map_err(std::io::Error::other)?.into_fd();
        let page_bytes = usize::try_from(page_bytes(page)?).map_err(std::io::Error::other)?;
        let length = NonZeroUsize::new(page_bytes).expect("a page is not empty");
        let offset = libc::off_t::try_from(page.offset().get()).map_err(std::io::Error::other)?;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else is touched.
        let page = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &fd, offset) }?;
        Ok(Self { page, length: length.get(), guarded: Guarded::new(page.addr().get(), page_bytes, page_bytes) })
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: within the mapping.
        let word = unsafe { self.page.byte_add(LIFE_WORD_AT) };
        // SAFETY: aligned, mapped for as long as self lives; all accesses, the kernel's and other processes', are atomic.
        unsafe { word.cast::<AtomicU32>().as_ref() }
    }
}

/// Forgets the death of an earlier life of the host that has just connected.
pub(crate) fn forget_death(page: &Extent) -> std::io::Result<()> {
    if is_device(page)? {
        return Ok(());
    }
    let word = LifeWord::map(page, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
    let said = word.word().load(Ordering::SeqCst);
    if said & libc::FUTEX_OWNER_DIED != 0 {
        // A host that has taken the word meanwhile keeps it.
        let _ = word.word().compare_exchange(said, 0, Ordering::SeqCst, Ordering::SeqCst);
    }
    Ok(())
}

impl Drop for LifeWord {
    fn drop(&mut self) {
        // The handler must not know of an address range that may become somebody else's.
        self.guarded.forget();
        // SAFETY: the mapping is this value's own, and no reference to it outlives the value.
        let unmapped = unsafe { munmap(self.page, self.length) };
        debug_assert!(unmapped.is_ok(), "a mapping can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::sync::mpsc;
    use std::time::Duration;

    fn page() -> Extent {
        let file = nix::sys::memfd::memfd_create(c"heartbeat", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
        let file = std::fs::File::from(file);
        file.set_len(PAGE_BYTES as u64).unwrap();
        Extent::new(OwnedFd::from(file), shared_mem::Offset::new(0), PAGE_BYTES as u64).unwrap()
    }

    #[test]
    fn the_end_of_the_holding_thread_is_told() {
        let page = page();
        let (told, deaths) = mpsc::channel();
        let watch = Watch::start(move |host: u32| told.send(host).unwrap()).unwrap();
        let (held, holds) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let theirs = page.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let _holder = Holder::hold(&theirs).unwrap();
            held.send(()).unwrap();
            let _ = ends.recv();
        });
        holds.recv().unwrap();
        watch.add(7, &page).unwrap();
        assert_eq!(deaths.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout));
        drop(end);
        assert_eq!(deaths.recv_timeout(Duration::from_secs(20)), Ok(7));
        thread.join().unwrap();
    }

    #[test]
    fn a_host_that_was_dead_before_it_was_watched_is_told_too() {
        let page = page();
        let theirs = page.try_clone().unwrap();
        std::thread::spawn(move || std::mem::forget(Holder::hold(&theirs).unwrap())).join().unwrap();
        let (told, deaths) = mpsc::channel();
        let watch = Watch::start(move |host: u32| told.send(host).unwrap()).unwrap();
        watch.add(1, &page).unwrap();
        assert_eq!(deaths.recv_timeout(Duration::from_secs(20)), Ok(1));
        forget_death(&page).unwrap();
        watch.add(1, &page).unwrap();
        assert_eq!(deaths.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout));
    }
}
