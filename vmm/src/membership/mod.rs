//! Who belongs to a cluster over several machines, and who is its controller, as etcd knows it.
//!
//! ```text
//!   /ftvm/NAME/controller      where the controller is; bound to its lease
//!   /ftvm/NAME/hosts/HOST      that a host is there; bound to its lease
//! ```
//! Clusters that are not given an etcd have none of this: the lock on the pool keeps out a second controller of one machine.

mod etcd;
mod keeper;
mod registry;
mod reign;

pub use etcd::{Endpoint, EtcdError};
pub use registry::{ControllerPlace, HostPlace, Registration, Registry, RegistryError};
pub use reign::{Elected, LeaseTime, Reign, ReignError};
