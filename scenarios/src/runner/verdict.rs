//! Holds what came of a run against what must come of it. A run that was cut short leaves open what it would have decided later:
//! that is told apart from what is wrong, and what cut it short is told first.

use super::judge_vm::Judge;
use super::schedule::Schedule;
use crate::event::HappeningKind;
use crate::golden::Golden;
use crate::language::{Count, Scenario};
use crate::protected::Outcome;
use crate::timeline::Timeline;
use crate::units::show_span;
use ft_protocol::{Span, Time, VmId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
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
    /// What it is worth.
    #[serde(default)]
    pub grade: Grade,
    /// Where in the run to look, if one place is better than any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clue: Option<Clue>,
}

/// A moment of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clue {
    /// Then.
    At(Time),
    /// When this byte of a VM's console came.
    Console {
        /// Which VM's.
        vm: VmId,
        /// Which byte, from 0.
        byte: u64,
    },
    /// When something happened the n-th time.
    Happened {
        /// What.
        kind: HappeningKind,
        /// How often it had happened by then.
        times: u64,
    },
}

/// What a verdict is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// It was decided.
    #[default]
    Decided,
    /// The run was cut short before it was decided.
    Open,
    /// This cut it short: its time was over.
    OutOfTime,
    /// This cut it short: it could not begin, or not go on.
    Broken,
}

impl Verdict {
    /// Of what was decided.
    #[must_use]
    pub fn decided(expectation: String, holds: bool, found: String, line: Option<usize>) -> Self {
        Self { expectation, holds, found, line, grade: Grade::Decided, clue: None }
    }

    /// That time was over: what had not come to its end by then is named.
    #[must_use]
    pub fn out_of_time(what: &str, limit: Span, found: String, line: usize) -> Self {
        let expectation = format!("{what} ends within {}", show_span(limit));
        Self { grade: Grade::OutOfTime, ..Self::decided(expectation, false, found, Some(line)) }
    }

    /// What does not hold may have come yet.
    #[must_use]
    pub(super) fn open_if(mut self, cut_short: bool) -> Self {
        if cut_short && !self.holds {
            self.grade = Grade::Open;
        }
        self
    }

    /// If it does not hold, this is where to look.
    #[must_use]
    pub(super) fn see(mut self, clue: Option<Clue>) -> Self {
        self.clue = clue.filter(|_| !self.holds);
        self
    }

    /// Whether something is wrong, and not just open.
    #[must_use]
    pub fn fails(&self) -> bool {
        !self.holds && self.grade != Grade::Open
    }

    /// How it is marked for people.
    #[must_use]
    pub fn mark(&self) -> &'static str {
        match (self.holds, self.grade) {
            (true, _) => "ok",
            (false, Grade::Open) => "open",
            (false, _) => "FAIL",
        }
    }
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
    /// Steps whose orders were not answered before the controller died.
    pub lost: &'a [String],
    /// When it was over.
    pub now: Time,
    /// Whether it was cut short: guests or workloads had not come to their ends.
    pub cut_short: bool,
}

/// What came of a VM.
#[derive(Debug)]
pub struct ObservedVm<'a> {
    /// How it ended; `None`: it still ran.
    pub outcome: Option<&'a Outcome>,
    /// Its history.
    pub timeline: &'a Timeline,
    /// The unprotected run, where it is needed.
    pub golden: Option<&'a Golden>,
    /// The checksum of its memory in the pool, where it is needed.
    pub memory_crc: Option<u32>,
    /// The checksum of its disk in the pool, where it is needed.
    pub disk_crc: Option<u32>,
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
            // They are numbered as they were made.
            vm: VmId::new(u16::try_from(index).unwrap_or(u16::MAX)),
            observed: vm,
            console: observed.schedule.console(index),
            now: observed.now,
            cut_short: observed.cut_short && vm.outcome.is_none(),
        })
        .collect();
    let mut verdicts: Vec<Verdict> = judges.iter().map(Judge::ending).collect();
    verdicts.extend(steps(observed));
    verdicts.extend(judges.iter().flat_map(Judge::rest));
    verdicts.extend(of_cluster(scenario, observed));
    verdicts
}

/// What cut a run short that was not over in time: what had not come to its end, and what had not come about.
pub(super) fn time_ran_out<'a>(
    scenario: &Scenario,
    observed: &Observed<'_>,
    workloads: impl Iterator<Item = &'a str>,
) -> Verdict {
    let vms = scenario.vms.iter().zip(&observed.vms).filter(|(_, vm)| vm.outcome.is_none());
    let running = vms.map(|(part, _)| format!("VM {} still ran", part.name));
    let working = workloads.map(|name| format!("workload {name} still ran"));
    let unfired = observed.schedule.steps().filter(|(step, fired)| *fired < step.fires_min);
    let unfired = unfired.map(|(step, fired)| match fired {
        0 => format!("{} had not fired", step.name),
        _ => format!("{} had fired {fired} times of {}", step.name, step.fires_min),
    });
    let found = running.chain(working).chain(unfired).collect::<Vec<_>>().join(", ");
    let line = scenario.time_limit_line.unwrap_or(scenario.expect.line);
    Verdict::out_of_time("the run", scenario.time_limit, format!("time ran out: {found}"), line)
}

fn steps<'a>(observed: &'a Observed<'_>) -> impl Iterator<Item = Verdict> + 'a {
    observed.schedule.steps().map(move |(step, fired)| {
        let refused = observed.refused.iter().find(|(name, _)| *name == step.name);
        let times = if step.fires_min == step.repeat {
            format!("{} times", step.repeat)
        } else {
            format!("{} to {} times", step.fires_min, step.repeat)
        };
        let (holds, found) = match refused {
            Some((_, why)) if step.fires_min > 0 => (false, format!("the controller refused: {why}")),
            // It need not have fired: what came of it need not have been done.
            Some((_, why)) => (true, format!("it fired {fired} times, but the controller refused: {why}")),
            None if fired >= step.fires_min && observed.lost.contains(&step.name) => {
                (true, format!("it fired {fired} times, but the controller died before it answered"))
            }
            None if fired == step.repeat => (true, "it did".to_owned()),
            None => (fired >= step.fires_min, format!("it fired {fired} times")),
        };
        let refused_for_good = refused.is_some() && step.fires_min > 0;
        let expectation = format!("{} fires {times}", step.name);
        let verdict = Verdict::decided(expectation, holds, found, Some(step.line));
        verdict.open_if(observed.cut_short && !refused_for_good)
    })
}

fn of_cluster(scenario: &Scenario, observed: &Observed<'_>) -> Vec<Verdict> {
    let expect = &scenario.expect;
    let at = |key: &str| Some(expect.lines.get(key).copied().unwrap_or(expect.line));
    let mut verdicts = Vec::new();
    if let Some(count) = expect.fenced {
        // Ends of hosts are in the history of every VM.
        let fenced = observed.vms.first().map_or(0, |vm| vm.timeline.fenced());
        verdicts.push(counted(
            observed,
            (count, fenced),
            format!("{count} hosts fenced"),
            format!("{fenced} hosts fenced"),
            at("fenced"),
        ));
    }
    for (kind, count) in &expect.events {
        let happened: u64 = observed.schedule.happenings(*kind);
        let name = serde_json::to_value(kind).ok();
        let name = name.as_ref().and_then(serde_json::Value::as_str).unwrap_or("?");
        let verdict = counted(
            observed,
            (*count, happened),
            format!("{name} happens {count} times"),
            format!("it happened {happened} times"),
            at("events"),
        );
        let one_too_many = count.max.filter(|max| happened > *max);
        verdicts.push(verdict.see(one_too_many.map(|max| Clue::Happened { kind: *kind, times: max + 1 })));
    }
    if let Some(text) = &expect.refused {
        let (holds, found) = match observed.refusal {
            Some(Err(why)) => (why.contains(text.as_str()), format!("refused: {why}")),
            _ => (false, "it was accepted".to_owned()),
        };
        let expectation = format!("the VM is refused with `{text}`");
        verdicts.push(Verdict::decided(expectation, holds, found, at("refused")));
    }
    verdicts
}

/// What has happened too often will not have happened less often in the end.
fn counted(
    observed: &Observed<'_>,
    (count, number): (Count, u64),
    expectation: String,
    found: String,
    line: Option<usize>,
) -> Verdict {
    let verdict = Verdict::decided(expectation, count.holds(number), found, line);
    verdict.open_if(observed.cut_short && number < count.min)
}

/// Whether all that can be verified in a pool verifies; but for the heartbeat pages of these hosts, in which steps have flipped bits: they are
/// whole again with the next beat, for which a host that is dead has no time left.
pub(super) fn pool(dir: &Path, flipped: &BTreeSet<u16>) -> Verdict {
    use vmm::inspect::{Finding, Verdict as Sound, check};
    let expectation = "the pool is sound".to_owned();
    let (holds, found) = match check(dir) {
        Ok(mut report) => {
            let is_flipped =
                |finding: &Finding| flipped.iter().any(|host| finding.place == format!("heartbeat.{host}"));
            let left_out: Vec<String> =
                report.findings.extract_if(.., |finding| is_flipped(finding)).map(|finding| finding.place).collect();
            match report.verdict() {
                Sound::Damaged => {
                    let findings = report.findings.iter().map(ToString::to_string);
                    (false, findings.collect::<Vec<_>>().join("; "))
                }
                _ if !left_out.is_empty() => {
                    let left_out = left_out.join(", ");
                    (
                        true,
                        format!(
                            "all that can be verified verifies, but {left_out}: a step flipped bits there, and no beat came"
                        ),
                    )
                }
                Sound::Sound | Sound::InChange => (true, "all that can be verified verifies".to_owned()),
            }
        }
        Err(error) => (false, vmm::chain(&error)),
    };
    Verdict::decided(expectation, holds, found, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_protocol::commit_meta::GuestEnd;
    use std::path::Path;
    use std::time::Duration;

    /// Found by an acceptance review: the pool was damaged where the host of such a page had died before its next beat.
    #[test]
    fn a_heartbeat_page_that_a_step_has_corrupted_is_no_unsound_pool() {
        use ft_protocol::controller::{ClusterState, HostRecord};
        use shared_mem::{Access, HeartbeatWriter, HostSlot, Mapping, Pool, PoolConfig};
        use std::os::unix::fs::FileExt as _;
        let place = tempfile::Builder::new().tempdir_in("/dev/shm").unwrap();
        let dir = place.path();
        let made = Pool::create(dir, &PoolConfig { vm_slots: 4, host_slots: 3, cluster_bytes: 4096 }).unwrap();
        let host = |name: &str| HostRecord { name: name.to_owned(), draining: false };
        let state = ClusterState { hosts: vec![host("a"), host("b")], ..ClusterState::default() };
        made.cluster().store(&state.encode()).unwrap();
        let page = made.heartbeat(HostSlot::new(1), Access::ReadWrite).unwrap();
        HeartbeatWriter::new(Mapping::read_write(&page).unwrap(), 7).beat(1).unwrap();
        assert!(pool(dir, &BTreeSet::new()).holds);
        let file = std::fs::File::options().write(true).open(dir.join("heartbeat.1")).unwrap();
        file.write_all_at(&[0x55; 64], 0).unwrap();
        let told = pool(dir, &BTreeSet::new());
        assert!(told.fails() && told.found.contains("heartbeat.1: neither line"), "nobody meant to: {told}");
        let told = pool(dir, &BTreeSet::from([1]));
        assert!(told.holds && told.found.contains("but heartbeat.1: a step flipped bits there"), "{told}");
        assert!(pool(dir, &BTreeSet::from([0, 2])).fails(), "that was another page");
    }

    fn verdicts(expect: &str, outcome: Option<&Outcome>, console: &[u8]) -> Vec<Verdict> {
        verdicts_of(expect, outcome, console, false)
    }

    fn verdicts_of(expect: &str, outcome: Option<&Outcome>, console: &[u8], cut_short: bool) -> Vec<Verdict> {
        let text = format!("[vm]\nguest = \"builtin:idle\"\ndisk = \"1MiB\"\n[expect]\n{expect}\n");
        let scenario = Scenario::parse(Path::new("x.toml"), &text).unwrap();
        let mut schedule = Schedule::new(&scenario, 1);
        schedule.printed(Time::ZERO, 0, console);
        let console = b"one\ntwo\n".to_vec();
        let golden = Golden { console, exit_code: 0, memory_crc: Some(7), disk_crc: Some(9), duration: Duration::ZERO };
        let timeline = &Timeline::default();
        let vm = ObservedVm { outcome, timeline, golden: Some(&golden), memory_crc: Some(7), disk_crc: Some(8) };
        let observed = Observed {
            vms: vec![vm],
            schedule: &schedule,
            refusal: None,
            refused: &[],
            lost: &[],
            now: Time::ZERO,
            cut_short,
        };
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
        assert!(!all_hold(&verdicts("disk = \"unprotected\"", Some(&EXITED), b"")));
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

    #[test]
    fn protection_is_owed_until_the_guest_ends_and_not_until_others_have() {
        use crate::event::{Event, What};
        use ft_protocol::timeline::Happening;
        use ft_protocol::{Generation, HostId, VmId};
        let (vm, at) = (VmId::new(0), |ms| Time::ZERO + Span::from_ms(ms));
        let protected = |host| {
            let (generation, host) = (Generation::new(1), HostId::new(host));
            What::Happened(Happening::Protected { vm, generation, host })
        };
        let lost = || What::Happened(Happening::Unprotected { vm, host: HostId::new(1) });
        let mut timeline = Timeline::default();
        let history = [(10, protected(1)), (20, lost()), (30, protected(1)), (5_000, lost())];
        history.into_iter().for_each(|(ms, what)| timeline.take(&Event { at: at(ms), what }));
        let judged = |timeline: &Timeline| {
            let text = "[vm]\nguest = \"builtin:idle\"\n[expect]\nprotected-again-within = \"1s\"\n";
            let scenario = Scenario::parse(Path::new("x.toml"), text).unwrap();
            let schedule = Schedule::new(&scenario, 1);
            let vms =
                vec![ObservedVm { outcome: Some(&EXITED), timeline, golden: None, memory_crc: None, disk_crc: None }];
            let (refused, lost) = (&[][..], &[][..]);
            let now = at(60_000);
            let observed = Observed { vms, schedule: &schedule, refusal: None, refused, lost, now, cut_short: false };
            all_hold(&judge(&scenario, &observed))
        };
        assert!(!judged(&timeline), "it still runs, and has been without a secondary for a minute");
        let end = GuestEnd::Exited(0);
        timeline.take(&Event { at: at(5_500), what: What::GuestEnded { vm, end, console_end: 0 } });
        assert!(judged(&timeline), "it ended half a second after it had lost its secondary");
    }

    #[test]
    fn an_order_that_died_with_the_controller_is_told() {
        let step = "[[step]]\nname = \"move\"\nevent = \"live\"\naction = \"switchover\"\noptional = true\n";
        let text = format!("[vm]\nguest = \"builtin:idle\"\n{step}[expect]\n");
        let scenario = Scenario::parse(Path::new("x.toml"), &text).unwrap();
        let mut schedule = Schedule::new(&scenario, 1);
        schedule.running(Time::ZERO);
        schedule.happened(Time::ZERO, crate::event::HappeningKind::Live, Some(0));
        schedule.fired(0, Time::ZERO);
        let lost = ["move".to_owned()];
        let observed = Observed {
            vms: Vec::new(),
            schedule: &schedule,
            refusal: None,
            refused: &[],
            lost: &lost,
            now: Time::ZERO,
            cut_short: false,
        };
        let verdicts = judge(&scenario, &observed);
        assert!(verdicts.iter().any(|verdict| verdict.found.contains("controller died")), "{verdicts:?}");
    }

    #[test]
    fn what_time_did_not_allow_to_decide_is_open_and_what_is_wrong_fails() {
        let step = "[[step]]\nname = \"never\"\nevent = \"live\"\naction = \"mark\"\n";
        let undecided = "exit-code = 0\nconsole = \"unprotected\"\nmemory = \"unprotected\"\ntakeovers = 1\nfenced = { min = 1 }\n\
                         events = { sealed = 2 }\nprotected-within = \"1s\"\nprotected-again-within = \"1s\"\nblackout-max = \"1s\"\n\
                         console-contains = \"three\"\n";
        let verdicts = |expect: &str, console: &[u8]| verdicts_of(&format!("{expect}{step}"), None, console, true);
        let mut open = verdicts(undecided, b"one\n");
        // What must never be has not been.
        open.retain(|verdict| !verdict.expectation.starts_with("one host at a time"));
        assert!(open.len() >= 11 && open.iter().all(|verdict| verdict.mark() == "open"), "{open:?}");
        for (expect, console) in
            [("console = \"unprotected\"\n", &b"two\n"[..]), ("console-lacks = \"one\"\n", b"one\n")]
        {
            let found = verdicts(expect, console);
            assert_eq!(found.iter().filter(|verdict| verdict.fails()).count(), 1, "{expect}: {found:?}");
        }
    }
}
