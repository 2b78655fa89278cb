//! Many seeds on many threads.

use super::cli::{CampaignResult, Seeds, SimOptions};
use super::outcome::{SimConfig, run};
use super::violation::Violation;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// Seeds that a worker takes at once.
const BATCH: u64 = 32;

/// A campaign ends after so many failing seeds: more of them would tell little.
pub(crate) const FAILURES_MAX: usize = 10;

/// Time between two updates of the progress line.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// What a worker reports.
pub(crate) struct Batch {
    pub(crate) totals: CampaignResult,
    pub(crate) failed: Vec<(u64, Violation)>,
}

/// Runs seeds until there are none left or the campaign is over.
pub(crate) fn work(options: &SimOptions, taken: &AtomicU64, over: &AtomicBool, sender: &Sender<Batch>) {
    let Seeds { first, last } = options.seeds;
    loop {
        // Counted from the first seed: the last one may be the last that there is.
        let begin = taken.fetch_add(BATCH, Ordering::Relaxed);
        if begin > last - first || over.load(Ordering::Relaxed) {
            return;
        }
        let (begin, end) = (first + begin, first + begin.saturating_add(BATCH - 1).min(last - first));
        let mut batch = Batch { totals: CampaignResult::default(), failed: Vec::new() };
        for seed in begin..=end {
            let config = config_of(options, seed);
            let outcome = run(&config);
            batch.totals.add(&outcome);
            if options.verify && run(&config) != outcome {
                batch.totals.unstable.push(seed);
            }
            if let Some(violation) = outcome.violation {
                batch.failed.push((seed, violation));
            }
        }
        if sender.send(batch).is_err() {
            return;
        }
    }
}

/// Adds up what the workers report, until they are done.
pub(crate) fn collect(
    options: &SimOptions,
    receiver: &Receiver<Batch>,
    over: &AtomicBool,
    start: Instant,
    result: &mut CampaignResult,
    progress: &mut dyn Write,
) -> Vec<(u64, Violation)> {
    let mut failed = Vec::new();
    let mut told = start;
    loop {
        match receiver.recv_timeout(PROGRESS_EVERY) {
            Ok(batch) => {
                result.merge(&batch.totals);
                failed.extend(batch.failed);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let late = options.time_max.is_some_and(|time_max| start.elapsed() >= time_max);
        if late || failed.len() >= FAILURES_MAX {
            over.store(true, Ordering::Relaxed);
        }
        if options.live && told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            result.time(start.elapsed());
            // A progress line that cannot be written is no reason to stop.
            let _written = write!(
                progress,
                "\r{} seeds, {:.0} a minute, {} failed ",
                result.seeds,
                result.seeds_per_minute,
                failed.len()
            )
            .and_then(|()| progress.flush());
        }
    }
    if options.live {
        let _written = write!(progress, "\r\x1b[K");
    }
    failed.sort_by_key(|(seed, _)| *seed);
    failed.truncate(FAILURES_MAX);
    failed
}

pub(crate) fn config_of(options: &SimOptions, seed: u64) -> SimConfig {
    SimConfig { seed, hosts: options.hosts, vms: options.vms, faults: options.faults }
}
