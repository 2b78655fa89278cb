//! From what is written to a scenario: everything that the types of [`raw`](super::raw) do not see.

mod acts;
mod bounds;
mod cluster;
mod expect;
mod steps;
mod vms;

use super::error::Source;
use super::matrix::Cell;
use super::raw::{RawScenario, RawWorkload};
use super::{Scenario, ScenarioError, VmPart, WorkloadPart};
use crate::cluster::HostName;
use ft_protocol::Span;
use serde::Deserialize as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;

const SEED: u64 = 1;
const TIME_LIMIT: Span = Span::from_ms(60_000);
/// The word for this program among commands.
const ITSELF: &str = "ftvm";
/// Filled in with the path of the guests' segment.
const SEGMENT: &str = "{segment}";
/// What is filled in between braces in a workload's arguments.
const FILLED_IN: [&str; 3] = ["segment", "history", "seed"];

/// What the parts of a scenario refer to.
struct Known<'a, 'b> {
    source: &'a Source<'b>,
    hosts: Vec<HostName>,
    vms: Vec<String>,
}

impl Known<'_, '_> {
    fn host(&self, text: &Spanned<String>) -> Result<HostName, ScenarioError> {
        self.hosts.iter().find(|name| name.as_str() == text.get_ref()).cloned().ok_or_else(|| {
            let last = self.hosts.last().map_or("a", HostName::as_str);
            let message = format!("there is no host `{}`: the hosts are a to {last}", text.get_ref());
            self.source.unknown(&text.span(), message, text.get_ref(), self.hosts.iter().map(HostName::as_str))
        })
    }

    /// The first one, unless another one is named.
    fn vm(&self, text: Option<&Spanned<String>>) -> Result<usize, ScenarioError> {
        let Some(text) = text else { return Ok(0) };
        self.vms.iter().position(|name| name == text.get_ref()).ok_or_else(|| {
            let known = self.vms.iter().map(String::as_str);
            let message = format!("there is no VM named `{}`", text.get_ref());
            self.source.unknown(&text.span(), message, text.get_ref(), known)
        })
    }
}

pub(super) fn scenario(source: &Source<'_>, cell: Cell<'_>) -> Result<Scenario, ScenarioError> {
    let Cell { at, given, table } = cell;
    let places = expect::places(source, &table);
    let raw = RawScenario::deserialize(toml::Deserializer::from(table)).map_err(|error| source.toml(&error))?;
    check_comparable(source, &raw)?;
    let cluster = cluster::cluster(source, &raw.cluster)?;
    let path = source.path;
    let hosts = (0..cluster.hosts).map(HostName::nth).collect();
    let names = vms::names(source, &raw.vm.0)?;
    let known = Known { source, hosts, vms: names };
    cluster::check_hosts(&known, &raw.cluster)?;
    let vms = vms::vms(&known, raw.vm.0)?;
    let steps = steps::steps(&known, &raw.step)?;
    steps::check_together(source, &raw.step, &steps, (&cluster, &vms))?;
    steps::check_failpoints(source, &raw.step, &steps)?;
    if raw.expect.refused.is_some() {
        steps::check_refused(&known, &raw.step, &steps)?;
    }
    let expect = expect::expect(&known, raw.expect, places, &steps)?;
    steps::check_deleted(source, &raw.step, &steps, &expect)?;
    Ok(Scenario {
        path: path.to_owned(),
        name: name_of(path, &at),
        cell: at,
        given,
        description: raw.description,
        seed: raw.seed.unwrap_or(SEED),
        time_limit: bounds::some_time(source, "time-limit", raw.time_limit.as_ref())?.unwrap_or(TIME_LIMIT),
        time_limit_line: raw.time_limit.as_ref().and_then(|limit| source.line(&limit.span())),
        workloads: workloads(source, raw.workload, &vms)?,
        expect,
        cluster,
        vms,
        steps,
    })
}

/// What comes over a network is never the same twice.
fn check_comparable(source: &Source<'_>, raw: &RawScenario) -> Result<(), ScenarioError> {
    let disk = raw.expect.disk.as_ref();
    if let Some(disk) = disk.filter(|_| raw.vm.0.iter().any(|vm| vm.disk.is_none())) {
        return Err(source.invalid(&disk.span(), "a disk can be compared where every VM has one"));
    }
    match raw.expect.console.as_ref().or(raw.expect.memory.as_ref()).or(disk) {
        Some(key) if raw.vm.0.iter().any(|vm| vm.net) => {
            Err(source
                .invalid(&key.span(), "a guest with a network has no unprotected run that it could be compared with"))
        }
        _ => Ok(()),
    }
}

fn name_of(path: &Path, cell: &[(String, String)]) -> String {
    let stem = path.file_stem().map_or_else(|| "scenario".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let cell: Vec<String> = cell.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if cell.is_empty() { stem } else { format!("{stem}[{}]", cell.join(",")) }
}

/// A path with a slash is relative to the scenario's file; a bare word is what it is.
fn beside(path: &Path, program: &str) -> String {
    if !program.contains('/') || program.starts_with('/') {
        return program.to_owned();
    }
    directory_of(path).join(program).to_string_lossy().into_owned()
}

/// A path beside the scenario's file must lead to something; what is installed elsewhere may not be so on this machine.
fn check_beside(source: &Source<'_>, span: &Range<usize>, what: &str, program: &str) -> Result<(), ScenarioError> {
    let relative = program.contains('/') && !program.starts_with('/');
    if relative && !directory_of(source.path).join(program).exists() {
        let message = format!("there is no {what} `{program}` beside this file");
        return Err(source.invalid(span, message));
    }
    Ok(())
}

/// What the kernel lets a program say.
fn exit_code(source: &Source<'_>, code: Option<&Spanned<i32>>) -> Result<i32, ScenarioError> {
    match code {
        Some(code) if !(0..=255).contains(code.get_ref()) => {
            Err(source.invalid(&code.span(), "a program exits with 0 to 255"))
        }
        code => Ok(code.map_or(0, |code| *code.get_ref())),
    }
}

fn directory_of(path: &Path) -> PathBuf {
    path.parent().map_or(PathBuf::new(), Path::to_owned)
}

/// Other programs have their own use for braces: only what looks like a slip is one.
fn filled_in(source: &Source<'_>, span: &Range<usize>, command: &[String]) -> Result<(), ScenarioError> {
    let words = command.iter().flat_map(|word| word.split('{').skip(1));
    let names = words.filter_map(|behind| behind.split_once('}')).map(|(name, _)| name);
    for name in names.filter(|name| !FILLED_IN.contains(name)) {
        let is_meant = |known: &&str| strsim::damerau_levenshtein(name, known) <= known.len() / 3;
        if let Some(known) = FILLED_IN.into_iter().find(is_meant) {
            let (message, meant) = (format!("`{{{name}}}` is not filled in"), format!("{{{known}}}"));
            return Err(source.with_suggestion(span, message, Some(meant)));
        }
    }
    Ok(())
}

fn workloads(
    source: &Source<'_>,
    raw: Vec<Spanned<RawWorkload>>,
    vms: &[VmPart],
) -> Result<Vec<WorkloadPart>, ScenarioError> {
    let mut workloads: Vec<WorkloadPart> = Vec::new();
    for spanned in raw {
        let line = source.line(&spanned.span()).unwrap_or(1);
        let raw = spanned.into_inner();
        if !ft_protocol::spec::name_is_valid(raw.name.get_ref()) {
            let message = "the name of a workload is 1 to 63 of a-z 0-9 . _ -, and does not begin with a dot";
            return Err(source.invalid(&raw.name.span(), message));
        }
        if workloads.iter().any(|other| other.name == *raw.name.get_ref()) {
            let message = format!("there is another workload named `{}`", raw.name.get_ref());
            return Err(source.invalid(&raw.name.span(), message));
        }
        let span = raw.command.span();
        let mut command = raw.command.into_inner();
        if command.iter().any(|word| word.contains(SEGMENT)) && !vms.iter().any(|vm| vm.net) {
            return Err(source.invalid(&span, "there is no segment: no VM of this file has `net = true`"));
        }
        filled_in(source, &span, &command)?;
        let Some(program) = command.first_mut() else {
            return Err(source.invalid(&span, "a workload needs a program"));
        };
        if program.is_empty() {
            return Err(source.invalid(&span, "a workload needs a program"));
        }
        check_beside(source, &span, "program", program)?;
        // Relative to the working directory that it is given, which is the scenario's.
        // This very program, wherever it is.
        if program == ITSELF {
            program.clear();
        }
        *program = match std::path::absolute(beside(source.path, program)) {
            Ok(absolute) if program.contains('/') => absolute.to_string_lossy().into_owned(),
            _ => program.clone(),
        };
        workloads.push(WorkloadPart {
            name: raw.name.into_inner(),
            line,
            command,
            directory: directory_of(source.path),
            until_end: raw.until_end,
            linearizable: raw.linearizable,
            exit_code: exit_code(source, raw.exit_code.as_ref())?,
        });
    }
    Ok(workloads)
}
