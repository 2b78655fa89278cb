//! From what is written to a scenario: everything that the types of [`raw`](super::raw) do not see.

use super::error::Source;
use super::raw::{OneOrMany, RawCluster, RawDelay, RawExpect, RawScenario, RawStep, RawVm};
use super::{ClusterPart, Delay, End, Expect, Pattern, Scenario, ScenarioError, Step, Target, VmPart, When};
use crate::cluster::{CONTROLLER, HOSTS_MAX, HostName};
use crate::guest::GuestSource;
use crate::units::ByteCount;
use ft_protocol::Span;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;

const HOSTS: u16 = 3;
const MEMORY: ByteCount = ByteCount::mib(64);
const SEED: u64 = 1;
const TIME_LIMIT: Span = Span::from_ms(60_000);
/// More firings of one step make no scenario clearer.
const REPEAT_MAX: u32 = 10_000;
/// Refers to what another step hit.
const HIT_BY: char = '@';

pub(super) fn scenario(path: &Path, text: &str) -> Result<Scenario, ScenarioError> {
    let source = Source { path, text };
    let raw: RawScenario = toml::from_str(text).map_err(|error| source.toml(&error))?;
    let cluster = cluster(&source, &raw.cluster)?;
    Ok(Scenario {
        path: path.to_owned(),
        name: path.file_stem().map_or_else(|| "scenario".to_owned(), |stem| stem.to_string_lossy().into_owned()),
        description: raw.description,
        seed: raw.seed.unwrap_or(SEED),
        time_limit: raw.time_limit.map_or(TIME_LIMIT, |limit| limit.0),
        steps: steps(&source, &raw.step, cluster.hosts)?,
        cluster,
        vm: vm(path, raw.vm),
        expect: expect(&source, raw.expect)?,
    })
}

fn cluster(source: &Source<'_>, raw: &RawCluster) -> Result<ClusterPart, ScenarioError> {
    let hosts = match &raw.hosts {
        None => HOSTS,
        Some(hosts) if (1..=HOSTS_MAX).contains(hosts.get_ref()) => *hosts.get_ref(),
        Some(hosts) => return Err(source.invalid(&hosts.span(), format!("a cluster has 1 to {HOSTS_MAX} hosts"))),
    };
    Ok(ClusterPart { hosts, heartbeat_bound: raw.heartbeat.map(|bound| bound.0), respawn: raw.respawn })
}

fn vm(path: &Path, raw: RawVm) -> VmPart {
    let Ok(guest) = raw.guest.parse();
    let guest = match guest {
        GuestSource::File(file) => GuestSource::File(path.parent().map_or(PathBuf::new(), Path::to_owned).join(file)),
        builtin @ GuestSource::Builtin(_) => builtin,
    };
    VmPart {
        guest,
        args: raw.args,
        memory: raw.memory.map_or(MEMORY, |memory| memory.0),
        mode: raw.mode,
        epoch_interval: raw.epoch.map(|epoch| epoch.0),
    }
}

fn steps(source: &Source<'_>, raw: &[Spanned<RawStep>], hosts: u16) -> Result<Vec<Step>, ScenarioError> {
    let mut steps: Vec<Step> = Vec::new();
    for (index, spanned) in raw.iter().enumerate() {
        let raw = spanned.get_ref();
        let name = name(source, raw, index, &steps)?;
        let after =
            raw.after.as_ref().map(|after| earlier(source, &after.span(), after.get_ref(), &steps)).transpose()?;
        let (when, delay) = trigger(source, raw, &spanned.span())?;
        let repeat = raw.repeat.as_ref().map_or(1, |repeat| *repeat.get_ref());
        if !(1..=REPEAT_MAX).contains(&repeat) {
            let span = raw.repeat.as_ref().map_or(spanned.span(), Spanned::span);
            return Err(source.invalid(&span, format!("a step can be repeated 1 to {REPEAT_MAX} times")));
        }
        let targets = targets(source, &raw.host, hosts, &steps)?;
        let (line, _) = source.place(spanned.span().start);
        steps.push(Step { name, line, after, when, delay, repeat, action: raw.action, targets });
    }
    Ok(steps)
}

fn name(source: &Source<'_>, raw: &RawStep, index: usize, steps: &[Step]) -> Result<String, ScenarioError> {
    let Some(name) = &raw.name else { return Ok(format!("step {}", index + 1)) };
    if steps.iter().any(|step| step.name == *name.get_ref()) {
        return Err(source.invalid(&name.span(), format!("there is another step named `{}`", name.get_ref())));
    }
    Ok(name.get_ref().clone())
}

fn earlier(source: &Source<'_>, span: &Range<usize>, name: &str, steps: &[Step]) -> Result<usize, ScenarioError> {
    steps.iter().position(|step| step.name == name).ok_or_else(|| {
        let names = steps.iter().map(|step| step.name.as_str());
        source.unknown(span, format!("there is no earlier step named `{name}`"), name, names)
    })
}

fn trigger(source: &Source<'_>, raw: &RawStep, span: &Range<usize>) -> Result<(When, Delay), ScenarioError> {
    let given = [raw.at.is_some(), raw.event.is_some(), raw.console.is_some(), raw.console_regex.is_some()];
    let count = given.iter().filter(|given| **given).count();
    if count > 1 {
        return Err(source.invalid(span, "a step has one of `at`, `event`, `console` and `console-regex`, not several"));
    }
    if count == 0 && raw.after.is_none() {
        return Err(source.invalid(span, "a step needs `at`, `event`, `console`, `console-regex` or `after`"));
    }
    if let Some(at) = &raw.at {
        if raw.after.is_some() || raw.delay.is_some() {
            let message = "`at` counts from the guest's start: use `delay` with `after`, and not both";
            return Err(source.invalid(&at.span(), message));
        }
        return Ok((When::Running, at.get_ref().0));
    }
    let when = if let Some(event) = &raw.event {
        When::Event(*event.get_ref())
    } else if let Some(text) = &raw.console {
        When::Console(Pattern::Text(text.get_ref().clone()))
    } else if let Some(regex) = &raw.console_regex {
        let compiled = regex::bytes::Regex::new(regex.get_ref()).map_err(|error| {
            let line = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            source.invalid(&regex.span(), line)
        })?;
        When::Console(Pattern::Regex(compiled))
    } else {
        When::Running
    };
    Ok((when, raw.delay.as_ref().map_or(Delay::default(), |delay: &Spanned<RawDelay>| delay.get_ref().0)))
}

fn targets(
    source: &Source<'_>,
    raw: &Spanned<OneOrMany>,
    hosts: u16,
    steps: &[Step],
) -> Result<Vec<Target>, ScenarioError> {
    let span = raw.span();
    let names: Vec<HostName> = (0..hosts).map(HostName::nth).collect();
    if raw.get_ref().0.is_empty() {
        return Err(source.invalid(&span, "a step needs a host"));
    }
    let target = |text: &String| match text.as_str() {
        "primary" => Ok(Target::Primary),
        "secondary" => Ok(Target::Secondary),
        CONTROLLER => Ok(Target::Host(HostName::new(CONTROLLER))),
        text => match text.strip_prefix(HIT_BY) {
            Some(step) => earlier(source, &span, step, steps).map(Target::HitBy),
            None => match names.iter().find(|name| name.as_str() == text) {
                Some(name) => Ok(Target::Host(name.clone())),
                None => {
                    let last = names.last().map_or("a", HostName::as_str);
                    let message = format!(
                        "there is no host `{text}`: known are a to {last}, primary, secondary, controller, and @STEP"
                    );
                    Err(source.unknown(&span, message, text, ["primary", "secondary", CONTROLLER]))
                }
            },
        },
    };
    raw.get_ref().0.iter().map(target).collect()
}

fn expect(source: &Source<'_>, raw: RawExpect) -> Result<Expect, ScenarioError> {
    let end = raw.end.as_ref().map_or(End::Ended, |end| *end.get_ref());
    if let Some(code) = &raw.exit_code
        && end != End::Ended
    {
        return Err(source.invalid(&code.span(), "an exit code needs `end = \"ended\"`"));
    }
    if let Some(console) = &raw.console
        && console.get_ref() != "unprotected"
    {
        let message = format!("unknown console `{}`: known is `unprotected`", console.get_ref());
        return Err(source.unknown(&console.span(), message, console.get_ref(), ["unprotected"]));
    }
    Ok(Expect {
        end,
        exit_code: raw.exit_code.map(Spanned::into_inner),
        console_as_unprotected: raw.console.is_some(),
        console_contains: raw.console_contains.0,
        takeovers: raw.takeovers.map(|count| count.0),
        fenced: raw.fenced.map(|count| count.0),
        protected_again_within: raw.protected_again_within.map(|within| within.0),
        blackout_max: raw.blackout_max.map(|max| max.0),
    })
}
