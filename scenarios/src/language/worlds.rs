//! In which worlds a scenario can run: on real processes always, in the simulator where all that it says means something.

use super::{Act, CorruptWhat, CutFrom, Fact, Pattern, Scenario, Step, When};
use crate::guest::GuestSource;
use crate::sim::{HOSTS_MAX, STAGED_LINES, Saying, VMS_MAX};
use ft_protocol::spec::Mode;
use std::fmt;
use std::path::PathBuf;

/// Why a scenario cannot run in the simulator, and where its file says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NotSimulated {
    path: PathBuf,
    line: usize,
    why: String,
}

impl fmt::Display for NotSimulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: not in the simulator: {}", self.path.display(), self.line, self.why)
    }
}

impl NotSimulated {
    /// Why, without the place.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// The line, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }
}

/// The steps of the protocol that the simulator knows failpoints by. Between the stores of one application of a record
/// nobody stands still there.
pub(crate) const SIMULATED_FAILPOINTS: [&str; 19] = [
    "host.standby.made",
    "host.takeover.ordered",
    "host.takeover.loaded",
    "host.takeover.replayed",
    "host.commit.stopped",
    "host.commit.harvested",
    "host.commit.copied",
    "host.commit.closed",
    "host.commit.checksummed",
    "host.commit.published",
    "host.follow.compared",
    "controller.apply.checked",
    "controller.apply.applied",
    "controller.apply.freed",
    "controller.takeover.sealed",
    "controller.takeover.opened",
    "controller.takeover.promoted",
    "controller.standby.ordered",
    "controller.state.persisted",
];

/// What clocks show there at the beginning.
const CLOCK_AT_START_NS: i64 = 1_000_000_000;

/// More lines than the model guest prints in any run that ends in time.
const LINES_MAX: u64 = 99_999;

/// The guests that the model guest can stand for: they only compute, wait and print.
const MODELLED: [&str; 4] = ["builtin:torture", "builtin:counter", "builtin:idle", "builtin:burn"];

impl Scenario {
    /// Whether it can run in the simulator.
    ///
    /// # Errors
    /// The first thing in its file that means nothing there.
    pub fn check_simulated(&self) -> Result<(), NotSimulated> {
        let at = |line: usize, why: String| Err(NotSimulated { path: self.path.clone(), line, why });
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let key = |table: &str, nth: usize, key: &str| line_of(&text, (table, nth), key);
        if let Some(workload) = self.workloads.first() {
            return at(workload.line, "workloads are programs, and the model guest talks to none".to_owned());
        }
        let cluster = &self.cluster;
        if cluster.segment_loss > 0 || cluster.segment_delay > ft_protocol::Span::ZERO {
            return at(key("cluster", 0, "segment-"), "there is no network segment".to_owned());
        }
        if cluster.hosts > HOSTS_MAX {
            return at(key("cluster", 0, "hosts"), format!("clusters have at most {HOSTS_MAX} hosts there"));
        }
        if self.vms.len() > usize::from(VMS_MAX) {
            return at(1, format!("there are at most {VMS_MAX} VMs there"));
        }
        // Whatever size it has: where a step fills it, it is full.
        let fills = self.steps.iter().flat_map(|step| &step.acts).any(|act| matches!(act, Act::Fill { .. }));
        if cluster.pool_size.is_some() && !fills {
            return at(
                key("cluster", 0, "pool-size"),
                "the pool has no size there, unless an action `fill` fills it".to_owned(),
            );
        }
        if let Some(nth) = cluster.host.iter().position(|host| host.memory.is_some()) {
            return at(key("cluster.host", nth, "memory"), "hosts have memory without bounds".to_owned());
        }
        for (nth, vm) in self.vms.iter().enumerate() {
            if vm.net || vm.disk.is_some() {
                return at(
                    key("vm", nth, if vm.net { "net" } else { "disk" }),
                    "the model guest has no devices".to_owned(),
                );
            }
            if !is_modelled(&vm.guest) {
                return at(key("vm", nth, "guest"), format!("the model guest cannot stand for {}", vm.guest));
            }
            if vm.mode != self.vms[0].mode {
                return at(key("vm", nth, "mode"), "all VMs begin in one mode there".to_owned());
            }
        }
        if self.expect.refused.is_some() {
            return at(key("expect", 0, "refused"), "nothing is refused there: memory has no bounds".to_owned());
        }
        self.check_texts()?;
        self.steps.iter().try_for_each(|step| self.check_step(step))
    }

    /// Whether a VM is protected in a mode that records, at any time.
    fn records(&self) -> bool {
        let turns = self.steps.iter().flat_map(|step| &step.acts).filter_map(|act| match act {
            Act::Mode { mode, .. } => Some(*mode),
            _ => None,
        });
        self.vms.iter().map(|vm| vm.mode).chain(turns).any(|mode| Mode::from(mode).records())
    }

    fn check_step(&self, step: &Step) -> Result<(), NotSimulated> {
        let at = |why: String| Err(NotSimulated { path: self.path.clone(), line: step.line, why });
        if let When::Failpoint { name, .. } = &step.when
            && !SIMULATED_FAILPOINTS.contains(name)
        {
            return at(format!("failpoint {name} lies within one step of the simulator"));
        }
        match &step.when {
            When::Console(pattern) if !self.is_said(step.vm, pattern) => return at(self.unsaid(step.vm)),
            When::Condition(condition) => {
                if let Some(most) = self.most_of(condition.fact).filter(|most| condition.least() > *most) {
                    return at(format!("the model guest may come no further than to {most} there: `{condition}`"));
                }
            }
            _ => {}
        }
        for act in &step.acts {
            match act {
                Act::Segment { .. } => return at("there is no network segment".to_owned()),
                // No clock shows less than nothing.
                Act::Clock { by_ns, .. } if *by_ns < -CLOCK_AT_START_NS => {
                    return at("clocks begin at one second there, and step back by no more".to_owned());
                }
                _ => {}
            }
            if self.records() && matches!(act, Act::Corrupt { .. }) {
                return at(
                    "the checkers there do not know what damage costs a guest whose inputs are recorded".to_owned()
                );
            }
            if self.records() && matches!(act, Act::Cut { from, .. } if *from != CutFrom::Network) {
                return at("a host that cannot reach its record log gives its guest up there; a real one stands still"
                    .to_owned());
            }
            let early = matches!(&step.when, When::Failpoint { name, .. } if *name != "host.commit.published");
            if early && matches!(act, Act::Corrupt { what: CorruptWhat::Journal, .. }) {
                return at("records are corrupted there once they are committed".to_owned());
            }
            if let Act::Corrupt { what: what @ (CorruptWhat::Log | CorruptWhat::Heartbeat), .. } = act {
                let why = match what {
                    CorruptWhat::Log => "the checkers there do not know what a damaged log costs a guest",
                    _ => "heartbeats are no bytes there",
                };
                return at(why.to_owned());
            }
        }
        Ok(())
    }
}

impl Scenario {
    /// Texts that are expected, or not: where the model guest is no measure for them, nothing can be said.
    fn check_texts(&self) -> Result<(), NotSimulated> {
        for (vm, expect) in self.expect.vms.iter().enumerate() {
            let line = |key: &str| {
                let line = expect.lines.get(key).or(self.expect.lines.get(key));
                line.copied().unwrap_or(self.expect.line)
            };
            let at = |key: &str, why: String| Err(NotSimulated { path: self.path.clone(), line: line(key), why });
            if expect.console_contains.iter().any(|text| !self.is_said(vm, &Pattern::Text(text.clone()))) {
                return at("console-contains", self.unsaid(vm));
            }
            if expect.console_lacks.iter().any(|text| self.may_be_said(text)) {
                return at(
                    "console-lacks",
                    "the model guest goes on for as long as steps wait, and says this".to_owned(),
                );
            }
        }
        Ok(())
    }

    /// All VMs print there what the first one's guest does.
    fn saying(&self) -> Option<Saying> {
        Saying::of(&self.vms[0].guest.to_string())
    }

    /// Whether a guest says there what it says on real processes, as far as this pattern looks.
    fn is_said(&self, vm: usize, pattern: &Pattern) -> bool {
        let Some(saying) = self.saying().filter(|_| self.vms[vm].guest == self.vms[0].guest) else { return false };
        let matches = |line: &str| pattern.matches(line.as_bytes());
        // What comes behind may be anything.
        let is_said = |line: &str| matches(line) && (!saying.goes_on() || matches(&format!("{line}?")));
        is_said(&saying.begins(1, true)) || (1..=STAGED_LINES).any(|nth| is_said(&saying.begins(nth, false)))
    }

    fn unsaid(&self, vm: usize) -> String {
        if self.vms[vm].guest != self.vms[0].guest {
            return format!("the model guest prints lines like those of {} for all VMs", self.vms[0].guest);
        }
        let lines = self
            .saying()
            .map_or_else(String::new, |saying| format!(": only lines like `{}..`", saying.begins(1, false)));
        format!("the model guest does not say this{lines}, {STAGED_LINES} at least")
    }

    /// Whether a line of the model guest may contain it.
    fn may_be_said(&self, text: &str) -> bool {
        let Some(saying) = self.saying() else { return true };
        let computed = saying.goes_on() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let lines = std::iter::once(saying.begins(1, true)).chain((1..=LINES_MAX).map(|nth| saying.begins(nth, false)));
        computed || lines.into_iter().any(|line| line.contains(text))
    }

    /// What a VM comes to there at least, before its guest is let end; `None`: that depends on the steps.
    fn most_of(&self, fact: Fact) -> Option<u64> {
        match fact {
            Fact::Epoch => {
                let first = &self.vms[0];
                let interval = first.epoch_interval.unwrap_or(Mode::from(first.mode).default_epoch_interval());
                Some(self.time_limit.ns() / 4 / interval.ns().max(1))
            }
            Fact::ConsoleBytes => {
                let line = self.saying()?.begins(1, false).len() as u64 + 1;
                Some(STAGED_LINES * line)
            }
            Fact::Generation | Fact::Takeovers | Fact::Switchovers | Fact::Protected => None,
        }
    }
}

fn is_modelled(guest: &GuestSource) -> bool {
    MODELLED.contains(&guest.to_string().as_str())
}

/// The line of a key in the n-th table of a name; that table's own where the key does not stand by itself, the first of the file where
/// there is no such table.
fn line_of(text: &str, (table, nth): (&str, usize), key: &str) -> usize {
    let headers = [format!("[{table}]"), format!("[[{table}]]")];
    let is_header = |line: &str| headers.iter().any(|header| line.trim_start().starts_with(header));
    let numbered = || (1..).zip(text.lines());
    let Some((header, _)) = numbered().filter(|(_, line)| is_header(line)).nth(nth) else { return 1 };
    let within = numbered().skip(header).take_while(|(_, line)| !line.trim_start().starts_with('['));
    within.into_iter().find(|(_, line)| line.trim_start().starts_with(key)).map_or(header, |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::line_of;

    #[test]
    fn a_key_is_found_in_its_own_table() {
        let text = "[vm]\nmemory = 1\n[[cluster.host]]\nname = 2\n[[cluster.host]]\n  memory = 3\n[expect]\n";
        assert_eq!(line_of(text, ("vm", 0), "memory"), 2);
        assert_eq!(line_of(text, ("cluster.host", 1), "memory"), 6);
        assert_eq!(line_of(text, ("cluster.host", 0), "memory"), 3, "its table's");
        assert_eq!(line_of(text, ("vm", 1), "memory"), 1);
    }
}
