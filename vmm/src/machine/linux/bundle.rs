//! What a Linux guest is started from, as one run of bytes: the pool keeps it as the VM's boot image.
//!
//! ```text
//! offset  bytes  little-endian
//!      0      8  magic "FTVMLNUX"
//!      8      4  version, 1; 2: the kernel is started by Multiboot, on a machine with a board for tests
//!     12      4  vCPUs
//!     16      8  length of the kernel
//!     24      8  length of the initrd, zero: none
//!     32      4  length of the command line
//!     36      4  CRC-32 of bytes 0 to 35
//!     40         kernel, initrd, command line
//! ```

use super::multiboot;
use std::fmt;
use std::str::FromStr;

const MAGIC: [u8; 8] = *b"FTVMLNUX";
const VERSION: u32 = 1;
/// The version of guests that are started by Multiboot.
const VERSION_MULTIBOOT: u32 = 2;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 40;
const HEADER_CRC_AT: usize = 36;
/// Longest command line: what Linux keeps of it on x86, its final zero apart.
pub const COMMAND_LINE_BYTES_MAX: usize = 2047;

/// How many vCPUs a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VcpuCount(u8);

impl VcpuCount {
    /// One.
    pub const ONE: Self = Self(1);
    /// The most.
    pub const MAX: Self = Self(4);

    /// So many, if a machine can have as many.
    #[must_use]
    pub fn new(count: u32) -> Option<Self> {
        u8::try_from(count).ok().filter(|count| (1..=Self::MAX.0).contains(count)).map(Self)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for VcpuCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Not a number of vCPUs.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{given}` vCPUs are not possible: 1 to {max} are", max = VcpuCount::MAX)]
pub struct VcpuCountError {
    given: String,
}

impl FromStr for VcpuCount {
    type Err = VcpuCountError;

    fn from_str(text: &str) -> Result<Self, VcpuCountError> {
        let refused = || VcpuCountError { given: text.chars().take(16).collect() };
        text.parse().ok().and_then(Self::new).ok_or_else(refused)
    }
}

/// What has to be known of a guest to make its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinuxMachine {
    /// How many processors it has.
    pub vcpus: VcpuCount,
    /// Whether it has the devices by which KVM is tested: guests that are started by Multiboot do.
    pub has_board: bool,
}

/// A Linux guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinuxGuest<'a> {
    /// A bzImage, or the ELF file that it is made from; or a file with a Multiboot header.
    pub kernel: &'a [u8],
    /// The initial RAM disk; empty: none.
    pub initrd: &'a [u8],
    /// The kernel's command line.
    pub command_line: &'a str,
    /// How many processors it has.
    pub vcpus: VcpuCount,
}

/// Why bytes that begin as a Linux guest are none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BundleError {
    /// Shorter than its header.
    #[error("the Linux guest's {got} bytes are shorter than its header")]
    Truncated {
        /// How many there are.
        got: usize,
    },
    /// The header was changed.
    #[error("the Linux guest's header has CRC {got:#010x}, expected {expected:#010x}")]
    HeaderCrc {
        /// What the header says.
        expected: u32,
        /// What it adds up to.
        got: u32,
    },
    /// Written by another program.
    #[error("the Linux guest has version {got}, this program knows {VERSION} and {VERSION_MULTIBOOT}")]
    Version {
        /// Its version.
        got: u32,
    },
    /// More processors than a machine has, or none.
    #[error("the Linux guest wants {got} vCPUs, 1 to {max} are possible", max = VcpuCount::MAX)]
    Vcpus {
        /// How many.
        got: u32,
    },
    /// The parts are not as long as the header says.
    #[error("the Linux guest has {got} bytes behind its header, which says {expected}")]
    Length {
        /// What the header says.
        expected: u128,
        /// What is there.
        got: usize,
    },
    /// The command line is too long, no text, or has a NUL byte.
    #[error(
        "the kernel command line must be text of at most {COMMAND_LINE_BYTES_MAX} bytes without NUL, it has {got} bytes"
    )]
    CommandLine {
        /// Its length.
        got: usize,
    },
}

impl<'a> LinuxGuest<'a> {
    /// Whether bytes are meant to be a Linux guest.
    #[must_use]
    pub fn is_meant(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Whether this program starts the kernel by Multiboot.
    #[must_use]
    pub fn is_multiboot(kernel: &[u8]) -> bool {
        multiboot::is_meant(kernel)
    }

    /// What the machine is like of the guest that begins with these bytes, of which the header is enough.
    ///
    /// # Errors
    /// A header that is damaged.
    pub fn machine_of(start: &[u8]) -> Result<LinuxMachine, BundleError> {
        let header = checked_header(start)?.0;
        Ok(LinuxMachine { vcpus: vcpus(header)?, has_board: word(header, 8) == VERSION_MULTIBOOT })
    }

    /// The guest as bytes.
    ///
    /// # Errors
    /// A command line that no kernel takes.
    pub fn encode(&self) -> Result<Vec<u8>, BundleError> {
        let line = self.command_line.as_bytes();
        check_command_line(line)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.kernel.len() + self.initrd.len() + line.len());
        bytes.extend_from_slice(&MAGIC);
        let version = if Self::is_multiboot(self.kernel) { VERSION_MULTIBOOT } else { VERSION };
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&u32::from(self.vcpus.get()).to_le_bytes());
        bytes.extend_from_slice(&(self.kernel.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&(self.initrd.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(line.len()).expect("checked above").to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        assert_eq!(bytes.len(), HEADER_BYTES, "the header is as documented");
        bytes.extend_from_slice(self.kernel);
        bytes.extend_from_slice(self.initrd);
        bytes.extend_from_slice(line);
        Ok(bytes)
    }

    /// The guest from bytes, which are untrusted.
    ///
    /// # Errors
    /// Anything but what [`encode`](Self::encode) gave.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BundleError> {
        let (header, parts) = checked_header(bytes)?;
        let vcpus = vcpus(header)?;
        let (kernel, initrd, line) = (long(header, 16), long(header, 24), word(header, 32));
        let expected = u128::from(kernel) + u128::from(initrd) + u128::from(line);
        if expected != parts.len() as u128 {
            return Err(BundleError::Length { expected, got: parts.len() });
        }
        let (kernel, rest) = parts.split_at(super::super::to_usize(kernel));
        let (initrd, line) = rest.split_at(super::super::to_usize(initrd));
        check_command_line(line)?;
        let command_line = std::str::from_utf8(line).map_err(|_| BundleError::CommandLine { got: line.len() })?;
        Ok(Self { kernel, initrd, command_line, vcpus })
    }
}

/// The header, and what follows it.
fn checked_header(bytes: &[u8]) -> Result<(&[u8; HEADER_BYTES], &[u8]), BundleError> {
    let truncated = BundleError::Truncated { got: bytes.len() };
    let (header, parts) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(truncated)?;
    let (expected, got) = (word(header, HEADER_CRC_AT), crc32fast::hash(&header[..HEADER_CRC_AT]));
    if expected != got {
        return Err(BundleError::HeaderCrc { expected, got });
    }
    if header[..8] != MAGIC || ![VERSION, VERSION_MULTIBOOT].contains(&word(header, 8)) {
        return Err(BundleError::Version { got: word(header, 8) });
    }
    Ok((header, parts))
}

fn vcpus(header: &[u8; HEADER_BYTES]) -> Result<VcpuCount, BundleError> {
    VcpuCount::new(word(header, 12)).ok_or(BundleError::Vcpus { got: word(header, 12) })
}

fn check_command_line(line: &[u8]) -> Result<(), BundleError> {
    match line.len() <= COMMAND_LINE_BYTES_MAX && !line.contains(&0) {
        true => Ok(()),
        false => Err(BundleError::CommandLine { got: line.len() }),
    }
}

fn word(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes of the header"))
}

fn long(header: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes of the header"))
}
