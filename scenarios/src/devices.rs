//! Network devices and disks as people ask for them.

use crate::units::{ByteCount, ByteCountError};
use ft_protocol::spec::{NetBackend, NetSpec};
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use vmm::net::{BadMac, MacAddress};

/// A network device: `segment=PATH` or `tap=NAME`, and perhaps `,mac=ADDRESS` behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetOption {
    /// What it is connected to.
    pub backend: NetBackend,
    /// Its address; none: one is made up.
    pub mac: Option<MacAddress>,
}

/// Text that asks for no network device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetOptionError {
    /// Neither a segment nor a TAP device.
    #[error("`{given}` is no network: write segment=PATH or tap=NAME, and ,mac=ADDRESS behind it if you need one")]
    Malformed {
        /// The text.
        given: String,
    },
    /// The address is none.
    #[error(transparent)]
    Mac(#[from] BadMac),
}

impl NetOption {
    /// The device as a VM's specification has it.
    ///
    /// # Errors
    /// The operating system has no entropy for an address, or there is no working directory for a relative path.
    pub fn spec(&self) -> io::Result<NetSpec> {
        let mac = self.mac.map_or_else(MacAddress::random, Ok)?;
        let backend = match &self.backend {
            // Hosts may have another working directory.
            NetBackend::Segment(path) => NetBackend::Segment(std::path::absolute(path)?.to_string_lossy().into_owned()),
            tap @ NetBackend::Tap(_) => tap.clone(),
        };
        Ok(NetSpec { mac: mac.0, backend })
    }
}

impl FromStr for NetOption {
    type Err = NetOptionError;

    fn from_str(text: &str) -> Result<Self, NetOptionError> {
        let malformed = || NetOptionError::Malformed { given: text.chars().take(80).collect() };
        let (network, mac) = match text.rsplit_once(",mac=") {
            Some((network, mac)) => (network, Some(mac.parse()?)),
            None => (text, None),
        };
        let backend = match network.split_once('=') {
            Some(("segment", path)) if !path.is_empty() => NetBackend::Segment(path.to_owned()),
            Some(("tap", name)) if !name.is_empty() => NetBackend::Tap(name.to_owned()),
            _ => return Err(malformed()),
        };
        Ok(Self { backend, mac })
    }
}

/// A disk: the path of its image, and perhaps `,size=SIZE` behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOption {
    /// The image.
    pub path: PathBuf,
    /// The disk's size; none: that of the file, which must be there then.
    pub size: Option<ByteCount>,
}

/// Text that asks for no disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskOptionError {
    /// No path.
    #[error("write the disk's file, and ,size=SIZE behind it if it is still to be made")]
    NoPath,
    /// No size.
    #[error(transparent)]
    Size(#[from] ByteCountError),
}

impl FromStr for DiskOption {
    type Err = DiskOptionError;

    fn from_str(text: &str) -> Result<Self, DiskOptionError> {
        let (path, size) = match text.rsplit_once(",size=") {
            Some((path, size)) => (path, Some(size.parse()?)),
            None => (text, None),
        };
        if path.is_empty() { Err(DiskOptionError::NoPath) } else { Ok(Self { path: path.into(), size }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_they_are_written() {
        let read = |text: &str| text.parse::<NetOption>();
        let segment = NetOption { backend: NetBackend::Segment("/run/a,b=c.sock".to_owned()), mac: None };
        assert_eq!(read("segment=/run/a,b=c.sock"), Ok(segment));
        let mac = MacAddress([2, 0, 0, 0, 0, 9]);
        let tap = NetOption { backend: NetBackend::Tap("tap0".to_owned()), mac: Some(mac) };
        assert_eq!(read("tap=tap0,mac=02:00:00:00:00:09"), Ok(tap.clone()));
        assert_eq!(tap.spec().expect("its own address").mac, mac.0);
        let relative = read("segment=switch").expect("a network").spec().expect("a device");
        assert!(matches!(relative.backend, NetBackend::Segment(path) if path.starts_with('/')));
        for bad in ["", "tap", "tap=", "segment=", "bridge=br0", ",mac=02:00:00:00:00:09", "tap=t,mac=1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn disks_are_read_as_they_are_written() {
        let read = |text: &str| text.parse::<DiskOption>();
        assert_eq!(read("d,1.img"), Ok(DiskOption { path: "d,1.img".into(), size: None }));
        assert_eq!(read("d.img,size=8MiB"), Ok(DiskOption { path: "d.img".into(), size: Some(ByteCount::mib(8)) }));
        for bad in ["", ",size=8MiB", "d.img,size=", "d.img,size=8Q"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
