//! A journal: its words, and the records in it that are committed but not applied.

use super::Findings;
use super::report::{ControlReport, JournalReport, JournalRole, RecordReport};
use super::vm::map;
use crate::machine::MachineState;
use ft_protocol::commit_meta::{CommitMeta, CommitMetaError};
use shared_mem::commit_word::{CommitWord, CommitWordError};
use shared_mem::journal::{AllReserved, LoadError, META_BYTES_MAX};
use shared_mem::{
    Access, Epoch, Generation, JournalReader, Mapping, PAGE_SIZE, PageIndex, PagePlace, ReadOnly, RecordLimits,
    RedoArea, VmPartition, load_to_apply,
};

/// What has left the journals already.
pub(super) struct Applied {
    pub(super) epoch: Epoch,
    /// Where the console ends; `None`: not known.
    pub(super) console_tail: Option<u64>,
    /// The epoch after it, if its application was begun: no generation ends before that.
    pub(super) begun: Option<u64>,
}

/// A committed record that could not be applied.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Record(#[from] LoadError),
    #[error(transparent)]
    Meta(#[from] CommitMetaError),
    #[error("the machine state in it is refused")]
    State(#[from] crate::machine::StateError),
    #[error("its console output begins at {start}, but what is before it ends at {end}")]
    ConsoleGap { start: u64, end: u64 },
}

pub(super) fn report(
    partition: &VmPartition,
    generation: Generation,
    role: JournalRole,
    applied: &Applied,
    findings: &mut Findings,
) -> JournalReport {
    let mut report = JournalReport {
        generation: generation.get(),
        role,
        base: None,
        committed: None,
        sealed: None,
        pending: Vec::new(),
    };
    let file = format!("journal.{generation}");
    let memory = match map(partition.journal(generation, Access::ReadOnly)) {
        Ok(memory) => memory,
        Err(error) => {
            findings.damage(&file, crate::chain(&error), "what was committed in it and is not applied is lost");
            return report;
        }
    };
    let reader = match JournalReader::new(memory, generation, partition.geometry().journal) {
        Ok(reader) => reader,
        Err(error) => {
            findings.damage(&file, crate::chain(&error), "what was committed in it and is not applied is lost");
            return report;
        }
    };
    match reader.check_journal_header() {
        Ok(base) => report.base = Some(base.get()),
        Err(error) => findings.damage(&file, crate::chain(&error), "nobody relies on its header: nothing is lost"),
    }
    let word = reader.peek_word();
    if let Ok(word) = &word {
        report.committed = Some(word.epoch.get());
        report.sealed = Some(word.sealed);
    }
    // A journal that is over may be that of a writer which is fenced; one that is reserved is nobody's yet.
    if role == JournalRole::Reigning {
        let is_logged = super::log::is_used(partition, generation);
        report.pending =
            Pending { partition, reader: &reader, file: &file, applied, is_logged }.records(word, findings);
    }
    report
}

struct Pending<'a> {
    partition: &'a VmPartition,
    reader: &'a JournalReader<Mapping<ReadOnly>>,
    file: &'a str,
    applied: &'a Applied,
    /// Console output leaves by the record log too, before the records that follow it and behind the console's end.
    is_logged: bool,
}

impl Pending<'_> {
    fn records(&self, word: Result<CommitWord, CommitWordError>, findings: &mut Findings) -> Vec<RecordReport> {
        let slots = u64::from(self.reader.geometry().slots);
        let applied = self.applied.epoch.get();
        match word {
            Ok(word) => {
                let said = word.epoch.get();
                // A controller that goes on takes no less, whatever the word says.
                let committed = said.max(self.applied.begun.unwrap_or(0));
                if said < committed {
                    let what =
                        format!("its commit word is at epoch {said}, but epoch {committed} was begun to be applied");
                    findings.damage(self.file, what, "the word was changed after the fact; nothing is lost");
                } else if committed < applied {
                    let what = format!("its commit word is at epoch {committed}, but epoch {applied} is applied");
                    findings.damage(self.file, what, "the word was changed after the fact; nothing is lost");
                } else if committed - applied > slots {
                    let what = format!("its commit word is at epoch {committed}, {slots} slots after epoch {applied}");
                    findings.damage(self.file, what, "epochs that were never written cannot be recovered");
                }
                let last = committed.min(applied.saturating_add(slots));
                self.walk(last, Some(findings))
            }
            Err(error) => {
                let meaning = "nobody can publish under it: the generation ends at its last whole record";
                findings.damage(self.file, crate::chain(&error), meaning);
                let mut whole = self.walk(applied.saturating_add(slots), None);
                whole.retain(|record| record.refused.is_none());
                whole
            }
        }
    }

    /// Looks at all records after the applied epoch, up to `last` or the first that is refused. Refusals are findings only
    /// where the records are known to be committed.
    fn walk(&self, last: u64, mut findings: Option<&mut Findings>) -> Vec<RecordReport> {
        let mut console_end = self.applied.console_tail;
        let mut records: Vec<RecordReport> = Vec::new();
        let mut buffer = Vec::new();
        for epoch in self.applied.epoch.get().saturating_add(1)..=last {
            let mut report =
                RecordReport { epoch, refused: None, pages: 0, blocks: 0, console_bytes: 0, state_bytes: 0 };
            let first = records.is_empty();
            if let Err(refusal) = self.record(&mut report, &mut buffer, first, &mut console_end) {
                let why = crate::chain(&refusal);
                if let Some(findings) = &mut findings {
                    let meaning =
                        format!("epoch {epoch} and those after it are lost: the VM goes on from the one before");
                    findings.damage(self.file, format!("record of epoch {epoch}: {why}"), meaning);
                }
                report.refused = Some(why);
            }
            let refused = report.refused.is_some();
            records.push(report);
            if refused {
                break;
            }
        }
        records
    }

    fn record(
        &self,
        report: &mut RecordReport,
        buffer: &mut Vec<u8>,
        first: bool,
        console_end: &mut Option<u64>,
    ) -> Result<(), Refusal> {
        let limits = limits(self.partition);
        let epoch = Epoch::new(report.epoch);
        // A controller that goes on takes the copy, if there is one.
        let record = match area(self.partition) {
            Some(area) => load_to_apply(self.reader, &area, epoch, &limits, buffer)?,
            None => self.reader.load(epoch, &limits, buffer)?,
        };
        let is_block = |page: &PageIndex| matches!(page.place(), PagePlace::Disk(_));
        report.blocks = length(record.page_indices().filter(is_block).count());
        report.pages = length(record.page_count()) - report.blocks;
        let meta = CommitMeta::decode(record.meta())?;
        report.console_bytes = length(meta.console.len());
        report.state_bytes = length(meta.machine_state.len());
        MachineState::decode(meta.machine_state)?;
        if let Some(end) = *console_end
            && !self.is_logged
        {
            // The first one may be applied in part: then the console has some of its output, or all of it.
            let (start, own_end) = (meta.console_start, meta.console_end());
            let fits = if first { (start..=own_end).contains(&end) } else { start == end };
            if !fits {
                return Err(Refusal::ConsoleGap { start, end });
            }
        }
        *console_end = Some(meta.console_end());
        Ok(())
    }
}

/// The application of an epoch, where a controller was in the middle of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    /// The epoch after the applied one: image and disk may be on their way to it.
    pub(super) epoch: u64,
    /// Whether a copy of its record is kept.
    pub(super) is_kept: bool,
    /// Whether a whole record of it is left, there or in the journal.
    pub(super) is_whole: bool,
}

/// What was being applied, if anything was.
pub(super) fn begun(partition: &VmPartition, control: ControlReport) -> Option<Begun> {
    let (generation, next) = (Generation::new(control.generation), Epoch::new(control.applied).next());
    let (area, limits, mut buffer) = (area(partition)?, limits(partition), Vec::new());
    if !area.is_begun(generation, next, &limits).ok()? {
        return None;
    }
    let is_kept = area.holds(generation, next, &limits, &mut buffer).ok()?;
    let reader = map(partition.journal(generation, Access::ReadOnly)).ok();
    let reader = reader.and_then(|memory| JournalReader::new(memory, generation, partition.geometry().journal).ok());
    let in_journal = |reader| load_to_apply(&reader, &area, next, &limits, &mut buffer).is_ok();
    Some(Begun { epoch: next.get(), is_kept, is_whole: is_kept || reader.is_some_and(in_journal) })
}

fn area(partition: &VmPartition) -> Option<RedoArea<Mapping<ReadOnly>, AllReserved>> {
    let memory = map(partition.redo(Access::ReadOnly)).ok()?;
    RedoArea::new(memory, AllReserved, partition.geometry().journal.reserved_bytes).ok()
}

fn limits(partition: &VmPartition) -> RecordLimits {
    RecordLimits {
        image_pages: partition.geometry().memory_bytes / PAGE_SIZE,
        disk_blocks: partition.geometry().disk_bytes / PAGE_SIZE,
        meta_bytes_max: META_BYTES_MAX,
    }
}

fn length(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
