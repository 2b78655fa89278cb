//! Runs scenarios in the simulator: the same steps, the same verdicts, the same run folder; in virtual time, from one seed.

#[cfg(test)]
mod tests;

use super::{Manifest, Observed, ObservedVm, Report, RunDirectory, RunnerError, RunnerOptions, Verdict, judge, keep};
use crate::event::EventLog;
use crate::golden::Golden;
use crate::language::{Scenario, Step};
use crate::sim::{Interrupted, Memory, Violation, play};
use crate::summary::Summary;
use ft_protocol::{Span, Time};
use std::time::Duration;
use vmm::clock::monotonic;

/// When simulated clocks begin.
const START: Time = Time::from_ns(1_000_000_000);

/// Plays a scenario in the simulator.
///
/// # Errors
/// When the run's directory cannot be written, or `shall_end` says that the user wants to end; an expectation that does not hold is no
/// error.
pub fn simulate(
    scenario: &Scenario,
    options: &RunnerOptions,
    shall_end: &dyn Fn() -> bool,
) -> Result<Report, RunnerError> {
    let seed = options.seed.unwrap_or(scenario.seed);
    if let Err(not) = scenario.check_simulated() {
        return Ok(Report { again: again(scenario, seed), ..Report::skipped(scenario, seed, not.to_string()) });
    }
    let start = monotonic();
    let played = play(scenario, seed, shall_end).map_err(|Interrupted| RunnerError::Interrupted)?;
    let Some(mut played) = played else {
        let reason = "it has no part in the simulator".to_owned();
        return Ok(Report::skipped(scenario, seed, reason));
    };
    let directory = RunDirectory::create(&options.runs, &scenario.name)?;
    let manifest = Manifest { again: again(scenario, seed), ..Manifest::new(scenario, options, seed, START) };
    directory.write_json("manifest.json", &manifest)?;
    let path = directory.file("events.jsonl");
    let failed = |source| RunnerError::File { path: path.clone(), source };
    let mut log = EventLog::create(&path, START).map_err(failed)?;
    for event in &played.stage.events {
        log.append(event).map_err(failed)?;
    }
    for (index, part) in scenario.vms.iter().enumerate() {
        directory.write(&super::console_file(scenario, part, "console"), played.stage.schedule.console(index))?;
    }
    let took = || monotonic().since(start);
    if let Some((index, why)) = played.stage.failed.take() {
        let Step { line, name: step, .. } = scenario.steps[index].clone();
        let error = RunnerError::Step { path: scenario.path.clone(), line, step, source: Box::new(why.into()) };
        let report = Report { again: again(scenario, seed), ..Report::broken(scenario, seed, &error).took(took()) };
        return keep(Report { steps: played.stage.schedule.told(), ..report }, &directory);
    }
    let now = START + Span::from_us(played.us);
    let stage = &played.stage;
    // The unbroken run with the same inputs.
    let golden = |(console, memory): (&Vec<u8>, &Memory)| Golden {
        console: console.clone(),
        exit_code: 0,
        memory_crc: Some(memory.unbroken),
        disk_crc: None,
        duration: Duration::ZERO,
    };
    let goldens: Vec<Golden> = played.consoles.iter().zip(&played.memories).map(golden).collect();
    let sound = played.violation.is_none();
    let vms = (0..scenario.vms.len()).map(|vm| ObservedVm {
        outcome: stage.outcomes[vm].as_ref(),
        timeline: &stage.timelines[vm],
        golden: Some(&goldens[vm]),
        memory_crc: played.memories[vm].in_pool,
        disk_crc: None,
    });
    let cut_short = stage.outcomes.iter().any(Option::is_none);
    let observed = Observed {
        vms: vms.collect(),
        schedule: &stage.schedule,
        refusal: None,
        refused: &stage.refused,
        lost: &[],
        now,
        cut_short,
    };
    let mut verdicts = judge(scenario, &observed);
    let checked = checked(played.violation.as_ref());
    // What cut it short comes first.
    verdicts.insert(if sound { verdicts.len() } else { 0 }, checked);
    if sound && cut_short {
        verdicts.insert(0, super::verdict::time_ran_out(scenario, &observed, std::iter::empty()));
    }
    let summary = Summary::new(&stage.timelines[0], stage.outcomes[0].as_ref(), START, now, stage.facts[0].epoch);
    let report = Report {
        summary: Some(summary),
        steps: stage.schedule.told(),
        again: again(scenario, seed),
        ..Report::new(scenario, seed, verdicts).took(took())
    };
    if report.holds && !options.keep {
        directory.remove();
        return Ok(report);
    }
    keep(report, &directory)
}

/// What the checkers found. A run that came to a bound has broken no invariant.
fn checked(violation: Option<&Violation>) -> Verdict {
    let expectation = match violation {
        Some(violation) if violation.is_a_bound() => "the run comes to no bound of the simulator",
        _ => "the checkers find nothing (I1 to I5, I7)",
    };
    let found = violation.map_or_else(|| "they did not".to_owned(), ToString::to_string);
    Verdict::decided(expectation.to_owned(), violation.is_none(), found, None)
}

/// The line that plays a scenario again.
fn again(scenario: &Scenario, seed: u64) -> String {
    super::again(scenario, seed).replacen("ftvm scenario run", "ftvm scenario sim", 1)
}
