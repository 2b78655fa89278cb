//! Channels into an event loop that waits in epoll: sending wakes it.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::sync::Arc;

/// Sends into a loop and wakes it.
pub(crate) struct WakingSender<T> {
    channel: crossbeam_channel::Sender<T>,
    wake: Arc<EventFd>,
}

impl<T> Clone for WakingSender<T> {
    fn clone(&self) -> Self {
        Self { channel: self.channel.clone(), wake: Arc::clone(&self.wake) }
    }
}

impl<T> WakingSender<T> {
    /// Sends; a loop that has ended does not miss anything.
    pub(crate) fn send(&self, item: T) {
        if self.channel.send(item).is_ok() {
            // The counter overflows only after 2^64 wakes that nobody took; full means awake.
            let _ = self.wake.write(1);
        }
    }
}

/// The loop's end: a descriptor to wait for, and the items.
pub(crate) struct WakingReceiver<T> {
    channel: crossbeam_channel::Receiver<T>,
    wake: Arc<EventFd>,
}

impl<T> WakingReceiver<T> {
    /// The descriptor that becomes readable when something was sent.
    #[must_use]
    pub(crate) fn event(&self) -> &EventFd {
        &self.wake
    }

    /// Everything that was sent until now.
    pub(crate) fn drain(&self) -> Vec<T> {
        // Read first: what is sent after this wakes again.
        let _ = self.wake.read();
        self.channel.try_iter().collect()
    }
}

/// A channel whose sender wakes its receiver's event loop.
pub(crate) fn channel<T>() -> std::io::Result<(WakingSender<T>, WakingReceiver<T>)> {
    let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
    let (sender, receiver) = crossbeam_channel::unbounded();
    Ok((WakingSender { channel: sender, wake: Arc::clone(&wake) }, WakingReceiver { channel: receiver, wake }))
}
