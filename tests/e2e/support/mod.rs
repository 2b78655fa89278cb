//! What every test needs: the program, a place of its own, and waiting for states.

mod by_hand;
mod command;
mod etcd;
mod events;
mod mounts;
mod process;
mod segment;

pub(crate) use crate::machine::{kvm, kvm_alone};
pub(crate) use by_hand::{ByHand, SOCKET, has_ended, is_protected};
pub(crate) use command::{Ended, Place, Running};
pub(crate) use etcd::Etcd;
pub(crate) use events::{count_of, read_events};
pub(crate) use mounts::{Mounted, skipped};
pub(crate) use process::{children_of, is_alive, is_stopped, signal};
pub(crate) use segment::{SegmentSwitch, connect, guest_at};

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long any state may take to come. Only tests that fail ever wait that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at a state.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// A port that nobody has. None of those from which the kernel takes ports for connections: whoever connects to one of these
/// while nobody listens there may be given it for his own end.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id();
    loop {
        let candidate = first.wrapping_mul(37).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000 + 12_000;
        let port = u16::try_from(candidate).expect("below 32768");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Waits until `look` finds something.
pub(crate) fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come about within {} s", PATIENCE.as_secs());
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Waits until something is so.
pub(crate) fn await_true(what: &str, mut is_so: impl FnMut() -> bool) {
    await_some(what, || is_so().then_some(()));
}
