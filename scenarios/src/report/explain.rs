//! A run in words: what failed, and what happened around it.

use super::folder::RunFolder;
use crate::cluster::HostSignal;
use crate::event::{Event, What};
use crate::runner::Grade;
use crate::timeline::Takeover;
use crate::units::show_span;
use ft_protocol::{Span, Time, VmId};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A VM that commits nothing for this long while nobody has ended is worth a word.
const STILL_MIN: Span = Span::from_ms(500);
/// As much of a story as is told before its end.
const STORY_MAX: usize = 60;

/// Tells a run.
#[must_use]
pub fn explain(folder: &RunFolder) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = head(folder, &mut text);
    let _ = verdicts(folder, &mut text);
    let _ = takeovers(folder, &mut text);
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
    let kind = if takeover.planned { "switchover" } else { "takeover" };
    let old = takeover.old_primary.as_ref().map_or("?", |host| host.as_str());
    let mut words =
        format!("vm {}, end of generation {} on host {old}: a {kind}", folder.names.vm(vm), takeover.ends.get());
    if let Some(fault) = takeover.cause() {
        let at = show_span(fault.at.since(folder.start()));
        let _ = write!(words, " after `{}` of host {} at {at}", fault.what, fault.host);
    }
    if let Some((at, reason)) = takeover.detected {
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
        let _ = write!(words, "; its first output came after {}", after(console, start));
    }
    match &takeover.protected {
        Some((at, host)) => _ = write!(words, "; protected by host {host} after {}.", after(*at, start)),
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
        What::ConsoleMoved { .. } | What::Sampled { .. } => return None,
    })
}

fn story(folder: &RunFolder, text: &mut String) -> std::fmt::Result {
    let mut lines = told(folder);
    lines.sort_by_key(|(at, _)| *at);
    let left_out = lines.len().saturating_sub(STORY_MAX);
    writeln!(text, "\nwhat happened{}:", if left_out > 0 { " in the end" } else { "" })?;
    if left_out > 0 {
        writeln!(text, "  ... {left_out} lines before are left out; events.jsonl and report.html have all")?;
    }
    for (at, line) in lines.iter().skip(left_out) {
        writeln!(text, "  {:>10}  {line}", show_span(at.since(folder.start())))?;
    }
    Ok(())
}

/// Events, and what did not happen.
fn told(folder: &RunFolder) -> Vec<(Time, String)> {
    let told = folder.events.iter().filter_map(|event| Some((event.at, line_of(folder, event)?)));
    told.chain(stillness(folder)).collect()
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
