//! Stops a vCPU at any instruction, from any thread, without a race.
//!
//! A kick sets the `immediate_exit` byte of the vCPU's shared page and, if a thread is inside `KVM_RUN`, sends it a
//! signal. Whoever has not entered yet sees the byte, whoever is inside gets the signal, and KVM itself closes the gap
//! between the two. The lock makes sure that the signal only goes to a thread that is inside and that the page is still
//! mapped.
#![allow(unsafe_code, reason = "signals and the page shared with KVM")]

use crossbeam_channel::Sender;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

/// Which of the real-time signals is the kick: the first ones are taken by libraries now and then.
const KICK_SIGNAL_OFFSET: i32 = 5;

/// Makes a machine's `run` return [`Stop::Kicked`](super::Stop::Kicked): at once if the guest runs, else when it would next
/// run. Several kicks before that are one. Harmless on a machine that is gone.
#[derive(Debug, Clone)]
pub struct Kicker(Arc<Mutex<Target>>);

#[derive(Debug)]
struct Target {
    /// The byte in the page shared with KVM, until the machine goes.
    immediate_exit: Option<NonNull<AtomicU8>>,
    /// The thread that is inside `KVM_RUN`.
    inside: Option<libc::pthread_t>,
    requested: bool,
    /// Rung where the vCPUs are not run by the thread that is to be stopped.
    bell: Option<Sender<()>>,
}

// SAFETY: the pointer is only followed under the lock, and only while the vCPU that owns the page lives: its `Drop`
// takes the pointer away under the same lock.
unsafe impl Send for Target {}

impl Kicker {
    /// For the vCPU whose shared page holds `immediate_exit`.
    ///
    /// # Safety
    /// The byte stays valid until [`Kicker::detach`], and is written by nobody else than KVM and this kicker.
    pub(super) unsafe fn new(immediate_exit: NonNull<u8>) -> Self {
        install_handler();
        let immediate_exit = Some(immediate_exit.cast());
        Self(Arc::new(Mutex::new(Target { immediate_exit, inside: None, requested: false, bell: None })))
    }

    /// For a thread that waits for this bell, which holds one ring.
    pub(super) fn ringing(bell: Sender<()>) -> Self {
        Self(Arc::new(Mutex::new(Target { immediate_exit: None, inside: None, requested: false, bell: Some(bell) })))
    }

    /// Stops the vCPU.
    pub fn kick(&self) {
        let mut target = self.lock();
        if std::mem::replace(&mut target.requested, true) {
            // The byte is set, and whoever was inside has its signal: real-time signals would queue up.
            return;
        }
        target.set_immediate_exit(true);
        if let Some(bell) = &target.bell {
            // Full: it rings already.
            let _ = bell.try_send(());
        }
        if let Some(thread) = target.inside {
            // SAFETY: the thread is inside `KVM_RUN`: to leave it and end, it needs the lock that is held here.
            let result = unsafe { libc::pthread_kill(thread, kick_signal()) };
            assert_eq!(result, 0, "a thread inside KVM_RUN takes signals");
        }
    }

    /// Takes a kick that has come and not been reported.
    pub(super) fn take(&self) -> bool {
        let mut target = self.lock();
        target.set_immediate_exit(false);
        std::mem::take(&mut target.requested)
    }

    /// Before `KVM_RUN`; `only_complete` makes it return as soon as pending accesses are finished.
    pub(super) fn entering(&self, only_complete: bool) {
        accept_kicks_on_this_thread();
        let mut target = self.lock();
        let stop = only_complete || target.requested;
        target.set_immediate_exit(stop);
        // SAFETY: always succeeds.
        target.inside = Some(unsafe { libc::pthread_self() });
    }

    /// After `KVM_RUN`.
    pub(super) fn left(&self) {
        let mut target = self.lock();
        target.inside = None;
        let stop = target.requested;
        target.set_immediate_exit(stop);
    }

    /// The vCPU is going away; later kicks do nothing.
    pub(super) fn detach(&self) {
        self.lock().immediate_exit = None;
    }

    fn lock(&self) -> MutexGuard<'_, Target> {
        // Nothing panics half-way through a change, so a poisoned lock still holds a whole target.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target {
    fn set_immediate_exit(&self, stop: bool) {
        if let Some(byte) = self.immediate_exit {
            // SAFETY: valid until `detach`, by the contract of `Kicker::new`.
            let byte = unsafe { byte.as_ref() };
            byte.store(u8::from(stop), Ordering::SeqCst);
        }
    }
}

fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN() + KICK_SIGNAL_OFFSET
}

extern "C" fn ignore(_signal: libc::c_int) {}

/// A handler that does nothing: that there is one makes the signal interrupt `KVM_RUN` instead of killing the process.
fn install_handler() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: an all-zero sigaction is a valid one.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = ignore as *const () as usize;
        // Other system calls that a late kick hits are restarted; KVM_RUN returns in any case.
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler is async-signal-safe since it does nothing; no old action is asked for.
        let result = unsafe { libc::sigaction(kick_signal(), &raw const action, std::ptr::null_mut()) };
        assert_eq!(result, 0, "the kick signal is a real-time signal that may be handled");
    });
}

/// A thread may have inherited a mask that blocks the signal.
fn accept_kicks_on_this_thread() {
    thread_local!(static ACCEPTS: Cell<bool> = const { Cell::new(false) });
    if !ACCEPTS.replace(true) {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: fills in the set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: the set was filled in.
        unsafe { libc::sigaddset(set.as_mut_ptr(), kick_signal()) };
        // SAFETY: the set is valid, and no old set is asked for.
        let result = unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut()) };
        assert_eq!(result, 0, "a valid set and operation");
    }
}

/// Runs `build` with signals blocked: `KVM_CREATE_VM` gives up when one arrives. Faults stay deliverable.
pub(super) fn without_signals<T>(build: impl FnOnce() -> T) -> T {
    let mut set = SigSet::all();
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT, Signal::SIGTRAP] {
        set.remove(fault);
    }
    let old = set.thread_swap_mask(SigmaskHow::SIG_BLOCK).expect("a valid set and operation");
    let result = build();
    old.thread_set_mask().expect("the mask that was there before");
    result
}
