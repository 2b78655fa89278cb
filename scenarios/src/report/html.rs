//! A run as one page that needs nothing else: no script, no font, no network.

use super::explain::{line_of, takeover_in_words};
use super::folder::RunFolder;
use super::lanes::lanes;
use super::strip::{Strip, escaped};
use crate::event::What;
use crate::units::show_span;
use ft_protocol::{Span, Time};
use std::fmt::Write as _;

/// What fits into one strip and is still told apart.
const STRIP: Span = Span::from_ms(60_000);
/// A run that is not much longer than a strip is one.
const ONE_STRIP_MAX: Span = Span::from_ms(90_000);
const STRIPS_MAX: u64 = 60;

const STYLE: &str = include_str!("report.css");

/// The page of a run.
#[must_use]
pub fn html(folder: &RunFolder) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = write_page(folder, &mut page);
    page
}

fn write_page(folder: &RunFolder, page: &mut String) -> std::fmt::Result {
    let manifest = &folder.manifest;
    let title = escaped(&manifest.scenario);
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} - ftvm</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body><main>"
    )?;
    let (class, result) = match &folder.report {
        Some(report) if report.holds => ("good", "holds"),
        Some(_) => ("bad", "FAILED"),
        None => ("bad", "did not end"),
    };
    write!(page, "<h1>{title} <span class=\"{class}\">{result}</span></h1>")?;
    if let Some(description) = &manifest.description {
        write!(page, "<p>{}</p>", escaped(description))?;
    }
    facts(folder, page)?;
    verdicts(folder, page)?;
    pictures(folder, page)?;
    takeovers(folder, page)?;
    events(folder, page)?;
    page.push_str("</main></body></html>\n");
    Ok(())
}

fn facts(folder: &RunFolder, page: &mut String) -> std::fmt::Result {
    let manifest = &folder.manifest;
    let machine = &manifest.machine;
    let on =
        format!("{} x {}, {} MiB, Linux {}", machine.processors, machine.processor, machine.memory_mib, machine.kernel);
    page.push_str("<dl>");
    for (name, value) in [
        ("length", show_span(folder.length())),
        ("seed", manifest.seed.to_string()),
        ("commit", manifest.commit.clone()),
        ("machine", on),
        ("again", manifest.again.clone()),
    ] {
        write!(page, "<dt>{name}</dt><dd>{}</dd>", escaped(&value))?;
    }
    page.push_str("</dl>");
    Ok(())
}

fn verdicts(folder: &RunFolder, page: &mut String) -> std::fmt::Result {
    let Some(report) = &folder.report else { return Ok(()) };
    page.push_str("<h2>Expectations</h2><table><tr><th></th><th>expected</th><th>found</th><th>line</th></tr>");
    // What does not hold is what the reader came for.
    let mut verdicts: Vec<_> = report.verdicts.iter().collect();
    verdicts.sort_by_key(|verdict| (verdict.holds, !verdict.fails()));
    for verdict in verdicts {
        let class = match (verdict.holds, verdict.fails()) {
            (true, _) => "good",
            (false, true) => "bad",
            (false, false) => "open",
        };
        let mark = verdict.mark();
        let line = verdict.line.map_or(String::new(), |line| line.to_string());
        write!(
            page,
            "<tr><td class=\"{class}\">{mark}</td><td>{}</td><td>{}</td><td>{line}</td></tr>",
            escaped(&verdict.expectation),
            escaped(&verdict.found)
        )?;
    }
    page.push_str("</table>");
    Ok(())
}

fn pictures(folder: &RunFolder, page: &mut String) -> std::fmt::Result {
    page.push_str(
        "<h2>What happened, and when</h2><p class=\"key\"><i class=\"primary\"></i> primary <i class=\"secondary\"></i> \
         secondary <i class=\"alive\"></i> alive <i class=\"stopped\"></i> stands still <i class=\"hampered\"></i> slow or cut \
         off <i class=\"blackout\"></i> blackout of a takeover (from \
         the fault until the successor runs) <i class=\"planned\"></i> of a switchover <i class=\"fault\"></i> fault. Epochs are those that are applied; silence is the time since the last \
         console output, latency that of the workloads' operations (both on logarithmic scales, whose top is at the left). Point at anything to see what it is.</p>",
    );
    let (lanes, vms) = (lanes(folder), folder.vms());
    let length = folder.length();
    let strip =
        if length <= ONE_STRIP_MAX { length } else { STRIP.max(Span::from_ns(length.ns().div_ceil(STRIPS_MAX))) };
    let strip = strip.max(Span::from_ms(1));
    let mut from: Time = folder.start();
    let end = folder.start() + length;
    if length > ONE_STRIP_MAX {
        page.push_str("<h3>All of it</h3>");
        page.push_str(&Strip { folder, lanes: &lanes, vms: &vms, from, length }.svg());
        page.push_str("<h3>Minute by minute</h3>");
    }
    while from < end {
        page.push_str(&Strip { folder, lanes: &lanes, vms: &vms, from, length: strip }.svg());
        from = from + strip;
    }
    Ok(())
}

fn takeovers(folder: &RunFolder, page: &mut String) -> std::fmt::Result {
    let mut items = String::new();
    for vm in folder.vms() {
        for takeover in folder.timeline(vm).takeovers() {
            write!(items, "<li>{}</li>", escaped(&takeover_in_words(folder, vm, takeover)))?;
        }
    }
    if !items.is_empty() {
        write!(page, "<h2>Takeovers and switchovers</h2><ol>{items}</ol>")?;
    }
    Ok(())
}

fn events(folder: &RunFolder, page: &mut String) -> std::fmt::Result {
    page.push_str("<h2>Events</h2><details><summary>all of them, in order</summary><table class=\"events\">");
    for event in &folder.events {
        let Some(line) = line_of(folder, event) else { continue };
        let class = match &event.what {
            What::Signalled { .. } | What::FaultBegan { .. } | What::HostExited { .. } => " class=\"fault\"",
            What::StepFired { .. } | What::FailpointReached { .. } => " class=\"step\"",
            _ => "",
        };
        let at = show_span(event.at.since(folder.start()));
        write!(page, "<tr{class}><td>{at}</td><td>{}</td></tr>", escaped(&line))?;
    }
    page.push_str("</table></details>");
    Ok(())
}
