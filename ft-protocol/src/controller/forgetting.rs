//! Forgetting hosts: a pool has places for so many, and not every host comes back.
//!
//! A place is taken for as long as it is not needed by somebody else: a host that comes back finds its record. When all are
//! taken, a newcomer gets the place of the host that has been down for longest, provided that nobody would miss it. What an
//! old process of the forgotten host still holds is harmless: without a role there is no journal that it could write, and
//! its heartbeat page is nobody's any more.

use super::hosts::Health;
use super::{Action, Controller, HostId, Turn};
use crate::time::{Span, Time};

/// A host that is down for less may be about to come back. Below the time that a newcomer keeps asking.
const FORGOTTEN_AFTER: Span = Span::from_ms(2_000);

const _: () = assert!(FORGOTTEN_AFTER.ns() < crate::host::REJECTED_BOUND.ns());

/// Whether some host can be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forgettable {
    Now(HostId),
    /// Unless it comes back.
    Soon,
    None,
}

impl Controller {
    /// The host whose place a newcomer may have: down for longest, and nothing to anybody.
    pub(super) fn forgettable(&self, now: Time) -> Forgettable {
        let down = self.hosts.iter().filter(|(_, host)| host.link.is_none() && !host.draining);
        let unwanted = down.filter(|(id, host)| !self.vms.values().any(|vm| vm.wants(**id, &host.name)));
        let since = |id: &HostId, host: &super::Host| host.down_since.map(|since| (since, *id));
        let mut soon = false;
        let mut longest = None;
        for (id, host) in unwanted {
            match since(id, host).filter(|_| host.health == Health::Down) {
                Some(down) if now.since(down.0) >= FORGOTTEN_AFTER => {
                    longest = Some(longest.map_or(down, |other: (Time, HostId)| other.min(down)));
                }
                // Awaited, or has only just gone.
                _ => soon = true,
            }
        }
        match longest {
            Some((_, host)) => Forgettable::Now(host),
            None if soon => Forgettable::Soon,
            None => Forgettable::None,
        }
    }

    /// Its number is another host's from now on.
    pub(super) fn forget(&mut self, turn: &mut Turn<'_>, host: HostId) {
        let Some(forgotten) = self.hosts.remove(&host) else { return };
        assert!(forgotten.link.is_none(), "a connected host is not forgotten");
        assert!(!self.vms.values().any(|vm| vm.wants(host, &forgotten.name)), "a host with a role is not forgotten");
        turn.actions.push(Action::ForgetHost { host, name: forgotten.name });
    }
}
