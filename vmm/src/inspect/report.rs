//! What an inspection finds, as data: printed for people by `ftvm pool inspect`, for programs as JSON.

use serde::Serialize;
use shared_mem::pool::device::DeviceUsage;
use std::fmt;
use std::path::PathBuf;

/// A pool, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolReport {
    /// Where it lies.
    pub dir: PathBuf,
    /// Version of its layout.
    pub layout: u32,
    /// Its random id, in hexadecimal digits.
    pub id: String,
    /// How many VMs it can hold.
    pub vm_slots: u16,
    /// How many hosts it can hold.
    pub host_slots: u16,
    /// The largest cluster state.
    pub cluster_bytes: u64,
    /// Whether a controller holds it.
    pub held: bool,
    /// The device that it lies on; `None`: it lies in a directory.
    pub device: Option<DeviceReport>,
    /// What the memory behind it has left (on a device: the largest piece); `None`: it does not say.
    pub available_bytes: Option<u64>,
    /// How written cache lines get into it: what is detected, unless the processes that use it are told otherwise.
    pub flush: String,
    /// The hosts that the cluster state names.
    pub hosts: Vec<HostReport>,
    /// The VMs that the directory names, and those that only the cluster state knows.
    pub vms: Vec<VmReport>,
    /// All that does not verify.
    pub findings: Vec<Finding>,
}

impl PoolReport {
    /// What a check of the pool comes to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let has = |severity| self.findings.iter().any(|finding| finding.severity == severity);
        if has(Severity::Damage) {
            Verdict::Damaged
        } else if has(Severity::InChange) {
            Verdict::InChange
        } else {
            Verdict::Sound
        }
    }
}

/// What a check comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All that can be verified verifies.
    Sound,
    /// Parts changed faster than they could be read; the rest verifies.
    InChange,
    /// Something is damaged.
    Damaged,
}

/// Something that does not verify, or is worth knowing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where: the file, and the VM it belongs to.
    pub place: String,
    /// What was found there.
    pub what: String,
    /// What follows from it.
    pub meaning: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; {}", self.severity, self.place, self.what, self.meaning)
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Bytes that no correct program has left.
    Damage,
    /// It changed at each look, so that nothing can be said of it.
    InChange,
    /// Not wrong, but worth knowing: leftovers of a crash, work that is half done.
    Notice,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damage => "damaged",
            Self::InChange => "in change",
            Self::Notice => "notice",
        })
    }
}

/// How a pool uses its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceReport {
    /// Its length.
    pub bytes: u64,
    /// Files that only the controller writes lie below this.
    pub controllers_end: u64,
    /// Files that hosts write lie from here on.
    pub hosts_begin: u64,
    /// Files in its table.
    pub files: usize,
    /// Pages that were the first of files of hosts that are gone: no such file begins there again.
    pub spent_pages: usize,
}

impl From<DeviceUsage> for DeviceReport {
    fn from(usage: DeviceUsage) -> Self {
        let DeviceUsage { bytes, controllers_end, hosts_begin, files, spent_pages } = usage;
        Self { bytes, controllers_end, hosts_begin, files, spent_pages }
    }
}

/// A host, as the pool knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostReport {
    /// Its number, which is that of its heartbeat page.
    pub slot: u16,
    /// Its name.
    pub name: String,
    /// It is to have no roles.
    pub draining: bool,
    /// Whether its heart beat while the pool was looked at.
    pub beating: bool,
    /// Beats of its last life; `None`: it never beat.
    pub beats: Option<u64>,
    /// Which life of the host beat last.
    pub incarnation: Option<u64>,
}

/// A VM's part of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmReport {
    /// Its slot in the VM directory; `None`: it has none.
    pub slot: Option<u16>,
    /// Its name.
    pub name: String,
    /// Guest memory.
    pub memory_bytes: u64,
    /// The disk; 0: it has none.
    pub disk_bytes: u64,
    /// What the cluster state says of it; `None`: nothing.
    pub cluster: Option<VmInCluster>,
    /// The control block; `None`: it cannot be read.
    pub control: Option<ControlReport>,
    /// Its journals, ascending.
    pub journals: Vec<JournalReport>,
    /// The epoch that was being applied.
    pub begun: Option<u64>,
    /// The same, if the controller has kept a copy of its record.
    pub kept: Option<u64>,
    /// Its record logs, ascending.
    pub logs: Vec<LogReport>,
    /// The two slots of the machine state.
    pub machine_state: Vec<StateReport>,
    /// The console; `None`: it cannot be read.
    pub console: Option<ConsoleReport>,
    /// What it is booted from; `None`: it cannot be read.
    pub boot: Option<BootReport>,
    /// What can be recovered from the pool alone.
    pub recoverable: Recoverable,
    /// Bytes that its files take.
    pub used_bytes: u64,
    /// Bytes that its files were promised from the beginning.
    pub reserved_bytes: u64,
}

/// A VM in the cluster state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmInCluster {
    /// Its number.
    pub vm: u16,
    /// The youngest generation.
    pub generation: u64,
    /// To whom that was given.
    pub primary: Option<String>,
    /// Takeovers so far.
    pub takeovers: u64,
    /// Switchovers so far.
    pub switchovers: u64,
    /// How its life ended.
    pub ended: Option<String>,
}

/// A control block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ControlReport {
    /// What stable image, machine state and console are at.
    pub applied: u64,
    /// Journal slots up to it may be written again.
    pub freed: u64,
    /// The generation that reigns, or did last; 0: none ever did.
    pub generation: u64,
}

/// What a journal is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JournalRole {
    /// Of a generation that is over and applied.
    Over,
    /// Of the generation that reigns, or did last.
    Reigning,
    /// Made ahead for the next generation; nobody has it yet.
    Reserved,
}

/// A journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JournalReport {
    /// Its generation.
    pub generation: u64,
    /// What it is good for.
    pub role: JournalRole,
    /// The epoch that the generation started from.
    pub base: Option<u64>,
    /// The last committed epoch; `None`: the commit word is damaged.
    pub committed: Option<u64>,
    /// Whether the generation is closed.
    pub sealed: Option<bool>,
    /// Its records that are committed, but not applied.
    pub pending: Vec<RecordReport>,
}

/// A record that is committed, but not applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordReport {
    /// Its epoch.
    pub epoch: u64,
    /// Why it cannot be applied; `None`: it can.
    pub refused: Option<String>,
    /// Pages in it.
    pub pages: u64,
    /// Blocks of the disk in it.
    pub blocks: u64,
    /// Console output in it.
    pub console_bytes: u64,
    /// Machine state in it.
    pub state_bytes: u64,
}

/// A record log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LogReport {
    /// Its generation.
    pub generation: u64,
    /// What it is good for.
    pub role: JournalRole,
    /// Where its first entry lies or lay.
    pub base: Option<u64>,
    /// Where it ends; `None`: it is not laid out yet, or its tail is damaged.
    pub tail: Option<u64>,
    /// Whether it is closed.
    pub sealed: Option<bool>,
    /// Sound entries, if it still has all since its first.
    pub entries: Option<u64>,
}

/// A slot of the machine state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StateReport {
    /// `A` for even epochs, `B` for odd ones.
    pub slot: char,
    /// The epoch that it should hold, or last held.
    pub epoch: u64,
    /// Whether that is what the stable image is at: the state that a takeover loads.
    pub counts: bool,
    /// Bytes of it; `None`: not whole. A slot that does not count may be half written.
    pub bytes: Option<u64>,
}

/// A console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ConsoleReport {
    /// Bytes that it has had.
    pub tail: u64,
    /// Bytes that its ring holds.
    pub ring_bytes: u64,
}

/// A boot image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BootReport {
    /// Its length.
    pub bytes: u64,
    /// Its CRC-32, as computed.
    pub crc32: u32,
}

/// What can be recovered from the pool alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recoverable {
    /// The last epoch that can; 0: the guest is booted anew. `None`: none.
    pub epoch: Option<u64>,
    /// Why this one.
    pub why: String,
}
