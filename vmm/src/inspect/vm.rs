//! One look at one VM's part of the pool.

use super::Findings;
use super::journal::{self, Applied, Begun};
use super::log;
use super::report::{
    BootReport, ConsoleReport, ControlReport, JournalReport, JournalRole, LogReport, Recoverable, StateReport,
    VmInCluster, VmReport,
};
use crate::machine::linux::HEADER_BYTES as BUNDLE_HEADER_BYTES;
use crate::machine::{MachineState, guest_machine};
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::controller::{HostRecord, VmRecord};
use shared_mem::mem::MapError;
use shared_mem::pool::FileKind;
use shared_mem::superblock::CONTROL_TWICE_SINCE;
use shared_mem::{
    Access, ConsoleRing, ControlBlock, Epoch, Extent, Generation, JournalReader, LogReader, Mapping, PoolError,
    PoolView, ReadOnly, StateArea, VmGeometry, VmPartition, VmSlot, boot_image,
};

/// A part cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartError {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Map(#[from] MapError),
}

pub(super) fn map(extent: Result<Extent, PoolError>) -> Result<Mapping<ReadOnly>, PartError> {
    Ok(Mapping::read_only(&extent?)?)
}

/// All that moves when a VM's part of the pool changes, as text: equal stamps around a look say that nothing moved.
pub(super) fn stamp(view: &PoolView, slot: VmSlot) -> Vec<String> {
    let cluster = super::cluster(view).map(|state| state.map(|state| state.encode()));
    let mut stamp = vec![format!("{:?}", view.entry(slot)), format!("{cluster:?}")];
    if let Ok(partition) = view.open_vm(slot) {
        if let Ok(Ok(control)) = map(partition.control(Access::ReadOnly)).map(ControlBlock::open) {
            stamp.push(format!("{:?} {:?} {:?}", control.applied(), control.freed(), control.generation()));
        }
        if let Ok(Ok(console)) = map(partition.console(Access::ReadOnly)).map(ConsoleRing::open) {
            stamp.push(format!("{:?}", console.tail()));
        }
        // Which files there are, but not what space they take: the image grows without a word about it.
        let names: Vec<String> = partition.files().unwrap_or_default().into_iter().map(|(name, ..)| name).collect();
        stamp.push(names.join(" "));
        for generation in partition.journal_generations().unwrap_or_default() {
            let memory = map(partition.journal(generation, Access::ReadOnly));
            let word = memory.map(|memory| {
                JournalReader::new(memory, generation, partition.geometry().journal).map(|journal| journal.peek_word())
            });
            stamp.push(format!("{generation} {word:?}"));
        }
        for generation in partition.log_generations().unwrap_or_default() {
            let memory = map(partition.log(generation, Access::ReadOnly));
            let tail =
                memory.map(|memory| LogReader::new(memory, partition.geometry().log_bytes).map(|log| log.tail()));
            stamp.push(format!("log {generation} {tail:?}"));
        }
    }
    stamp
}

/// One look.
pub(super) struct Look<'a> {
    pub(super) partition: &'a VmPartition,
    pub(super) record: Option<&'a VmRecord>,
    pub(super) hosts: &'a [HostRecord],
    /// The pool's layout version.
    pub(super) layout: u32,
    /// A controller has the pool.
    pub(super) held: bool,
}

impl Look<'_> {
    pub(super) fn report(&self, findings: &mut Findings) -> VmReport {
        let geometry = self.partition.geometry();
        self.check_record(findings);
        let control = self.control(findings);
        let (machine_state, state) = self.machine_state(control, findings);
        let console = self.console(findings);
        self.check_console(control, state.as_ref(), console, findings);
        self.check_image(findings);
        let begun = control.and_then(|control| journal::begun(self.partition, control));
        let journals = self.journals(control, console, begun, findings);
        let logs = self.logs(control, findings);
        let kept = begun.filter(|begun| begun.is_kept).map(|begun| begun.epoch);
        let boot = self.boot(has_run(control, kept, &journals), state.as_ref(), findings);
        let recoverable = match begun.and_then(|begun| torn(begun, findings)) {
            Some(why) => Recoverable { epoch: None, why },
            None => self.recoverable(control, state.is_some(), boot.is_some(), &journals, kept),
        };
        VmReport {
            slot: Some(self.partition.slot().get()),
            name: self.partition.name().to_string(),
            memory_bytes: geometry.memory_bytes,
            disk_bytes: geometry.disk_bytes,
            cluster: self.record.map(|record| in_cluster(record, self.hosts)),
            control,
            reserved_bytes: reserved_bytes(geometry, boot, journals.len(), logs.len()),
            journals,
            logs,
            begun: begun.map(|begun| begun.epoch),
            kept,
            machine_state,
            console,
            boot,
            recoverable,
            used_bytes: self.files(findings),
        }
    }

    fn check_record(&self, findings: &mut Findings) {
        let Some(record) = self.record else {
            findings.notice(
                "",
                "the cluster state does not name this VM",
                "it is being made or deleted, or its maker died: nobody runs it",
            );
            return;
        };
        let (spec, geometry) = (&record.spec, self.partition.geometry());
        let journal = (spec.journal.slots, spec.journal.slot_bytes, spec.journal.reserved_bytes);
        let same = spec.memory_bytes == geometry.memory_bytes
            && journal == (geometry.journal.slots, geometry.journal.slot_bytes, geometry.journal.reserved_bytes);
        if !same {
            findings.damage(
                "",
                "cluster state and VM directory disagree about its shape",
                "hosts would look for its records in the wrong places",
            );
        }
    }

    fn control(&self, findings: &mut Findings) -> Option<ControlReport> {
        let meaning = "what is applied is not known: the VM cannot be recovered";
        let control = match map(self.partition.control(Access::ReadOnly)).map(ControlBlock::open) {
            Ok(Ok(control)) => control,
            Ok(Err(error)) => {
                findings.damage("control", crate::chain(&error), meaning);
                return None;
            }
            Err(error) => {
                findings.damage("control", crate::chain(&error), self.without_it(&error, meaning));
                return None;
            }
        };
        // Freed before applied: while both move on, freed must not seem to be ahead.
        let freed = control.freed();
        let words = control.applied().and_then(|applied| Ok((applied, control.generation()?)));
        let (applied, generation) = match words {
            Ok(words) => words,
            Err(error) => {
                findings.damage("control", crate::chain(&error), meaning);
                return None;
            }
        };
        let freed = freed.unwrap_or_else(|error| {
            let meaning = "the freed epoch is not known: no slot is written again before a controller that starts, or opens a generation, has set it";
            findings.damage("control", crate::chain(&error), meaning);
            Epoch::ZERO
        });
        if freed > applied {
            let what = format!("epochs up to {freed} are freed, but only those up to {applied} are applied");
            findings.damage("control", what, "records may be overwritten before they are applied");
        }
        if self.layout >= CONTROL_TWICE_SINCE
            && let Some(error) = control.damage()
        {
            let meaning = "nothing is lost: there is another one, a controller mends it";
            findings.damage("control", format!("a copy of it: {}", crate::chain(&error)), meaning);
        }
        self.check_generation(generation, findings);
        Some(ControlReport { applied: applied.get(), freed: freed.get(), generation: generation.get() })
    }

    fn check_generation(&self, generation: Generation, findings: &mut Findings) {
        let Some(record) = self.record else { return };
        let named = record.generation.get();
        if generation.get() > named || generation.get() + 1 < named {
            let what = format!("generation {generation} reigns, but the cluster state has given generation {named}");
            findings.damage("control", what, "two primaries may believe that they reign");
        } else if generation.get() < named && generation.get() > 0 {
            let what = format!("generation {named} is given, but not opened yet");
            findings.notice("control", what, "a takeover is under way, or was interrupted: a controller finishes it");
        }
    }

    /// The two slots, and the state of the applied epoch if it is sound.
    fn machine_state(
        &self,
        control: Option<ControlReport>,
        findings: &mut Findings,
    ) -> (Vec<StateReport>, Option<MachineState>) {
        let Some(applied) = control.map(|control| control.applied) else { return (Vec::new(), None) };
        let area = match map(self.partition.state(Access::ReadOnly)) {
            Ok(memory) => StateArea::new(memory),
            Err(error) => {
                let meaning = self.without_it(&error, "no takeover can load it");
                findings.damage("state", crate::chain(&error), meaning);
                return (Vec::new(), None);
            }
        };
        let mut counting = None;
        let mut slots = Vec::new();
        // The slot that does not count holds the epoch before, or the next one, or half of that.
        for (epoch, counts) in [(applied, true), (applied.wrapping_sub(1), false)] {
            if applied == 0 {
                break;
            }
            let read = area.read(Epoch::new(epoch));
            let slot = if epoch % 2 == 0 { 'A' } else { 'B' };
            let bytes = read.as_ref().ok().and_then(|state| u64::try_from(state.len()).ok());
            slots.push(StateReport { slot, epoch, counts, bytes });
            if counts {
                counting = sound_state(read, epoch, findings);
            }
        }
        slots.sort_by_key(|slot| slot.slot);
        (slots, counting)
    }

    fn console(&self, findings: &mut Findings) -> Option<ConsoleReport> {
        let meaning = "its output cannot be read or continued";
        let read = map(self.partition.console(Access::ReadOnly)).map(|memory| {
            let console = ConsoleRing::open(memory)?;
            console.check()?;
            Ok::<_, shared_mem::console::ConsoleError>((console.ring_bytes(), console.tail()?))
        });
        match read {
            Ok(Ok((ring_bytes, tail))) => {
                if ring_bytes != self.partition.geometry().console_bytes {
                    let what = format!("a ring of {ring_bytes} bytes, the VM directory has another size");
                    findings.damage("console", what, meaning);
                }
                Some(ConsoleReport { tail: tail.get(), ring_bytes })
            }
            Ok(Err(error)) => {
                findings.damage("console", crate::chain(&error), meaning);
                None
            }
            Err(error) => {
                findings.damage("console", crate::chain(&error), self.without_it(&error, meaning));
                None
            }
        }
    }

    /// The console is never behind the machine state that is applied, and ahead of it only by a record that is being
    /// applied, which the journal's records are held against.
    fn check_console(
        &self,
        control: Option<ControlReport>,
        state: Option<&MachineState>,
        console: Option<ConsoleReport>,
        findings: &mut Findings,
    ) {
        let (Some(control), Some(state), Some(console)) = (control, state, console) else { return };
        let position = state.console_position();
        if console.tail < position {
            let what = format!(
                "it ends at {}, but the machine state of epoch {} has written up to {position}",
                console.tail, control.applied
            );
            findings.damage("console", what, "output is missing");
        }
    }

    /// What the guest is booted from. One that has run is not booted any more: its hosts only look what kind of guest it is.
    fn boot(&self, has_run: bool, state: Option<&MachineState>, findings: &mut Findings) -> Option<BootReport> {
        let meaning = match has_run {
            true => "no host can stand by any more: the guest runs on without protection",
            false => "a guest that has not committed anything cannot be booted",
        };
        let loaded = map(self.partition.boot(Access::ReadOnly))
            .map(|memory| boot_image::load(&memory).map_err(|error| (error, says_kind(&memory, state))));
        match loaded {
            Ok(Ok(image)) => {
                Some(BootReport { bytes: u64::try_from(image.len()).ok()?, crc32: crc32fast::hash(&image) })
            }
            Ok(Err((error, true))) if has_run => {
                let meaning = "nothing is lost: the guest has run, and is not booted again";
                findings.notice("boot", crate::chain(&error), meaning);
                None
            }
            Ok(Err((error, _))) => {
                findings.damage("boot", crate::chain(&error), meaning);
                None
            }
            // A VM gets its directory entry before its boot image, and its place in the cluster state after it.
            Err(error) if self.record.is_none() => {
                findings.notice("boot", crate::chain(&error), "the VM was not completed");
                None
            }
            Err(error) => {
                findings.damage("boot", crate::chain(&error), meaning);
                None
            }
        }
    }

    /// The image has no check of its own: that it is all there is all that can be said.
    fn check_image(&self, findings: &mut Findings) {
        let mut check = |file, part: Result<Extent, PoolError>, meaning| {
            if let Err(error) = part.map_err(PartError::from) {
                findings.damage(file, crate::chain(&error), self.without_it(&error, meaning));
            }
        };
        check("image", self.partition.image(Access::ReadOnly), "the guest's memory is lost");
        if self.layout >= 3 {
            check("redo", self.partition.redo(Access::ReadOnly), "the VM cannot be gone on with");
        }
        if self.partition.geometry().disk_bytes > 0 {
            check("disk", self.partition.disk(Access::ReadOnly), "the guest's disk is lost");
        }
    }

    /// What it means that a part cannot be had: where it is only gone, those who have it open do not miss it.
    fn without_it(&self, error: &PartError, meaning: &str) -> String {
        if self.held && is_gone(error) {
            format!("the controller goes on with what it has open; for one that comes after it, {meaning}")
        } else {
            meaning.to_owned()
        }
    }

    fn journals(
        &self,
        control: Option<ControlReport>,
        console: Option<ConsoleReport>,
        begun: Option<Begun>,
        findings: &mut Findings,
    ) -> Vec<JournalReport> {
        let Some(control) = control else { return Vec::new() };
        let generations = match self.partition.journal_generations() {
            Ok(generations) => generations,
            Err(error) => {
                findings.damage("", crate::chain(&error), "its journals cannot be found");
                return Vec::new();
            }
        };
        let reigning = Generation::new(control.generation);
        if control.generation > 0 && !self.is_over() && !generations.contains(&reigning) {
            let meaning = "what was committed after the applied epoch is lost";
            findings.damage(&format!("journal.{reigning}"), "the reigning generation has no journal", meaning);
        }
        let applied = Applied {
            epoch: Epoch::new(control.applied),
            console_tail: console.map(|console| console.tail),
            begun: begun.map(|begun| begun.epoch),
        };
        let report = |generation: Generation| {
            let role = role(generation, reigning);
            self.judge(role, findings, |findings| journal::report(self.partition, generation, role, &applied, findings))
        };
        generations.into_iter().map(report).collect()
    }

    /// The guest has ended, which was applied last.
    fn is_over(&self) -> bool {
        self.record.is_some_and(|record| record.ended.is_some())
    }

    /// Looks at a journal or log. Only what somebody will read can be damaged: one that is over is forgotten, one that is
    /// reserved is laid out anew before it is used.
    fn judge<T>(&self, role: JournalRole, findings: &mut Findings, look: impl FnOnce(&mut Findings) -> T) -> T {
        match role {
            _ if self.is_over() => findings.of_unused("the guest's life is over: nobody reads it again", look),
            JournalRole::Over => findings.of_unused("its generation is over and applied: nobody reads it again", look),
            JournalRole::Reserved => findings.of_unused("it is laid out anew before it is used", look),
            JournalRole::Reigning => look(findings),
        }
    }

    fn logs(&self, control: Option<ControlReport>, findings: &mut Findings) -> Vec<LogReport> {
        let reigning = Generation::new(control.map_or(0, |control| control.generation));
        // A directory that cannot be listed is told when the journals are looked for.
        let generations = self.partition.log_generations().unwrap_or_default();
        let report = |generation| {
            let role = role(generation, reigning);
            self.judge(role, findings, |findings| log::report(self.partition, generation, role, findings))
        };
        generations.into_iter().map(report).collect()
    }

    /// The last epoch that can be rebuilt from the pool alone, as a controller and a host that start now would do it.
    fn recoverable(
        &self,
        control: Option<ControlReport>,
        state_is_sound: bool,
        boots: bool,
        journals: &[JournalReport],
        kept: Option<u64>,
    ) -> Recoverable {
        let Some(control) = control else {
            return Recoverable { epoch: None, why: self.without_control() };
        };
        let applied = control.applied;
        let reigning = journals.iter().find(|journal| journal.role == JournalRole::Reigning);
        let pending = reigning.map_or(&[][..], |journal| &journal.pending);
        let sound = pending.iter().take_while(|record| record.refused.is_none()).last();
        let base = match (applied, state_is_sound) {
            (0, _) => "nothing is applied yet".to_owned(),
            (_, true) => format!("epoch {applied} is applied"),
            (_, false) => format!("epoch {applied} is applied, but its machine state is damaged"),
        };
        // The copy is finished even where the journal is lost.
        let kept = kept.filter(|_| pending.is_empty());
        let reaches = sound.map(|record| record.epoch).or(kept).unwrap_or(applied);
        let possible = sound.is_some() || kept.is_some() || if applied == 0 { boots } else { state_is_sound };
        let beyond = match (sound, pending.iter().find(|record| record.refused.is_some())) {
            (None, None) if kept.is_some() => format!("the copy of the record of epoch {reaches} is sound"),
            (None, None) => "the journal holds nothing newer".to_owned(),
            (Some(last), None) => format!("the journal's records up to epoch {} are sound", last.epoch),
            (_, Some(refused)) => format!("the record of epoch {} is refused", refused.epoch),
        };
        let end = match self.record.and_then(|record| record.ended.as_ref()) {
            Some(_) => "; the guest's life is over",
            None => "",
        };
        Recoverable { epoch: possible.then_some(reaches), why: format!("{base}; {beyond}{end}") }
    }

    fn without_control(&self) -> String {
        let gone = map(self.partition.control(Access::ReadOnly)).is_err_and(|error| is_gone(&error));
        match (gone, self.held) {
            (true, true) => "the control block is gone: only the controller that has it open knows what is applied",
            (true, false) => "the control block is gone",
            (false, _) => "the control block is damaged",
        }
        .to_owned()
    }

    /// The space that the VM's files take.
    fn files(&self, findings: &mut Findings) -> u64 {
        let files = match self.partition.files() {
            Ok(files) => files,
            Err(error) => {
                findings.damage("", crate::chain(&error), "leftovers cannot be found");
                return 0;
            }
        };
        for (name, kind, _) in &files {
            match kind {
                FileKind::Unfinished => {
                    findings.notice(name, "it was being made", "removed by the next controller, if not completed");
                }
                FileKind::Unknown => findings.notice(name, "it is no part of a VM", "nobody uses it"),
                _ => {}
            }
        }
        files.iter().map(|(_, _, bytes)| bytes).sum()
    }
}

fn is_gone(error: &PartError) -> bool {
    let missing = |source: &std::io::Error| source.kind() == std::io::ErrorKind::NotFound;
    matches!(error, PartError::Pool(PoolError::File { source, .. }) if missing(source))
}

/// Whether there is an epoch to go on from.
fn has_run(control: Option<ControlReport>, kept: Option<u64>, journals: &[JournalReport]) -> bool {
    let reigning = journals.iter().find(|journal| journal.role == JournalRole::Reigning);
    let pending = reigning.and_then(|journal| journal.pending.first());
    control.is_some_and(|control| control.applied > 0)
        || kept.is_some()
        || pending.is_some_and(|record| record.refused.is_none())
}

/// Whether a host that is to stand by learns what kind of guest it is; the machine state, where there is one, must be of that
/// kind.
fn says_kind(boot: &Mapping<ReadOnly>, state: Option<&MachineState>) -> bool {
    let start = boot_image::load_start(boot, BUNDLE_HEADER_BYTES).ok();
    let kind = start.and_then(|start| guest_machine(&start).ok());
    kind.is_some_and(|linux| state.is_none_or(|state| state.is_linux() == linux.is_some()))
}

/// Why no epoch is recoverable, if a part of a record was applied that is lost.
fn torn(begun: Begun, findings: &mut Findings) -> Option<String> {
    if begun.is_whole {
        return None;
    }
    let why = format!("epoch {} was begun to be applied, and no whole record of it is left", begun.epoch);
    findings.damage("redo", &why, "image and disk may hold a part of it: the VM cannot be recovered");
    Some(why)
}

fn role(generation: Generation, reigning: Generation) -> JournalRole {
    match generation.cmp(&reigning) {
        std::cmp::Ordering::Less => JournalRole::Over,
        std::cmp::Ordering::Equal => JournalRole::Reigning,
        std::cmp::Ordering::Greater => JournalRole::Reserved,
    }
}

fn sound_state(
    read: Result<Vec<u8>, shared_mem::state_area::StateError>,
    epoch: u64,
    findings: &mut Findings,
) -> Option<MachineState> {
    let meaning = format!("epoch {epoch} cannot be resumed");
    match read {
        Ok(bytes) => match MachineState::decode(&bytes) {
            Ok(state) => Some(state),
            Err(error) => {
                findings.damage("state", format!("epoch {epoch}: {}", crate::chain(&error)), meaning);
                None
            }
        },
        Err(error) => {
            findings.damage("state", format!("epoch {epoch}: {}", crate::chain(&error)), meaning);
            None
        }
    }
}

fn in_cluster(record: &VmRecord, hosts: &[HostRecord]) -> VmInCluster {
    let name = |host: ft_protocol::HostId| hosts.get(usize::from(host.get())).map(|host| host.name.clone());
    VmInCluster {
        vm: record.vm.get(),
        generation: record.generation.get(),
        primary: record.primary.and_then(name),
        takeovers: record.takeovers,
        switchovers: record.switchovers,
        ended: record.ended.as_ref().map(|end| match end {
            GuestEnd::Exited(code) => format!("exited with {code}"),
            GuestEnd::Crashed(line) => format!("crashed: {line}"),
        }),
    }
}

/// A VM without a place in the pool.
pub(super) fn homeless(record: &VmRecord, hosts: &[HostRecord]) -> VmReport {
    VmReport {
        slot: None,
        name: record.spec.name.clone(),
        memory_bytes: record.spec.memory_bytes,
        disk_bytes: 0,
        cluster: Some(in_cluster(record, hosts)),
        control: None,
        journals: Vec::new(),
        logs: Vec::new(),
        begun: None,
        kept: None,
        machine_state: Vec::new(),
        console: None,
        boot: None,
        recoverable: Recoverable { epoch: None, why: "it has no place in the pool".to_owned() },
        used_bytes: 0,
        reserved_bytes: 0,
    }
}

/// What the VM was promised when it was made, with the journals that it has now.
fn reserved_bytes(geometry: &VmGeometry, boot: Option<BootReport>, journals: usize, logs: usize) -> u64 {
    let times = |bytes: u64, count: usize| bytes.saturating_mul(u64::try_from(count).unwrap_or(u64::MAX));
    let large = if geometry.sparse { 0 } else { geometry.memory_bytes.saturating_add(geometry.disk_bytes) };
    let journal = geometry.journal.reserved_ranges().map(|(_, len)| len).sum::<u64>();
    large
        .saturating_add(shared_mem::control::CONTROL_BYTES)
        .saturating_add(shared_mem::console::console_file_bytes(geometry.console_bytes))
        .saturating_add(boot.map_or(0, |boot| boot_image::boot_file_bytes(boot.bytes)))
        .saturating_add(times(journal, journals))
        .saturating_add(geometry.journal.reserved_bytes)
        .saturating_add(times(shared_mem::record_log::log_file_bytes(geometry.log_bytes), logs))
}
