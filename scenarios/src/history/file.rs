//! Histories as files of JSON lines, written while they happen: one line for an invocation, one for its return. A client that
//! dies leaves operations without a return, which is just what they are.

use super::model::{Answer, Call, ClientId, Operation};
use ft_protocol::Time;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// The operation's number, unique in its file.
    id: u64,
    at_ns: u64,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    Invoke { client: ClientId, key: String, operation: Operation },
    Return(Answer),
}

/// Why a file is no history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It cannot be read.
    #[error("cannot read history {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is none of a history's.
    #[error("line {line} is no event of a history")]
    Malformed {
        /// Which, from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// A number was given to two operations.
    #[error("line {line} invokes operation {id} a second time")]
    InvokedTwice {
        /// Which, from 1.
        line: usize,
        /// The operation.
        id: u64,
    },
    /// An answer to nothing.
    #[error("line {line} returns operation {id}, which is not under way")]
    NotUnderWay {
        /// Which, from 1.
        line: usize,
        /// The operation.
        id: u64,
    },
    /// An answer before its question.
    #[error("line {line} returns operation {id} before it was invoked")]
    BackInTime {
        /// Which, from 1.
        line: usize,
        /// The operation.
        id: u64,
    },
}

/// Writes a history while it happens.
#[derive(Debug)]
pub struct Recorder<W: Write> {
    to: W,
    next_id: u64,
}

/// An operation that is under way, as its recorder knows it.
#[derive(Debug, PartialEq, Eq)]
pub struct UnderWay(u64);

impl Recorder<BufWriter<File>> {
    /// A history in a new file.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self::new(BufWriter::new(File::create(path)?)))
    }
}

impl<W: Write> Recorder<W> {
    /// A history that is written there.
    pub fn new(to: W) -> Self {
        Self { to, next_id: 0 }
    }

    /// An operation is about to be sent: call this before, so that it cannot take effect before it was invoked.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn invoke(&mut self, client: ClientId, key: &str, operation: &Operation, at: Time) -> io::Result<UnderWay> {
        let id = self.next_id;
        self.next_id += 1;
        let what = What::Invoke { client, key: key.to_owned(), operation: operation.clone() };
        self.write(&Line { id, at_ns: at.ns(), what })?;
        Ok(UnderWay(id))
    }

    /// Its answer has come: call this after.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn returned(&mut self, call: UnderWay, answer: Answer, at: Time) -> io::Result<()> {
        self.write(&Line { id: call.0, at_ns: at.ns(), what: What::Return(answer) })
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.to, line)?;
        self.to.write_all(b"\n")?;
        self.to.flush()
    }
}

/// Reads a history from a file.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn read(path: &Path) -> Result<Vec<Call>, HistoryError> {
    let unreadable = |source| HistoryError::Unreadable { path: path.to_owned(), source };
    parse(&std::fs::read_to_string(path).map_err(unreadable)?)
}

/// Reads a history. A last line without an end is that of a recorder that was killed while it wrote it, and is left out.
///
/// # Errors
/// When it is none.
pub fn parse(text: &str) -> Result<Vec<Call>, HistoryError> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut calls: Vec<Call> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    for (index, json) in whole.lines().enumerate() {
        let line = index + 1;
        let Line { id, at_ns, what } =
            serde_json::from_str(json).map_err(|source| HistoryError::Malformed { line, source })?;
        let at = Time::from_ns(at_ns);
        match what {
            What::Invoke { client, key, operation } => {
                if places.insert(id, calls.len()).is_some() {
                    return Err(HistoryError::InvokedTwice { line, id });
                }
                calls.push(Call { client, key, operation, invoked: at, returned: None });
            }
            What::Return(answer) => {
                let under_way = places.get(&id).map(|place| &mut calls[*place]);
                let call =
                    under_way.filter(|call| call.returned.is_none()).ok_or(HistoryError::NotUnderWay { line, id })?;
                if at < call.invoked {
                    return Err(HistoryError::BackInTime { line, id });
                }
                call.returned = Some((at, answer));
            }
        }
    }
    Ok(calls)
}
