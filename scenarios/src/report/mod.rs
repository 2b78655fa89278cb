//! What a run's directory tells: as a page to look at, and in words.

mod explain;
mod folder;
mod html;
mod lanes;
mod plot;
mod strip;
#[cfg(test)]
mod tests;

pub use explain::explain;
pub use folder::{FolderError, RunFolder};
pub use html::html;

use std::path::Path;

/// The page of a run.
pub const HTML: &str = "report.html";

/// Writes the page of a run beside its events.
///
/// # Errors
/// When the directory is none of a run, or the page cannot be written.
pub fn write_html(directory: &Path) -> Result<(), FolderError> {
    let folder = RunFolder::read(directory)?;
    let path = directory.join(HTML);
    std::fs::write(&path, html(&folder)).map_err(|source| FolderError::Unwritable { path, source })
}
