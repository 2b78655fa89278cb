//! Which device is behind which port: what a learning switch knows.

use crate::net::frame::MacAddress;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Most devices that are remembered; frames for others go to all ports.
pub(super) const DEVICES_MAX: usize = 4096;
/// How long a device that says nothing is remembered.
pub(super) const DEVICE_AGE_MAX: Duration = Duration::from_secs(300);

/// Names a port for as long as the switch runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PortId(pub(super) u64);

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To one port.
    One(PortId),
    /// To all ports but the one that it came from.
    AllOthers,
    /// To nobody: sender and receiver are behind the same port.
    Nowhere,
}

#[derive(Debug)]
struct Place {
    port: PortId,
    seen: Instant,
}

/// The devices by their addresses.
#[derive(Debug, Default)]
pub(super) struct Table {
    places: BTreeMap<MacAddress, Place>,
}

impl Table {
    /// Learns from a frame where its sender is, and says where it goes.
    pub(super) fn way(&mut self, port: PortId, from: MacAddress, to: MacAddress, now: Instant) -> Way {
        if from.is_unicast() {
            self.learn(port, from, now);
        }
        match self.places.get(&to) {
            Some(place) if now.saturating_duration_since(place.seen) > DEVICE_AGE_MAX => Way::AllOthers,
            Some(place) if place.port == port => Way::Nowhere,
            Some(place) => Way::One(place.port),
            None => Way::AllOthers,
        }
    }

    /// Where a device spoke last.
    pub(super) fn port_of(&self, device: MacAddress) -> Option<PortId> {
        self.places.get(&device).map(|place| place.port)
    }

    /// Forgets everything behind a port.
    pub(super) fn forget(&mut self, port: PortId) {
        self.places.retain(|_, place| place.port != port);
    }

    fn learn(&mut self, port: PortId, device: MacAddress, now: Instant) {
        if self.places.len() >= DEVICES_MAX && !self.places.contains_key(&device) {
            self.places.retain(|_, place| now.saturating_duration_since(place.seen) <= DEVICE_AGE_MAX);
            if self.places.len() >= DEVICES_MAX {
                return;
            }
        }
        self.places.insert(device, Place { port, seen: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const B: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    #[test]
    fn devices_are_found_where_they_spoke_last() {
        let (mut table, now) = (Table::default(), Instant::now());
        assert_eq!(table.way(PortId(1), A, B, now), Way::AllOthers, "not known yet");
        assert_eq!(table.way(PortId(2), B, A, now), Way::One(PortId(1)));
        assert_eq!(table.way(PortId(3), A, MacAddress::BROADCAST, now), Way::AllOthers, "a takeover's announcement");
        assert_eq!(table.way(PortId(2), B, A, now), Way::One(PortId(3)));
        assert_eq!(table.way(PortId(3), B, A, now), Way::Nowhere);
        table.forget(PortId(3));
        assert_eq!(table.way(PortId(2), B, A, now), Way::AllOthers);
    }

    #[test]
    fn silent_devices_are_forgotten_and_the_table_is_bounded() {
        let (mut table, now) = (Table::default(), Instant::now());
        let device = |number: usize| {
            let bytes = u32::try_from(number).expect("small").to_be_bytes();
            MacAddress([2, 0, bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        for number in 0..DEVICES_MAX + 10 {
            table.way(PortId(1), device(number), B, now);
        }
        assert_eq!(table.places.len(), DEVICES_MAX);
        assert_eq!(table.way(PortId(2), MacAddress::BROADCAST, device(DEVICES_MAX + 1), now), Way::AllOthers);
        assert_eq!(table.way(PortId(2), MacAddress::BROADCAST, device(7), now), Way::One(PortId(1)));
        let later = now + DEVICE_AGE_MAX + Duration::from_secs(1);
        assert_eq!(table.way(PortId(2), MacAddress::BROADCAST, device(7), later), Way::AllOthers);
        // A device that is not in the table yet.
        table.way(PortId(1), MacAddress([6, 0, 0, 0, 0, 1]), B, later);
        assert_eq!(table.places.len(), 1, "room is made when it is needed");
    }
}
