//! Where a guest comes from: a file, or one of those that ftvm brings along.

use crate::protected::GuestDisk;
use ft_protocol::wire::{Access, ExtentTag, Grant, Part};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use shared_mem::{Extent, Offset};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use vmm::machine::linux::{LinuxGuest, LinuxGuestError, VcpuCount};
use vmm::machine::{BootError, check_guest};

/// A guest's file may have at most this many bytes; it is held in memory while it is checked.
pub const GUEST_BYTES_MAX: u64 = 1 << 30;

/// Names a guest: `builtin:NAME`, or a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestSource {
    /// One that ftvm brings along.
    Builtin(String),
    /// A static ELF64 file.
    File(PathBuf),
}

/// A guest that can be started: read, and known to be in one piece.
#[derive(Clone, Debug)]
pub struct GuestImage {
    source: GuestSource,
    bytes: Vec<u8>,
    disk: Option<Arc<GuestDisk>>,
}

/// Why there is no guest to start.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// No file has this name.
    #[error("there is no guest file {}", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The file may not be read.
    #[error("not permitted to read guest file {}", path.display())]
    NotPermitted {
        /// The path.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read guest file {}", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No guest can be that large.
    #[error("guest file {} is larger than {} MiB", path.display(), GUEST_BYTES_MAX >> 20)]
    TooLarge {
        /// The path.
        path: PathBuf,
    },
    /// No bundled guest has this name.
    #[error("there is no bundled guest `{name}`: there are {known}")]
    UnknownBuiltin {
        /// The name.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// The memory for passing the guest on cannot be had.
    #[error("cannot make the memory file that carries the guest to the controller")]
    Carrier(#[source] io::Error),
    /// It does not start in this memory.
    #[error("guest {guest} cannot be started")]
    Unfit {
        /// Which.
        guest: GuestSource,
        /// Why.
        source: BootError,
    },
}

impl FromStr for GuestSource {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.strip_prefix("builtin:") {
            Some(name) => Self::Builtin(name.to_owned()),
            None => Self::File(PathBuf::from(text)),
        })
    }
}

impl fmt::Display for GuestSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(name) => write!(f, "builtin:{name}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl GuestSource {
    /// Reads the guest.
    ///
    /// # Errors
    /// When there is none of this name, or it cannot be read.
    pub fn read(&self) -> Result<GuestImage, GuestError> {
        let bytes = match self {
            Self::Builtin(name) => vmm::machine::guests::bundled(name)
                .ok_or_else(|| GuestError::UnknownBuiltin {
                    name: name.clone(),
                    known: vmm::machine::guests::names().collect::<Vec<_>>().join(", "),
                })?
                .to_vec(),
            Self::File(path) => read_file(path)?,
        };
        Ok(GuestImage { source: self.clone(), bytes, disk: None })
    }
}

fn read_file(path: &PathBuf) -> Result<Vec<u8>, GuestError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => GuestError::Missing { path: path.clone() },
        io::ErrorKind::PermissionDenied => GuestError::NotPermitted { path: path.clone() },
        _ => GuestError::Unreadable { path: path.clone(), source },
    };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(GUEST_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    match u64::try_from(bytes.len()) {
        Ok(len) if len <= GUEST_BYTES_MAX => Ok(bytes),
        _ => Err(GuestError::TooLarge { path: path.clone() }),
    }
}

/// Without it a kernel is silent.
const LINUX_COMMAND_LINE: &str = "console=ttyS0";

/// The files and words that make a Linux guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinuxFiles {
    /// A bzImage, a vmlinux, or a file with a Multiboot header.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line; `None`: what kernels of its kind have when nothing is said.
    pub command_line: Option<String>,
    /// How many vCPUs it has.
    pub vcpus: VcpuCount,
}

impl LinuxFiles {
    /// Reads the guest, which is called after its kernel.
    ///
    /// # Errors
    /// When a file cannot be read, or the command line is none.
    pub fn read(&self) -> Result<GuestImage, GuestError> {
        let source = GuestSource::File(self.kernel.clone());
        let kernel = read_file(&self.kernel)?;
        let initrd = self.initrd.as_ref().map(read_file).transpose()?.unwrap_or_default();
        let default = if LinuxGuest::is_multiboot(&kernel) { "" } else { LINUX_COMMAND_LINE };
        let (command_line, vcpus) = (self.command_line.as_deref().unwrap_or(default), self.vcpus);
        let guest = LinuxGuest { kernel: &kernel, initrd: &initrd, command_line, vcpus };
        let unfit = |error| GuestError::Unfit { guest: source.clone(), source: LinuxGuestError::from(error).into() };
        let bytes = guest.encode().map_err(unfit)?;
        if bytes.len() as u64 > GUEST_BYTES_MAX {
            return Err(GuestError::TooLarge { path: self.kernel.clone() });
        }
        Ok(GuestImage { source, bytes, disk: None })
    }
}

impl GuestImage {
    /// Whether it is a Linux guest.
    #[must_use]
    pub fn is_linux(&self) -> bool {
        LinuxGuest::is_meant(&self.bytes)
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> &GuestSource {
        &self.source
    }

    /// The ELF file of a flat guest, or an encoded Linux guest.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same guest, with a disk.
    #[must_use]
    pub fn with_disk(self, disk: Arc<GuestDisk>) -> Self {
        Self { disk: Some(disk), ..self }
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> Option<&GuestDisk> {
        self.disk.as_deref()
    }

    /// What travels beside the request for a VM: the guest, and the first content of its disk.
    ///
    /// # Errors
    /// When the kernel has no memory or descriptor for it.
    pub fn uploads(&self) -> Result<Vec<(ExtentTag, Extent)>, GuestError> {
        let mut uploads = vec![self.upload()?];
        if let Some(disk) = &self.disk {
            uploads.push(disk.upload().map_err(GuestError::Carrier)?);
        }
        Ok(uploads)
    }

    /// Checks that the guest starts in a memory of this size with these arguments, before anything is started.
    ///
    /// # Errors
    /// Whatever the loader would refuse.
    pub fn check(&self, memory_bytes: u64, args: &[String]) -> Result<(), GuestError> {
        check_guest(&self.bytes, memory_bytes, args)
            .map_err(|source| GuestError::Unfit { guest: self.source.clone(), source })
    }

    /// The guest in a descriptor of its own, to travel beside a request. What happens to the file afterwards cannot
    /// change it.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    ///
    /// # Panics
    /// Never: an extent may begin at zero.
    pub fn upload(&self) -> Result<(ExtentTag, Extent), GuestError> {
        let failed = |errno: Errno| GuestError::Carrier(errno.into());
        let fd = memfd_create(c"ftvm-guest", MFdFlags::MFD_CLOEXEC).map_err(failed)?;
        let mut file = File::from(fd);
        file.write_all(&self.bytes).map_err(GuestError::Carrier)?;
        file.seek(SeekFrom::Start(0)).map_err(GuestError::Carrier)?;
        let len = self.bytes.len() as u64;
        let tag = ExtentTag { grant: Grant { part: Part::Upload, access: Access::ReadWrite }, offset: 0, len };
        let extent = Extent::new(OwnedFd::from(file), Offset::ZERO, len).expect("an extent may begin at zero");
        Ok((tag, extent))
    }
}
