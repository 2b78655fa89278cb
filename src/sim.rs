//! `ftvm sim`: the protocol's cores under faults that real machines would need years to meet.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::{CommandResult, ExitStatus, output};
use scenarios::sim::FaultProfile;
use scenarios::sim::cli::{CampaignError, CampaignResult, Seeds, SimOptions, run_campaign};
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seeds of a campaign for which neither seeds nor minutes are given.
const SEEDS_DEFAULT: u64 = 20_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run the seeds from A to the one before B
    #[arg(long, value_name = "A..B", conflicts_with_all = ["seed", "replay"])]
    seeds: Option<Seeds>,
    /// Run one seed
    #[arg(long, value_name = "N", conflicts_with = "replay")]
    seed: Option<u64>,
    /// Hosts of a run
    #[arg(long, value_name = "N", default_value_t = 3)]
    hosts: u16,
    /// VMs of a run
    #[arg(long, value_name = "N", default_value_t = 1)]
    vms: u16,
    /// Kinds of fault: swarm (drawn anew for each run), none, crash, hang, network, pool, client, planned, replay, lockstep
    #[arg(long, value_name = "PROFILE", default_value = "swarm")]
    faults: FaultProfile,
    /// Go on with fresh seeds for this long
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(1..))]
    minutes: Option<u64>,
    /// Find the fewest faults with which a failing run still fails
    #[arg(long)]
    shrink: bool,
    /// Run every seed twice and compare the final states
    #[arg(long)]
    verify: bool,
    /// Run an event file again
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Where event files of failing runs go; what is left of a replayed one goes beside it
    #[arg(long, value_name = "DIR", default_value = "sim-runs")]
    event_dir: PathBuf,
    /// Threads; without it as many as there are cores
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroU16>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> CommandResult {
    let json = args.json;
    let mut progress = std::io::stderr();
    let options = options(args);
    let result = run_campaign(&options, &mut progress).map_err(|error| {
        let code = match error {
            CampaignError::Size { .. } => ExitCode::Usage,
            CampaignError::EventFile(_) => ExitCode::FileMissing,
        };
        Failure::new(code, &error)
    })?;
    if json {
        output::json(&result)?;
    } else {
        output::text(&describe(&result))?;
    }
    Ok(ExitStatus::Own(if result.is_clean() { ExitCode::Ok } else { ExitCode::ExpectationFailed }))
}

fn options(args: Args) -> SimOptions {
    let seeds = match (args.seed, args.seeds, args.minutes) {
        (Some(seed), ..) => Seeds::one(seed),
        (None, Some(seeds), _) => seeds,
        (None, None, Some(_)) => Seeds { first: fresh_seed(), last: u64::MAX },
        (None, None, None) => Seeds::many(fresh_seed(), SEEDS_DEFAULT),
    };
    SimOptions {
        seeds,
        hosts: args.hosts,
        vms: args.vms,
        faults: args.faults,
        time_max: args.minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60))),
        shrink: args.shrink,
        verify: args.verify,
        replay: args.replay,
        event_dir: args.event_dir,
        commit: env!("FTVM_COMMIT").to_owned(),
        threads: args.threads,
        live: std::io::stderr().is_terminal(),
    }
}

/// Seeds that no campaign before has run: the second, with room for a million runs in each.
fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs().saturating_mul(1_000_000)
}

fn describe(result: &CampaignResult) -> String {
    let mut text = String::new();
    for line in &result.story {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{line}");
    }
    let _ = writeln!(
        text,
        "{} seeds from {} in {:.1} s ({:.0} a minute), {} events, {} faults, {} reigns, {} epochs, {:.0} s of virtual time",
        result.seeds,
        result.first_seed,
        result.seconds,
        result.seeds_per_minute,
        result.events,
        result.faults,
        result.generations,
        result.epochs,
        result.virtual_seconds
    );
    for seed in &result.unstable {
        let _ = writeln!(text, "seed {seed}: its second run was another one than the first");
    }
    let verdict = match result.failures.len() {
        _ if result.seeds == 0 => "no seed was run".to_owned(),
        0 if result.is_clean() => "nothing found".to_owned(),
        count => format!("{count} runs fail"),
    };
    let _ = writeln!(text, "{verdict}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Ok(Cli::try_parse_from(std::iter::once("sim").chain(words.iter().copied()))?.args)
    }

    #[test]
    fn what_would_run_nothing_is_refused_and_the_last_seed_is_one() {
        for words in [["--threads", "0"], ["--minutes", "0"], ["--seeds", "7..7"]] {
            assert!(parse(&words).is_err(), "{words:?}");
        }
        let last = parse(&["--seed", "18446744073709551615"]).map(options).expect("it is a seed");
        assert_eq!(last.seeds, Seeds::one(u64::MAX));
        let minutes = parse(&["--minutes", "1"]).map(options).expect("it is a time");
        assert_eq!((minutes.seeds.last, minutes.time_max), (u64::MAX, Some(Duration::from_secs(60))));
    }

    #[test]
    fn nothing_run_is_not_nothing_found() {
        assert!(describe(&CampaignResult::default()).contains("no seed was run"));
        let one = CampaignResult { seeds: 1, ..CampaignResult::default() };
        assert!(describe(&one).contains("nothing found"));
    }
}
