//! Writing to standard output, whose reader may go away at any time.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use serde::Serialize;
use std::io::{self, Write as _};

/// Writes text as it is.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| failed(&error))
}

/// Writes a value as JSON, on lines of its own.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut json = serde_json::to_string_pretty(value).map_err(|error| Failure::new(ExitCode::Internal, &error))?;
    json.push('\n');
    text(&json)
}

fn failed(error: &io::Error) -> Failure {
    let code = if error.kind() == io::ErrorKind::BrokenPipe { ExitCode::OutputClosed } else { ExitCode::Internal };
    Failure::line(code, format!("cannot write to standard output: {error}"))
}
