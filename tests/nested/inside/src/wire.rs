//! Frames: a length of four bytes, little endian, and a message. Requests go in, replies come out; what belongs together has one
//! number, which the harness gives.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

/// Longest message. Files and output go in pieces of at most [`PIECE_BYTES`].
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Longest piece of a file or of output in one message.
pub const PIECE_BYTES: usize = 256 << 10;
const _: () = assert!(PIECE_BYTES + 4096 <= FRAME_BYTES_MAX, "a piece fits with what describes it");

/// What a message is about.
pub type TaskId = u32;

/// What the harness asks for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Run a program. Output and the end come as replies.
    Run {
        /// The program and its arguments.
        argv: Vec<String>,
    },
    /// Bytes for a program's standard input; none: its end.
    Stdin(Vec<u8>),
    /// Send a program a signal.
    Signal(i32),
    /// Write a piece of a file.
    Put {
        /// Its path; directories are made.
        path: String,
        /// Where the piece goes; zero empties the file first.
        offset: u64,
        /// The piece.
        bytes: Vec<u8>,
        /// The file's permissions.
        mode: u32,
    },
    /// Read a file, whole.
    Get {
        /// Its path.
        path: String,
    },
}

/// What the agent says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// It is there. The first message; nothing before it counts.
    Hello,
    /// A program wrote to its standard output.
    Stdout(Vec<u8>),
    /// A program wrote to its standard error.
    Stderr(Vec<u8>),
    /// A program ended, and everything it wrote has been said.
    Ended(End),
    /// A piece of a file that is read.
    Piece(Vec<u8>),
    /// What was asked for is done.
    Done,
    /// It cannot be done.
    Failed(String),
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The channel failed.
    #[error("the control channel failed")]
    Io(#[from] io::Error),
    /// It is too long.
    #[error("a message of {0} bytes is longer than any may be: the control channel is out of step")]
    TooLong(usize),
    /// It is none.
    #[error("what came on the control channel is no message")]
    Garbled(#[from] postcard::Error),
}

/// Writes one message.
///
/// # Errors
/// The channel does not take it.
pub fn send<T: Serialize>(to: &mut impl Write, task: TaskId, message: &T) -> Result<(), WireError> {
    let bytes = postcard::to_stdvec(&(task, message))?;
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(WireError::TooLong(bytes.len()));
    }
    let length = u32::try_from(bytes.len()).map_err(|_| WireError::TooLong(bytes.len()))?;
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend_from_slice(&bytes);
    to.write_all(&frame)?;
    Ok(to.flush()?)
}

/// Reads one message.
///
/// # Errors
/// The channel fails, ends, or is out of step.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> Result<(TaskId, T), WireError> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(WireError::TooLong(length));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(postcard::from_bytes(&bytes)?)
}
