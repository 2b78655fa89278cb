//! QEMU's monitor protocol, as far as it is needed: one command, one answer; events are passed over.

use serde_json::{Value, json};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The monitor did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// It cannot be reached.
    #[error("the monitor at {path} does not answer")]
    Channel {
        /// Its socket.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It refuses.
    #[error("the monitor refuses {command}: {why}")]
    Refused {
        /// The command.
        command: String,
        /// What it said.
        why: String,
    },
}

/// A connection to a monitor.
pub struct Qmp {
    path: String,
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects.
    ///
    /// # Errors
    /// Nobody is there, or it does not answer within `timeout`.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, QmpError> {
        let path_text = path.display().to_string();
        let channel = |source| QmpError::Channel { path: path_text.clone(), source };
        let stream = UnixStream::connect(path).map_err(channel)?;
        stream.set_read_timeout(Some(timeout)).map_err(channel)?;
        let mut monitor = Self { path: path_text.clone(), stream: BufReader::new(stream) };
        monitor.line()?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Executes a command and gives what it returns.
    ///
    /// # Errors
    /// It is refused, or the machine is gone.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, QmpError> {
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.stream.get_mut().write_all(line.as_bytes()).map_err(|source| self.lost(source))?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                return Err(QmpError::Refused { command: command.to_owned(), why: error["desc"].to_string() });
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn line(&mut self) -> Result<Value, QmpError> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => serde_json::from_str(&line).map_err(|error| self.lost(error.into())),
            Err(source) => Err(self.lost(source)),
        }
    }

    fn lost(&self, source: io::Error) -> QmpError {
        QmpError::Channel { path: self.path.clone(), source }
    }
}
