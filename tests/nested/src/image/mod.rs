//! The initramfs of the machines, and that of the Linux guests that run in them.

mod guest;
mod host;
mod qemu;

use crate::cpio::Archive;
use crate::directory;
use crate::kernel::package::{self, PackageError};
use crate::kernel::{Kernel, KernelError};
use crate::programs::{BuildError, Programs};
use crate::tool::ToolError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// An image cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// No busybox.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// No programs.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// No QEMU for the machines.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file cannot be read or written.
    #[error("{path} cannot be read or written")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What the machines boot, and the guests in them.
#[derive(Debug, Clone)]
pub struct Images {
    /// The machines' kernel.
    pub kernel: Kernel,
    /// The guests' kernel.
    pub guest_kernel: Kernel,
    /// The machines' initramfs.
    pub host_initrd: PathBuf,
    /// The guests' initramfs.
    pub guest_initrd: PathBuf,
}

impl Images {
    /// Makes them from what is in the cache, and fetches and builds what is not. An `ftvm` that is there already is taken
    /// as it is. Machines that have a QEMU have an image of their own.
    ///
    /// # Errors
    /// Something cannot be had.
    pub fn make(ftvm: Option<&Path>, has_qemu: bool) -> Result<Self, ImageError> {
        let (kernel, guest_kernel) = (Kernel::get()?, Kernel::of_guests()?);
        let programs = Programs::build(ftvm)?;
        let cache = directory::cache();
        let (cache, _lock) = directory::lock().map_err(|source| ImageError::File { path: cache, source })?;
        let busybox = busybox(&cache)?;
        let place = cache.join("images");
        fs::create_dir_all(&place).map_err(|source| ImageError::File { path: place.clone(), source })?;
        let guest_initrd = place.join("guest.cpio");
        write(&guest_initrd, guest::archive(&guest_kernel, &programs, &busybox)?)?;
        let mut host = host::archive(&kernel, &programs, &busybox, (&guest_kernel, &guest_initrd))?;
        let host_initrd = if has_qemu {
            qemu::add_to(&mut host)?;
            place.join("host-qemu.cpio")
        } else {
            place.join("host.cpio")
        };
        write(&host_initrd, host)?;
        Ok(Self { kernel, guest_kernel, host_initrd, guest_initrd })
    }
}

/// Fetches all that comes from packages, and gives the kernel's name.
///
/// # Errors
/// Something cannot be had.
pub fn fetch() -> Result<String, ImageError> {
    let kernel = Kernel::get()?;
    let cache = directory::cache();
    let (cache, _lock) = directory::lock().map_err(|source| ImageError::File { path: cache, source })?;
    busybox(&cache)?;
    Ok(kernel.name)
}

fn busybox(cache: &Path) -> Result<PathBuf, PackageError> {
    let package = package::other("busybox-static", cache)?;
    let places = [package.join("bin/busybox"), package.join("usr/bin/busybox")];
    let found = places.into_iter().find(|path| path.exists());
    found.ok_or_else(|| PackageError::Without { place: package, what: "busybox".to_owned() })
}

/// A machine that boots at this moment keeps the image that it has.
fn write(path: &Path, archive: Archive) -> Result<(), ImageError> {
    directory::write_whole(path, &archive.finish()).map_err(|source| ImageError::File { path: path.to_owned(), source })
}

fn add(archive: &mut Archive, inside: &str, permissions: u32, file: &Path) -> Result<(), ImageError> {
    let content = fs::read(file).map_err(|source| ImageError::File { path: file.to_owned(), source })?;
    archive.file(inside, permissions, &content);
    Ok(())
}

/// What both images begin with: busybox, devices, and modules with the order of their loading.
fn basis(busybox: &Path, init: &str, modules: &[PathBuf]) -> Result<Archive, ImageError> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "tmp", "run", "root", "modules"] {
        archive.directory(directory);
    }
    archive.device("dev/console", 5, 1);
    archive.device("dev/null", 1, 3);
    archive.link("sbin", "bin");
    add(&mut archive, "bin/busybox", 0o755, busybox)?;
    archive.link("bin/sh", "busybox");
    archive.file("init", 0o755, init.as_bytes());
    let mut order = String::new();
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        add(&mut archive, &format!("modules/{name}"), 0o644, module)?;
        order.push_str(&name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(archive)
}
