//! Who is controller: whoever has put the cluster's key into etcd, for as long as the key's lease is certain to last.
//!
//! ```text
//!   waits ── the key is gone: put it, bound to a lease ──> reigns ── renewed ──> reigns ...
//!     ^                                                      │── told to end ──> lease revoked, the next one begins at once
//!     └── somebody was faster ───────────────────────────────│── not renewed in time, or the key is another's
//!                                                            v
//!                                                       lost: the process ends, by itself or by the kernel's hand
//! ```
//! etcd counts a lease's time from later than whoever asked for it, by clocks of which only the rates have to agree. What
//! is left of the time after the margin is all that is used. At its end the controller ends; should it hang, or be stopped,
//! a timer of the kernel's kills the process before the lease's time is over. So there is never a second one. What this cannot
//! keep from happening is that a whole machine stands still and goes on: its timers fire first, but a store that was
//! under way is finished.

use super::etcd::{Etcd, EtcdError};
use super::keeper::{Held, Moment};
use super::registry::{ControllerPlace, Registry};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Renewals that fit into a lease's time.
const RENEWALS: u32 = 5;
/// The part of a lease's time that is not used, so that clocks may differ in their rates and a process may take time to end.
const MARGIN_PARTS: u32 = 4;
/// Answers that could be waited for in vain in a lease's time.
const ANSWERS: u32 = 8;
/// Between two looks at who reigns.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Between two tries to renew a lease while etcd does not answer.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How long a controller that is gone keeps its place, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTime(u64);

impl LeaseTime {
    /// etcd gives none that are shorter.
    pub const SECONDS_MIN: u64 = 2;
    /// Longer ones help nobody.
    pub const SECONDS_MAX: u64 = 600;
}

impl Default for LeaseTime {
    fn default() -> Self {
        Self(10)
    }
}

impl fmt::Display for LeaseTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for LeaseTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(seconds @ Self::SECONDS_MIN..=Self::SECONDS_MAX) => Ok(Self(seconds)),
            _ => Err(format!("a number of seconds, {} to {}", Self::SECONDS_MIN, Self::SECONDS_MAX)),
        }
    }
}

/// Why nobody can be elected here.
#[derive(Debug, thiserror::Error)]
pub enum ReignError {
    /// The kernel refused something that it normally never does.
    #[error("cannot {doing}")]
    Kernel {
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// No thread.
    #[error("no thread can be had for the lease")]
    Thread(#[source] std::io::Error),
}

/// It is this process's turn, for the time of one lease.
#[derive(Debug)]
pub struct Elected {
    etcd: Etcd,
    key: String,
    held: Held,
}

impl Elected {
    /// Waits until this process is elected, however long that takes. Between two looks `go_on` waits for so long; false from it
    /// ends all.
    pub fn wait(
        registry: &Registry,
        place: &ControllerPlace,
        time: LeaseTime,
        go_on: impl FnMut(Duration) -> bool,
    ) -> Option<Self> {
        let value = serde_json::to_vec(place).expect("texts and numbers");
        let key = registry.controller_key();
        let held = wait_for_turn(registry, (&key, &value), time, go_on)?;
        tracing::info!("elected as controller of {registry}");
        // A member that is silent is not to cost what another one could renew.
        let etcd = registry.etcd.with_bound(held.time / ANSWERS);
        Some(Self { etcd, key, held })
    }
}

/// This process is the cluster's controller, as long as this lives and is not lost.
#[derive(Debug)]
pub struct Reign {
    lost: Arc<EventFd>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reign {
    /// Begins, when it is this process's turn.
    ///
    /// # Errors
    /// The kernel refuses what is needed to keep the lease's time.
    pub fn begin(elected: Elected) -> Result<Self, ReignError> {
        let Elected { etcd, key, held } = elected;
        let kernel = |doing| move |source| ReignError::Kernel { doing, source };
        let lost = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC);
        let lost = Arc::new(lost.map_err(kernel("make an eventfd"))?);
        let (stop, stopped) = bounded::<()>(0);
        let (armed, is_armed) = bounded(1);
        let told = Arc::clone(&lost);
        let work = move || {
            let guard = Guard::new().and_then(|mut guard| guard.arm(&held).map(|()| guard));
            let (guard, result) = match guard {
                Ok(guard) => (Some(guard), Ok(())),
                Err(errno) => (None, Err(errno)),
            };
            // Whoever began waits for it.
            let _ = armed.send(result);
            if let Some(guard) = guard {
                let keeper = Keeper { etcd, key, held, guard };
                keeper.run(|wait| stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout), &told);
            }
        };
        let thread = std::thread::Builder::new().name("lease".to_owned()).spawn(work).map_err(ReignError::Thread)?;
        let armed = is_armed.recv().unwrap_or(Err(Errno::ECANCELED));
        armed.map_err(kernel("have a timer keep the lease's time"))?;
        Ok(Self { lost, stop: Some(stop), thread: Some(thread) })
    }
}

/// Readable once the reign is lost: the process has to end at once.
impl AsFd for Reign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lost.as_fd()
    }
}

impl Drop for Reign {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its hook.
            let _ = thread.join();
        }
    }
}

fn wait_for_turn(
    registry: &Registry,
    (key, value): (&str, &[u8]),
    time: LeaseTime,
    mut go_on: impl FnMut(Duration) -> bool,
) -> Option<Held> {
    let mut told = String::new();
    loop {
        let line = match try_turn(registry, key, value, time) {
            Ok(Turn::Ours(held)) => return Some(held),
            Ok(Turn::Another(who)) => format!("waits to be controller: {who} is"),
            Err(error) => format!("waits to be controller: {}", crate::chain(&error)),
        };
        if line != told {
            tracing::warn!("{line}");
            told = line;
        }
        if !go_on(LOOK_INTERVAL) {
            return None;
        }
    }
}

enum Turn {
    Ours(Held),
    Another(String),
}

fn try_turn(registry: &Registry, key: &str, value: &[u8], time: LeaseTime) -> Result<Turn, EtcdError> {
    if let Some(entry) = registry.etcd.get(key)? {
        let place = serde_json::from_slice::<ControllerPlace>(&entry.value);
        return Ok(Turn::Another(place.map_or_else(|_| "something else".to_owned(), |place| place.to_string())));
    }
    let held = Held::get(&registry.etcd, time.0)?;
    match registry.etcd.claim(key, value, &held.id) {
        Ok(true) if Moment::now() < held.certain_until(margin(&held)) => Ok(Turn::Ours(held)),
        claimed => {
            // Whatever became of the claim goes with its lease.
            let _ = registry.etcd.revoke(&held.id);
            claimed.map(|_| Turn::Another("another one, since a moment ago,".to_owned()))
        }
    }
}

fn margin(held: &Held) -> Duration {
    held.time / MARGIN_PARTS
}

/// Ends the process when it is too late, whatever its threads do or do not.
struct Guard(Timer);

impl Guard {
    fn new() -> nix::Result<Self> {
        let kill = SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 });
        Timer::new(ClockId::CLOCK_BOOTTIME, kill).map(Self)
    }

    /// Half of the margin is for the process to end by itself.
    fn arm(&mut self, held: &Held) -> nix::Result<()> {
        let end = held.certain_until(margin(held) / 2).since_start();
        self.0.set(Expiration::OneShot(end.into()), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
    }
}

/// Keeps the lease of a reign.
struct Keeper {
    etcd: Etcd,
    key: String,
    held: Held,
    guard: Guard,
}

impl Keeper {
    /// Renews the lease until it is told to end (`wait` gives false), or the reign is lost.
    fn run(mut self, wait: impl Fn(Duration) -> bool, lost: &EventFd) {
        let mut pause = self.held.time / RENEWALS;
        loop {
            let left = self.held.certain_until(margin(&self.held)).since(Moment::now());
            if !wait(pause.min(left)) {
                // The pool is closed: the next controller need not wait for the lease's end.
                let _ = self.etcd.revoke(&self.held.id);
                return;
            }
            let why = match self.renew() {
                Ok(None) => {
                    pause = self.held.time / RENEWALS;
                    continue;
                }
                Ok(Some(why)) => why.to_owned(),
                Err(_) if Moment::now() < self.held.certain_until(margin(&self.held)) => {
                    pause = RETRY_INTERVAL;
                    continue;
                }
                Err(error) => crate::chain(&error),
            };
            tracing::error!("no longer controller: {why}");
            // The counter has room for the only write there is.
            let _ = lost.write(1);
            // The guard stays armed until the process has ended.
            while wait(self.held.time) {}
            return;
        }
    }

    /// Renews the lease; says why the reign is over, if it is.
    fn renew(&mut self) -> Result<Option<&'static str>, EtcdError> {
        let mut renewed = self.held.clone();
        if !renewed.renew(&self.etcd)? {
            return Ok(Some("the lease has run out"));
        }
        // A leader of etcd that is none any more may renew what is not its own: the read asks the quorum, and counts.
        let found = self.etcd.get(&self.key)?;
        if found.is_none_or(|entry| entry.lease != renewed.id) {
            return Ok(Some("another one has the place"));
        }
        self.held = renewed;
        Ok(self.guard.arm(&self.held).is_err().then_some("the kernel does not keep the lease's time"))
    }
}
