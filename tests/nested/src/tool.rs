//! Programs of the system that the harness needs.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// As much of a program's complaint as is repeated.
const COMPLAINT_CHARS_MAX: usize = 400;

/// Something that the harness needs is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// A program is not installed.
    #[error("{program} is missing: install it (apt-get install {package})")]
    Missing {
        /// The program.
        program: String,
        /// Debian's package that has it.
        package: &'static str,
    },
    /// It cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// It failed.
    #[error("{command} failed: {complaint}")]
    Failed {
        /// What was run.
        command: String,
        /// The end of what it said.
        complaint: String,
    },
}

/// Runs `program`, of Debian's `package`, and gives what it says.
pub(crate) fn run(command: &mut Command, package: &'static str) -> Result<Vec<u8>, ToolError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ToolError::Missing { program: program.clone(), package },
        _ => ToolError::Start { program: program.clone(), source },
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let skipped = said.trim().chars().count().saturating_sub(COMPLAINT_CHARS_MAX);
    let complaint = said.trim().chars().skip(skipped).collect::<String>().replace('\n', "; ");
    let arguments = command.get_args().take(3).map(|argument| argument.to_string_lossy()).collect::<Vec<_>>();
    Err(ToolError::Failed { command: format!("{program} {}", arguments.join(" ")), complaint })
}

/// Where `program` is, if it is installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|place| place.join(program)).find(|path| path.is_file())
}

/// Demands that `program` of Debian's `package` is installed.
pub(crate) fn demand(program: &str, package: &'static str) -> Result<PathBuf, ToolError> {
    find(program).ok_or_else(|| ToolError::Missing { program: program.to_owned(), package })
}
