//! One host's cache in the crash model: its identity, its event counter, its death.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU32, Ordering};

use super::memory::Shared;
use super::survivors::{DirtyLine, Kept, Survivors};
use crate::mem::AccessError;

/// The cache of one host or of the controller. Clones are the same cache.
#[derive(Debug, Clone)]
pub struct LossyCache {
    state: Rc<State>,
}

#[derive(Debug)]
struct State {
    id: u32,
    events: Cell<u64>,
    /// The first event that does not happen any more.
    last_event: Cell<u64>,
    memories: RefCell<Vec<Weak<RefCell<Shared>>>>,
    interrupt: RefCell<Option<Interrupt>>,
}

/// What happens elsewhere while this host stands still.
struct Interrupt {
    at_event: u64,
    action: Box<dyn FnOnce()>,
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interrupt at event {}", self.at_event)
    }
}

impl Default for LossyCache {
    fn default() -> Self {
        Self::new()
    }
}

impl LossyCache {
    /// A new, empty cache that never dies by itself.
    #[must_use]
    pub fn new() -> Self {
        static NEXT_ID: AtomicU32 = AtomicU32::new(1);
        Self {
            state: Rc::new(State {
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                events: Cell::new(0),
                last_event: Cell::new(u64::MAX),
                memories: RefCell::new(Vec::new()),
                interrupt: RefCell::new(None),
            }),
        }
    }

    /// Stores, flushes and fences so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.state.events.get()
    }

    /// Lets `events` more events happen, then the host is dead.
    pub fn die_after(&self, events: u64) {
        self.state.last_event.set(self.events().saturating_add(events));
    }

    /// Stops the host once `events` more events have happened, runs `action` (other hosts, through their own caches),
    /// and lets the host go on as if nothing had been.
    pub fn interrupt_after(&self, events: u64, action: impl FnOnce() + 'static) {
        *self.state.interrupt.borrow_mut() =
            Some(Interrupt { at_event: self.events().saturating_add(events), action: Box::new(action) });
    }

    /// Cuts the host off now: every further access fails, until [`revive`](Self::revive).
    pub fn cut_off(&self) {
        self.die_after(0);
    }

    /// Ends a cut: the host had kept its cache and goes on.
    pub fn revive(&self) {
        self.state.last_event.set(u64::MAX);
    }

    /// Whether the host can no longer reach the pool.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.events() >= self.state.last_event.get()
    }

    /// The host crashes: `survivors` decides what becomes of each line dirty in its cache, and the cache is dead.
    pub fn crash(&self, survivors: &mut dyn Survivors) {
        self.cut_off();
        let memories = std::mem::take(&mut *self.state.memories.borrow_mut());
        for (index, memory) in memories.iter().enumerate() {
            if let Some(memory) = memory.upgrade() {
                let mut choose = |line, stores| -> Kept { survivors.choose(DirtyLine { memory: index, line, stores }) };
                memory.borrow_mut().crash(self.id(), &mut choose);
            }
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.state.id
    }

    pub(super) fn meets(&self, memory: &Rc<RefCell<Shared>>) {
        let mut memories = self.state.memories.borrow_mut();
        let known = memories.iter().any(|known| std::ptr::eq(known.as_ptr(), Rc::as_ptr(memory)));
        if !known {
            memories.push(Rc::downgrade(memory));
        }
    }

    /// Runs the interrupt if it is due. To be called with no memory borrowed.
    pub(super) fn run_interrupt(&self) {
        let mut pending = self.state.interrupt.borrow_mut();
        if let Some(interrupt) = pending.take_if(|interrupt| interrupt.at_event <= self.events()) {
            drop(pending);
            (interrupt.action)();
        }
    }

    /// Counts one event, unless the host is dead.
    pub(super) fn event(&self) -> Result<(), AccessError> {
        self.run_interrupt();
        self.check_alive()?;
        self.state.events.set(self.events() + 1);
        Ok(())
    }

    /// Counts as many of `wanted` events as happen before the host dies or is interrupted; none: it is dead.
    pub(super) fn events_at_most(&self, wanted: u64) -> u64 {
        let events = self.events();
        let interrupt = self.state.interrupt.borrow();
        let interrupted_at = interrupt.as_ref().map_or(u64::MAX, |interrupt| interrupt.at_event);
        let until = self.state.last_event.get().min(interrupted_at.max(events + 1));
        let granted = wanted.min(until.saturating_sub(events));
        self.state.events.set(events + granted);
        granted
    }

    pub(super) fn check_alive(&self) -> Result<(), AccessError> {
        if self.is_dead() { Err(AccessError::Unreachable) } else { Ok(()) }
    }
}
