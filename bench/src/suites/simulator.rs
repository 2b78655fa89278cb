//! How many runs a minute the simulator makes.

use super::super::row::{Row, Target, Unit};
use super::super::{BenchOptions, Failure};
use scenarios::sim::FaultProfile;
use scenarios::sim::cli::{Seeds, SimOptions, run_campaign};

/// Tens of thousands of seeds a minute.
const SEEDS_PER_MINUTE_MIN: f64 = 10_000.0;

pub(super) fn measure(options: &BenchOptions, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let (rounds, seeds) = if options.quick { (5, 200) } else { (10, 2_000) };
    let scratch = tempfile::tempdir()?;
    let (mut per_minute, mut events) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let first = round * seeds;
        let campaign = SimOptions {
            seeds: Seeds::many(first, seeds),
            hosts: 3,
            vms: 1,
            faults: FaultProfile::Swarm,
            time_max: None,
            shrink: false,
            verify: false,
            replay: None,
            event_dir: scratch.path().to_owned(),
            commit: options.commit.clone(),
            threads: None,
            live: false,
        };
        let result = run_campaign(&campaign, &mut std::io::sink())?;
        if !result.is_clean() {
            return Err(format!("the simulator found something: ftvm sim --seeds {first}..{}", first + seeds).into());
        }
        per_minute.push(result.seeds_per_minute);
        events.push(result.events as f64 / result.seconds.max(1e-9));
    }
    rows.push(
        Row::new("seeds, three hosts, all kinds of fault", Unit::PerMinute, &per_minute)
            .target(Target::AtLeast(SEEDS_PER_MINUTE_MIN)),
    );
    rows.push(Row::new("events", Unit::PerSecond, &events));
    Ok(())
}
