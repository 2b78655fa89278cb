//! Holds what came of one VM against what must come of it.

use super::verdict::{Clue, ObservedVm, Verdict};
use crate::compare::first_difference;
use crate::language::{End, Expect, Pattern, Scenario, VmExpect};
use crate::protected::Outcome;
use crate::timeline::{ProtectionLoss, Takeover};
use crate::units::show_span;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::{Span, Time, VmId};

/// Judges one VM.
pub(super) struct Judge<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) expect: &'a VmExpect,
    pub(super) vm: VmId,
    /// Where there are several.
    pub(super) name: Option<&'a str>,
    pub(super) observed: &'a ObservedVm<'a>,
    pub(super) console: &'a [u8],
    pub(super) now: Time,
    /// It still ran when time was over.
    pub(super) cut_short: bool,
}

impl Judge<'_> {
    fn verdict(&self, key: &str, expectation: String, holds: bool, found: String) -> Verdict {
        let expectation = match self.name {
            Some(name) => format!("{name}: {expectation}"),
            None => expectation,
        };
        let Expect { line, lines, .. } = &self.scenario.expect;
        let line = self.expect.lines.get(key).or_else(|| lines.get(key)).unwrap_or(line);
        Verdict::decided(expectation, holds, found, Some(*line))
    }

    pub(super) fn ending(&self) -> Verdict {
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
            None => "it still ran".to_owned(),
        };
        let key = if expect.exit_code.is_some() { "exit-code" } else { "end" };
        self.verdict(key, expectation, holds, found).open_if(self.cut_short)
    }

    pub(super) fn rest(&self) -> Vec<Verdict> {
        let (expect, timeline) = (self.expect, self.observed.timeline);
        let mut verdicts = Vec::new();
        if expect.console_as_unprotected {
            verdicts.push(self.console());
        }
        if expect.memory_as_unprotected {
            let golden = self.observed.golden.and_then(|golden| golden.memory_crc);
            verdicts.push(self.checksum("memory", "image", golden, self.observed.memory_crc));
        }
        if expect.disk_as_unprotected {
            let golden = self.observed.golden.and_then(|golden| golden.disk_crc);
            verdicts.push(self.checksum("disk", "disk", golden, self.observed.disk_crc));
        }
        verdicts.extend(expect.console_contains.iter().map(|text| self.console_has(text, true)));
        verdicts.extend(expect.console_lacks.iter().map(|text| self.console_has(text, false)));
        let counts = [
            ("takeovers", expect.takeovers, timeline.takeovers_done(), false),
            ("switchovers", expect.switchovers, timeline.switchovers_done(), true),
        ];
        for (key, count, number, planned) in counts {
            verdicts.extend(count.map(|count| {
                let verdict =
                    self.verdict(key, format!("{count} {key}"), count.holds(number), format!("{number} {key}"));
                let is_counted = |takeover: &&Takeover| takeover.planned == planned && takeover.live.is_some();
                let max = count.max.and_then(|max| usize::try_from(max).ok());
                let one_too_many = max.and_then(|max| timeline.takeovers().iter().filter(is_counted).nth(max));
                let clue = one_too_many.and_then(Takeover::start).map(Clue::At);
                verdict.open_if(self.cut_short && number < count.min).see(clue)
            }));
        }
        verdicts.push(self.reigns());
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
        let cut_short =
            self.cut_short || matches!(self.observed.outcome, Some(Outcome::Lost { .. } | Outcome::Deleted));
        let expected =
            if cut_short { golden.console.get(..got.len()).unwrap_or(&golden.console) } else { &golden.console };
        match first_difference(expected, got) {
            None if self.cut_short => {
                let found = format!("{} bytes so far, all equal", got.len());
                self.verdict("console", expectation, false, found).open_if(true)
            }
            None => self.verdict("console", expectation, true, format!("{} bytes, all equal", got.len())),
            Some(difference) => {
                let clue = Clue::Console { vm: self.vm, byte: difference.byte as u64 };
                self.verdict("console", expectation, false, difference.to_string()).see(Some(clue))
            }
        }
    }

    /// Of a part of the guest, which lies in this file of its partition.
    fn checksum(&self, key: &str, part: &str, golden: Option<u32>, got: Option<u32>) -> Verdict {
        let expectation = format!("the {key} at the end is that of an unprotected run, byte for byte");
        if self.cut_short {
            return self.verdict(key, expectation, false, "it still ran".to_owned()).open_if(true);
        }
        let (holds, found) = match (golden, got) {
            (Some(expected), Some(got)) if expected == got => (true, format!("checksum {got:08x} of both")),
            (Some(expected), Some(got)) => {
                (false, format!("checksum {got:08x}, of the unprotected run {expected:08x}"))
            }
            (_, None) => (false, format!("there is no {part} in the pool")),
            (None, _) => (false, "the unprotected run left no checksum".to_owned()),
        };
        self.verdict(key, expectation, holds, found)
    }

    fn console_has(&self, text: &str, wanted: bool) -> Verdict {
        let pattern = Pattern::Text(text.to_owned());
        let has = self.console.split(|byte| *byte == b'\n').any(|line| pattern.matches(line));
        let (verb, key) = if wanted { ("contains", "console-contains") } else { ("lacks", "console-lacks") };
        let found = if has { "a line does contain it" } else { "no line does" };
        let found = if has && wanted { "it does" } else { found };
        let verdict = self.verdict(key, format!("the console {verb} `{text}`"), has == wanted, found.to_owned());
        verdict.open_if(self.cut_short && wanted)
    }

    /// Always expected: what the controller tells of its reigns is possible.
    fn reigns(&self) -> Verdict {
        let timeline = self.observed.timeline;
        let wrong = timeline.wrong();
        let found = wrong.map_or_else(
            || format!("{} generations ran, each on one host", timeline.generations_run()),
            |(_, wrong)| wrong.to_owned(),
        );
        let expectation = "one host at a time runs the guest, and none goes back (I2, I3)".to_owned();
        self.verdict("end", expectation, wrong.is_none(), found).see(wrong.map(|(at, _)| Clue::At(at)))
    }

    fn first_protection(&self, bound: Span) -> Verdict {
        let timeline = self.observed.timeline;
        let took = timeline.first_live().zip(timeline.first_protected());
        let took = took.map(|(live, protected)| protected.since(live.min(protected)));
        let found = took.map_or("it never was".to_owned(), |took| format!("after {}", show_span(took)));
        let expectation = format!("protected within {}", show_span(bound));
        let may_come =
            took.is_none() && timeline.first_live().is_none_or(|live| self.now.since(live.min(self.now)) <= bound);
        let verdict = self.verdict("protected-within", expectation, took.is_some_and(|took| took <= bound), found);
        verdict.open_if(self.cut_short && may_come).see(timeline.first_live().map(Clue::At))
    }

    fn protection(&self, bound: Span) -> Verdict {
        let losses = self.observed.timeline.losses();
        // Nobody protects a VM any more that has ended, though others run on.
        let end = self.observed.timeline.ended_at().map_or(self.now, |ended| ended.min(self.now));
        let length = |loss: &ProtectionLoss| {
            let until = loss.until.unwrap_or(end).max(loss.since);
            until.since(loss.since)
        };
        let lengths: Vec<Span> = losses.iter().map(length).collect();
        let healed = losses.iter().filter(|loss| loss.until.is_some()).count();
        let longest = lengths.iter().copied().max().unwrap_or(Span::ZERO);
        let clue = losses.iter().max_by_key(|loss| length(loss)).map(|loss| Clue::At(loss.since));
        let found = match (losses.len(), healed) {
            (0, _) => "protection was never lost".to_owned(),
            (lost, healed) => format!("lost {lost} times, healed {healed} times, longest {}", show_span(longest)),
        };
        // The guest may end before the last loss is healed, but something must have been.
        let holds = healed > 0 && healed + 1 >= losses.len() && longest <= bound;
        let expectation = format!("protected again within {}", show_span(bound));
        let verdict = self.verdict("protected-again-within", expectation, holds, found).see(clue);
        verdict.open_if(self.cut_short && longest <= bound)
    }

    fn blackout(&self, bound: Span) -> Verdict {
        let worst = self.observed.timeline.longest_blackout();
        let longest = worst.map(|(_, length)| length);
        let found =
            longest.map_or("no blackout was measured".to_owned(), |longest| format!("longest {}", show_span(longest)));
        let expectation = format!("no blackout longer than {}", show_span(bound));
        let verdict = self.verdict("blackout-max", expectation, longest.is_some_and(|longest| longest <= bound), found);
        let clue = worst.and_then(|(takeover, _)| takeover.start()).map(Clue::At);
        verdict.open_if(self.cut_short && longest.is_none()).see(clue)
    }
}
