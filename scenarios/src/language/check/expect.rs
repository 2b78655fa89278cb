//! The expectations.

use super::super::error::Source;
use super::super::raw::{RawExpect, RawVmExpect};
use super::super::values::{OneOrMany, RawCount};
use super::super::{Act, CorruptWhat, Count, End, Expect, ScenarioError, Step, VmExpect};
use super::{Known, bounds};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where the keys of a table stand.
type Keys = BTreeMap<String, Range<usize>>;

/// Where `[expect]` and its keys stand.
pub(super) struct Places {
    line: usize,
    keys: Keys,
    /// Of single VMs, by name.
    vms: BTreeMap<String, (Range<usize>, Keys)>,
}

pub(super) fn places(source: &Source<'_>, table: &Spanned<DeTable<'_>>) -> Places {
    let Some((key, value)) = table.get_ref().get_key_value("expect") else {
        return Places { line: 1, keys: Keys::new(), vms: BTreeMap::new() };
    };
    let keys = |table: &DeTable<'_>| -> Keys {
        table.iter().map(|(key, _)| (key.get_ref().to_string(), key.span())).collect()
    };
    let table = value.get_ref().as_table();
    let vms = table.and_then(|table| table.get("vm")).and_then(|vms| vms.get_ref().as_table());
    let own = |(name, value): (&Spanned<Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
        let keys = value.get_ref().as_table().map(keys).unwrap_or_default();
        (name.get_ref().to_string(), (name.span(), keys))
    };
    Places {
        line: source.line(&key.span()).unwrap_or(1),
        keys: table.map(keys).unwrap_or_default(),
        vms: vms.into_iter().flat_map(DeTable::iter).map(own).collect(),
    }
}

/// Their lines, of those that the file has.
fn lines(source: &Source<'_>, keys: &Keys) -> BTreeMap<String, usize> {
    keys.iter().filter_map(|(key, span)| Some((key.clone(), source.line(span)?))).collect()
}

/// An empty text is part of any other: what expects it cannot fail, or cannot hold.
fn some_texts(source: &Source<'_>, key: &str, texts: &[String], keys: &Keys) -> Result<(), ScenarioError> {
    let place = keys.get(key);
    if texts.iter().any(String::is_empty) {
        return Err(source.invalid(&place.cloned().unwrap_or_default(), format!("`{key}` is empty: any line would do")));
    }
    if texts.iter().any(|text| text.contains('\n')) {
        let message = format!("`{key}` has a line break: no line does; give each line a text of its own");
        return Err(source.invalid(&place.cloned().unwrap_or_default(), message));
    }
    match place {
        Some(place) if texts.is_empty() => {
            Err(source.invalid(place, format!("`{key}` has no text: nothing is expected, leave it out")))
        }
        _ => Ok(()),
    }
}

/// No bound at all holds for every number.
fn telling(source: &Source<'_>, key: &str, count: Option<&RawCount>, keys: &Keys) -> Result<(), ScenarioError> {
    telling_at(source, key, count, &keys.get(key).cloned().unwrap_or_default())
}

fn telling_at(
    source: &Source<'_>,
    key: &str,
    count: Option<&RawCount>,
    place: &Range<usize>,
) -> Result<(), ScenarioError> {
    match count {
        Some(RawCount(Count { min: 0, max: None })) => {
            Err(source.invalid(place, format!("`{key}` of at least 0 holds always: give it a `max`, or leave it out")))
        }
        _ => Ok(()),
    }
}

pub(super) fn expect(
    known: &Known<'_, '_>,
    raw: RawExpect,
    places: Places,
    steps: &[Step],
) -> Result<Expect, ScenarioError> {
    let source = known.source;
    let end = raw.end.as_ref().map_or(End::Ended, |end| *end.get_ref());
    if let Some(code) = &raw.exit_code
        && end != End::Ended
    {
        return Err(source.invalid(&code.span(), "an exit code needs `end = \"ended\"`"));
    }
    some_texts(source, "console-contains", &raw.console_contains.0, &places.keys)?;
    some_texts(source, "console-lacks", &raw.console_lacks.0, &places.keys)?;
    some_texts(source, "refused", raw.refused.as_slice(), &places.keys)?;
    telling(source, "takeovers", raw.takeovers.as_ref(), &places.keys)?;
    telling(source, "switchovers", raw.switchovers.as_ref(), &places.keys)?;
    telling(source, "fenced", raw.fenced.as_ref(), &places.keys)?;
    raw.events.values().try_for_each(|count| telling_at(source, "events", Some(count.get_ref()), &count.span()))?;
    let refused = raw.refused.is_some().then(|| known.vms.len() - 1);
    let all = VmExpect {
        lines: BTreeMap::new(),
        end,
        exit_code: raw.exit_code.map(Spanned::into_inner),
        console_as_unprotected: word(source, "console", raw.console.as_ref(), &["unprotected"])?.is_some(),
        disk_as_unprotected: word(source, "disk", raw.disk.as_ref(), &["unprotected"])?.is_some(),
        memory_as_unprotected: word(source, "memory", raw.memory.as_ref(), &["unprotected"])?.is_some(),
        console_contains: raw.console_contains.0,
        console_lacks: raw.console_lacks.0,
        takeovers: raw.takeovers.map(|count| count.0),
        switchovers: raw.switchovers.map(|count| count.0),
        protected_within: bounds::some_time(source, "protected-within", raw.protected_within.as_ref())?,
        protected_again_within: bounds::some_time(
            source,
            "protected-again-within",
            raw.protected_again_within.as_ref(),
        )?,
        blackout_max: bounds::some_time(source, "blackout-max", raw.blackout_max.as_ref())?,
    };
    let pool = word(source, "pool", raw.pool.as_ref(), &["sound", "any"])?;
    let corrupts = steps.iter().flat_map(|step| &step.acts).any(|act| match act {
        // Its owner repairs it with the next beat.
        Act::Corrupt { what, .. } => *what != CorruptWhat::Heartbeat,
        _ => false,
    });
    Ok(Expect {
        line: places.line,
        lines: lines(source, &places.keys),
        vms: of_vms(known, &all, raw.vm, places.vms, refused)?,
        fenced: raw.fenced.map(|count| count.0),
        events: raw.events.into_iter().map(|(kind, count)| (kind, count.into_inner().0)).collect(),
        refused: raw.refused,
        pool_sound: pool.map_or(!corrupts, |word| word == "sound"),
    })
}

/// One of a few words.
fn word<'r>(
    source: &Source<'_>,
    key: &str,
    given: Option<&'r Spanned<String>>,
    known: &[&'static str],
) -> Result<Option<&'r str>, ScenarioError> {
    match given {
        Some(word) if !known.contains(&word.get_ref().as_str()) => {
            let message = format!("unknown {key} `{}`: known is `{}`", word.get_ref(), known.join("`, `"));
            Err(source.unknown(&word.span(), message, word.get_ref(), known.iter().copied()))
        }
        word => Ok(word.map(|word| word.get_ref().as_str())),
    }
}

fn of_vms(
    known: &Known<'_, '_>,
    all: &VmExpect,
    own: BTreeMap<String, RawVmExpect>,
    mut places: BTreeMap<String, (Range<usize>, Keys)>,
    refused: Option<usize>,
) -> Result<Vec<VmExpect>, ScenarioError> {
    let mut vms = vec![all.clone(); known.vms.len()];
    for (name, raw) in own {
        let (span, keys) = places.remove(&name).unwrap_or_default();
        let Some(index) = known.vms.iter().position(|known| *known == name) else {
            let message = format!("there is no VM named `{name}`");
            return Err(known.source.unknown(&span, message, &name, known.vms.iter().map(String::as_str)));
        };
        if refused == Some(index) {
            let message = format!("VM `{name}` is the one that is to be refused: nothing else comes of it");
            return Err(known.source.invalid(&span, message));
        }
        let vm = &mut vms[index];
        vm.lines = lines(known.source, &keys);
        some_texts(known.source, "console-contains", &raw.console_contains.0, &keys)?;
        let OneOrMany(contains) = raw.console_contains;
        vm.console_contains.extend(contains);
        if let Some(end) = raw.end {
            vm.end = end;
            vm.exit_code = if end == End::Ended { vm.exit_code } else { None };
        }
        if let Some(code) = &raw.exit_code
            && vm.end != End::Ended
        {
            return Err(known.source.invalid(&code.span(), "an exit code needs `end = \"ended\"`"));
        }
        vm.exit_code = raw.exit_code.map(Spanned::into_inner).or(vm.exit_code);
        vm.takeovers = raw.takeovers.map(|count| count.0).or(vm.takeovers);
        vm.switchovers = raw.switchovers.map(|count| count.0).or(vm.switchovers);
        let blackout_max = bounds::some_time(known.source, "blackout-max", raw.blackout_max.as_ref())?;
        vm.blackout_max = blackout_max.or(vm.blackout_max);
    }
    Ok(vms)
}
