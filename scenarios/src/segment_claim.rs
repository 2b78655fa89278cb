//! What a load on a guests' segment has for itself as long as it runs: its address, and the guest whose answers it judges. Two with one address would
//! take each other's answers, and wait for them in vain.
//!
//! A claim is a name in the kernel (an abstract Unix socket), which goes with its process, however that ends. It holds on this machine: so does
//! the socket of a segment.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// The first address that loads are given, and the last one.
const ADDRESSES: std::ops::RangeInclusive<u8> = 100..=199;
/// The network of bundled guests.
const NETWORK: [u8; 3] = [10, 0, 0];

/// Something on a segment that is nobody else's meanwhile.
#[derive(Debug)]
pub struct Claim {
    _name: Option<UnixDatagram>,
}

/// Why something cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another one has this address.
    #[error("another load on this segment has the address {address}: give each its own, with --from")]
    Address {
        /// Which.
        address: Ipv4Addr,
    },
    /// All addresses are taken.
    #[error("all addresses from {first} to {last} are taken on this segment: end other loads, or say --from")]
    Addresses {
        /// The first one.
        first: Ipv4Addr,
        /// The last one.
        last: Ipv4Addr,
    },
    /// Another one writes to this guest.
    #[error(
        "another load writes to {to}: what each finds there fits no order of its own writes; run one after the other"
    )]
    Guest {
        /// Which.
        to: SocketAddrV4,
    },
    /// The kernel gives no names.
    #[error("cannot find out who else is on the segment")]
    Unknown(#[source] io::Error),
}

/// An address of one's own on a segment: this one, or the first that is free.
///
/// # Errors
/// When it is taken, or all are.
pub fn claim_address(segment: &Path, wanted: Option<Ipv4Addr>) -> Result<(Ipv4Addr, Claim), ClaimError> {
    if let Some(address) = wanted {
        let claim = claim(segment, &address)?.ok_or(ClaimError::Address { address })?;
        return Ok((address, claim));
    }
    for last in ADDRESSES {
        let address = address_of(last);
        if let Some(claim) = claim(segment, &address)? {
            return Ok((address, claim));
        }
    }
    Err(ClaimError::Addresses { first: address_of(*ADDRESSES.start()), last: address_of(*ADDRESSES.end()) })
}

/// To be the only one who writes to a guest.
///
/// # Errors
/// When somebody does already.
pub fn claim_guest(segment: &Path, to: SocketAddrV4) -> Result<Claim, ClaimError> {
    claim(segment, &to)?.ok_or(ClaimError::Guest { to })
}

fn address_of(last: u8) -> Ipv4Addr {
    let [a, b, c] = NETWORK;
    Ipv4Addr::new(a, b, c, last)
}

/// `None`: somebody else has it. Where there is no segment there is nothing to be claimed: whoever joins it will say so.
fn claim(segment: &Path, what: &dyn fmt::Display) -> Result<Option<Claim>, ClaimError> {
    let Ok(file) = fs::metadata(segment) else { return Ok(Some(Claim { _name: None })) };
    let name = format!("ftvm-segment-{}-{}-{what}", file.dev(), file.ino());
    let name = SocketAddr::from_abstract_name(name).map_err(ClaimError::Unknown)?;
    match UnixDatagram::bind_addr(&name) {
        Ok(socket) => Ok(Some(Claim { _name: Some(socket) })),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(ClaimError::Unknown(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_load_has_an_address_of_its_own() {
        let [segment, other] = [0, 1].map(|_| tempfile::NamedTempFile::new().unwrap());
        let (first, kept) = claim_address(segment.path(), None).unwrap();
        let (second, _claim) = claim_address(segment.path(), None).unwrap();
        assert_eq!([first, second].map(|address| address.octets()[3]), [100, 101]);
        let taken = claim_address(segment.path(), Some(second)).unwrap_err();
        assert!(matches!(taken, ClaimError::Address { address } if address == second), "{taken}");
        assert_eq!(claim_address(other.path(), None).unwrap().0, first, "that is another segment");
        drop(kept);
        assert_eq!(claim_address(segment.path(), None).unwrap().0, first, "it is over");
        assert_eq!(claim_address(Path::new("/nowhere"), None).unwrap().0, first, "whoever joins it will say so");
    }

    #[test]
    fn one_load_at_a_time_writes_to_a_guest() {
        let segment = tempfile::NamedTempFile::new().unwrap();
        let [one, other] = [2, 3].map(|last| SocketAddrV4::new(address_of(last), 7000));
        let kept = claim_guest(segment.path(), one).unwrap();
        assert!(
            claim_guest(segment.path(), one).unwrap_err().to_string().contains("another load writes to 10.0.0.2:7000")
        );
        claim_guest(segment.path(), other).unwrap();
        drop(kept);
        claim_guest(segment.path(), one).unwrap();
    }
}
