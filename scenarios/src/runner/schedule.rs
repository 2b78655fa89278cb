//! When the steps of a scenario fire. Pure: time and what is seen go in, due steps come out.
//!
//! ```text
//!  waiting for `after` --fired--> armed --event, line, condition, failpoint or start--> counting its delay
//!  counting its delay --due--> fired --repeat--> armed
//! ```

use crate::cluster::HostName;
use crate::event::HappeningKind;
use crate::language::{Act, Facts, Scenario, Step, When};
use crate::units::show_span;
use ft_protocol::{Span, Time};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The step that it comes after has not fired.
    Waiting,
    /// Watches for what it waits for, in the console from this byte on; it has happened so often.
    Armed { console_from: usize, seen: u32 },
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
    /// When it fired first and last.
    when_fired: Option<(Time, Time)>,
    /// Each step has its own, so that its delays do not depend on when other steps fire.
    random: ChaCha8Rng,
    /// What was drawn for the next firing: it may be tried often, and is drawn for once.
    drawn: Vec<u64>,
}

/// The steps of one run.
#[derive(Debug)]
pub struct Schedule {
    entries: Vec<Entry>,
    running_since: Option<Time>,
    /// The consoles of the VMs.
    consoles: Vec<Console>,
    /// How often things have happened.
    happenings: BTreeMap<HappeningKind, u64>,
}

/// A console so far; lines are matched when they are whole.
#[derive(Clone, Debug, Default)]
struct Console {
    bytes: Vec<u8>,
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
            let state = if step.after.is_some() { State::Waiting } else { armed(0) };
            Entry { step: step.clone(), state, fired: 0, when_fired: None, random, drawn: Vec::new() }
        };
        Self {
            entries: (0..).zip(&scenario.steps).map(entry).collect(),
            running_since: None,
            consoles: vec![Console::default(); scenario.vms.len()],
            happenings: BTreeMap::new(),
        }
    }

    /// The guest runs for the first time.
    pub fn running(&mut self, at: Time) {
        if self.running_since.is_none() {
            self.running_since = Some(at);
            self.trigger(at, |entry, _| matches!(entry.step.when, When::Running));
        }
    }

    /// Something happened, to a VM or not.
    pub fn happened(&mut self, at: Time, kind: HappeningKind, vm: Option<usize>) {
        *self.happenings.entry(kind).or_default() += 1;
        for entry in &mut self.entries {
            let State::Armed { seen, .. } = &mut entry.state else { continue };
            let When::Event { kind: wanted, count, of_vm } = entry.step.when else { continue };
            if wanted == kind && (!of_vm || vm == Some(entry.step.vm)) {
                *seen += 1;
                if *seen >= count {
                    entry.count(at);
                }
            }
        }
    }

    /// How often something has happened.
    #[must_use]
    pub fn happenings(&self, kind: HappeningKind) -> u64 {
        self.happenings.get(&kind).copied().unwrap_or(0)
    }

    /// The console of a VM has grown.
    pub fn printed(&mut self, at: Time, vm: usize, bytes: &[u8]) {
        self.consoles[vm].bytes.extend_from_slice(bytes);
        loop {
            let console = &mut self.consoles[vm];
            let start = console.line_start;
            let Some(end) = console.bytes[start..].iter().position(|byte| *byte == b'\n') else { return };
            let line = console.bytes[start..start + end].to_vec();
            console.line_start += end + 1;
            self.trigger(at, |entry, console_from| {
                entry.step.vm == vm
                    && start >= console_from
                    && matches!(&entry.step.when, When::Console(pattern) if pattern.matches(&line))
            });
        }
    }

    /// How far the VMs are.
    pub fn observed(&mut self, at: Time, facts: &[Facts]) {
        self.trigger(at, |entry, _| match (&entry.step.when, facts.get(entry.step.vm)) {
            (When::Condition(condition), Some(facts)) => condition.holds(facts),
            _ => false,
        });
    }

    /// Whether a step waits to know how far the VMs are.
    #[must_use]
    pub fn wants_facts(&self) -> bool {
        self.entries.iter().any(|entry| entry.is_armed() && matches!(entry.step.when, When::Condition(_)))
    }

    /// The passages of failpoints that steps wait for.
    pub fn awaited_failpoints(&self) -> impl Iterator<Item = (usize, &HostName, &'static str, u64)> {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.is_armed()).filter_map(|(index, entry)| match &entry
            .step
            .when
        {
            When::Failpoint { process, name, hit } => Some((index, process, *name, *hit)),
            _ => None,
        })
    }

    /// The failpoint that a step waits for was reached.
    pub fn reached(&mut self, at: Time, index: usize) {
        self.entries[index].count(at);
    }

    /// All of a VM's console so far.
    #[must_use]
    pub fn console(&self, vm: usize) -> &[u8] {
        &self.consoles[vm].bytes
    }

    fn trigger(&mut self, at: Time, mut wanted: impl FnMut(&Entry, usize) -> bool) {
        for entry in &mut self.entries {
            if let State::Armed { console_from, .. } = entry.state
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

    /// Whether a step is still to start hosts where none lives: one that counts its delay, or comes after one that does.
    #[must_use]
    pub fn will_start_hosts(&self) -> bool {
        let starts = |entry: &Entry| entry.step.acts.iter().any(Act::starts_hosts);
        (0..self.entries.len()).any(|index| starts(&self.entries[index]) && self.fires_without_hosts(index))
    }

    fn fires_without_hosts(&self, index: usize) -> bool {
        let Entry { state, step, .. } = &self.entries[index];
        let comes = match state {
            State::Counting { .. } => true,
            State::Waiting => step.after.is_some_and(|before| self.fires_without_hosts(before)),
            State::Armed { .. } | State::Done => false,
        };
        comes && step.acts.iter().all(Act::needs_no_host)
    }

    /// A step that was due has fired: it may be armed again, and others are armed by it.
    ///
    /// # Panics
    /// When it was not due: nobody fires steps at will.
    pub fn fired(&mut self, index: usize, at: Time) {
        let line_starts: Vec<usize> = self.consoles.iter().map(|console| console.line_start).collect();
        let entry = &mut self.entries[index];
        assert!(matches!(entry.state, State::Counting { .. }), "step {index} fired though it was not due");
        entry.fired += 1;
        entry.when_fired = Some((entry.when_fired.map_or(at, |(first, _)| first), at));
        entry.drawn.clear();
        let from = line_starts[entry.step.vm];
        entry.state = if entry.fired < entry.step.repeat { armed(from) } else { State::Done };
        for entry in &mut self.entries {
            if entry.step.after == Some(index) && entry.state == State::Waiting {
                entry.state = armed(line_starts[entry.step.vm]);
                if matches!(entry.step.when, When::Running) {
                    entry.count(at);
                }
            }
        }
        // Without anything else to wait for, a repeated step is due again after its delay.
        let entry = &mut self.entries[index];
        if entry.is_armed() && matches!(entry.step.when, When::Running) {
            entry.count(at);
        }
    }

    /// The `nth` number below `bound` for the next firing of a step: the same until it has fired.
    pub fn draw(&mut self, index: usize, nth: usize, bound: usize) -> usize {
        let Entry { random, drawn, .. } = &mut self.entries[index];
        while drawn.len() <= nth {
            drawn.push(random.random());
        }
        let bound = bound.max(1);
        usize::try_from(drawn[nth] % bound as u64).unwrap_or(0)
    }

    /// The steps.
    pub fn steps(&self) -> impl Iterator<Item = (&Step, u32)> {
        self.entries.iter().map(|entry| (&entry.step, entry.fired))
    }

    /// What each step did, in words.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let since = |at: Time| show_span(at.since(self.running_since.unwrap_or(at)));
        let told = |entry: &Entry| {
            let Step { name, line, .. } = &entry.step;
            match entry.when_fired {
                None => format!("{name} (line {line}) did not fire"),
                Some((first, _)) if entry.fired == 1 => format!("{name} (line {line}) fired after {}", since(first)),
                Some((first, last)) => {
                    let (first, last) = (since(first), since(last));
                    format!("{name} (line {line}) fired {} times, first after {first}, last after {last}", entry.fired)
                }
            }
        };
        self.entries.iter().map(told).collect()
    }

    /// A step.
    #[must_use]
    pub fn step(&self, index: usize) -> &Step {
        &self.entries[index].step
    }
}

fn armed(console_from: usize) -> State {
    State::Armed { console_from, seen: 0 }
}

impl Entry {
    fn is_armed(&self) -> bool {
        matches!(self.state, State::Armed { .. })
    }

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
        assert_eq!(schedule.told(), ["step 1 (line 3) did not fire"]);
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
        schedule.happened(ms(1), HappeningKind::Live, Some(0));
        schedule.happened(ms(2), HappeningKind::Protected, Some(0));
        assert_eq!(schedule.due(ms(2)), [0]);
        schedule.happened(ms(3), HappeningKind::Live, Some(0));
        schedule.fired(0, ms(4));
        assert_eq!(schedule.next_due(), None, "the live before the first step fired does not count");
        schedule.happened(ms(5), HappeningKind::Live, Some(0));
        assert_eq!(schedule.due(ms(10)), [1]);
        schedule.fired(1, ms(10));
        schedule.happened(ms(11), HappeningKind::Protected, Some(0));
        schedule.fired(0, ms(11));
        schedule.happened(ms(12), HappeningKind::Protected, Some(0));
        assert_eq!(schedule.due(ms(100)), [0_usize; 0], "it fires twice only");
        assert!(schedule.steps().all(|(step, fired)| fired == step.repeat));
        schedule.running(ms(1));
        let told = [
            "one (line 3) fired 2 times, first after 3.00 ms, last after 10.0 ms",
            "step 2 (line 9) fired after 9.00 ms",
        ];
        assert_eq!(schedule.told(), told);
    }

    #[test]
    fn console_lines_count_when_they_are_whole() {
        let mut schedule = schedule(
            "[[step]]\nname = \"one\"\nconsole = \"line 7\"\naction = \"kill\"\nhost = \"a\"\n\
             [[step]]\nafter = \"one\"\nconsole-regex = \"^line\"\naction = \"start\"\nhost = \"a\"",
        );
        schedule.printed(ms(1), 0, b"line 6\nline");
        schedule.printed(ms(2), 0, b" 7");
        assert_eq!(schedule.next_due(), None);
        schedule.printed(ms(3), 0, b"\nline 8\n");
        assert_eq!(schedule.due(ms(3)), [0]);
        schedule.fired(0, ms(3));
        assert_eq!(schedule.next_due(), None, "line 8 was printed before the second step was armed");
        schedule.printed(ms(4), 0, b"line 9\n");
        assert_eq!(schedule.due(ms(4)), [1]);
        assert_eq!(schedule.console(0), b"line 6\nline 7\nline 8\nline 9\n");
    }

    #[test]
    fn events_are_counted_and_conditions_watched() {
        let mut schedule = schedule(
            "[[step]]\nevent = \"live\"\ncount = 2\nrepeat = 2\naction = \"mark\"\n\
             [[step]]\nwhen = \"vm.epoch >= 100\"\naction = \"mark\"",
        );
        schedule.happened(ms(1), HappeningKind::Live, Some(0));
        assert_eq!(schedule.next_due(), None);
        schedule.happened(ms(2), HappeningKind::Live, Some(0));
        assert_eq!(schedule.due(ms(2)), [0]);
        schedule.fired(0, ms(2));
        schedule.happened(ms(3), HappeningKind::Live, Some(0));
        assert_eq!(schedule.next_due(), None, "it counts anew");
        assert!(schedule.wants_facts());
        schedule.observed(ms(4), &[Facts { epoch: 99, ..Facts::default() }]);
        assert_eq!(schedule.next_due(), None);
        schedule.observed(ms(5), &[Facts { epoch: 100, ..Facts::default() }]);
        assert_eq!(schedule.due(ms(5)), [1]);
        assert!(!schedule.wants_facts());
    }

    #[test]
    fn hosts_are_to_come_as_long_as_a_step_that_starts_them_can_fire() {
        let mut schedule = schedule(
            "[[step]]\nname = \"all\"\nat = \"1ms\"\naction = \"kill\"\nhost = [\"a\", \"b\", \"c\"]\n\
             [[step]]\nname = \"wait\"\nafter = \"all\"\ndelay = \"1s\"\naction = \"mark\"\n\
             [[step]]\nafter = \"wait\"\ndelay = \"1s\"\naction = \"start\"\nhost = \"@all\"\n\
             [[step]]\nconsole = \"never\"\naction = \"restart\"\nhost = \"a\"\n\
             [[step]]\nat = \"1min\"\naction = \"restart\"\nhost = \"any\"",
        );
        schedule.running(ms(0));
        assert!(!schedule.will_start_hosts(), "nothing comes after a kill that cannot be done");
        schedule.fired(0, ms(1));
        assert!(schedule.will_start_hosts());
        schedule.fired(1, ms(1_001));
        assert!(schedule.will_start_hosts());
        schedule.fired(2, ms(2_001));
        assert!(!schedule.will_start_hosts(), "nobody prints, and nobody is any");
    }

    #[test]
    fn a_firing_that_is_tried_often_is_drawn_for_once() {
        let steps = "[[step]]\nevery = \"1ms\"\nrepeat = 20\naction = \"kill\"\nhost = \"any\"";
        let draws = |tries: usize| {
            let mut schedule = schedule(steps);
            schedule.running(ms(0));
            let mut drawn = Vec::new();
            for _ in 0..20 {
                let due = schedule.next_due().unwrap();
                let hosts: Vec<usize> = (0..tries).map(|_| schedule.draw(0, 1, 26)).collect();
                assert!(hosts.iter().all(|host| *host == hosts[0]), "{hosts:?}");
                drawn.push((schedule.draw(0, 0, 26), hosts[0]));
                schedule.fired(0, due);
            }
            drawn
        };
        assert_eq!(draws(1), draws(7), "what others make it wait for changes nothing");
    }

    #[test]
    fn delays_are_drawn_from_the_seed_alone() {
        let steps =
            "[[step]]\nevent = \"live\"\nrepeat = 9\ndelay = [\"1ms\", \"900ms\"]\naction = \"kill\"\nhost = \"a\"";
        let draw = |gap: u64| {
            let mut schedule = schedule(steps);
            let mut delays = Vec::new();
            for time in (0..9).map(|turn| ms(turn * gap)) {
                schedule.happened(time, HappeningKind::Live, Some(0));
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
