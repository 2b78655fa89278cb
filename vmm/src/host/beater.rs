//! The thread that writes a host's heartbeat.

use crate::clock;
use crate::failpoint;
use crate::life::Holder;
use ft_protocol::wire::{Access, ExtentTag, Grant, Part};
use ft_protocol::{HostId, Incarnation, Span};
use shared_mem::{Extent, HeartbeatWriter, Mapping};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Beats until it is dropped.
pub(super) struct Beater {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Beater {
    pub(super) fn start(
        host: HostId,
        incarnation: Incarnation,
        interval: Span,
        extents: Vec<(ExtentTag, Extent)>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let wanted = Grant { part: Part::Heartbeat(host), access: Access::ReadWrite };
        let (_, page) = extents
            .into_iter()
            .find(|(tag, _)| tag.grant == wanted)
            .ok_or("the welcome came without a heartbeat page")?;
        let mut writer = HeartbeatWriter::new(Mapping::read_write(&page)?, incarnation.get());
        let over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&over);
        let thread = std::thread::Builder::new().name("beater".to_owned()).spawn(move || {
            prefer_this_thread();
            // Without it, this host's death is found by its closed socket, somewhat later.
            let _holder = Holder::hold(&page).inspect_err(|error| tracing::warn!("no life word: {error}"));
            while !flag.load(Ordering::Relaxed) {
                failpoint::pass("host.beat");
                if let Err(error) = writer.beat(clock::monotonic().ns()) {
                    tracing::error!("the heartbeat page is out of reach: {}", crate::chain(&error));
                    return;
                }
                std::thread::sleep(Duration::from_nanos(interval.ns()));
            }
        })?;
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Beater {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its hook.
            let _ = thread.join();
        }
    }
}

/// Asks for real-time scheduling: a late beat costs a false takeover. Without the right to it, everything works the same,
/// only less surely on a loaded machine.
#[allow(unsafe_code, reason = "no crate in use here wraps sched_setscheduler")]
fn prefer_this_thread() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to a live, initialised structure; thread id 0 means the caller.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameters) };
}
