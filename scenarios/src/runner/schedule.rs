//! When the steps of a scenario fire. Pure: time and what is seen go in, due steps come out.
//!
//! ```text
//!  waiting for `after` --fired--> armed --event, line or start--> counting its delay --due--> fired --repeat--> armed
//! ```

use crate::event::HappeningKind;
use crate::language::{Scenario, Step, When};
use ft_protocol::{Span, Time};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The step that it comes after has not fired.
    Waiting,
    /// Watches for what it waits for, in the console from this byte on.
    Armed { console_from: usize },
    /// Fires then.
    Counting { due: Time },
    /// Fired as often as it shall.
    Done,
}

#[derive(Debug)]
struct Entry {
    step: Step,
    state: State,
    fired: u32,
    /// Each step has its own, so that its delays do not depend on when other steps fire.
    random: ChaCha8Rng,
}

/// The steps of one run.
#[derive(Debug)]
pub struct Schedule {
    entries: Vec<Entry>,
    running_since: Option<Time>,
    /// The console so far; lines are matched when they are whole.
    console: Vec<u8>,
    /// The start of the line that is not whole yet.
    line_start: usize,
}

impl Schedule {
    /// The steps of a scenario, with delays drawn from this seed.
    #[must_use]
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let entry = |(index, step): (u64, &Step)| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(index);
            let state = if step.after.is_some() { State::Waiting } else { State::Armed { console_from: 0 } };
            Entry { step: step.clone(), state, fired: 0, random }
        };
        Self {
            entries: (0..).zip(&scenario.steps).map(entry).collect(),
            running_since: None,
            console: Vec::new(),
            line_start: 0,
        }
    }

    /// The guest runs for the first time.
    pub fn running(&mut self, at: Time) {
        if self.running_since.is_none() {
            self.running_since = Some(at);
            self.trigger(at, |entry, _| matches!(entry.step.when, When::Running));
        }
    }

    /// Something happened.
    pub fn happened(&mut self, at: Time, kind: HappeningKind) {
        self.trigger(at, |entry, _| matches!(entry.step.when, When::Event(wanted) if wanted == kind));
    }

    /// The console has grown.
    pub fn printed(&mut self, at: Time, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
        while let Some(end) = self.console[self.line_start..].iter().position(|byte| *byte == b'\n') {
            let start = self.line_start;
            let line = self.console[start..start + end].to_vec();
            self.line_start += end + 1;
            self.trigger(at, |entry, console_from| {
                start >= console_from && matches!(&entry.step.when, When::Console(pattern) if pattern.matches(&line))
            });
        }
    }

    /// All of the console so far.
    #[must_use]
    pub fn console(&self) -> &[u8] {
        &self.console
    }

    fn trigger(&mut self, at: Time, mut wanted: impl FnMut(&Entry, usize) -> bool) {
        for entry in &mut self.entries {
            if let State::Armed { console_from } = entry.state
                && wanted(entry, console_from)
            {
                entry.count(at);
            }
        }
    }

    /// The steps that are due, in the file's order.
    #[must_use]
    pub fn due(&self, now: Time) -> Vec<usize> {
        let is_due = |entry: &Entry| matches!(entry.state, State::Counting { due } if due <= now);
        (0..self.entries.len()).filter(|index| is_due(&self.entries[*index])).collect()
    }

    /// When the next step is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Time> {
        let due = |entry: &Entry| match entry.state {
            State::Counting { due } => Some(due),
            _ => None,
        };
        self.entries.iter().filter_map(due).min()
    }

    /// A step that was due has fired: it may be armed again, and others are armed by it.
    ///
    /// # Panics
    /// When it was not due: nobody fires steps at will.
    pub fn fired(&mut self, index: usize, at: Time) {
        let console_from = self.line_start;
        let entry = &mut self.entries[index];
        assert!(matches!(entry.state, State::Counting { .. }), "step {index} fired though it was not due");
        entry.fired += 1;
        entry.state = if entry.fired < entry.step.repeat { State::Armed { console_from } } else { State::Done };
        for entry in &mut self.entries {
            if entry.step.after == Some(index) && entry.state == State::Waiting {
                entry.state = State::Armed { console_from };
                if matches!(entry.step.when, When::Running) {
                    entry.count(at);
                }
            }
        }
        // Without anything else to wait for, a repeated step is due again after its delay.
        let entry = &mut self.entries[index];
        if matches!(entry.state, State::Armed { .. }) && matches!(entry.step.when, When::Running) {
            entry.count(at);
        }
    }

    /// The steps.
    pub fn steps(&self) -> impl Iterator<Item = (&Step, u32)> {
        self.entries.iter().map(|entry| (&entry.step, entry.fired))
    }

    /// A step.
    #[must_use]
    pub fn step(&self, index: usize) -> &Step {
        &self.entries[index].step
    }
}

impl Entry {
    fn count(&mut self, from: Time) {
        let range = self.step.delay.min.ns()..=self.step.delay.max.ns();
        self.state = State::Counting { due: from + Span::from_ns(self.random.random_range(range)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn ms(ms: u64) -> Time {
        Time::from_ns(ms * 1_000_000)
    }

    fn schedule(steps: &str) -> Schedule {
        let text = format!("[vm]\nguest = \"builtin:idle\"\n{steps}\n[expect]\n");
        Schedule::new(&Scenario::parse(Path::new("x.toml"), &text).unwrap(), 1)
    }

    #[test]
    fn times_count_from_the_guests_start() {
        let mut schedule = schedule("[[step]]\nat = \"20ms\"\naction = \"kill\"\nhost = \"a\"");
        assert_eq!(schedule.next_due(), None);
        schedule.running(ms(100));
        assert_eq!(schedule.next_due(), Some(ms(120)));
        schedule.running(ms(500));
        assert_eq!(schedule.due(ms(119)), [0_usize; 0]);
        assert_eq!(schedule.due(ms(120)), [0]);
        schedule.fired(0, ms(121));
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn events_before_a_step_is_armed_do_not_count() {
        let mut schedule = schedule(
            "[[step]]\nname = \"one\"\nevent = \"protected\"\nrepeat = 2\naction = \"kill\"\nhost = \"primary\"\n\
             [[step]]\nafter = \"one\"\nevent = \"live\"\ndelay = \"5ms\"\naction = \"start\"\nhost = \"@one\"",
        );
        schedule.happened(ms(1), HappeningKind::Live);
        schedule.happened(ms(2), HappeningKind::Protected);
        assert_eq!(schedule.due(ms(2)), [0]);
        schedule.happened(ms(3), HappeningKind::Live);
        schedule.fired(0, ms(4));
        assert_eq!(schedule.next_due(), None, "the live before the first step fired does not count");
        schedule.happened(ms(5), HappeningKind::Live);
        assert_eq!(schedule.due(ms(10)), [1]);
        schedule.fired(1, ms(10));
        schedule.happened(ms(11), HappeningKind::Protected);
        schedule.fired(0, ms(11));
        schedule.happened(ms(12), HappeningKind::Protected);
        assert_eq!(schedule.due(ms(100)), [0_usize; 0], "it fires twice only");
        assert!(schedule.steps().all(|(step, fired)| fired == step.repeat));
    }

    #[test]
    fn console_lines_count_when_they_are_whole() {
        let mut schedule = schedule(
            "[[step]]\nname = \"one\"\nconsole = \"line 7\"\naction = \"kill\"\nhost = \"a\"\n\
             [[step]]\nafter = \"one\"\nconsole-regex = \"^line\"\naction = \"start\"\nhost = \"a\"",
        );
        schedule.printed(ms(1), b"line 6\nline");
        schedule.printed(ms(2), b" 7");
        assert_eq!(schedule.next_due(), None);
        schedule.printed(ms(3), b"\nline 8\n");
        assert_eq!(schedule.due(ms(3)), [0]);
        schedule.fired(0, ms(3));
        assert_eq!(schedule.next_due(), None, "line 8 was printed before the second step was armed");
        schedule.printed(ms(4), b"line 9\n");
        assert_eq!(schedule.due(ms(4)), [1]);
        assert_eq!(schedule.console(), b"line 6\nline 7\nline 8\nline 9\n");
    }

    #[test]
    fn delays_are_drawn_from_the_seed_alone() {
        let steps =
            "[[step]]\nevent = \"live\"\nrepeat = 9\ndelay = [\"1ms\", \"900ms\"]\naction = \"kill\"\nhost = \"a\"";
        let draw = |gap: u64| {
            let mut schedule = schedule(steps);
            let mut delays = Vec::new();
            for time in (0..9).map(|turn| ms(turn * gap)) {
                schedule.happened(time, HappeningKind::Live);
                let due = schedule.next_due().unwrap();
                delays.push(due.since(time));
                schedule.fired(0, due);
            }
            delays
        };
        let delays = draw(1_000);
        assert_eq!(delays, draw(5_000));
        assert!(delays.iter().all(|delay| (1..=900).contains(&delay.ms())), "{delays:?}");
        assert!(delays.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
