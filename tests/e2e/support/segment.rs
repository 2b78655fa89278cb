//! A segment with its switch, and this test as a host on it.

use super::{Place, Running, await_true};
use ft_protocol::spec::NetBackend;
use nix::sys::signal::Signal;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;
use vmm::net::MacAddress;
use vmm::net::client::{SegmentHost, SegmentStream};

/// Where guests are in these tests.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
const HERE_MAC: MacAddress = MacAddress([2, 0, 0, 0, 1, 0]);
const NETWORK_BITS: u8 = 24;
/// A guest that is not there yet does not answer.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// A running `ftvm switch`.
pub(crate) struct SegmentSwitch {
    pub(crate) path: PathBuf,
    process: Running,
}

impl SegmentSwitch {
    pub(crate) fn start(place: &Place, options: &[&str]) -> Self {
        let path = place.file("switch");
        let process = place.start(&[&["switch", path.to_str().expect("a plain path")], options].concat());
        let segment = NetBackend::Segment(path.to_string_lossy().into_owned());
        await_true("the switch", || vmm::net::check(&segment).is_ok());
        Self { path, process }
    }

    /// What a guest on this segment is run with.
    pub(crate) fn option(&self) -> String {
        format!("--net=segment={}", self.path.display())
    }

    /// Joins the segment.
    pub(crate) fn join(&self) -> SegmentHost {
        SegmentHost::join(&self.path, HERE_MAC, HERE, NETWORK_BITS).expect("the switch is there")
    }

    /// Kills the switch, which leaves its socket behind.
    pub(crate) fn kill(self) {
        self.process.signal(Signal::SIGKILL);
        assert_eq!(self.process.end().code, None);
        assert!(self.path.exists(), "it had no time to clean up");
    }

    /// Ends the switch; what it says on standard output.
    pub(crate) fn end(self) -> Vec<u8> {
        self.process.signal(Signal::SIGTERM);
        let ended = self.process.end().ok();
        assert!(!self.path.exists(), "its socket goes with it");
        ended.stdout
    }
}

/// A port of the guest.
pub(crate) fn guest_at(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(GUEST, port)
}

/// Connects to the guest once it is there.
pub(crate) fn connect(host: &SegmentHost, port: u16) -> SegmentStream {
    super::await_some("a connection", || host.connect(guest_at(port), CONNECT_TIME_MAX).ok())
}
