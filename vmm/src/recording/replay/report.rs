//! What a replay has to say when it stops.

use crate::machine::{NamedRegister, StateDifference};
use ft_protocol::commit_meta::GuestEnd;
use serde::{Serialize, Serializer};
use std::fmt;

/// Most pages of a divergence that are told one by one.
pub(super) const PAGES_TOLD_MAX: usize = 16;
/// Bytes of a page that are told.
pub(super) const PAGE_BYTES_TOLD: usize = 16;

/// Why a replay stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum Stopped {
    /// The guest ended, as it did when it was recorded.
    GuestEnded {
        /// How.
        end: String,
        /// Its exit code, if it had one.
        code: Option<u32>,
    },
    /// At the exit or epoch that was asked for.
    AsAsked,
    /// At the last commit before the exit that was asked for: in checkpoint mode no inputs are recorded.
    NotRecorded {
        /// The exit that it stopped at.
        from: u64,
        /// The first one behind that can be stopped at.
        to: u64,
    },
    /// The recording ends before the guest does; it says why.
    LeftOff {
        /// Its reason.
        reason: String,
    },
    /// The recording is cut off or damaged. Everything before that was replayed.
    Damaged {
        /// What is wrong.
        damage: String,
        /// How many bytes of the file are good.
        good_bytes: u64,
    },
    /// The guest did not do what the recorded one did.
    Diverged(DivergenceReport),
}

impl Stopped {
    pub(super) fn of_end(end: &GuestEnd) -> Self {
        match end {
            GuestEnd::Exited(code) => Self::GuestEnded { end: format!("exited with {code}"), code: Some(*code) },
            GuestEnd::Crashed(line) => Self::GuestEnded { end: format!("crashed: {line}"), code: None },
        }
    }
}

/// A divergence, with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DivergenceReport {
    /// The exit at which it showed.
    pub exit: u64,
    /// What was expected there, and what came.
    pub line: String,
    /// The last exit and epoch at which everything agreed.
    pub agreed_at_exit: u64,
    /// See above.
    pub agreed_at_epoch: Option<u64>,
    /// Registers and devices that differ; empty where the recording has no state for this point.
    pub registers: Vec<StateDifference>,
    /// Pages that differ, the first of them.
    pub pages: Vec<PageDifference>,
    /// How many pages differ.
    pub pages_in_all: u64,
    /// Blocks of the disk that differ, the first of them.
    pub blocks: Vec<BlockDifference>,
}

/// A block of the disk that is not what was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockDifference {
    /// Its number.
    pub block: u64,
    /// Its hash in the recording; `None`: the recorded guest did not write it.
    #[serde(serialize_with = "some_as_hex")]
    pub expected: Option<u64>,
    /// Its hash here.
    #[serde(serialize_with = "some_as_hex")]
    pub got: Option<u64>,
}

/// A page that is not what was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PageDifference {
    /// Guest physical address of its first byte.
    #[serde(serialize_with = "as_hex")]
    pub address: u64,
    /// Its hash in the recording.
    #[serde(serialize_with = "as_hex")]
    pub expected: u64,
    /// Its hash here.
    #[serde(serialize_with = "as_hex")]
    pub got: u64,
    /// Its first bytes that are not zero here, and where they are in the page.
    pub got_bytes: String,
}

/// What a replay came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplayReport {
    /// Why it stopped.
    #[serde(flatten)]
    pub stopped: Stopped,
    /// The guest's last exit.
    pub exit: u64,
    /// The last commit that was passed.
    pub epoch: Option<u64>,
    /// Console bytes that the guest had ever written.
    pub console_bytes: u64,
    /// Entries that were used.
    pub entries: u64,
    /// Commits whose memory and state were held against the replay's, and agreed.
    pub commits_verified: u64,
    /// Commits that no replay can come to by itself, whose state was taken from the recording.
    pub commits_taken: u64,
    /// A number for all of the guest's memory.
    #[serde(serialize_with = "as_hex")]
    pub memory_digest: u64,
    /// A number for all of the guest's registers and devices.
    #[serde(serialize_with = "as_hex")]
    pub state_digest: u64,
    /// The registers.
    pub registers: Vec<NamedRegister>,
    /// The bytes at the instruction pointer.
    pub code: String,
}

/// JSON's numbers are not whole beyond 2^53.
fn as_hex<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:#x}"))
}

fn some_as_hex<S: Serializer>(number: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) => as_hex(number, serializer),
        None => serializer.serialize_none(),
    }
}

impl fmt::Display for DivergenceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "diverged at {}", self.line)?;
        let epoch = self.agreed_at_epoch.map_or_else(String::new, |epoch| format!(", epoch {epoch}"));
        write!(f, "  the last commit that agreed was at exit {}{epoch}", self.agreed_at_exit)?;
        for difference in &self.registers {
            let StateDifference { what, expected, got } = difference;
            write!(f, "\n  {what}: expected {expected}, got {got}")?;
        }
        for page in &self.pages {
            let PageDifference { address, expected, got, got_bytes } = page;
            write!(f, "\n  page at {address:#x}: expected hash {expected:#018x}, got {got:#018x}; it has {got_bytes}")?;
        }
        for block in &self.blocks {
            let BlockDifference { block, expected, got } = block;
            match expected.zip(*got) {
                Some((expected, got)) => {
                    write!(f, "\n  block {block} of the disk: expected hash {expected:#018x}, got {got:#018x}")?;
                }
                None => write!(f, "\n  block {block} of the disk: expected not to be written, got written")?,
            }
        }
        match self.pages_in_all.saturating_sub(self.pages.len() as u64) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more pages"),
        }
    }
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stopped {
            Stopped::GuestEnded { end, .. } => writeln!(f, "the guest {end}")?,
            Stopped::AsAsked => writeln!(f, "stopped as asked")?,
            Stopped::NotRecorded { from, to } => writeln!(
                f,
                "stopped at exit {from}: inputs were not recorded from there to exit {to} (checkpoint mode); ask for one of the two"
            )?,
            Stopped::LeftOff { reason } => writeln!(f, "the recording ends here: {reason}")?,
            Stopped::Damaged { damage, good_bytes } => {
                writeln!(f, "the recording is good to byte {good_bytes} only: {damage}")?;
            }
            Stopped::Diverged(report) => writeln!(f, "{report}")?,
        }
        let epoch = self.epoch.map_or_else(|| "no epoch".to_owned(), |epoch| format!("epoch {epoch}"));
        writeln!(f, "at exit {}, {epoch}, console byte {}", self.exit, self.console_bytes)?;
        writeln!(
            f,
            "{} entries replayed, {} commits verified, {} taken from the recording",
            self.entries, self.commits_verified, self.commits_taken
        )?;
        writeln!(f, "memory {:#018x}, state {:#018x}", self.memory_digest, self.state_digest)?;
        for row in self.registers.chunks(4) {
            let cells: Vec<String> = row
                .iter()
                .map(|register| format!("{:>7}={:<18}", register.name, format!("{:#x}", register.value)))
                .collect();
            writeln!(f, "{}", cells.join(" ").trim_end())?;
        }
        write!(f, "code at rip: {}", self.code)
    }
}
