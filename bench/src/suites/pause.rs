//! How long a commit stops the guest.
//!
//! A guest writes to the same pages over and over; every epoch is long enough for all of them. Its primary tells, commit by
//! commit, when it left the guest and when it entered it again, and what it did between. In turns with that, this process
//! copies as many pages of memory of the same kinds.

use super::super::baseline::Memcpy;
use super::super::commit_lines::{Commit, CommitLines};
use super::super::lab::{Guest, Lab};
use super::super::row::{Row, Target, Unit};
use super::super::{BenchOptions, Failure};
use ft_protocol::spec::Mode;
use ft_protocol::{Span, VmId};
use scenarios::units::ByteCount;
use vmm::clock::monotonic;

/// The target: so many times memcpy, and so much more.
const FACTOR: f64 = 1.5;
const PLUS_NS: f64 = 50_000.0;
/// The target is about this many pages and more.
const TARGET_PAGES_MIN: u64 = 1_000;
/// Commits that are not counted: pages are first written, slots first used.
const WARM_UP: usize = 4;
/// Longest time for the commits of one figure.
const PATIENCE: Span = Span::from_ms(60_000);
/// Between two looks at what hosts tell.
const LOOK_INTERVAL: Span = Span::from_ms(20);
/// Copies taken in a row.
const COPIES: usize = 4;
/// Steps that no guest comes to the end of.
const FOR_EVER: &str = "1000000000000";

/// Pages, and the commits that are counted in a quick run and in a thorough one.
const POINTS: [(u64, usize, usize); 6] =
    [(0, 24, 100), (10, 24, 100), (100, 24, 100), (1_000, 24, 100), (10_000, 16, 60), (50_000, 6, 30)];

pub(super) fn measure(options: &BenchOptions, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let mut lab = Lab::start(options, 2, true)?;
    let hosts = ["a", "b"];
    let mut lines = CommitLines::follow(lab.run.cluster().run_directory(), hosts.into_iter());
    for (pages, quick, thorough) in POINTS {
        let wanted = if options.quick { quick } else { thorough };
        let memcpy = Memcpy::new(&options.pool_parent, pages)?;
        let mut copies = Vec::new();
        let place = lab.add(&writer(pages), &format!("pages-{pages}"))?;
        let vm = lab.run.vm_id(place);
        // The copies are taken before, between and after, and not while the guest is stopped for one of the commits.
        take(&memcpy, &mut copies)?;
        let mut commits = Vec::new();
        for part in 1..=2 {
            follow(&mut lab, (&mut lines, place), vm, &mut commits, WARM_UP + wanted * part / 2)?;
            take(&memcpy, &mut copies)?;
        }
        lab.run.delete(place)?;
        rows.push(row(pages, &commits[WARM_UP..], &copies));
    }
    lab.run.shut_down_all()?;
    Ok(())
}

/// A guest that writes to so many pages, over and over, and the epochs in which it comes round.
fn writer(pages: u64) -> Guest {
    let memory = ByteCount::new((pages * 4096 * 9 / 8 + (16 << 20)).next_multiple_of(2 << 20));
    let count = pages.to_string();
    let args: &[&str] = match pages {
        0 => &["--rounds", FOR_EVER],
        _ => &[
            "--pages",
            &count,
            "--window-steps",
            "64",
            "--far-bits",
            "63",
            "--steps",
            FOR_EVER,
            "--progress",
            FOR_EVER,
        ],
    };
    let name = if pages == 0 { "burn" } else { "torture" };
    // A page's first write of an epoch costs microseconds.
    Guest::new(name, memory, Mode::Checkpoint, args).epoch(Span::from_ms(20 + pages / 50))
}

fn take(memcpy: &Memcpy, copies: &mut Vec<f64>) -> Result<(), Failure> {
    for _ in 0..COPIES {
        copies.push(memcpy.once()?);
    }
    Ok(())
}

fn follow(
    lab: &mut Lab,
    (lines, place): (&mut CommitLines, usize),
    vm: VmId,
    commits: &mut Vec<Commit>,
    wanted: usize,
) -> Result<(), Failure> {
    let deadline = monotonic() + PATIENCE;
    while commits.len() < wanted {
        if monotonic() >= deadline {
            return Err(format!("only {} of {wanted} commits in {} s", commits.len(), PATIENCE.ms() / 1000).into());
        }
        lab.pass(LOOK_INTERVAL)?;
        lab.check_runs(place)?;
        commits.extend(lines.news(vm)?);
    }
    Ok(())
}

fn row(pages: u64, commits: &[Commit], copies: &[f64]) -> Row {
    let each = |of: fn(&Commit) -> f64| -> Vec<f64> { commits.iter().map(of).collect() };
    let (dirty, x) = (each(|commit| commit.pages as f64), pages as f64);
    let found = super::super::Figures::of(&dirty).median;
    let row = Row::new(format!("{pages} pages written, {found:.0} dirty"), Unit::Ns, &each(|commit| commit.pause))
        .against("memcpy", copies)
        .part("stop", &each(|commit| commit.stop))
        .part("harvest", &each(|commit| commit.harvest))
        .part("copy", &each(|commit| commit.copy))
        .part("machine state", &each(|commit| commit.state))
        .part("resume", &each(|commit| commit.resume))
        .part("(after it) checksum and publish", &each(|commit| commit.checksum + commit.publish))
        .point("pause", x);
    if pages >= TARGET_PAGES_MIN { row.target(Target::BaselineTimes { factor: FACTOR, plus: PLUS_NS }) } else { row }
}
