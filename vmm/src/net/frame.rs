//! Ethernet frames, as far as hosts look at them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Least bytes of a frame on a wire, without its checksum.
const WIRE_BYTES_MIN: usize = 60;
/// Reverse ARP (RFC 903).
const ETHERTYPE_RARP: [u8; 2] = [0x80, 0x35];
/// Ethernet, IPv4, their address lengths, "request reverse".
const RARP_REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 3];
const NO_ADDRESS: [u8; 4] = [0; 4];

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

/// Text that is no hardware address of one device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no hardware address of a device: six bytes like 02:00:00:00:00:01, the first one even")]
pub struct BadMac {
    given: String,
}

impl MacAddress {
    /// All devices.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// An address that no maker of devices has given out, different from all others as far as chance can make it.
    ///
    /// # Errors
    /// The operating system has no entropy.
    pub fn random() -> std::io::Result<Self> {
        let mut address = [0; 6];
        getrandom::fill(&mut address).map_err(std::io::Error::other)?;
        // Locally administered, and one device's.
        address[0] = address[0] & !1 | 2;
        Ok(Self(address))
    }

    /// Whether it names one device, not a group of them.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }

    /// Sender and receiver of a frame.
    pub(super) fn of_frame(frame: &[u8]) -> Option<(Self, Self)> {
        let to = frame.get(0..6)?.try_into().ok()?;
        let from = frame.get(6..12)?.try_into().ok()?;
        Some((Self(from), Self(to)))
    }

    /// A frame to all that tells switches where this device is, and asks nothing of anybody.
    #[must_use]
    pub fn announcement(self) -> Vec<u8> {
        let mut frame = [&Self::BROADCAST.0[..], &self.0, &ETHERTYPE_RARP, &RARP_REQUEST].concat();
        for _ in 0..2 {
            frame.extend(self.0);
            frame.extend(NO_ADDRESS);
        }
        frame.resize(WIRE_BYTES_MIN, 0);
        frame
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac { given: text.chars().take(32).collect() };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        let address = Self(bytes);
        if parts.next().is_none() && address.is_unicast() { Ok(address) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let address = MacAddress([2, 0xab, 0, 0, 0, 0xff]);
        assert_eq!(address.to_string().parse(), Ok(address));
        for bad in
            ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "2:0:0:0:0:0", "01:00:00:00:00:00", "0g:00:00:00:00:00"]
        {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
        assert!("00:00:00:00:00:00".parse::<MacAddress>().is_err());
    }

    #[test]
    fn random_addresses_are_those_of_devices_that_nobody_made() {
        let addresses: Vec<MacAddress> = (0..64).map(|_| MacAddress::random().expect("entropy")).collect();
        assert!(addresses.iter().all(|address| address.is_unicast() && address.0[0] & 2 == 2));
        assert!(addresses.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn an_announcement_comes_from_the_device_and_goes_to_all() {
        let address = MacAddress([2, 0, 0, 0, 0, 9]);
        let frame = address.announcement();
        assert_eq!(MacAddress::of_frame(&frame), Some((address, MacAddress::BROADCAST)));
        assert_eq!(frame.len(), 60);
        assert_eq!(&frame[12..22], [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
        assert_eq!((&frame[22..28], &frame[32..38]), (&address.0[..], &address.0[..]));
    }
}
