//! A Debian kernel, taken from its package without installing it.
//!
//! `FTVM_NESTED_KERNEL` names another package, or package files; the default is what `linux-image-cloud-amd64` depends on.
//! `FTVM_NESTED_GUEST_KERNEL` does the same for the guests in the machines, which otherwise have the machines' own.

mod modules;
pub(crate) mod package;
mod vmlinux;

pub use modules::ModuleError;
pub use package::PackageError;
pub use vmlinux::VmlinuxError;

use crate::directory;
use modules::Modules;
use std::fs;
use std::io;
use std::path::PathBuf;

/// A kernel cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Its package cannot be had.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The package's kernel image is not understood.
    #[error("{path} cannot be unpacked")]
    Vmlinux {
        /// The image.
        path: PathBuf,
        /// Why not.
        source: VmlinuxError,
    },
    /// A module is not there.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// A file cannot be read or written.
    #[error("{path} cannot be read or written")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A kernel, unpacked.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The package it is from, with its version.
    pub name: String,
    /// As Debian ships it: a bzImage.
    pub image: PathBuf,
    /// The ELF file in it.
    pub vmlinux: PathBuf,
    modules: PathBuf,
    unpacked: PathBuf,
}

impl Kernel {
    /// Fetches and unpacks the machines' kernel, unless that is done already.
    ///
    /// # Errors
    /// The package cannot be fetched, or has not what a kernel package has.
    pub fn get() -> Result<Self, KernelError> {
        Self::given(std::env::var("FTVM_NESTED_KERNEL").ok().as_deref())
    }

    /// The same for the guests' kernel.
    ///
    /// # Errors
    /// The package cannot be fetched, or has not what a kernel package has.
    pub fn of_guests() -> Result<Self, KernelError> {
        match std::env::var("FTVM_NESTED_GUEST_KERNEL") {
            Ok(given) => Self::given(Some(&given)),
            Err(_) => Self::get(),
        }
    }

    fn given(given: Option<&str>) -> Result<Self, KernelError> {
        let cache = directory::cache();
        let (_, _lock) = directory::lock().map_err(|source| KernelError::File { path: cache.clone(), source })?;
        let package = package::get(&cache, given)?;
        let modules = package::find(&package.root.join("lib/modules"), "")
            .or_else(|_| package::find(&package.root.join("usr/lib/modules"), ""))?;
        // From Linux 7 on Debian has it with the modules.
        let image =
            package::find(&package.root.join("boot"), "vmlinuz-").or_else(|_| package::find(&modules, "vmlinuz"))?;
        let vmlinux = package.root.join("vmlinux");
        if !vmlinux.exists() {
            let file = |source| KernelError::File { path: image.clone(), source };
            let unpacked = vmlinux::unpack(&fs::read(&image).map_err(file)?)
                .map_err(|source| KernelError::Vmlinux { path: image.clone(), source })?;
            directory::write_whole(&vmlinux, &unpacked).map_err(file)?;
        }
        Ok(Self { name: package.name, image, vmlinux, modules, unpacked: package.root.join("unpacked") })
    }

    /// The files of these modules and of all that they need, in the order in which they are to be loaded. Modules that
    /// this kernel has built in, or not at all when they are `optional`, are left out.
    ///
    /// # Errors
    /// One is missing that is not optional.
    pub fn modules(&self, required: &[&str], optional: &[&str]) -> Result<Vec<PathBuf>, KernelError> {
        let mut modules = Modules::find(&self.modules, &self.unpacked)?;
        for name in required {
            modules.want(name)?;
        }
        for name in optional {
            if modules.has(name) {
                modules.want(name)?;
            }
        }
        Ok(modules.in_order())
    }
}
