//! A source of inputs that is there later.

use crate::machine::inputs::{ExitNumber, InputError, InputSource, NicIndex, Produced, ResumePoint};
use crate::machine::time::GuestTime;
use std::sync::{Arc, Mutex, MutexGuard};

/// The live source of a guest that follows another one: who it is to be is known when the other is gone. Until then the
/// guest has its inputs from the other's log, and nobody may ask here.
#[derive(Debug)]
pub struct LateSource<S>(Arc<Mutex<Option<S>>>);

impl<S> Default for LateSource<S> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<S> Clone for LateSource<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> LateSource<S> {
    /// From now on it is there.
    pub fn set(&self, source: S) {
        let before = self.slot().replace(source);
        assert!(before.is_none(), "a source comes once");
    }

    fn slot(&self) -> MutexGuard<'_, Option<S>> {
        self.0.lock().expect("nothing panics under this lock")
    }

    fn with<T>(&self, ask: impl FnOnce(&mut S) -> T) -> T {
        ask(self.slot().as_mut().expect("nobody goes live before there is a source"))
    }
}

impl<S: InputSource> InputSource for LateSource<S> {
    fn begin_exit(&mut self, at: ExitNumber, digest: u32) -> Result<(), InputError> {
        self.with(|source| source.begin_exit(at, digest))
    }

    fn begin_poll(&mut self) {
        self.with(S::begin_poll);
    }

    fn produced(&mut self, at: ExitNumber, output: &Produced<'_>) -> Result<(), InputError> {
        self.with(|source| source.produced(at, output))
    }

    fn clock(&mut self, at: ExitNumber) -> Result<GuestTime, InputError> {
        self.with(|source| source.clock(at))
    }

    fn entropy(&mut self, at: ExitNumber, bytes: &mut [u8]) -> Result<(), InputError> {
        self.with(|source| source.entropy(at, bytes))
    }

    fn packet(&mut self, at: ExitNumber, nic: NicIndex) -> Result<Option<Vec<u8>>, InputError> {
        self.with(|source| source.packet(at, nic))
    }

    fn console(&mut self, at: ExitNumber, room: usize) -> Result<Vec<u8>, InputError> {
        self.with(|source| source.console(at, room))
    }

    fn offer_console(&mut self, bytes: &[u8]) -> usize {
        self.with(|source| source.offer_console(bytes))
    }

    fn wakes(&self) -> bool {
        self.with(|source| source.wakes())
    }

    fn wait_ends(&mut self) {
        self.with(S::wait_ends);
    }

    fn has_news(&self) -> bool {
        self.with(|source| source.has_news())
    }

    fn must_pause(&mut self) -> bool {
        self.with(S::must_pause)
    }

    fn owes(&mut self) -> Option<u64> {
        self.with(S::owes)
    }

    fn now(&self) -> GuestTime {
        self.with(|source| source.now())
    }

    fn waiting_console(&self) -> Vec<u8> {
        self.with(|source| source.waiting_console())
    }

    fn resume(&mut self, from: &ResumePoint<'_>) {
        self.with(|source| source.resume(from));
    }
}
