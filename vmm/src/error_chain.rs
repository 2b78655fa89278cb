//! Errors as one line, for logs, messages and people.

use std::error::Error;
use std::fmt::Write;

/// The error and everything behind it, outermost first, as one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        // A transparent error is its source.
        if !line.ends_with(&text) {
            // Writing to a String cannot fail.
            let _ = write!(line, ": {text}");
        }
        source = error.source();
    }
    line.replace('\n', " ")
}
