//! A run in words: what failed, and what happened around it.

use super::folder::RunFolder;
use crate::cluster::HostSignal;
use crate::event::{Event, HappeningKind, What};
use crate::history::{Deed, Entry};
use crate::runner::{Clue, Grade, Report, Verdict};
use crate::timeline::Takeover;
use crate::units::show_span;
use ft_protocol::timeline::one_line;
use ft_protocol::{Span, Time, VmId};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

/// A VM that commits nothing for this long while nobody has ended is worth a word.
const STILL_MIN: Span = Span::from_ms(500);
/// As much of a long story as is told before its end, where nothing failed at a time that is known.
const STORY_MAX: usize = 60;
/// Lines that are told before a failure, and before the end; and behind a failure.
const BEFORE_MAX: usize = 25;
const AFTER_MAX: usize = 15;
/// Operations without an answer that are told.
const PENDING_MAX: usize = 5;

/// Tells a run.
#[must_use]
pub fn explain(folder: &RunFolder) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = head(folder, &mut text);
    let _ = verdicts(folder, &mut text);
    let _ = takeovers(folder, &mut text);
    let _ = workloads(folder, &mut text);
    let _ = story(folder, &mut text);
    let _ = writeln!(text, "\nagain: {}", folder.manifest.again);
    text
}

fn head(folder: &RunFolder, text: &mut String) -> std::fmt::Result {
    let manifest = &folder.manifest;
    let result = match &folder.report {
        Some(report) if report.holds => "everything that it expects holds",
        Some(_) => "it FAILED",
        None => "it did not come to its end",
    };
    writeln!(text, "{} (seed {}, commit {}): {result}", manifest.scenario, manifest.seed, manifest.commit)?;
    if let Some(description) = &manifest.description {
        writeln!(text, "{description}")?;
    }
    let machine = &manifest.machine;
    let length = show_span(folder.length());
    writeln!(text, "{length} on {} processors ({}), Linux {}", machine.processors, machine.processor, machine.kernel)
}

fn verdicts(folder: &RunFolder, text: &mut String) -> std::fmt::Result {
    let Some(report) = &folder.report else { return Ok(()) };
    for verdict in report.failures() {
        let place = verdict.line.map_or(String::new(), |line| format!(" ({}:{line})", folder.manifest.path.display()));
        writeln!(text, "\nexpected: {}{place}\nfound:    {}", verdict.expectation, verdict.found)?;
    }
    let open: Vec<&str> = report
        .verdicts
        .iter()
        .filter(|verdict| verdict.grade == Grade::Open)
        .map(|verdict| verdict.expectation.as_str())
        .collect();
    if !open.is_empty() {
        writeln!(text, "\nopen, because the run was cut short: {}", open.join("; "))?;
    }
    Ok(())
}

fn takeovers(folder: &RunFolder, text: &mut String) -> std::fmt::Result {
    for vm in folder.vms() {
        let timeline = folder.timeline(vm);
        for takeover in timeline.takeovers() {
            writeln!(text, "\n{}", takeover_in_words(folder, vm, takeover))?;
        }
    }
    Ok(())
}

/// One takeover in a sentence or two.
pub(super) fn takeover_in_words(folder: &RunFolder, vm: VmId, takeover: &Takeover) -> String {
    let after = |at: Time, since: Option<Time>| since.map_or(String::new(), |since| show_span(at.since(since)));
    let start = takeover.start();
    let is_last = folder.timeline(vm).takeovers().last().is_some_and(|last| last.ends == takeover.ends);
    let kind = if takeover.planned { "switchover" } else { "takeover" };
    let old = takeover.old_primary.as_ref().map_or("?", |host| host.as_str());
    let mut words =
        format!("vm {}, end of generation {} on host {old}: a {kind}", folder.names.vm(vm), takeover.ends.get());
    if let Some(fault) = takeover.cause() {
        let at = show_span(fault.at.since(folder.start()));
        let _ = write!(words, " after `{}` of host {} at {at}", fault.what, fault.host);
    }
    if let Some(silent) = takeover.silent_before() {
        let _ = write!(
            words,
            "; the guest had not been heard of for {} by then, since its host was hampered",
            show_span(silent)
        );
    }
    if let Some((since, noticed)) = takeover.stood_since.zip(takeover.detected.map(|(at, _)| at)) {
        let _ = write!(words, "; nobody had run the guest for {} by then", after(noticed, Some(since)));
    }
    // Nothing was wrong with a host that yields; what became of it then is none of this.
    if let Some((at, reason)) = takeover.detected.filter(|_| !takeover.planned) {
        let _ = write!(words, "; noticed after {} because {reason}", after(at, start));
    }
    if let Some((at, epoch)) = takeover.sealed {
        let _ = write!(words, "; sealed after {} at epoch {}", after(at, start), epoch.get());
    }
    match &takeover.live {
        Some((at, host)) => _ = write!(words, "; the guest runs on host {host} after {}", after(*at, start)),
        None => words.push_str("; no successor ran"),
    }
    if let Some(console) = takeover.console {
        let _ = write!(words, "; its first console output came after {}", after(console, start));
    }
    if let Some(answered) = takeover.answered {
        let _ = write!(words, "; a workload had its first answer after {}", after(answered, start));
    }
    let fell_silent = takeover.live.is_some() && !takeover.planned && !takeover.was_heard();
    if let Some(again) = takeover.first_output().filter(|_| fell_silent) {
        let _ = write!(words, "; nobody outside heard of it, of a later one first after {}", after(again, start));
    }
    match &takeover.protected {
        Some((at, host)) => _ = write!(words, "; protected by host {host} after {}.", after(*at, start)),
        None if is_last => words.push_str("; it was not protected again before the end."),
        None => words.push_str("; it was not protected again before the next change."),
    }
    words
}

/// An event as a line, if it is worth one.
pub(super) fn line_of(folder: &RunFolder, event: &Event) -> Option<String> {
    Some(match &event.what {
        What::Happened(happening) => folder.names.tell(happening),
        What::HostStarted { host, pid } => format!("host {host} starts (process {pid})"),
        What::Signalled { host, signal: HostSignal::Cont } => format!("       {host} goes on"),
        What::Signalled { host, signal } => format!("FAULT  {signal} to {host}"),
        What::HostExited { host, exit, stderr } => {
            let last = stderr.lines().last().map_or(String::new(), |line| format!(": {line}"));
            format!("host {host} has ended ({exit}){last}")
        }
        What::ControllerRevived { exit, pid } => {
            format!("the controller had ended ({exit}) and runs again (process {pid})")
        }
        What::ControllerGone => "the controller is gone".to_owned(),
        What::ControllerBack => "there is a controller again".to_owned(),
        What::GuestEnded { vm, end, .. } => {
            format!("vm {}: all of its console was read, it ended: {end:?}", folder.names.vm(*vm))
        }
        What::StepFired { step } => format!("STEP   {step}"),
        What::FaultBegan { fault, target } => format!("FAULT  {target}: {fault}"),
        What::FaultEnded { fault, target } => format!("       {target}: {fault} is over"),
        What::OrderAnswered { order, refused: None } => format!("the controller has done what {order} asked for"),
        What::OrderAnswered { order, refused: Some(why) } => {
            format!("the controller refuses what {order} asks for: {why}")
        }
        What::OrderLost { order } => format!("the controller died before it answered what {order} asked for"),
        What::FailpointReached { process, failpoint } => format!("{process} stands still at {failpoint}"),
        What::WorkloadStarted { workload, pid } => format!("workload {workload} starts (process {pid})"),
        What::WorkloadEnded { workload, exit } => format!("workload {workload} has ended ({exit})"),
        What::WorkloadTold { workload, entry: Entry::Note(note), .. } => {
            format!("workload {workload}: {}", one_line(note))
        }
        What::WorkloadTold { .. } | What::ConsoleMoved { .. } | What::Sampled { .. } => return None,
    })
}

fn story(folder: &RunFolder, text: &mut String) -> std::fmt::Result {
    let mut lines = told(folder);
    lines.sort_by_key(|(at, _)| *at);
    let shown = shown(folder, &lines);
    let all: usize = shown.iter().map(ExactSizeIterator::len).sum();
    writeln!(text, "\nwhat happened{}:", if all < lines.len() { ", around what failed and in the end" } else { "" })?;
    let mut next = 0;
    for range in shown {
        match range.start - next {
            0 => {}
            left_out => writeln!(text, "  ... {left_out} lines are left out; events.jsonl and report.html have all")?,
        }
        next = range.end;
        for (at, line) in &lines[range] {
            writeln!(text, "  {:>10}  {line}", show_span(at.since(folder.start())))?;
        }
    }
    Ok(())
}

/// The lines that are told of a long story: some around each failure whose place is known, and the last ones.
fn shown(folder: &RunFolder, lines: &[(Time, String)]) -> Vec<Range<usize>> {
    let clues = clues(folder);
    let around = |(at, _): &(Time, String)| {
        let place = lines.partition_point(|(line_at, _)| line_at < at);
        place.saturating_sub(BEFORE_MAX)..(place + AFTER_MAX).min(lines.len())
    };
    let at_the_end = if clues.is_empty() { STORY_MAX } else { BEFORE_MAX };
    let mut ranges: Vec<Range<usize>> = clues.iter().map(around).collect();
    ranges.push(lines.len().saturating_sub(at_the_end)..lines.len());
    ranges.sort_by_key(|range| range.start);
    let mut shown: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match shown.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => shown.push(range),
        }
    }
    shown
}

/// What failed at a time that is known.
fn clues(folder: &RunFolder) -> Vec<(Time, String)> {
    let failures = folder.report.iter().flat_map(Report::failures);
    let place = |verdict: &Verdict| {
        let clue = verdict.clue.as_ref()?;
        Some((place(folder, clue)?, format!("HERE   {}: {}", verdict.expectation, first_line(&verdict.found))))
    };
    failures.filter_map(place).collect()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// When it was.
fn place(folder: &RunFolder, clue: &Clue) -> Option<Time> {
    let mut events = folder.events.iter();
    let found = match clue {
        Clue::At(at) => return Some(*at),
        Clue::Console { vm, byte } => events.find(|event| match &event.what {
            What::ConsoleMoved { vm: of, tail } => of == vm && tail > byte,
            What::GuestEnded { vm: of, .. } => of == vm,
            _ => false,
        }),
        Clue::Happened { kind, times } => {
            let is_one = |event: &&Event| matches!(&event.what, What::Happened(happening) if HappeningKind::from(happening) == *kind);
            events.filter(is_one).nth(usize::try_from(times.saturating_sub(1)).ok()?)
        }
    };
    found.map(|event| event.at)
}

/// What clients of workloads did, and what never came to its end or took longest.
fn workloads(folder: &RunFolder, text: &mut String) -> std::fmt::Result {
    for (name, deeds) in &folder.histories {
        let at = |time: Time| show_span(time.since(folder.start()));
        let took = |deed: &&Deed| deed.ended.map_or(Span::ZERO, |ended| ended.since(deed.began));
        let pending = deeds.iter().filter(|deed| deed.ended.is_none()).count();
        write!(text, "\nworkload {name}: {} operations, {pending} without an answer", deeds.len())?;
        if let Some(slowest) = deeds.iter().filter(|deed| deed.ended.is_some()).max_by_key(took) {
            write!(
                text,
                "; the slowest took {} from {} on: {}",
                show_span(took(&slowest)),
                at(slowest.began),
                slowest.what
            )?;
        }
        text.push('\n');
        for deed in deeds.iter().filter(|deed| deed.ended.is_none()).take(PENDING_MAX) {
            writeln!(text, "  never answered: {}, at {}", deed.what, at(deed.began))?;
        }
    }
    Ok(())
}

/// Events, and what did not happen.
fn told(folder: &RunFolder) -> Vec<(Time, String)> {
    let told = folder.events.iter().filter_map(|event| Some((event.at, line_of(folder, event)?)));
    told.chain(stillness(folder)).chain(unprotected(folder)).chain(clues(folder)).collect()
}

/// Why VMs were not protected, whenever that was found to be another reason than before.
fn unprotected(folder: &RunFolder) -> Vec<(Time, String)> {
    let mut known: BTreeMap<VmId, Option<&str>> = BTreeMap::new();
    let mut lines = Vec::new();
    for event in &folder.events {
        let What::Sampled { vm, unprotected, .. } = &event.what else { continue };
        let why = unprotected.as_deref();
        if known.insert(*vm, why) != Some(why)
            && let Some(why) = why
        {
            lines.push((event.at, format!("vm {}: not protected: {why}", folder.names.vm(*vm))));
        }
    }
    lines
}

/// The times in which a VM committed nothing.
fn stillness(folder: &RunFolder) -> Vec<(Time, String)> {
    let mut still: BTreeMap<VmId, (u64, Time, Time)> = BTreeMap::new();
    let mut lines = Vec::new();
    let mut tell = |vm: VmId, (epoch, from, to): (u64, Time, Time)| {
        let length = to.since(from);
        if length >= STILL_MIN {
            let line = format!(
                "vm {}: nothing was committed for {} from here on, epoch {epoch}",
                folder.names.vm(vm),
                show_span(length)
            );
            lines.push((from, line));
        }
    };
    for event in &folder.events {
        let What::Sampled { vm, epoch, .. } = event.what else { continue };
        match still.get_mut(&vm) {
            Some((last, _, to)) if *last == epoch => *to = event.at,
            known => {
                if let Some(known) = known {
                    tell(vm, *known);
                }
                still.insert(vm, (epoch, event.at, event.at));
            }
        }
    }
    for (vm, last) in still {
        tell(vm, last);
    }
    lines
}
