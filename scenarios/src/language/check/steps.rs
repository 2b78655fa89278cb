//! The steps: when they fire.

use super::super::error::Source;
use super::super::raw::{RawAct, RawStep};
use super::super::{
    Act, Action, ClusterPart, Condition, CorruptWhat, Delay, End, Expect, ModePart, Pattern, ScenarioError, Step,
    Target, VmPart, WaysPart, When,
};
use super::{Known, acts};
use crate::cluster::{CONTROLLER, HostName, HostSignal};
use crate::language::step::CutFrom;
use std::ops::Range;
use toml::Spanned;
use vmm::failpoint::FAILPOINTS;

/// More firings of one step make no scenario clearer.
const REPEAT_MAX: u32 = 10_000;
/// Failpoints of the controller's begin so.
const OF_CONTROLLER: &str = "controller.";

pub(super) fn steps(known: &Known<'_, '_>, raw: &[Spanned<RawStep>]) -> Result<Vec<Step>, ScenarioError> {
    let mut steps: Vec<Step> = Vec::new();
    check_names(known.source, raw)?;
    for (index, spanned) in raw.iter().enumerate() {
        let raw = spanned.get_ref();
        let line = known.source.line(&spanned.span()).unwrap_or(1);
        let (when, delay) = trigger(known, raw, &spanned.span())?;
        let (repeat, fires_min) = repeat(known.source, raw, &spanned.span())?;
        steps.push(Step {
            name: name(raw, index),
            line,
            after: raw.after.as_ref().map(|after| earlier(known.source, after, &steps)).transpose()?,
            vm: known.vm(raw.vm.as_ref())?,
            when,
            delay,
            repeat,
            fires_min,
            acts: acts::of_step(known, raw, &spanned.span(), &steps)?,
        });
    }
    Ok(steps)
}

fn name(raw: &RawStep, index: usize) -> String {
    raw.name.as_ref().map_or_else(|| format!("step {}", index + 1), |name| name.get_ref().clone())
}

/// No two have the same, whether it is given or not; and what comes after something stands behind it.
fn check_names(source: &Source<'_>, raw: &[Spanned<RawStep>]) -> Result<(), ScenarioError> {
    let names: Vec<String> = raw.iter().enumerate().map(|(index, step)| name(step.get_ref(), index)).collect();
    for (index, step) in raw.iter().enumerate() {
        let RawStep { name, after, .. } = step.get_ref();
        if let Some(name) = name
            && (name.get_ref().trim().is_empty() || name.get_ref().chars().any(char::is_control))
        {
            return Err(source.invalid(&name.span(), "the name of a step is a line of text: leave it out, or say one"));
        }
        let others = names.iter().enumerate().filter(|(other, _)| *other != index);
        if let Some(name) = name
            && others.map(|(_, other)| other).any(|other| other == name.get_ref())
        {
            return Err(source.invalid(&name.span(), format!("there is another step named `{}`", name.get_ref())));
        }
        if let Some(after) = after
            && let Some(later) = names[index..].iter().position(|name| name == after.get_ref())
        {
            let line = source.line(&raw[index + later].span()).unwrap_or(1);
            let which =
                if later == 0 { "is this step itself".to_owned() } else { format!("stands behind it, in line {line}") };
            let message = format!("a step comes `after` one that stands before it: `{}` {which}", after.get_ref());
            return Err(source.invalid(&after.span(), message));
        }
    }
    Ok(())
}

fn earlier(source: &Source<'_>, name: &Spanned<String>, steps: &[Step]) -> Result<usize, ScenarioError> {
    earlier_named(source, &name.span(), name.get_ref(), steps)
}

pub(super) fn earlier_named(
    source: &Source<'_>,
    span: &Range<usize>,
    name: &str,
    steps: &[Step],
) -> Result<usize, ScenarioError> {
    steps.iter().position(|step| step.name == name).ok_or_else(|| {
        let names = steps.iter().map(|step| step.name.as_str());
        source.unknown(span, format!("there is no earlier step named `{name}`"), name, names)
    })
}

fn repeat(source: &Source<'_>, raw: &RawStep, span: &Range<usize>) -> Result<(u32, u32), ScenarioError> {
    let span = raw.repeat.as_ref().map_or(span.clone(), Spanned::span);
    let (min, max) = raw.repeat.as_ref().map_or((1, 1), |repeat| {
        let count = repeat.get_ref().0;
        (count.min, count.max.unwrap_or(u64::from(REPEAT_MAX)))
    });
    let bad = || source.invalid(&span, format!("a step can be repeated 1 to {REPEAT_MAX} times"));
    let in_range = |number: u64| u32::try_from(number).ok().filter(|number| *number <= REPEAT_MAX).ok_or_else(bad);
    let (min, max) = (in_range(min)?, in_range(max)?);
    if max == 0 {
        return Err(bad());
    }
    Ok((max, if raw.optional { 0 } else { min }))
}

fn trigger(known: &Known<'_, '_>, raw: &RawStep, span: &Range<usize>) -> Result<(When, Delay), ScenarioError> {
    let source = known.source;
    // Whatever else it waits for.
    if let Some(only) = raw.on.as_ref().map(Spanned::span).or(raw.hit.as_ref().map(Spanned::span))
        && raw.failpoint.is_none()
    {
        return Err(source.invalid(&only, "`on` and `hit` go with `failpoint`"));
    }
    let given = [
        raw.at.as_ref().map(Spanned::span),
        raw.every.as_ref().map(Spanned::span),
        raw.event.as_ref().map(Spanned::span),
        raw.console.as_ref().map(Spanned::span),
        raw.console_regex.as_ref().map(Spanned::span),
        raw.when.as_ref().map(Spanned::span),
        raw.failpoint.as_ref().map(Spanned::span),
    ];
    let mut given: Vec<Range<usize>> = given.into_iter().flatten().collect();
    given.sort_by_key(|place| place.start);
    if let Some(second) = given.get(1) {
        let message =
            "a step has one of `at`, `every`, `event`, `console`, `console-regex`, `when` and `failpoint`, not several";
        return Err(source.invalid(second, message));
    }
    if given.is_empty() && raw.after.is_none() {
        let message = "a step needs `at`, `every`, `event`, `console`, `console-regex`, `when`, `failpoint` or `after`";
        return Err(source.invalid(span, message));
    }
    if let Some(of_event) = raw.count.as_ref().filter(|_| raw.event.is_none()) {
        return Err(source.invalid(&of_event.span(), "`count` says how often an `event` must happen"));
    }
    if let Some((key, at)) = raw.at.as_ref().map(|at| ("at", at)).or(raw.every.as_ref().map(|every| ("every", every))) {
        if raw.after.is_some() || raw.delay.is_some() {
            let message = format!("`{key}` counts from the guest's start: use `delay` with `after`, and not both");
            return Err(source.invalid(&at.span(), message));
        }
        match &raw.repeat {
            Some(repeat) if key == "at" && repeat.get_ref().0.max != Some(1) => {
                let message = "`at` is one moment, which does not come again".to_owned();
                return Err(source.with_suggestion(&repeat.span(), message, Some("every".to_owned())));
            }
            None if key == "every" => {
                return Err(source.invalid(&at.span(), "say how often: `every` goes with `repeat`"));
            }
            _ => return Ok((When::Running, at.get_ref().0)),
        }
    }
    let when = if raw.failpoint.is_some() { failpoint(known, raw)? } else { waited_for(source, raw)? };
    Ok((when, raw.delay.as_ref().map_or(Delay::default(), |delay| delay.get_ref().0)))
}

fn waited_for(source: &Source<'_>, raw: &RawStep) -> Result<When, ScenarioError> {
    if let Some(event) = &raw.event {
        let count = raw.count.as_ref().map_or(1, |count| *count.get_ref());
        if let Some(zero) = raw.count.as_ref().filter(|_| count == 0) {
            return Err(source.invalid(&zero.span(), "an event happens at least once"));
        }
        return Ok(When::Event { kind: *event.get_ref(), count, of_vm: raw.vm.is_some() });
    }
    if let Some(text) = &raw.console {
        some_text(source, "console", text)?;
        return Ok(When::Console(Pattern::Text(text.get_ref().clone())));
    }
    if let Some(regex) = &raw.console_regex {
        some_text(source, "console-regex", regex)?;
        let compiled = regex::bytes::Regex::new(regex.get_ref()).map_err(|error| {
            let line = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            source.invalid(&regex.span(), line)
        })?;
        return Ok(When::Console(Pattern::Regex(compiled)));
    }
    if let Some(condition) = &raw.when {
        let condition = Condition::parse(condition.get_ref())
            .map_err(|(message, near)| source.with_suggestion(&condition.span(), message, near.map(str::to_owned)))?;
        return Ok(When::Condition(condition));
    }
    Ok(When::Running)
}

/// Every line contains no text at all.
fn some_text(source: &Source<'_>, key: &str, text: &Spanned<String>) -> Result<(), ScenarioError> {
    if text.get_ref().is_empty() {
        return Err(source.invalid(&text.span(), format!("`{key}` is empty: any line would do")));
    }
    if text.get_ref().contains('\n') {
        return Err(source.invalid(&text.span(), format!("`{key}` has a line break: no line does")));
    }
    Ok(())
}

fn failpoint(known: &Known<'_, '_>, raw: &RawStep) -> Result<When, ScenarioError> {
    let (source, Some(failpoint)) = (known.source, &raw.failpoint) else { return Ok(When::Running) };
    let given = failpoint.get_ref().as_str();
    let Some(name) = FAILPOINTS.into_iter().find(|name| *name == given) else {
        let message = format!("there is no failpoint `{given}` (docs/scenarios.md has them)");
        return Err(source.unknown(&failpoint.span(), message, given, FAILPOINTS));
    };
    if let Some(after) = &raw.after {
        let message = "a failpoint is armed when its process starts: it cannot come `after` another step";
        return Err(source.invalid(&after.span(), message));
    }
    if let Some(repeat) = &raw.repeat {
        return Err(source.invalid(&repeat.span(), "a failpoint is armed once: it cannot be repeated"));
    }
    let process = match &raw.on {
        None if name.starts_with(OF_CONTROLLER) => HostName::new(CONTROLLER),
        None => return Err(source.invalid(&failpoint.span(), "say `on` which host the failpoint is")),
        Some(on) if name.starts_with(OF_CONTROLLER) && on.get_ref() != CONTROLLER => {
            return Err(source.invalid(&on.span(), "this is a failpoint of the controller"));
        }
        Some(on) if on.get_ref() == CONTROLLER && name.starts_with(OF_CONTROLLER) => HostName::new(CONTROLLER),
        Some(on) if on.get_ref() == CONTROLLER => {
            return Err(source.invalid(&on.span(), "this is a failpoint of hosts"));
        }
        Some(on) => known.host(on)?,
    };
    let hit = raw.hit.as_ref().map_or(1, |hit| *hit.get_ref());
    if let Some(zero) = raw.hit.as_ref().filter(|_| hit == 0) {
        return Err(source.invalid(&zero.span(), "passages of a failpoint are counted from 1"));
    }
    Ok(When::Failpoint { process, name, hit })
}

/// What does not go together.
pub(super) fn check_together(
    source: &Source<'_>,
    raw: &[Spanned<RawStep>],
    steps: &[Step],
    (cluster, vms): (&ClusterPart, &[VmPart]),
) -> Result<(), ScenarioError> {
    let records = |mode: ModePart| mode != ModePart::Checkpoint;
    let kills = cluster.fence.as_ref().is_some_and(|fence| fence.agent == "kill");
    for (step, raw) in steps.iter().zip(raw) {
        for (act, written) in step.acts.iter().zip(raw.get_ref().acts()) {
            let action = written.action.span();
            let place = |key: Option<Range<usize>>| key.unwrap_or(action.clone());
            match act {
                // The controller would take the process that relays the messages for the host.
                Act::Cut { from: CutFrom::Network | CutFrom::Both, .. } if kills => {
                    let message = "hosts whose network is cut are behind a relay, which `fence-agent = \"kill\"` would \
                                   kill in their place: use another agent";
                    return Err(source.invalid(&place(written.from.map(|from| from.span())), message));
                }
                Act::Corrupt { what: CorruptWhat::Log, vm, .. }
                    if !records(vms[*vm].mode) && !turns(steps, *vm, records) =>
                {
                    let message =
                        "in checkpoint mode there is no log that could be corrupted: give the VM another `mode`";
                    return Err(source.invalid(&place(written.what.map(|what| what.span())), message));
                }
                Act::Segment { link, .. } if !link.map_or(vms.iter().any(|vm| vm.net), |vm| vms[vm].net) => {
                    let message = "there is no such link: the VM, or any VM, has no `net = true`";
                    let vm = written.vm.as_ref().or(raw.get_ref().vm.as_ref());
                    return Err(source.invalid(&place(vm.map(Spanned::span)), message));
                }
                Act::Switchover { vm, to: Some(Target::Primary(primary)) } if vm == primary => {
                    let message = "the VM is on its primary's host: say another one `to` go to";
                    return Err(source.invalid(&place(written.to.map(|to| to.span())), message));
                }
                Act::Fill { .. } if cluster.pool_size.is_none() => {
                    let message = "`fill` takes all space of the pool: give it a tmpfs of its own with `pool-size`";
                    return Err(source.invalid(&action, message));
                }
                _ => {}
            }
            let takes = |target: &Target| match target {
                Target::Secondary(_) => ("secondary", 2),
                Target::Spare(_) => ("spare", 3),
                _ => ("", 0),
            };
            let vacant = act.targets().iter().map(takes).find(|(_, takes)| cluster.hosts < *takes);
            if let Some((role, takes)) = vacant.filter(|_| step.fires_min > 0) {
                let message =
                    format!("nobody is ever {role} in a cluster of {}: that takes {takes} hosts", cluster.hosts);
                return Err(source.invalid(&place(whom(&written)), message));
            }
        }
    }
    Ok(())
}

/// Where an act says to whom something is done.
fn whom(act: &RawAct) -> Option<Range<usize>> {
    act.host.as_ref().map(Spanned::span).or(act.to.as_ref().map(Spanned::span))
}

/// A process that stands still at one passage of a failpoint is let go on by one step.
pub(super) fn check_failpoints(
    source: &Source<'_>,
    raw: &[Spanned<RawStep>],
    steps: &[Step],
) -> Result<(), ScenarioError> {
    let place = |step: &Step| match &step.when {
        When::Failpoint { process, name, hit } => Some((process.clone(), *name, *hit)),
        _ => None,
    };
    for (index, step) in steps.iter().enumerate() {
        let Some(own) = place(step) else { continue };
        if let Some(other) = steps[..index].iter().find(|other| place(other).as_ref() == Some(&own)) {
            let message = format!(
                "`{}` waits for this passage of the failpoint, too: say another `hit`, or `do` it all in one step",
                other.name
            );
            let failpoint = raw[index].get_ref().failpoint.as_ref().map(Spanned::span);
            return Err(source.invalid(&failpoint.unwrap_or(raw[index].span()), message));
        }
    }
    Ok(())
}

/// A VM that a step deletes does not come to an end of its own.
pub(super) fn check_deleted(
    source: &Source<'_>,
    raw: &[Spanned<RawStep>],
    steps: &[Step],
    expect: &Expect,
) -> Result<(), ScenarioError> {
    let lives_on = |act: &Act| matches!(act, Act::Delete { vm } if expect.vms[*vm].end == End::Ended);
    let sure = steps.iter().zip(raw).filter(|(step, _)| step.fires_min > 0);
    let mut acts = sure.flat_map(|(step, raw)| step.acts.iter().zip(raw.get_ref().acts()));
    match acts.find(|(act, _)| lives_on(act)) {
        Some((_, written)) => {
            let message =
                "its VM is deleted and never ends: expect `end = \"deleted\"` of it, or make the step `optional`";
            Err(source.invalid(&written.action.span(), message))
        }
        None => Ok(()),
    }
}

/// The last VM is to be refused: it never runs, and nothing can be done to it.
pub(super) fn check_refused(
    known: &Known<'_, '_>,
    raw: &[Spanned<RawStep>],
    steps: &[Step],
) -> Result<(), ScenarioError> {
    let refused = known.vms.len() - 1;
    let is_refused = |target: &Target| matches!(target, Target::Primary(vm) | Target::Secondary(vm) | Target::Spare(vm) if *vm == refused);
    let refuse = |place: &Range<usize>| {
        let message = format!("VM `{}` never runs: `[expect] refused` says that it is refused", known.vms[refused]);
        Err(known.source.invalid(place, message))
    };
    for (step, raw) in steps.iter().zip(raw) {
        let its_vm = raw.get_ref().vm.as_ref().map(Spanned::span);
        for (act, written) in step.acts.iter().zip(raw.get_ref().acts()) {
            let action = written.action.span();
            if act.targets().iter().any(is_refused) {
                return refuse(&whom(&written).unwrap_or(action));
            }
            if act.vm() == Some(refused) {
                return refuse(&written.vm.map(|vm| vm.span()).or(its_vm).unwrap_or(action));
            }
        }
        if step.vm == refused {
            return refuse(&its_vm.unwrap_or(raw.span()));
        }
    }
    Ok(())
}

/// Whether a step turns a VM to such a mode.
fn turns(steps: &[Step], vm: usize, wanted: impl Fn(ModePart) -> bool) -> bool {
    let mut acts = steps.iter().flat_map(|step| &step.acts);
    acts.any(|act| matches!(act, Act::Mode { vm: turned, mode } if *turned == vm && wanted(*mode)))
}

/// The signal that an action sends, if it sends one.
pub(super) fn signal_of(action: Action) -> Option<HostSignal> {
    match action {
        Action::Kill => Some(HostSignal::Kill),
        Action::Stop => Some(HostSignal::Stop),
        Action::Cont => Some(HostSignal::Cont),
        _ => None,
    }
}

/// Ways make no sense of a pool.
pub(super) fn ways_of(from: CutFrom, ways: Option<WaysPart>) -> Result<WaysPart, &'static str> {
    match (from, ways) {
        (CutFrom::Pool, Some(_)) => Err("`ways` are those of the network: the pool is cut whole"),
        (_, Some(WaysPart::ToGuest | WaysPart::FromGuest)) => Err("the ways of a host are both, to-host and from-host"),
        (_, ways) => Ok(ways.unwrap_or_default()),
    }
}
