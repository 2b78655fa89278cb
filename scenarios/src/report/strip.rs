//! One strip of the picture: lanes of hosts, epochs and silence, over some span of time.

use super::folder::RunFolder;
use super::lanes::{Kind, Lane};
use super::plot::{self, Point, float};
use crate::units::show_span;
use ft_protocol::{Span, Time, VmId};
use std::fmt::Write as _;

/// Width of the picture and of what is left of its lanes, in its own units.
const WIDTH: f64 = 1160.0;
const LEFT: f64 = 90.0;
const LANE: f64 = 26.0;
/// Height of what a host is to one of several VMs.
const VM_ROW: f64 = 12.0;
/// A stretch that is shorter has no room for a name.
const NAMED_WIDTH: f64 = 50.0;
/// Width of a letter of a legend, about, and how many styles there are of curves.
const LETTER: f64 = 7.0;
const STYLES: usize = 6;
const PLOT: f64 = 56.0;
const TOP: f64 = 18.0;
/// Silences shorter than this are no blackout to anybody.
const SILENCE_SHOWN_MS: f64 = 20.0;

/// What is drawn.
pub(super) struct Strip<'a> {
    pub(super) folder: &'a RunFolder,
    pub(super) lanes: &'a [(String, Lane)],
    pub(super) vms: &'a [VmId],
    pub(super) from: Time,
    pub(super) length: Span,
}

/// Text as it may stand in a page.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number, and of what it is where there are several.
struct Named<'a> {
    name: Option<&'a str>,
    point: Point,
}

impl Strip<'_> {
    /// The strip as SVG.
    pub(super) fn svg(&self) -> String {
        let rows = u32::try_from(self.lanes.len()).unwrap_or(0);
        let plots = 1 + u32::from(!self.folder.histories.is_empty());
        let lane_height = self.lane_height();
        let height = TOP + f64::from(rows) * lane_height + f64::from(plots + 1) * (PLOT + 14.0) + 10.0;
        let mut svg = format!("<div class=\"strip\"><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">");
        // Writing to a String cannot fail.
        let _ = self.axis(&mut svg, height);
        let mut y = TOP;
        for (name, lane) in self.lanes {
            let _ = self.lane(&mut svg, name, lane, y);
            y += lane_height;
        }
        let _ = self.blackouts(&mut svg, y - TOP);
        y += 10.0;
        let epochs: Vec<Vec<Point>> = self.vms.iter().map(|vm| plot::epochs(self.folder, *vm)).collect();
        let _ = self.curves(&mut svg, "epoch", &epochs, y);
        y += PLOT + 14.0;
        let names = self.vm_names();
        let silences: Vec<Named<'_>> = (self.vms.iter().zip(&names))
            .flat_map(|(vm, name)| named(plot::silences(self.folder, *vm), name, names.len()))
            .filter(|silence| silence.point.value >= SILENCE_SHOWN_MS)
            .collect();
        let _ = self.bars(&mut svg, "silence ms", &silences, y, "silence");
        y += PLOT + 14.0;
        let histories = &self.folder.histories;
        let latencies: Vec<Named<'_>> =
            histories.iter().flat_map(|(name, deeds)| named(plot::latencies(deeds), name, histories.len())).collect();
        if !latencies.is_empty() {
            let _ = self.bars(&mut svg, "latency ms", &latencies, y, "latency");
        }
        svg.push_str("</svg></div>");
        svg
    }

    /// A lane has a row for each VM where there are several.
    fn lane_height(&self) -> f64 {
        match u32::try_from(self.vms.len()).unwrap_or(u32::MAX) {
            0 | 1 => LANE,
            several => 8.0 + VM_ROW * f64::from(several),
        }
    }

    fn vm_names(&self) -> Vec<String> {
        self.vms.iter().map(|vm| self.folder.names.vm(*vm)).collect()
    }

    fn x(&self, at: Time) -> f64 {
        let ns = float(at.since(self.from).ns()) / float(self.length.ns().max(1));
        LEFT + ns.clamp(0.0, 1.0) * (WIDTH - LEFT - 10.0)
    }

    fn shows(&self, at: Time) -> bool {
        at >= self.from && at <= self.from + self.length
    }

    fn axis(&self, svg: &mut String, height: f64) -> std::fmt::Result {
        let tick = tick_of(self.length);
        let since = self.from.since(self.folder.start()).ns();
        let end = since.saturating_add(self.length.ns());
        let first = since.div_ceil(tick).checked_mul(tick);
        for ns in std::iter::successors(first, |ns| ns.checked_add(tick)).take_while(|ns| *ns <= end) {
            let at = self.folder.start() + Span::from_ns(ns);
            let x = self.x(at);
            write!(svg, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{height}\"/>")?;
            // The last one would be cut off at the edge.
            let class = if x > WIDTH - 24.0 { "tick end" } else { "tick" };
            let x = x.min(WIDTH - 2.0);
            write!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"12\">{}</text>", tick_text(ns, tick))?;
        }
        Ok(())
    }

    fn lane(&self, svg: &mut String, name: &str, lane: &Lane, y: f64) -> std::fmt::Result {
        let lane_height = self.lane_height();
        let middle = y + lane_height / 2.0;
        write!(svg, "<text class=\"name\" x=\"{}\" y=\"{:.1}\">{}</text>", LEFT - 8.0, middle + 4.0, escaped(name))?;
        let count = f64::from(u32::try_from(self.vms.len()).unwrap_or(1).max(1));
        for stretch in &lane.stretches {
            if stretch.to < self.from || stretch.from > self.from + self.length {
                continue;
            }
            let (x, end) = (self.x(stretch.from.max(self.from)), self.x(stretch.to));
            let row = |vm: &VmId| {
                let index = self.vms.iter().position(|of| of == vm).unwrap_or(0);
                let height = (lane_height - 8.0) / count;
                (y + 4.0 + height * f64::from(u32::try_from(index).unwrap_or(0)), height)
            };
            let vm_name = |vm: &VmId| escaped(&self.folder.names.vm(*vm));
            let (class, title, (top, height)) = match &stretch.kind {
                Kind::Alive => ("alive", "alive".to_owned(), (y + 3.0, lane_height - 6.0)),
                Kind::Primary(vm) => ("primary", format!("primary of {}", vm_name(vm)), row(vm)),
                Kind::Secondary(vm) => ("secondary", format!("secondary of {}", vm_name(vm)), row(vm)),
                Kind::Stopped => ("stopped", "stands still".to_owned(), (y + 3.0, lane_height - 6.0)),
                Kind::Hampered => ("hampered", "slow or cut off".to_owned(), (y + lane_height - 6.0, 4.0)),
            };
            let from = show_span(stretch.from.since(self.folder.start()));
            let to = show_span(stretch.to.since(self.folder.start()));
            let width = (end - x).max(0.8);
            write!(
                svg,
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\">\
                 <title>{} {title}, {from} to {to}</title></rect>",
                escaped(name)
            )?;
            if let Kind::Primary(vm) | Kind::Secondary(vm) = &stretch.kind
                && self.vms.len() > 1
                && width >= NAMED_WIDTH
            {
                let (x, y) = (x + 4.0, top + height - 2.5);
                write!(svg, "<text class=\"vm\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", vm_name(vm))?;
            }
        }
        for mark in lane.faults.iter().filter(|mark| self.shows(mark.at)) {
            let x = self.x(mark.at);
            let at = show_span(mark.at.since(self.folder.start()));
            write!(
                svg,
                "<path class=\"fault\" d=\"M{x:.1} {:.1} l-4 -8 h8 z\"><title>{at} {}: {}</title></path>",
                y + 10.0,
                escaped(name),
                escaped(&mark.text)
            )?;
        }
        Ok(())
    }

    /// From each fault until the successor ran.
    fn blackouts(&self, svg: &mut String, height: f64) -> std::fmt::Result {
        for vm in self.vms {
            for takeover in self.folder.timeline(*vm).takeovers() {
                // Not until its first output: a guest may have nothing to say.
                let live = takeover.live.as_ref().map(|(at, _)| *at);
                let (Some(from), Some(to)) = (takeover.start(), live) else { continue };
                if to < self.from || from > self.from + self.length {
                    continue;
                }
                let x = self.x(from.max(self.from));
                let width = (self.x(to) - x).max(1.0);
                let class = if takeover.planned { "blackout planned" } else { "blackout" };
                write!(
                    svg,
                    "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height:.1}\">\
                     <title>{}: {} until its successor ran</title></rect>",
                    escaped(&self.folder.names.vm(*vm)),
                    show_span(to.since(from))
                )?;
            }
        }
        Ok(())
    }

    fn frame(&self, svg: &mut String, label: &str, y: f64, most: f64) -> std::fmt::Result {
        let right = WIDTH - 10.0;
        write!(svg, "<text class=\"name\" x=\"{}\" y=\"{:.1}\">{label}</text>", LEFT - 8.0, y + PLOT / 2.0)?;
        write!(svg, "<text class=\"tick end\" x=\"{}\" y=\"{:.1}\">{most:.0}</text>", LEFT - 8.0, y + 10.0)?;
        write!(svg, "<line class=\"base\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>", y + PLOT)
    }

    fn curves(&self, svg: &mut String, label: &str, curves: &[Vec<Point>], y: f64) -> std::fmt::Result {
        let shown: Vec<Vec<Point>> =
            curves.iter().map(|points| points.iter().filter(|point| self.shows(point.at)).copied().collect()).collect();
        let values = || shown.iter().flatten().map(|point| point.value);
        let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
        self.frame(svg, label, y, most)?;
        let names = self.vm_names();
        let mut legend = LEFT + 6.0;
        for (index, (points, name)) in
            shown.iter().zip(&names).enumerate().filter(|(_, (points, _))| !points.is_empty())
        {
            let place = |point: &Point| {
                let share = if most > least { (point.value - least) / (most - least) } else { 0.0 };
                format!("{:.1},{:.1}", self.x(point.at), y + PLOT - share * (PLOT - 4.0))
            };
            let path: Vec<String> = points.iter().map(place).collect();
            let (style, name) = (index % STYLES, escaped(name));
            let path = path.join(" ");
            write!(svg, "<polyline class=\"curve c{style}\" points=\"{path}\"><title>{name}</title></polyline>")?;
            if names.len() > 1 {
                write!(svg, "<text class=\"legend c{style}\" x=\"{legend:.1}\" y=\"{:.1}\">{name}</text>", y + 10.0)?;
                legend += LETTER * (float(name.chars().count() as u64) + 2.0);
            }
        }
        Ok(())
    }

    /// The highest one of each column.
    fn bars(&self, svg: &mut String, label: &str, points: &[Named<'_>], y: f64, class: &str) -> std::fmt::Result {
        let shown: Vec<&Named<'_>> = points.iter().filter(|one| self.shows(one.point.at)).collect();
        let most = shown.iter().map(|one| one.point.value).fold(1.0, f64::max);
        self.frame(svg, label, y, most)?;
        let mut columns: std::collections::BTreeMap<u64, &Named<'_>> = std::collections::BTreeMap::new();
        // Two columns to a unit.
        let columns_all = 2 * 1_060;
        for one in shown {
            let column = one.point.at.since(self.from).ns().saturating_mul(columns_all) / self.length.ns().max(1);
            let known = columns.entry(column).or_insert(one);
            if known.point.value < one.point.value {
                *known = one;
            }
        }
        for Named { name, point } in columns.values() {
            let x = self.x(point.at);
            // A logarithm, so that what is short is seen beside what is long.
            let share = (1.0 + point.value).ln() / (1.0 + most).ln();
            let top = y + PLOT - share * (PLOT - 4.0);
            let at = show_span(point.at.since(self.folder.start()));
            write!(
                svg,
                "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{top:.1}\">\
                 <title>{at}: {:.1} ms{}</title></line>",
                y + PLOT,
                point.value,
                name.map_or(String::new(), |name| format!(", {}", escaped(name)))
            )?;
        }
        Ok(())
    }
}

/// Numbers with a name, if there is more than one of them to be told apart.
fn named(points: Vec<Point>, name: &str, of: usize) -> impl Iterator<Item = Named<'_>> {
    let name = (of > 1).then_some(name);
    points.into_iter().map(move |point| Named { name, point })
}

/// Some ten ticks, at round times.
fn tick_of(length: Span) -> u64 {
    const STEPS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];
    let ms = length.ms().max(1);
    let step = STEPS.into_iter().chain([10_000, 30_000, 60_000]).find(|step| ms / step <= 12);
    step.unwrap_or(ms.div_ceil(12)).saturating_mul(1_000_000)
}

fn tick_text(ns: u64, tick: u64) -> String {
    let ms = ns / 1_000_000;
    if tick >= 1_000_000_000 {
        let seconds = ms / 1_000;
        return if seconds >= 60 { format!("{}:{:02}", seconds / 60, seconds % 60) } else { format!("{seconds} s") };
    }
    format!("{ms} ms")
}
