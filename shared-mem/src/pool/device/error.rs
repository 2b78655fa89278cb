//! What can be wrong with the beginning of a device.

use thiserror::Error;

use super::table::TableError;
use crate::blob_store::BlobError;
use crate::header::HeaderError;

/// The beginning of a device is not what this program has left there.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The header is damaged, but a table lies behind it.
    #[error("its header is refused")]
    Head(#[from] HeaderError),
    /// The device has another length than when the pool was made.
    #[error("it has {found} bytes, its header says {expected}")]
    Length {
        /// Its length.
        found: u64,
        /// The length in the header.
        expected: u64,
    },
    /// There is a header, but no table was ever stored.
    #[error("it has no table")]
    NoTable,
    /// The table cannot be read or stored.
    #[error("its table cannot be used")]
    Store(#[from] BlobError),
    /// The table makes no sense.
    #[error("its table is refused")]
    Table(#[from] TableError),
}
