//! A thread that works off what it is handed, in order.

use crate::mailbox::{self, Sender};
use std::io;
use std::thread::{Builder, JoinHandle};

/// Handle of the thread. Dropping it lets the thread finish what it was handed, and waits for that.
pub(super) struct Worker<T> {
    queue: Option<Sender<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the kernel has no more threads.
    pub(super) fn start(name: String, mut work: impl FnMut(T) + Send + 'static) -> io::Result<Self> {
        let (queue, handed) = mailbox::channel();
        let thread =
            Builder::new().name(name).spawn(move || std::iter::from_fn(|| handed.recv().ok()).for_each(&mut work))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    pub(super) fn hand_on(&self, work: T) {
        let queue = self.queue.as_ref().expect("only dropping takes the channel");
        assert!(queue.send(work).is_ok(), "the thread ends only after its channel");
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its hook.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn all_that_was_handed_on_is_done_in_order_before_the_handle_is_gone() {
        let done = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&done);
        let worker = Worker::start("worker".to_owned(), move |number| log.lock().unwrap().push(number)).unwrap();
        (0..1000).for_each(|number| worker.hand_on(number));
        drop(worker);
        assert_eq!(*done.lock().unwrap(), (0..1000).collect::<Vec<i32>>());
    }
}
