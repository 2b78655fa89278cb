//! Holds what came of a run against what must come of it.

use super::schedule::Schedule;
use crate::compare::first_difference;
use crate::golden::Golden;
use crate::language::{End, Expect, Pattern, Scenario, VmExpect};
use crate::protected::Outcome;
use crate::timeline::Timeline;
use crate::units::show_span;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::{Span, Time};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// One expectation, and whether it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What was expected.
    pub expectation: String,
    /// Whether it is so.
    pub holds: bool,
    /// What was found.
    pub found: String,
    /// Where the file says so.
    pub line: Option<usize>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expectation, found, .. } = self;
        match self.line {
            Some(line) => write!(f, "{expectation} (line {line}): {found}"),
            None => write!(f, "{expectation}: {found}"),
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The VMs.
    pub vms: Vec<ObservedVm<'a>>,
    /// The steps and consoles.
    pub schedule: &'a Schedule,
    /// Whether the last VM was refused, if it was to be, and how.
    pub refusal: Option<&'a Result<(), String>>,
    /// Orders that the controller refused: the step, and why.
    pub refused: &'a [(String, String)],
    /// When it was over.
    pub now: Time,
}

/// What came of a VM.
#[derive(Debug)]
pub struct ObservedVm<'a> {
    /// How it ended; `None`: time ran out.
    pub outcome: Option<&'a Outcome>,
    /// Its history.
    pub timeline: &'a Timeline,
    /// The unprotected run, where it is needed.
    pub golden: Option<&'a Golden>,
    /// The checksum of its memory in the pool, where it is needed.
    pub memory_crc: Option<u32>,
}

/// All expectations, each with its verdict: first how the VMs ended, then every step, then the rest.
#[must_use]
pub fn judge(scenario: &Scenario, observed: &Observed<'_>) -> Vec<Verdict> {
    let several = observed.vms.len() > 1;
    let judges: Vec<Judge<'_>> = observed
        .vms
        .iter()
        .enumerate()
        .map(|(index, vm)| Judge {
            scenario,
            expect: &scenario.expect.vms[index],
            name: several.then_some(scenario.vms[index].name.as_str()),
            observed: vm,
            console: observed.schedule.console(index),
            now: observed.now,
        })
        .collect();
    let mut verdicts: Vec<Verdict> = judges.iter().map(Judge::ending).collect();
    verdicts.extend(steps(observed));
    verdicts.extend(judges.iter().flat_map(Judge::rest));
    verdicts.extend(of_cluster(scenario, observed));
    verdicts
}

fn steps<'a>(observed: &'a Observed<'_>) -> impl Iterator<Item = Verdict> + 'a {
    observed.schedule.steps().map(move |(step, fired)| {
        let refused = observed.refused.iter().find(|(name, _)| *name == step.name && step.fires_min > 0);
        let times = if step.fires_min == step.repeat {
            format!("{} times", step.repeat)
        } else {
            format!("{} to {} times", step.fires_min, step.repeat)
        };
        let (holds, found) = match refused {
            Some((_, why)) => (false, format!("the controller refused: {why}")),
            None if fired == step.repeat => (true, "it did".to_owned()),
            None => (fired >= step.fires_min, format!("it fired {fired} times")),
        };
        let expectation = format!("{} fires {times}", step.name);
        Verdict { expectation, holds, found, line: Some(step.line) }
    })
}

fn of_cluster(scenario: &Scenario, observed: &Observed<'_>) -> Vec<Verdict> {
    let expect = &scenario.expect;
    let at = |key: &str| Some(expect.lines.get(key).copied().unwrap_or(expect.line));
    let mut verdicts = Vec::new();
    if let Some(count) = expect.fenced {
        // Ends of hosts are in the history of every VM.
        let fenced = observed.vms.first().map_or(0, |vm| vm.timeline.fenced());
        verdicts.push(Verdict {
            expectation: format!("{count} hosts fenced"),
            holds: count.holds(fenced),
            found: format!("{fenced} hosts fenced"),
            line: at("fenced"),
        });
    }
    for (kind, count) in &expect.events {
        let happened: u64 = observed.schedule.happenings(*kind);
        let name = serde_json::to_value(kind).ok();
        let name = name.as_ref().and_then(serde_json::Value::as_str).unwrap_or("?");
        verdicts.push(Verdict {
            expectation: format!("{name} happens {count} times"),
            holds: count.holds(happened),
            found: format!("it happened {happened} times"),
            line: at("events"),
        });
    }
    if let Some(text) = &expect.refused {
        let (holds, found) = match observed.refusal {
            Some(Err(why)) => (why.contains(text.as_str()), format!("refused: {why}")),
            _ => (false, "it was accepted".to_owned()),
        };
        let expectation = format!("the VM is refused with `{text}`");
        verdicts.push(Verdict { expectation, holds, found, line: at("refused") });
    }
    verdicts
}

/// Whether all that can be verified in a pool verifies.
pub(super) fn pool(dir: &Path) -> Verdict {
    use vmm::inspect::{Verdict as Sound, check};
    let expectation = "the pool is sound".to_owned();
    let (holds, found) = match check(dir) {
        Ok(report) => match report.verdict() {
            Sound::Damaged => {
                let findings = report.findings.iter().map(ToString::to_string);
                (false, findings.collect::<Vec<_>>().join("; "))
            }
            Sound::Sound | Sound::InChange => (true, "all that can be verified verifies".to_owned()),
        },
        Err(error) => (false, vmm::chain(&error)),
    };
    Verdict { expectation, holds, found, line: None }
}

/// Judges one VM.
struct Judge<'a> {
    scenario: &'a Scenario,
    expect: &'a VmExpect,
    /// Where there are several.
    name: Option<&'a str>,
    observed: &'a ObservedVm<'a>,
    console: &'a [u8],
    now: Time,
}

impl Judge<'_> {
    fn verdict(&self, key: &str, expectation: String, holds: bool, found: String) -> Verdict {
        let expectation = match self.name {
            Some(name) => format!("{name}: {expectation}"),
            None => expectation,
        };
        let Expect { line, lines, .. } = &self.scenario.expect;
        let line = self.expect.lines.get(key).or_else(|| lines.get(key)).unwrap_or(line);
        Verdict { expectation, holds, found, line: Some(*line) }
    }

    fn ending(&self) -> Verdict {
        let (expect, outcome) = (self.expect, self.observed.outcome);
        let expectation = match (expect.end, expect.exit_code) {
            (End::Ended, Some(code)) => format!("the guest exits with {code}"),
            (End::Ended, None) => "the guest exits".to_owned(),
            (End::Crashed, _) => "the guest crashes".to_owned(),
            (End::Lost, _) => "the VM is lost".to_owned(),
            (End::Deleted, _) => "the VM is deleted".to_owned(),
        };
        let holds = match outcome {
            Some(Outcome::Ended(GuestEnd::Exited(code))) => {
                expect.end == End::Ended && expect.exit_code.is_none_or(|expected| expected == *code)
            }
            Some(Outcome::Ended(GuestEnd::Crashed(_))) => expect.end == End::Crashed,
            Some(Outcome::Lost { .. }) => expect.end == End::Lost,
            Some(Outcome::Deleted) => expect.end == End::Deleted,
            None => false,
        };
        let found = match outcome {
            Some(Outcome::Ended(GuestEnd::Exited(code))) => format!("it exited with {code}"),
            Some(Outcome::Ended(GuestEnd::Crashed(line))) => format!("it crashed: {line}"),
            Some(Outcome::Lost { recoverable: Some(epoch) }) => {
                format!("no host is left, epoch {} is kept", epoch.get())
            }
            Some(Outcome::Lost { recoverable: None }) => "no host is left".to_owned(),
            Some(Outcome::Deleted) => "it was deleted".to_owned(),
            None => "time ran out".to_owned(),
        };
        let key = if expect.exit_code.is_some() { "exit-code" } else { "end" };
        self.verdict(key, expectation, holds, found)
    }

    fn rest(&self) -> Vec<Verdict> {
        let (expect, timeline) = (self.expect, self.observed.timeline);
        let mut verdicts = Vec::new();
        if expect.console_as_unprotected {
            verdicts.push(self.console());
        }
        if expect.memory_as_unprotected {
            verdicts.push(self.memory());
        }
        verdicts.extend(expect.console_contains.iter().map(|text| self.console_has(text, true)));
        verdicts.extend(expect.console_lacks.iter().map(|text| self.console_has(text, false)));
        let counts = [
            ("takeovers", expect.takeovers, timeline.takeovers_done()),
            ("switchovers", expect.switchovers, timeline.switchovers_done()),
        ];
        for (key, count, number) in counts {
            verdicts.extend(count.map(|count| {
                self.verdict(key, format!("{count} {key}"), count.holds(number), format!("{number} {key}"))
            }));
        }
        verdicts.extend(expect.protected_within.map(|bound| self.first_protection(bound)));
        verdicts.extend(expect.protected_again_within.map(|bound| self.protection(bound)));
        verdicts.extend(expect.blackout_max.map(|bound| self.blackout(bound)));
        verdicts
    }

    fn console(&self) -> Verdict {
        let expectation = "the console is that of an unprotected run, byte for byte".to_owned();
        let got = self.console;
        let Some(golden) = self.observed.golden else {
            return self.verdict("console", expectation, false, "there is no unprotected run".to_owned());
        };
        // A VM that is lost or deleted shows what came before, and nothing else.
        let cut_short = matches!(self.observed.outcome, Some(Outcome::Lost { .. } | Outcome::Deleted));
        let expected =
            if cut_short { golden.console.get(..got.len()).unwrap_or(&golden.console) } else { &golden.console };
        let (holds, found) = match first_difference(expected, got) {
            None => (true, format!("{} bytes, all equal", got.len())),
            Some(difference) => (false, difference.to_string()),
        };
        self.verdict("console", expectation, holds, found)
    }

    fn memory(&self) -> Verdict {
        let expectation = "the memory at the end is that of an unprotected run, byte for byte".to_owned();
        let golden = self.observed.golden.and_then(|golden| golden.memory_crc);
        let (holds, found) = match (golden, self.observed.memory_crc) {
            (Some(expected), Some(got)) if expected == got => (true, format!("checksum {got:08x} of both")),
            (Some(expected), Some(got)) => {
                (false, format!("checksum {got:08x}, of the unprotected run {expected:08x}"))
            }
            (_, None) => (false, "there is no image in the pool".to_owned()),
            (None, _) => (false, "the unprotected run left no checksum".to_owned()),
        };
        self.verdict("memory", expectation, holds, found)
    }

    fn console_has(&self, text: &str, wanted: bool) -> Verdict {
        let pattern = Pattern::Text(text.to_owned());
        let has = self.console.split(|byte| *byte == b'\n').any(|line| pattern.matches(line));
        let (verb, key) = if wanted { ("contains", "console-contains") } else { ("lacks", "console-lacks") };
        let found = if has { "a line does contain it" } else { "no line does" };
        let found = if has && wanted { "it does" } else { found };
        self.verdict(key, format!("the console {verb} `{text}`"), has == wanted, found.to_owned())
    }

    fn first_protection(&self, bound: Span) -> Verdict {
        let timeline = self.observed.timeline;
        let took = timeline.first_live().zip(timeline.first_protected());
        let took = took.map(|(live, protected)| protected.since(live.min(protected)));
        let found = took.map_or("it never was".to_owned(), |took| format!("after {}", show_span(took)));
        let expectation = format!("protected within {}", show_span(bound));
        self.verdict("protected-within", expectation, took.is_some_and(|took| took <= bound), found)
    }

    fn protection(&self, bound: Span) -> Verdict {
        let losses = self.observed.timeline.losses();
        let lengths: Vec<Span> = losses.iter().map(|loss| loss.until.unwrap_or(self.now).since(loss.since)).collect();
        let healed = losses.iter().filter(|loss| loss.until.is_some()).count();
        let longest = lengths.iter().copied().max().unwrap_or(Span::ZERO);
        let found = match (losses.len(), healed) {
            (0, _) => "protection was never lost".to_owned(),
            (lost, healed) => format!("lost {lost} times, healed {healed} times, longest {}", show_span(longest)),
        };
        // The guest may end before the last loss is healed, but something must have been.
        let holds = healed > 0 && healed + 1 >= losses.len() && longest <= bound;
        let expectation = format!("protected again within {}", show_span(bound));
        self.verdict("protected-again-within", expectation, holds, found)
    }

    fn blackout(&self, bound: Span) -> Verdict {
        let longest = self.observed.timeline.blackout_max();
        let found =
            longest.map_or("no blackout was measured".to_owned(), |longest| format!("longest {}", show_span(longest)));
        let expectation = format!("no blackout longer than {}", show_span(bound));
        self.verdict("blackout-max", expectation, longest.is_some_and(|longest| longest <= bound), found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::Duration;

    fn verdicts(expect: &str, outcome: Option<&Outcome>, console: &[u8]) -> Vec<Verdict> {
        let text = format!("[vm]\nguest = \"builtin:idle\"\n[expect]\n{expect}\n");
        let scenario = Scenario::parse(Path::new("x.toml"), &text).unwrap();
        let mut schedule = Schedule::new(&scenario, 1);
        schedule.printed(Time::ZERO, 0, console);
        let console = b"one\ntwo\n".to_vec();
        let golden = Golden { console, exit_code: 0, memory_crc: Some(7), duration: Duration::ZERO };
        let timeline = &Timeline::default();
        let vm = ObservedVm { outcome, timeline, golden: Some(&golden), memory_crc: Some(7) };
        let observed = Observed { vms: vec![vm], schedule: &schedule, refusal: None, refused: &[], now: Time::ZERO };
        judge(&scenario, &observed)
    }

    fn all_hold(verdicts: &[Verdict]) -> bool {
        verdicts.iter().all(|verdict| verdict.holds)
    }

    const EXITED: Outcome = Outcome::Ended(GuestEnd::Exited(0));

    #[test]
    fn the_end_is_always_judged() {
        assert!(all_hold(&verdicts("", Some(&EXITED), b"")));
        assert!(!all_hold(&verdicts("exit-code = 3", Some(&EXITED), b"")));
        assert!(!all_hold(&verdicts("end = \"lost\"", Some(&EXITED), b"")));
        assert!(!all_hold(&verdicts("", None, b"")));
        let crashed = Outcome::Ended(GuestEnd::Crashed("triple fault".to_owned()));
        assert!(all_hold(&verdicts("end = \"crashed\"", Some(&crashed), b"")));
        assert!(!all_hold(&verdicts("", Some(&crashed), b"")));
    }

    #[test]
    fn every_byte_of_the_console_counts() {
        let unprotected = "console = \"unprotected\"";
        assert!(all_hold(&verdicts(unprotected, Some(&EXITED), b"one\ntwo\n")));
        for console in [&b"one\ntwo"[..], b"one\ntwo\ntwo\n", b"", b"one\ntwO\n"] {
            assert!(!all_hold(&verdicts(unprotected, Some(&EXITED), console)));
        }
        let lost = Outcome::Lost { recoverable: None };
        let expect = format!("{unprotected}\nend = \"lost\"");
        assert!(all_hold(&verdicts(&expect, Some(&lost), b"one\n")), "what came before the loss is right");
        assert!(!all_hold(&verdicts(&expect, Some(&lost), b"two\n")));
    }

    #[test]
    fn what_did_not_happen_does_not_hold() {
        assert!(all_hold(&verdicts("memory = \"unprotected\"", Some(&EXITED), b"")));
        assert!(!all_hold(&verdicts("refused = \"memory\"", Some(&EXITED), b"")));
        assert!(!all_hold(&verdicts("events = { fenced = 1 }", Some(&EXITED), b"")));
        assert!(all_hold(&verdicts("events = { fenced = 0 }", Some(&EXITED), b"")));
        assert!(!all_hold(&verdicts("console-lacks = \"one\"", Some(&EXITED), b"one\n")));
        for expect in [
            "takeovers = 1",
            "switchovers = 1",
            "protected-within = \"1s\"",
            "fenced = 1",
            "protected-again-within = \"1s\"",
            "blackout-max = \"1s\"",
        ] {
            assert!(!all_hold(&verdicts(expect, Some(&EXITED), b"")), "{expect}");
        }
        assert!(all_hold(&verdicts("takeovers = 0\nfenced = 0", Some(&EXITED), b"")));
        assert!(!all_hold(&verdicts("console-contains = [\"one\", \"three\"]", Some(&EXITED), b"one\n")));
    }
}
