//! Histories as files of JSON lines, written while they happen: one line for an invocation, one for its return. A client that
//! dies leaves operations without a return, which is just what they are.

use super::model::{Answer, Call, ClientId, Operation};
use ft_protocol::Time;
use ft_protocol::timeline::one_line;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// One line of a history (docs/scenarios.md, "Histories").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The operation's number, unique in its history; a note has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// When, by CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// What.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What a client did or saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// An operation is about to be sent.
    Invoke {
        /// Who sends it.
        client: ClientId,
        /// On which key.
        key: String,
        /// What it is.
        operation: Operation,
    },
    /// The operation's answer has come.
    Return(Answer),
    /// Something that is no operation of a store begins, in words.
    Begin(String),
    /// It is over, in words.
    End(String),
    /// Anything else that is worth a word.
    Note(String),
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
    /// Nobody knows which operation it is.
    #[error("line {line} is of an operation without an `id`")]
    WithoutNumber {
        /// Which, from 1.
        line: usize,
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
        let id = self.fresh_id();
        let entry = Entry::Invoke { client, key: key.to_owned(), operation: operation.clone() };
        self.write(&Line { id: Some(id), at_ns: at.ns(), entry })?;
        Ok(UnderWay(id))
    }

    /// Its answer has come: call this after.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn returned(&mut self, call: UnderWay, answer: Answer, at: Time) -> io::Result<()> {
        self.write(&Line { id: Some(call.0), at_ns: at.ns(), entry: Entry::Return(answer) })
    }

    /// Something that is no operation of a store is about to begin.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&mut self, what: String, at: Time) -> io::Result<UnderWay> {
        let id = self.fresh_id();
        self.write(&Line { id: Some(id), at_ns: at.ns(), entry: Entry::Begin(what) })?;
        Ok(UnderWay(id))
    }

    /// It is over.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(&mut self, what: UnderWay, how: String, at: Time) -> io::Result<()> {
        self.write(&Line { id: Some(what.0), at_ns: at.ns(), entry: Entry::End(how) })
    }

    /// Something else has happened.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&mut self, note: String, at: Time) -> io::Result<()> {
        self.write(&Line { id: None, at_ns: at.ns(), entry: Entry::Note(note) })
    }

    fn fresh_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
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
    parse(&content(path)?)
}

/// The bytes of a history's file.
///
/// # Errors
/// When it cannot be read, or is no file: a pipe has no end.
pub fn content(path: &Path) -> Result<Vec<u8>, HistoryError> {
    let unreadable = |source| HistoryError::Unreadable { path: path.to_owned(), source };
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::other("it is no file")));
    }
    std::fs::read(path).map_err(unreadable)
}

/// The lines of a history. A last one without an end is that of a recorder that was killed while it wrote it, and is left out.
pub fn lines(history: &(impl AsRef<[u8]> + ?Sized)) -> impl Iterator<Item = Result<Line, HistoryError>> {
    let bytes = history.as_ref();
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    let whole = end.map(|end| bytes[..end].split(|byte| *byte == b'\n'));
    (1..).zip(whole.into_iter().flatten()).map(|(line, json)| parse_line(line, json))
}

fn parse_line(line: usize, json: &[u8]) -> Result<Line, HistoryError> {
    let malformed = |source| HistoryError::Malformed { line, source };
    let members: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(json).map_err(malformed)?;
    if members.keys().filter(|key| !["id", "at_ns"].contains(&key.as_str())).count() > 1 {
        return Err(malformed(serde::de::Error::custom("more than one entry, or a key that nobody knows")));
    }
    let parsed: Line = serde_json::from_value(members.into()).map_err(malformed)?;
    match parsed {
        Line { id: None, entry: Entry::Invoke { .. } | Entry::Return(_) | Entry::Begin(_) | Entry::End(_), .. } => {
            Err(HistoryError::WithoutNumber { line })
        }
        parsed => Ok(parsed),
    }
}

/// Reads the operations of a history.
///
/// # Errors
/// When it is none.
pub fn parse(history: &(impl AsRef<[u8]> + ?Sized)) -> Result<Vec<Call>, HistoryError> {
    let mut calls: Vec<Call> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    for (line, read) in (1..).zip(lines(history)) {
        let Line { id, at_ns, entry } = read?;
        let at = Time::from_ns(at_ns);
        let numbered = || id.ok_or(HistoryError::WithoutNumber { line });
        match entry {
            Entry::Begin(_) | Entry::End(_) | Entry::Note(_) => {}
            Entry::Invoke { client, key, operation } => {
                let id = numbered()?;
                if places.insert(id, calls.len()).is_some() {
                    return Err(HistoryError::InvokedTwice { line, id });
                }
                calls.push(Call { client, key, operation, invoked: at, returned: None });
            }
            Entry::Return(answer) => {
                let id = numbered()?;
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

/// Something that a client did, as it is told to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// What it was.
    pub what: String,
    /// When it began.
    pub began: Time,
    /// When it was over; `None`: nobody knows.
    pub ended: Option<Time>,
}

/// What clients did, in the order in which it began. What is over without having begun is left out: whether a history is right
/// is not for here.
pub fn deeds<'a>(lines: impl Iterator<Item = &'a Line>) -> Vec<Deed> {
    let mut deeds: Vec<Deed> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    for Line { id, at_ns, entry } in lines {
        let (Some(id), at) = (*id, Time::from_ns(*at_ns)) else { continue };
        let what = match entry {
            Entry::Invoke { client, key, operation } => one_line(&format!("{client}: {operation:?} of `{key}`")),
            Entry::Begin(what) => one_line(what),
            Entry::Return(_) | Entry::End(_) => {
                let deed = places.remove(&id).and_then(|place| deeds.get_mut(place));
                if let Some(deed) = deed {
                    deed.ended = Some(at.max(deed.began));
                }
                continue;
            }
            Entry::Note(_) => continue,
        };
        places.insert(id, deeds.len());
        deeds.push(Deed { what, began: at, ended: None });
    }
    deeds
}
