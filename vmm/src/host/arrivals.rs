//! Tells a guest's thread that something came for the guest, and wakes it where it sleeps.
//!
//! A guest that runs takes what came at its next exit, and need not be told. One that waits is woken. In a mode that records
//! the primary's core is told as well: should no exit come, the guest is stopped. A Linux guest may take no exit for long,
//! and is kicked: its devices then look at once.

use super::commit::{Gate, Job};
use super::vm_thread::Command;
use crate::machine::Kicker;
use crate::mailbox::Sender;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub(super) struct Arrivals {
    asleep: AtomicBool,
    to_vcpu: Sender<Command>,
    reign: Mutex<Option<(Arc<Gate>, Sender<Job>)>>,
    /// Of a Linux guest's machine.
    kicker: Option<Kicker>,
}

impl Arrivals {
    pub(super) fn new(to_vcpu: Sender<Command>, kicker: Option<Kicker>) -> Self {
        Self { asleep: AtomicBool::new(false), to_vcpu, reign: Mutex::new(None), kicker }
    }

    /// Something has been put where the guest's devices find it.
    pub(super) fn came(&self) {
        if let Some(kicker) = &self.kicker {
            kicker.kick();
            return;
        }
        if self.asleep.swap(false, Ordering::SeqCst) {
            // A thread that has ended needs no waking.
            let _ = self.to_vcpu.send(Command::Look);
            return;
        }
        self.tell();
    }

    /// The guest's own thread has put something there: it is awake, and a Linux guest's devices look before the guest runs on.
    pub(super) fn are_here(&self) {
        if self.kicker.is_none() {
            self.tell();
        }
    }

    fn tell(&self) {
        let reign = self.reign.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((gate, jobs)) = &*reign
            && gate.event_waits()
        {
            // Without a committer there is nothing to be timed: it has failed, and said so.
            let _ = jobs.send(Job::Rearm);
        }
    }

    /// The thread is about to sleep. It must look once more after this.
    pub(super) fn sleeps(&self) {
        self.asleep.store(true, Ordering::SeqCst);
    }

    /// The thread is awake.
    pub(super) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// A reign has begun; it ends when the guard is dropped.
    pub(super) fn reign(&self, gate: &Arc<Gate>, jobs: &Sender<Job>) -> Reigning<'_> {
        *self.reign.lock().unwrap_or_else(PoisonError::into_inner) = Some((gate.clone(), jobs.clone()));
        Reigning(self)
    }
}

/// While it lives, the core hears of what comes. The committer works until it is gone.
pub(super) struct Reigning<'a>(&'a Arrivals);

impl Drop for Reigning<'_> {
    fn drop(&mut self) {
        *self.0.reign.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
