//! Holds what came of a run against what must come of it.

use super::schedule::Schedule;
use crate::compare::first_difference;
use crate::golden::Golden;
use crate::language::{End, Expect};
use crate::protected::Outcome;
use crate::timeline::Timeline;
use crate::units::show_span;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::{Span, Time};
use serde::Serialize;

/// One expectation, and whether it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What was expected.
    pub expectation: String,
    /// Whether it is so.
    pub holds: bool,
    /// What was found.
    pub found: String,
}

/// What came of a run.
#[derive(Debug)]
pub struct Observed<'a> {
    /// How it ended; `None`: time ran out.
    pub outcome: Option<&'a Outcome>,
    /// Its history.
    pub timeline: &'a Timeline,
    /// Its steps and console.
    pub schedule: &'a Schedule,
    /// The unprotected run, where it is needed.
    pub golden: Option<&'a Golden>,
    /// When it was over.
    pub now: Time,
}

/// All expectations, each with its verdict: first how it ended, then every step, then the rest.
#[must_use]
pub fn judge(expect: &Expect, observed: &Observed<'_>) -> Vec<Verdict> {
    let mut verdicts = vec![ending(expect, observed.outcome)];
    for (step, fired) in observed.schedule.steps() {
        verdicts.push(Verdict {
            expectation: format!("{} (line {}) fires {} times", step.name, step.line, step.repeat),
            holds: fired == step.repeat,
            found: if fired == step.repeat { "it did".to_owned() } else { format!("it fired {fired} times") },
        });
    }
    if expect.console_as_unprotected {
        verdicts.push(console(observed));
    }
    for text in &expect.console_contains {
        let found = observed.schedule.console().split(|byte| *byte == b'\n');
        let holds = crate::language::Pattern::Text(text.clone());
        let holds = found.into_iter().any(|line| holds.matches(line));
        let found = if holds { "it does" } else { "no line does" };
        verdicts.push(Verdict {
            expectation: format!("the console contains `{text}`"),
            holds,
            found: found.to_owned(),
        });
    }
    if let Some(count) = expect.takeovers {
        let takeovers = observed.timeline.takeovers_done();
        verdicts.push(Verdict {
            expectation: format!("{count} takeovers"),
            holds: count.holds(takeovers),
            found: format!("{takeovers} takeovers"),
        });
    }
    if let Some(count) = expect.fenced {
        let fenced = observed.timeline.fenced();
        verdicts.push(Verdict {
            expectation: format!("{count} hosts fenced"),
            holds: count.holds(fenced),
            found: format!("{fenced} hosts fenced"),
        });
    }
    verdicts.extend(expect.protected_again_within.map(|bound| protection(bound, observed)));
    verdicts.extend(expect.blackout_max.map(|bound| blackout(bound, observed.timeline)));
    verdicts
}

fn ending(expect: &Expect, outcome: Option<&Outcome>) -> Verdict {
    let expectation = match (expect.end, expect.exit_code) {
        (End::Ended, Some(code)) => format!("the guest exits with {code}"),
        (End::Ended, None) => "the guest exits".to_owned(),
        (End::Crashed, _) => "the guest crashes".to_owned(),
        (End::Lost, _) => "the VM is lost".to_owned(),
    };
    let holds = match outcome {
        Some(Outcome::Ended(GuestEnd::Exited(code))) => {
            expect.end == End::Ended && expect.exit_code.is_none_or(|expected| expected == *code)
        }
        Some(Outcome::Ended(GuestEnd::Crashed(_))) => expect.end == End::Crashed,
        Some(Outcome::Lost { .. }) => expect.end == End::Lost,
        None => false,
    };
    let found = match outcome {
        Some(Outcome::Ended(GuestEnd::Exited(code))) => format!("it exited with {code}"),
        Some(Outcome::Ended(GuestEnd::Crashed(line))) => format!("it crashed: {line}"),
        Some(Outcome::Lost { recoverable: Some(epoch) }) => format!("no host is left, epoch {} is kept", epoch.get()),
        Some(Outcome::Lost { recoverable: None }) => "no host is left".to_owned(),
        None => "time ran out".to_owned(),
    };
    Verdict { expectation, holds, found }
}

fn console(observed: &Observed<'_>) -> Verdict {
    let expectation = "the console is that of an unprotected run, byte for byte".to_owned();
    let got = observed.schedule.console();
    let Some(golden) = observed.golden else {
        return Verdict { expectation, holds: false, found: "there is no unprotected run".to_owned() };
    };
    // A VM that is lost shows what came before, and nothing else.
    let lost = matches!(observed.outcome, Some(Outcome::Lost { .. }));
    let expected = if lost { golden.console.get(..got.len()).unwrap_or(&golden.console) } else { &golden.console };
    match first_difference(expected, got) {
        None => Verdict { expectation, holds: true, found: format!("{} bytes, all equal", got.len()) },
        Some(difference) => Verdict { expectation, holds: false, found: difference.to_string() },
    }
}

fn protection(bound: Span, observed: &Observed<'_>) -> Verdict {
    let losses = observed.timeline.losses();
    let lengths: Vec<Span> = losses.iter().map(|loss| loss.until.unwrap_or(observed.now).since(loss.since)).collect();
    let healed = losses.iter().filter(|loss| loss.until.is_some()).count();
    let longest = lengths.iter().copied().max().unwrap_or(Span::ZERO);
    let found = match (losses.len(), healed) {
        (0, _) => "protection was never lost".to_owned(),
        (lost, healed) => format!("lost {lost} times, healed {healed} times, longest {}", show_span(longest)),
    };
    Verdict {
        expectation: format!("protected again within {}", show_span(bound)),
        // The guest may end before the last loss is healed, but something must have been.
        holds: healed > 0 && healed + 1 >= losses.len() && longest <= bound,
        found,
    }
}

fn blackout(bound: Span, timeline: &Timeline) -> Verdict {
    let longest = timeline.blackout_max();
    Verdict {
        expectation: format!("no blackout longer than {}", show_span(bound)),
        holds: longest.is_some_and(|longest| longest <= bound),
        found: longest
            .map_or("no blackout was measured".to_owned(), |longest| format!("longest {}", show_span(longest))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::Scenario;
    use std::path::Path;
    use std::time::Duration;

    fn verdicts(expect: &str, outcome: Option<&Outcome>, console: &[u8]) -> Vec<Verdict> {
        let text = format!("[vm]\nguest = \"builtin:idle\"\n[expect]\n{expect}\n");
        let scenario = Scenario::parse(Path::new("x.toml"), &text).unwrap();
        let mut schedule = Schedule::new(&scenario, 1);
        schedule.printed(Time::ZERO, console);
        let golden = Golden { console: b"one\ntwo\n".to_vec(), exit_code: 0, duration: Duration::ZERO };
        let observed = Observed {
            outcome,
            timeline: &Timeline::default(),
            schedule: &schedule,
            golden: Some(&golden),
            now: Time::ZERO,
        };
        judge(&scenario.expect, &observed)
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
        for expect in ["takeovers = 1", "fenced = 1", "protected-again-within = \"1s\"", "blackout-max = \"1s\""] {
            assert!(!all_hold(&verdicts(expect, Some(&EXITED), b"")), "{expect}");
        }
        assert!(all_hold(&verdicts("takeovers = 0\nfenced = 0", Some(&EXITED), b"")));
        assert!(!all_hold(&verdicts("console-contains = [\"one\", \"three\"]", Some(&EXITED), b"one\n")));
    }
}
