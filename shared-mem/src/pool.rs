//! The pool on tmpfs: a directory with one file per access class, so that descriptors enforce who may do what. On a device
//! (`device`) the same names are in a table of its own.
//!
//! ```text
//! DIR/superblock  vm-directory  cluster  heartbeat.<host>
//! DIR/lock  reserve
//! DIR/vm-<slot>/image  state  control  console  disk  boot  journal.<generation>  log.<generation>
//! ```
//! Creation order makes half-done work recognisable: the superblock is renamed into place when all else is there; a
//! VM's directory entry is written when its files are there; a VM is marked as deleting before its first file goes.
//! Whatever a crash leaves in between is removed when the pool is opened the next time.

pub mod device;
mod error;
mod files;
mod lock;
mod new_vm;
mod open;
mod own_files;
mod partition;
pub(crate) mod raise;
pub(crate) mod reserve;
mod space_reserve;
mod view;
mod vms;

pub use error::PoolError;
pub use files::FileKind;
pub use new_vm::{LeavingVm, NewVm};
pub use open::{Pool, PoolConfig};
pub use partition::VmPartition;
pub use space_reserve::SpaceReserve;
pub use view::{PoolView, WrongCopy};

#[cfg(test)]
mod tests;
