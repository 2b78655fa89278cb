//! The VMs.

use super::super::error::Source;
use super::super::raw::RawVm;
use super::super::{ModePart, PlacementPart, ScenarioError, VmPart};
use super::{Known, bounds, directory_of};
use crate::guest::GuestSource;
use crate::protected::{BadJournalReserve, JOURNAL_SLOTS_MAX, JournalOptions};
use crate::units::ByteCount;
use toml::Spanned;
use vmm::machine::guests;
use vmm::machine::layout::{MEMORY_MAX, MEMORY_MIN, PAGE_SIZE};

const MEMORY: ByteCount = ByteCount::mib(64);
/// The name of the only VM, unless it has one.
const ONLY_VM: &str = "guest";

pub(super) fn names(source: &Source<'_>, raw: &[RawVm]) -> Result<Vec<String>, ScenarioError> {
    let mut names: Vec<String> = Vec::new();
    for vm in raw {
        let name = match &vm.name {
            Some(name) if names.contains(name.get_ref()) => {
                return Err(source.invalid(&name.span(), format!("there is another VM named `{}`", name.get_ref())));
            }
            Some(name) if !ft_protocol::spec::name_is_valid(name.get_ref()) => {
                let message = "the name of a VM is 1 to 63 of a-z 0-9 . _ -, and does not begin with a dot";
                return Err(source.invalid(&name.span(), message));
            }
            Some(name) => name.get_ref().clone(),
            None if raw.len() == 1 => ONLY_VM.to_owned(),
            None => {
                return Err(source.invalid(&vm.guest.span(), "where there are several VMs, each needs a `name`"));
            }
        };
        names.push(name);
    }
    if names.is_empty() {
        return Err(source.invalid(&(0..0), "a scenario needs a `vm`"));
    }
    Ok(names)
}

pub(super) fn vms(known: &Known<'_, '_>, raw: Vec<RawVm>) -> Result<Vec<VmPart>, ScenarioError> {
    let with_names = raw.into_iter().zip(&known.vms);
    with_names.map(|(raw, name)| vm(known, raw, name.clone())).collect()
}

fn vm(known: &Known<'_, '_>, raw: RawVm, name: String) -> Result<VmPart, ScenarioError> {
    let source = known.source;
    let guest = guest(source, &raw.guest)?;
    if let Some(failback) = raw.failback.as_ref().filter(|_| raw.prefer.is_none()) {
        return Err(source.invalid(&failback.span(), "`failback` goes with `prefer`, which says where to"));
    }
    let mode: ModePart = raw.mode;
    Ok(VmPart {
        name,
        guest,
        guest_line: source.line(&raw.guest.span()),
        args: raw.args,
        memory: memory(source, raw.memory.as_ref())?.unwrap_or(MEMORY),
        mode,
        epoch_interval: bounds::some_time(source, "epoch", raw.epoch.as_ref())?,
        net: raw.net,
        disk: disk(source, raw.disk.as_ref())?,
        working_set: bounds::some_bytes(source, "working-set", raw.working_set.as_ref())?,
        journal: journal(source, raw.journal_slots.as_ref(), raw.journal_reserve.as_ref())?,
        placement: PlacementPart {
            prefer: raw.prefer.as_ref().map(|host| known.host(host)).transpose()?,
            failback: raw.failback.map(|hold| hold.into_inner().0),
            require_spare: raw.require_spare,
            apart: super::cluster::labels(source, &raw.apart)?,
        },
    })
}

/// A bundled guest is known by name; a file may be built later than its scenario is read.
fn guest(source: &Source<'_>, text: &Spanned<String>) -> Result<GuestSource, ScenarioError> {
    let Ok(guest) = text.get_ref().parse();
    match guest {
        GuestSource::File(file) => Ok(GuestSource::File(directory_of(source.path).join(file))),
        GuestSource::Builtin(name) if guests::bundled(&name).is_none() => {
            let known = guests::names().collect::<Vec<_>>();
            let message = format!("there is no bundled guest `{name}`: there are {}", known.join(", "));
            Err(source.unknown(&text.span(), message, &name, known))
        }
        builtin @ GuestSource::Builtin(_) => Ok(builtin),
    }
}

/// What any kind of guest can have.
fn memory(
    source: &Source<'_>,
    size: Option<&Spanned<super::super::values::Size>>,
) -> Result<Option<ByteCount>, ScenarioError> {
    let Some(size) = size else { return Ok(None) };
    let bytes = size.get_ref().0;
    if !(MEMORY_MIN..=MEMORY_MAX).contains(&bytes.get()) || !bytes.get().is_multiple_of(PAGE_SIZE) {
        let (least, most) = (ByteCount::new(MEMORY_MIN), ByteCount::new(MEMORY_MAX));
        let message = format!("a VM has {least} to {most} of memory, in pages of {PAGE_SIZE} bytes: not {bytes}");
        return Err(source.invalid(&size.span(), message));
    }
    Ok(Some(bytes))
}

fn journal(
    source: &Source<'_>,
    slots: Option<&Spanned<u32>>,
    reserve: Option<&Spanned<super::super::values::Size>>,
) -> Result<JournalOptions, ScenarioError> {
    let mut journal = JournalOptions::default();
    if let Some(slots) = slots {
        journal.slots = *slots.get_ref();
        if !(1..=JOURNAL_SLOTS_MAX).contains(&journal.slots) {
            let message = format!("a journal has 1 to {JOURNAL_SLOTS_MAX} slots: not {}", journal.slots);
            return Err(source.invalid(&slots.span(), message));
        }
    }
    if let Some(reserve) = reserve {
        let refused = |error: BadJournalReserve| source.invalid(&reserve.span(), error.to_string());
        journal.reserve = reserve.get_ref().0.try_into().map_err(refused)?;
    }
    Ok(journal)
}

/// Its blocks are pages.
fn disk(
    source: &Source<'_>,
    size: Option<&Spanned<super::super::values::Size>>,
) -> Result<Option<ByteCount>, ScenarioError> {
    let Some(bytes) = bounds::some_bytes(source, "disk", size)? else { return Ok(None) };
    match size {
        Some(size) if !bytes.get().is_multiple_of(PAGE_SIZE) || i64::try_from(bytes.get()).is_err() => {
            let message = format!("a disk has blocks of {PAGE_SIZE} bytes, and less than 8 EiB: not {bytes}");
            Err(source.invalid(&size.span(), message))
        }
        _ => Ok(Some(bytes)),
    }
}
