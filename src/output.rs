//! Writing to standard output, whose reader may go away at any time.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use serde::Serialize;
use std::io::{self, Write as _};

/// Refuses to go on when there is no standard output. What was written then would go nowhere, without a word.
pub(crate) fn require() -> Result<(), Failure> {
    if vmm::standard_streams::output_was_closed() {
        let line =
            "standard output is closed: what is to be shown would go nowhere (use >/dev/null if that is the intent)";
        return Err(Failure::line(ExitCode::OutputFailed, line));
    }
    Ok(())
}

/// Writes text as it is.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    require()?;
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| failed(&error))
}

/// Writes a value as JSON, on lines of its own.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut json = serde_json::to_string_pretty(value).map_err(|error| Failure::new(ExitCode::Internal, &error))?;
    json.push('\n');
    text(&json)
}

/// The failure that an error at standard output is.
pub(crate) fn failed(error: &io::Error) -> Failure {
    let code = if error.kind() == io::ErrorKind::BrokenPipe { ExitCode::OutputClosed } else { ExitCode::OutputFailed };
    Failure::line(code, format!("cannot write to standard output: {error}"))
}
