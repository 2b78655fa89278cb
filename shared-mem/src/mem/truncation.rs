//! Surviving a writer that shortens the file under our mapping.
//!
//! A host may write its journal and log, and so may also cut them off or punch holes into them while the pool is full;
//! the next access through a mapping would kill this process with SIGBUS. A process that maps what others may shorten
//! calls [`survive_truncation`] once: from then on a lost page reads as zeroes, private to this process, which every
//! parser of this crate refuses, and the mapping says that it is torn.
#![allow(unsafe_code, reason = "installs a signal handler")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::numbers::PAGE_BYTES;

/// Mappings beyond this many at once are not protected.
const MAPPINGS_MAX: usize = 4096;

/// A slot that is being filled: no mapping begins here.
const CLAIMED: usize = 1;

struct Slot {
    /// First address of the mapping; 0: the slot is free.
    start: AtomicUsize,
    end: AtomicUsize,
    /// Size of the pages behind it.
    page_bytes: AtomicUsize,
    torn: AtomicBool,
}

/// Read by the signal handler, so it is made of atomics only.
static SLOTS: [Slot; MAPPINGS_MAX] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        page_bytes: AtomicUsize::new(PAGE_BYTES),
        torn: AtomicBool::new(false),
    }
}; MAPPINGS_MAX];

/// What handled SIGBUS before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// A mapping known to the signal handler until it is forgotten: pages that it loses read as zeroes. Every [`Mapping`] is
/// guarded; whoever maps a part of the pool that others may shorten without one guards that.
///
/// [`Mapping`]: super::Mapping
#[derive(Debug)]
pub struct Guarded(Option<usize>);

impl Guarded {
    /// Guards the mapping of `len` bytes at address `start`, made of pages of `page_bytes` (a power of two).
    #[must_use]
    pub fn new(start: usize, len: usize, page_bytes: usize) -> Self {
        for (index, slot) in SLOTS.iter().enumerate() {
            let claim = slot.start.compare_exchange(0, CLAIMED, Ordering::AcqRel, Ordering::Relaxed);
            if claim.is_ok() {
                slot.end.store(start + len, Ordering::Relaxed);
                slot.page_bytes.store(page_bytes, Ordering::Relaxed);
                slot.torn.store(false, Ordering::Relaxed);
                slot.start.store(start, Ordering::Release);
                return Self(Some(index));
            }
        }
        Self(None)
    }

    /// To be called before the mapping goes.
    pub fn forget(&mut self) {
        if let Some(index) = self.0.take() {
            SLOTS[index].start.store(0, Ordering::Release);
        }
    }

    pub(super) fn is_torn(&self) -> bool {
        self.0.is_some_and(|index| SLOTS[index].torn.load(Ordering::Acquire))
    }
}

/// From now on, mappings of this crate outlive the loss of the file behind them. May be called again.
///
/// # Errors
/// When the kernel refuses the signal handler.
pub fn survive_truncation() -> io::Result<()> {
    if PREVIOUS.get().is_some() {
        return Ok(());
    }
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks for the present action only; the pointer is to memory of the right size.
    let result = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), previous.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed, which is valid for this plain data, and filled by the call above.
    let previous = unsafe { previous.assume_init() };
    if PREVIOUS.set(previous).is_err() {
        return Ok(());
    }
    let mut action = previous;
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: the action is complete, and its handler does only what a handler may.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts a page of zeroes where one was lost, or passes the signal on. Only atomics and system calls.
extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler that was installed with SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: for SIGBUS the address is the field that is filled.
    let address = unsafe { info.si_addr() }.addr();
    let covers = |slot: &&Slot| {
        let start = slot.start.load(Ordering::Acquire);
        start > CLAIMED && start <= address && address < slot.end.load(Ordering::Relaxed)
    };
    match SLOTS.iter().find(covers) {
        Some(slot) if replace_page(address, slot.page_bytes.load(Ordering::Relaxed)) => {
            slot.torn.store(true, Ordering::Release)
        }
        _ => pass_on(),
    }
}

fn replace_page(address: usize, page_bytes: usize) -> bool {
    let page = address & !(page_bytes - 1);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: errno belongs to this thread; the interrupted code must find it as it was.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { *errno };
    // SAFETY: the page belongs to a mapping of this crate, which holds no references into it.
    let mapped = unsafe { libc::mmap(ptr::without_provenance_mut(page), page_bytes, protection, flags, -1, 0) };
    // SAFETY: as above.
    unsafe { *errno = saved };
    mapped != libc::MAP_FAILED
}

/// Puts the previous handler back; the access is repeated and meets that.
fn pass_on() {
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: the action is one that was installed before.
        unsafe { libc::sigaction(libc::SIGBUS, previous, ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::journal::{JournalGeometry, JournalReader, RecordLimits, format_journal};
    use crate::mem::{Extent, Mapping, PoolRead};
    use crate::numbers::{Epoch, Generation, Offset};

    #[test]
    fn a_journal_cut_off_by_its_writer_is_refused() {
        survive_truncation().unwrap();
        survive_truncation().unwrap();
        let geometry = JournalGeometry::for_memory(1 << 20, 2, 1 << 16);
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(geometry.file_bytes()).unwrap();
        let extent = Extent::new(file.try_clone().unwrap().into(), Offset::ZERO, geometry.file_bytes()).unwrap();
        let mapping = Mapping::read_write(&extent).unwrap();
        format_journal(&mapping, Generation::new(1), &geometry, Epoch::ZERO).unwrap();
        let reader = JournalReader::new(&mapping, Generation::new(1), geometry).unwrap();
        assert!(reader.word().is_ok() && !mapping.is_torn());
        file.set_len(0).unwrap();
        assert!(reader.word().is_err());
        assert!(reader.seal().is_err());
        let limits = RecordLimits { image_pages: 256, disk_blocks: 0, meta_bytes_max: 4096 };
        assert!(reader.load(Epoch::new(1), &limits, &mut Vec::new()).is_err());
        assert!(mapping.is_torn());
        assert_eq!(mapping.load_u64(Offset::new(1 << 16), Ordering::Acquire), Ok(0));
    }
}
