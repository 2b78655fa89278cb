//! The machine's KVM, which the tests of a suite share.

use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Tests with guests that run at a time. Each leaves more than half of a small machine idle while it waits; more of them
/// would starve each other's heartbeats.
const SHARES: usize = 2;

/// A share of the machine, or all of it, until this is dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    shares: usize,
}

struct Use {
    taken: usize,
    /// Tests that wait for all of it: others come behind them.
    awaiting_all: usize,
}

static USE: Mutex<Use> = Mutex::new(Use { taken: 0, awaiting_all: 0 });
static FREED: Condvar = Condvar::new();

/// A share of the machine. `None`: there is no KVM here, and the test is skipped, aloud.
pub(crate) fn kvm() -> Option<Machine> {
    is_here().then(|| take(1))
}

/// The whole machine, for tests that measure, or that run several clusters by themselves.
#[allow(dead_code, reason = "not every suite has such tests")]
pub(crate) fn kvm_alone() -> Option<Machine> {
    is_here().then(|| take(SHARES))
}

fn is_here() -> bool {
    if Path::new("/dev/kvm").exists() {
        return true;
    }
    assert!(std::env::var_os("FTVM_REQUIRE_KVM").is_none(), "FTVM_REQUIRE_KVM is set, but there is no /dev/kvm");
    let thread = std::thread::current();
    eprintln!("SKIPPED {}: there is no /dev/kvm here", thread.name().unwrap_or("a test"));
    false
}

fn in_use() -> MutexGuard<'static, Use> {
    // A test that failed while it had a share has harmed nobody else.
    USE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take(shares: usize) -> Machine {
    let all = shares == SHARES;
    let mut now = in_use();
    now.awaiting_all += usize::from(all);
    while now.taken + shares > SHARES || (!all && now.awaiting_all > 0) {
        now = FREED.wait(now).unwrap_or_else(PoisonError::into_inner);
    }
    now.awaiting_all -= usize::from(all);
    now.taken += shares;
    Machine { shares }
}

impl Drop for Machine {
    fn drop(&mut self) {
        in_use().taken -= self.shares;
        FREED.notify_all();
    }
}
