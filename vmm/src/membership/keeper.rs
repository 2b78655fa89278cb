//! Keeps a lease alive, in a thread of its own.

use super::etcd::{Etcd, EtcdError, LeaseId};
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// A moment of the clock that goes on while the machine sleeps, as etcd's does: since the machine started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(Duration);

impl Moment {
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock");
        Self(now.into())
    }

    pub(super) fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }

    pub(super) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub(super) fn since_start(self) -> Duration {
        self.0
    }
}

/// A lease, and until when it is certain to last.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) id: LeaseId,
    /// How long it lasts from each renewal on.
    pub(super) time: Duration,
    /// Before its renewal was asked for: etcd counts from later.
    pub(super) asked: Moment,
}

impl Held {
    pub(super) fn get(etcd: &Etcd, seconds: u64) -> Result<Self, EtcdError> {
        let asked = Moment::now();
        let (id, time) = etcd.grant(seconds)?;
        Ok(Self { id, time, asked })
    }

    /// Renews it. False: it is over.
    pub(super) fn renew(&mut self, etcd: &Etcd) -> Result<bool, EtcdError> {
        let asked = Moment::now();
        Ok(match etcd.keep_alive(&self.id)? {
            Some(time) => {
                self.asked = asked;
                self.time = time;
                true
            }
            None => false,
        })
    }

    /// The first moment at which it may be over, but for what the margin leaves.
    pub(super) fn certain_until(&self, margin: Duration) -> Moment {
        self.asked.after(self.time.saturating_sub(margin))
    }
}
