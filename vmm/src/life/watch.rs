//! Waiting for deaths.

use super::LifeWord;
use nix::sys::mman::ProtFlags;
use shared_mem::Extent;
use shared_mem::mem::is_device;
use std::collections::BTreeMap;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// The kernel's `struct futex_waitv`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FutexWaiter {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// 32-bit futex, shared between processes (linux/futex.h: FUTEX2_SIZE_U32).
const FUTEX_32_SHARED: u32 = 0x02;

/// Most futexes that one call waits for (linux/futex.h: FUTEX_WAITV_MAX).
const WAITERS_MAX: usize = 128;

/// A thread that waits for the life words of hosts and tells of each death once.
pub(crate) struct Watch<K> {
    shared: Arc<Shared<K>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared<K> {
    words: Mutex<BTreeMap<K, LifeWord>>,
    /// Changes whenever the thread should look again.
    changes: AtomicU32,
    over: AtomicBool,
}

impl<K: Copy + Ord + Send + 'static> Watch<K> {
    pub(crate) fn start(mut tell: impl FnMut(K) + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            words: Mutex::new(BTreeMap::new()),
            changes: AtomicU32::new(0),
            over: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("life-watch".to_owned()).spawn(move || theirs.watch(&mut tell))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Watches a host from now on. One whose word says that it is dead already is told at once.
    /// On a device there is no such word: sockets and heartbeats tell.
    pub(crate) fn add(&self, host: K, page: &Extent) -> std::io::Result<()> {
        if is_device(page)? {
            return Ok(());
        }
        let word = LifeWord::map(page, ProtFlags::PROT_READ)?;
        // The mapping that is replaced may be waited for at this moment: the futex is the file's, not the mapping's, and
        // the kernel looks the address up only at the beginning of a wait.
        self.shared.words.lock().expect("nothing panics under this lock").insert(host, word);
        self.shared.rouse();
        Ok(())
    }

    /// Watches a host no longer.
    pub(crate) fn forget(&self, host: &K) {
        self.shared.words.lock().expect("nothing panics under this lock").remove(host);
        self.shared.rouse();
    }
}

impl<K> Drop for Watch<K> {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.rouse();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its hook.
            let _ = thread.join();
        }
    }
}

impl<K> Shared<K> {
    fn rouse(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let address = ptr::from_ref(&self.changes);
        // SAFETY: a wake of waiters on a word that lives.
        let _ = unsafe { libc::syscall(libc::SYS_futex, address, libc::FUTEX_WAKE, 1) };
    }
}

impl<K: Copy + Ord> Shared<K> {
    fn watch(&self, tell: &mut impl FnMut(K)) {
        loop {
            let seen = self.changes.load(Ordering::SeqCst);
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let mut waiters = vec![waiter(&self.changes, seen)];
            {
                let mut words = self.words.lock().expect("nothing panics under this lock");
                let dead: Vec<K> = words.iter().filter(|(_, word)| is_dead(word)).map(|(host, _)| *host).collect();
                for host in dead {
                    words.remove(&host);
                    tell(host);
                }
                // More hosts than fit are watched by their sockets and heartbeats alone.
                waiters.extend(
                    words
                        .values()
                        .take(WAITERS_MAX - 1)
                        .map(|word| waiter(word.word(), word.word().load(Ordering::SeqCst))),
                );
                // What died between the look and the load is seen here, and not slept over.
                if words.values().any(is_dead) {
                    continue;
                }
            }
            if !wait(&waiters) {
                tracing::info!("no futex_waitv here: deaths are told by sockets and heartbeats");
                return;
            }
        }
    }
}

fn is_dead(word: &LifeWord) -> bool {
    word.word().load(Ordering::SeqCst) & libc::FUTEX_OWNER_DIED != 0
}

fn waiter(word: &AtomicU32, value: u32) -> FutexWaiter {
    let address = ptr::from_ref(word).addr() as u64;
    FutexWaiter { value: u64::from(value), address, flags: FUTEX_32_SHARED, reserved: 0 }
}

/// Waits until one of the words changes; says whether the kernel can do that.
fn wait(waiters: &[FutexWaiter]) -> bool {
    // SAFETY: the array is valid for the call. A word whose mapping has gone meanwhile makes the call fail with EFAULT,
    // which is taken as a change.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            waiters.as_ptr(),
            waiters.len(),
            0_u32,
            ptr::null::<libc::timespec>(),
            libc::CLOCK_MONOTONIC,
        )
    };
    result >= 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}
