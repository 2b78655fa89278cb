//! Channels whose receiver sleeps as soon as there is nothing.
//!
//! The receivers of crossbeam's channels give the processor away a few times (`sched_yield`) before they sleep. That is gentle
//! where nobody waits for them, but a thread that yields stands behind whatever computes on the same processor, a guest's vCPU
//! say, for as long as the kernel lets that compute: some milliseconds. One that sleeps is woken on an idle processor,
//! or before the thread that computes.

use crossbeam_channel::{RecvError, RecvTimeoutError, SendError, TryRecvError};
use crossbeam_utils::sync::{Parker, Unparker};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wakes the receiver once more when a sender is gone: it may have been the last.
struct Waker(Unparker);

impl Drop for Waker {
    fn drop(&mut self) {
        self.0.unpark();
    }
}

/// Sends, never waits.
pub(crate) struct Sender<T> {
    // Dropped in this order: who is woken finds the channel closed.
    channel: crossbeam_channel::Sender<T>,
    waker: Waker,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { channel: self.channel.clone(), waker: Waker(self.waker.0.clone()) }
    }
}

impl<T> Sender<T> {
    /// Sends, and wakes the receiver.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub(crate) fn send(&self, item: T) -> Result<(), SendError<T>> {
        self.channel.send(item)?;
        self.waker.0.unpark();
        Ok(())
    }
}

/// The end that sleeps. One thread at a time does.
pub(crate) struct Receiver<T> {
    channel: crossbeam_channel::Receiver<T>,
    parker: Mutex<Parker>,
}

impl<T> Receiver<T> {
    /// Sleeps until there is something.
    ///
    /// # Errors
    /// When all senders are gone, and all that they have sent is taken.
    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        self.receive(None).map_err(|_| RecvError)
    }

    /// Sleeps until there is something, at most for so long.
    ///
    /// # Errors
    /// When the time is over, or as for [`Receiver::recv`].
    pub(crate) fn recv_timeout(&self, bound: Duration) -> Result<T, RecvTimeoutError> {
        // A bound beyond the clock's end is none.
        self.receive(Instant::now().checked_add(bound))
    }

    fn receive(&self, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
        // A panic of another thread that slept here says nothing of the parker.
        let parker = self.parker.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match self.channel.try_recv() {
                Ok(item) => return Ok(item),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {}
            }
            match deadline {
                None => parker.park(),
                Some(deadline) if Instant::now() < deadline => parker.park_deadline(deadline),
                Some(_) => return Err(RecvTimeoutError::Timeout),
            }
        }
    }

    /// What is there now, if anything is.
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        self.channel.try_recv()
    }

    /// All that is there now.
    pub(crate) fn try_iter(&self) -> impl Iterator<Item = T> + '_ {
        self.channel.try_iter()
    }

    /// Whether there is nothing now.
    pub(crate) fn is_empty(&self) -> bool {
        self.channel.is_empty()
    }
}

/// A channel without bound.
pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let parker = Parker::new();
    let waker = Waker(parker.unparker().clone());
    (Sender { channel: sender, waker }, Receiver { channel: receiver, parker: Mutex::new(parker) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn all_that_is_sent_comes_in_order_and_then_the_end() {
        let (sender, receiver) = channel();
        let others = std::thread::scope(|scope| {
            let other = sender.clone();
            scope.spawn(move || (0..10_000).for_each(|number| other.send(number).expect("it is there")));
            drop(sender);
            std::iter::from_fn(|| receiver.recv().ok()).collect::<Vec<_>>()
        });
        assert_eq!(others, (0..10_000).collect::<Vec<_>>());
        assert_eq!(receiver.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn who_sleeps_is_woken_by_an_item_and_by_the_end() {
        let (sender, receiver) = channel();
        let (asleep, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(move || {
                asleep.send(()).expect("it listens");
                let first = receiver.recv_timeout(LONG);
                asleep.send(()).expect("it listens");
                (first, receiver.recv_timeout(LONG))
            });
            told.recv().expect("it says so");
            sender.send(7).expect("it is there");
            told.recv().expect("it says so");
            drop(sender);
            assert_eq!(sleeper.join().expect("no panic"), (Ok(7), Err(RecvTimeoutError::Disconnected)));
        });
    }

    #[test]
    fn nothing_comes_within_a_bound() {
        let (sender, receiver) = channel::<u32>();
        assert_eq!(receiver.recv_timeout(Duration::from_millis(1)), Err(RecvTimeoutError::Timeout));
        assert!(receiver.is_empty());
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        drop(receiver);
        assert!(sender.send(1).is_err());
    }
}
