//! Console output on its way from a record log to the console ring.
//!
//! In the modes that record, console output has left when its entry is in the log: whoever takes over will not say it
//! again. The ring gets it from there, by absolute position, so that the same entry can be moved any number of times.

use ft_protocol::Generation;
use ft_protocol::controller::DrainOutcome;
use ft_protocol::record::{Entry, EntryBody, EntryError};
use shared_mem::console::ConsoleError;
use shared_mem::record_log::{LogTail, ReadLogError, is_log_position};
use shared_mem::{ConsolePosition, ConsoleRing, LogPosition, LogReader, PoolRead, PoolWrite};

/// Why console output was not taken from a log.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The log is damaged.
    #[error("the record log cannot be read")]
    Log(#[from] ReadLogError),
    /// An entry is none.
    #[error("log entry at {position} is refused")]
    Entry {
        /// Where it lies.
        position: LogPosition,
        /// What is wrong with it.
        source: EntryError,
    },
    /// The output belongs nowhere.
    #[error("console output of the log entry at {position} is refused")]
    Output {
        /// Where the entry lies.
        position: LogPosition,
        /// What is wrong with it.
        source: ConsoleError,
    },
    /// The log is shorter than a commit record says.
    #[error("the record log ends at {end}, a commit record says {expected}")]
    Short {
        /// Where it ends.
        end: LogPosition,
        /// Where the record says that it is.
        expected: LogPosition,
    },
    /// No entry lies there, or only what an epoch before has taken.
    #[error("a commit record says that the record log stood at {said}, the one before it said {before}")]
    Place {
        /// Where the record says that it is.
        said: LogPosition,
        /// Where the log was when the last applied epoch ended.
        before: LogPosition,
    },
    /// The ring cannot be used.
    #[error("the console cannot be used")]
    Console(#[from] ConsoleError),
}

impl DrainError {
    /// Whether what the log holds is wrong, rather than where somebody says that it ends, or the console.
    #[must_use]
    pub fn is_of_log(&self) -> bool {
        match self {
            Self::Log(error) => !matches!(error, ReadLogError::Access(_)),
            Self::Output { source, .. } => matches!(source, ConsoleError::Gap { .. } | ConsoleError::TooMany { .. }),
            Self::Entry { .. } => true,
            Self::Short { .. } | Self::Place { .. } | Self::Console(_) => false,
        }
    }
}

/// How far the reigning generation's log was read.
#[derive(Debug)]
pub struct LogDrain {
    generation: Option<Generation>,
    position: LogPosition,
    buffer: Vec<u8>,
}

impl Default for LogDrain {
    fn default() -> Self {
        Self::new()
    }
}

impl LogDrain {
    /// Has read nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { generation: None, position: LogPosition::ZERO, buffer: Vec::new() }
    }

    /// Reads the log of this generation; one that is new from where the last applied epoch left it. It need not go on where
    /// the one before was read to: what was damaged there is not in it, and its own entries come in that place.
    ///
    /// # Errors
    /// When nobody can say where that is.
    pub fn read_log_of<E>(
        &mut self,
        generation: Generation,
        begin: impl FnOnce() -> Result<LogPosition, E>,
    ) -> Result<(), E> {
        if self.generation != Some(generation) {
            (self.position, self.generation) = (begin()?, Some(generation));
        }
        Ok(())
    }

    /// Whether a record may say that its epoch ends at this place of the log: the next generation's log will begin there.
    ///
    /// # Errors
    /// When no sane writer says so behind an epoch that ended at `before`.
    pub fn check(said: LogPosition, before: LogPosition) -> Result<(), DrainError> {
        if said < before || !is_log_position(said) { Err(DrainError::Place { said, before }) } else { Ok(()) }
    }

    /// What lies before `limit`, where a record says that its epoch ends, is not read any more.
    ///
    /// # Errors
    /// When the log is known to end before that.
    pub fn pass<L: PoolRead>(&mut self, log: &LogReader<L>, limit: LogPosition) -> Result<(), DrainError> {
        if let Ok(LogTail { position: end, .. }) = log.tail()
            && end < limit
        {
            return Err(DrainError::Short { end, expected: limit });
        }
        self.position = self.position.max(limit);
        Ok(())
    }

    /// Moves all there is.
    pub fn outcome<L: PoolWrite, C: PoolWrite>(
        &mut self,
        log: &LogReader<L>,
        floor: Option<u64>,
        console: &ConsoleRing<C>,
    ) -> DrainOutcome {
        let drained = self.drain(log, None, console, floor);
        // A ring that cannot be read has said so already.
        let console_end = console.own_tail().map_or(0, ConsolePosition::get);
        match drained {
            Ok(true) => DrainOutcome::Done { console_end },
            Ok(false) => DrainOutcome::ConsoleFull { console_end },
            Err(error) => DrainOutcome::Refused { console_end, reason: crate::chain(&error) },
        }
    }

    /// Moves the output of entries before `limit`, or of all. `false`: the ring has no room that its readers have given
    /// back; what fitted is there.
    ///
    /// # Errors
    /// When the log, or the ring, holds what no sane writer leaves there.
    pub fn drain<L: PoolWrite, C: PoolWrite>(
        &mut self,
        log: &LogReader<L>,
        limit: Option<LogPosition>,
        console: &ConsoleRing<C>,
        floor: Option<u64>,
    ) -> Result<bool, DrainError> {
        if limit.is_some_and(|limit| self.position >= limit) {
            // The log is not asked: it may be damaged where nobody needs it, and an epoch is not refused for that.
            return Ok(true);
        }
        // What is shown must be there whoever dies next: only what lies before a durable tail is moved.
        let durable = log.durable_tail().map_err(ReadLogError::from)?.position;
        while limit.is_none_or(|limit| self.position < limit) {
            let position = self.position;
            let entry = if position < durable { log.read(position, &mut self.buffer)? } else { None };
            let Some(entry) = entry else {
                return match limit {
                    Some(expected) => Err(DrainError::Short { end: position, expected }),
                    None => Ok(true),
                };
            };
            let next = position.plus(entry.stored_bytes());
            let decoded = Entry::decode(entry.tag, entry.exit_counter, entry.payload);
            let decoded = decoded.map_err(|source| DrainError::Entry { position, source })?;
            if let EntryBody::Output { position: start, bytes } = &decoded.body {
                let start = ConsolePosition::new(*start);
                if limit.is_none() && start > console.own_tail()? {
                    // The guest has turned to a mode that records, and records from before that are still to be applied.
                    return Ok(true);
                }
                let refused = |source| DrainError::Output { position, source };
                console.check_append(start, bytes).map_err(refused)?;
                let end = start.get().saturating_add(bytes.len() as u64);
                if floor.is_some_and(|floor| end.saturating_sub(floor) > console.ring_bytes()) {
                    return Ok(false);
                }
                console.append(start, bytes).map_err(refused)?;
            }
            self.position = next;
        }
        Ok(true)
    }
}
