//! Runs inside a nested machine and measures, in turns, ftvm and QEMU on the machine's KVM with the same Linux guest: `nested-measure
//! PLAN` (JSON) writes samples (JSON) to standard output, one a line, and what it does to standard error.
#![forbid(unsafe_code)]

mod blackout;
mod boot;
mod console;
mod events;
mod ftvm;
mod guest;
mod pause;
mod qemu;

use nested_inside::sample::{Plan, Sample};
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

/// Whatever stands in the way.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long anything may take that is waited for. It only ends what would otherwise be endless.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("nested-measure: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let plan = std::env::args().nth(1).ok_or("usage: nested-measure PLAN")?;
    let plan: Plan = serde_json::from_str(&plan)?;
    std::fs::create_dir_all(console::DIRECTORY)?;
    settle("boots", boots(&plan))?;
    settle("pauses", pauses(&plan))?;
    settle("blackouts", blackouts(&plan))
}

/// A suite that breaks off does not take the others with it.
fn settle(name: &str, measured: Result<(), Failure>) -> Result<(), Failure> {
    let Err(failure) = measured else { return Ok(()) };
    eprintln!("{name}: BROKE OFF: {failure}");
    tell(&Sample::Unable { what: name.to_owned(), why: failure.to_string() })
}

fn boots(plan: &Plan) -> Result<(), Failure> {
    for round in 1..=plan.boots {
        eprintln!("boots, round {round} of {}", plan.boots);
        boot::round(plan)?;
    }
    Ok(())
}

fn pauses(plan: &Plan) -> Result<(), Failure> {
    for round in 1..=plan.pause_rounds {
        for &mib in &plan.working_sets_mib {
            eprintln!("pauses with {mib} MiB, round {round} of {}", plan.pause_rounds);
            pause::round(plan, mib)?;
        }
    }
    Ok(())
}

fn blackouts(plan: &Plan) -> Result<(), Failure> {
    for round in 1..=plan.blackout_rounds {
        eprintln!("blackouts, round {round} of {}", plan.blackout_rounds);
        blackout::round(plan)?;
    }
    Ok(())
}

fn tell(sample: &Sample) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, sample)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
