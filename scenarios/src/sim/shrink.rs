//! Minimises a failing run: fewer faults, and simpler ones, as long as it still breaks the same invariant.

use super::fault::{Fault, FaultEvent, Lines, Ways};
use super::outcome::{SimConfig, run_plan};
use super::plan::Plan;
use super::violation::Violation;

/// Most runs that one minimisation may take.
const RUNS_MAX: u32 = 3_000;

struct Shrinker<'a> {
    config: &'a SimConfig,
    plan: &'a Plan,
    violation: &'a Violation,
    runs: u32,
}

/// A smallest set of faults under which the run still breaks the same invariant (delta debugging: none of them can be
/// left out alone).
#[must_use]
pub fn shrink(config: &SimConfig, plan: &Plan, violation: &Violation) -> Plan {
    let mut shrinker = Shrinker { config, plan, violation, runs: 0 };
    let faults = shrinker.fewer(plan.faults.clone());
    let faults = shrinker.simpler(faults);
    Plan { weather: plan.weather, faults }
}

impl Shrinker<'_> {
    fn fails(&mut self, faults: &[FaultEvent]) -> bool {
        if self.runs == RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let plan = Plan { weather: self.plan.weather, faults: faults.to_vec() };
        let found = run_plan(self.config, &plan).violation;
        found.is_some_and(|found| found.is_like(self.violation))
    }

    /// Leaves out ever smaller parts.
    fn fewer(&mut self, mut faults: Vec<FaultEvent>) -> Vec<FaultEvent> {
        let mut part = faults.len().div_ceil(2).max(1);
        loop {
            let mut start = 0;
            let mut shrunk = false;
            while start < faults.len() {
                let end = (start + part).min(faults.len());
                let rest: Vec<FaultEvent> = faults[..start].iter().chain(&faults[end..]).copied().collect();
                if self.fails(&rest) {
                    faults = rest;
                    shrunk = true;
                } else {
                    start = end;
                }
            }
            if part == 1 && !shrunk {
                return faults;
            }
            if !shrunk {
                part = part.div_ceil(2);
            }
        }
    }

    /// Replaces each fault by the simplest one that does.
    fn simpler(&mut self, mut faults: Vec<FaultEvent>) -> Vec<FaultEvent> {
        for index in 0..faults.len() {
            for fault in simplifications(faults[index].fault) {
                let mut tried = faults.clone();
                tried[index].fault = fault;
                if self.fails(&tried) {
                    faults = tried;
                    break;
                }
            }
        }
        faults
    }
}

/// Simpler faults than this one, the simplest first.
fn simplifications(fault: Fault) -> Vec<Fault> {
    match fault {
        Fault::Kill { who, lines: Lines::Mixed(_), restart_us } => {
            [Lines::Kept, Lines::Lost].map(|lines| Fault::Kill { who, lines, restart_us }).to_vec()
        }
        Fault::DieInPool { who, accesses, lines: Lines::Mixed(_), restart_us } => {
            [Lines::Kept, Lines::Lost].map(|lines| Fault::DieInPool { who, accesses, lines, restart_us }).to_vec()
        }
        Fault::StallLink { who, ways: Ways::Both, for_us } => {
            [Ways::FromController, Ways::ToController].map(|ways| Fault::StallLink { who, ways, for_us }).to_vec()
        }
        _ => Vec::new(),
    }
}
