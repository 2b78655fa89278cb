//! What protection costs a guest.
//!
//! A guest does the same work lap after lap. Runs of it unprotected and protected follow each other, round after round, and
//! a protected run is held against the unprotected one of its round.
//!
//! What is judged is the processor time that the process takes which runs the guest: all of it, the guest's work and
//! everything that protection adds. Unlike the time on the wall, which is shown beside it, it does not tell of the other work
//! that a shared machine does. Where nothing else runs the two agree.

use super::super::lab::{Guest, Lab};
use super::super::laps::{self, Laps};
use super::super::processes::{CpuWatch, resident_bytes};
use super::super::row::{Row, Target, Unit};
use super::super::{BenchOptions, Failure, Figures};
use super::kv;
use ft_protocol::Span;
use ft_protocol::spec::Mode;
use scenarios::units::ByteCount;
use std::time::{Duration, Instant};

/// Rounds of `burn` in a lap: a tenth of a second or so.
const BURN_ROUNDS: u64 = 50_000_000;
/// Steps of `torture` in a lap: as long.
const TORTURE_STEPS: u64 = 16_000_000;
/// In a quick run no further round begins after this time.
const QUICK_TIME_MAX: Duration = Duration::from_secs(12);
/// Pages that `torture` writes in a window.
const WINDOW_PAGES: f64 = 64.0;
/// Pages a second that the target is about.
const TARGET_RATE: f64 = 20_000.0;
/// Targets of replay mode: time over unprotected time.
const BURN_RATIO_MAX: f64 = 1.01;
const TORTURE_RATIO_MAX: f64 = 1.15;
/// An idle VM: percent of a core over all processes; resident bytes of its secondary.
const IDLE_PERCENT_MAX: f64 = 1.0;
const STANDBY_BYTES_MAX: f64 = 33_554_432.0;
const FOR_EVER: &str = "1000000000000";
const MEMORY: ByteCount = ByteCount::mib(64);

pub(super) fn measure(options: &BenchOptions, rows: &mut Vec<Row>) -> Result<(), Failure> {
    idle(options, rows)?;
    burn(options, rows)?;
    torture(options, rows)?;
    kv::measure(options, rows)
}

/// What is run in turns: a mode and the length of its epochs.
type Setting = (Mode, Option<Span>);

fn settings(options: &BenchOptions) -> Vec<Setting> {
    let mut settings = vec![(Mode::Replay, None), (Mode::Lockstep, None), (Mode::Checkpoint, None)];
    if !options.quick {
        let epochs = |mode, lengths: &[u64]| -> Vec<Setting> {
            lengths.iter().map(|ms| (mode, Some(Span::from_ms(*ms)))).collect()
        };
        settings.extend(epochs(Mode::Checkpoint, &[2, 50, 200]));
        settings.extend(epochs(Mode::Replay, &[100, 5_000]));
    }
    settings
}

fn setting_name((mode, epoch): Setting) -> String {
    format!("{mode} mode, epochs of {}", epoch.unwrap_or(mode.default_epoch_interval()))
}

/// Rounds of an unprotected run and one in each setting.
fn in_turns(
    options: &BenchOptions,
    guest: &Guest,
    settings: &[Setting],
    (rounds, count): (usize, usize),
) -> Result<(Vec<Laps>, Vec<Vec<Laps>>), Failure> {
    let mut lab = Lab::start(options, 2, false)?;
    let (mut plain, mut protected) = (Vec::new(), vec![Vec::new(); settings.len()]);
    let begun = Instant::now();
    for round in 0..rounds {
        if options.quick && round > 0 && begun.elapsed() > QUICK_TIME_MAX {
            break;
        }
        plain.push(laps::unprotected(options, guest, count)?);
        for (index, (mode, epoch)) in settings.iter().enumerate() {
            let guest = Guest { mode: *mode, epoch: *epoch, ..guest.clone() };
            protected[index].push(laps::protected(&mut lab, &guest, count, &format!("round-{round}-{index}"))?);
        }
    }
    lab.run.shut_down_all()?;
    Ok((plain, protected))
}

fn all(runs: &[Laps]) -> Vec<f64> {
    runs.iter().flat_map(|run| run.took.iter().copied()).collect()
}

fn per_run(runs: &[Laps], of: impl Fn(&Laps) -> f64) -> Vec<f64> {
    runs.iter().map(of).collect()
}

/// A lap's time and processor time, against the unprotected ones.
fn lap_rows(what: &str, setting: Setting, own: &[Laps], plain: &[Laps]) -> [Row; 2] {
    let name = format!("{what}, {}", setting_name(setting));
    let medians = |runs: &[Laps]| per_run(runs, |run| Figures::of(&run.took).median);
    let mut time = Row::new(&name, Unit::Ns, &all(own)).in_pairs("unprotected", &medians(own), &medians(plain));
    if let Some(baseline) = &mut time.baseline {
        baseline.figures = Figures::of(&all(plain));
    }
    let cpu = |which: usize| per_run(own, |run| run.cpu[which]);
    let memory = |which: usize| Figures::of(&per_run(own, |run| run.resident[which])).median;
    let mib = |bytes: f64| super::super::table::amount(bytes, Unit::Bytes);
    let cpu_row = Row::new(format!("{name}: processor time, primary"), Unit::Ns, &cpu(0))
        .in_pairs("unprotected", &cpu(0), &per_run(plain, |run| run.cpu[0]))
        .part(&format!("(beside it) secondary, {} resident", mib(memory(1))), &cpu(1))
        .part(&format!("(beside it) controller, {} resident", mib(memory(2))), &cpu(2));
    [time, cpu_row]
}

fn burn(options: &BenchOptions, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let rounds = BURN_ROUNDS.to_string();
    let guest = Guest::new("burn", MEMORY, Mode::Replay, &["--rounds", &rounds, "--laps", FOR_EVER]);
    let settings = settings(options);
    let (plain, protected) = in_turns(options, &guest, &settings, if options.quick { (3, 12) } else { (8, 30) })?;
    for (setting, own) in settings.iter().zip(&protected) {
        let [time, cpu] = lap_rows("burn", *setting, own, &plain);
        let judged = *setting == (Mode::Replay, None);
        rows.push(time);
        rows.push(if judged { cpu.target(Target::RatioAtMost(BURN_RATIO_MAX)) } else { cpu });
    }
    Ok(())
}

fn torturer(window_steps: u64) -> Guest {
    let (steps, window) = (TORTURE_STEPS.to_string(), window_steps.to_string());
    let args = ["--steps", FOR_EVER, "--progress", &steps, "--window-steps", &window, "--far-bits", "63"];
    Guest::new("torture", MEMORY, Mode::Replay, &args)
}

fn torture(options: &BenchOptions, rows: &mut Vec<Row>) -> Result<(), Failure> {
    // How fast its steps are, so that pages get dirty at the rate that is wanted.
    let tried = laps::unprotected(options, &torturer(TORTURE_STEPS), 4)?;
    let steps_per_second = TORTURE_STEPS as f64 * 1e9 / Figures::of(&tried.took).median;
    let rates: &[f64] = if options.quick { &[TARGET_RATE] } else { &[2_000.0, TARGET_RATE, 100_000.0] };
    for rate in rates {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number of steps")]
        let window = (WINDOW_PAGES * steps_per_second / rate) as u64;
        let settings = settings(options);
        let turns = if options.quick { (3, 12) } else { (6, 30) };
        let (plain, protected) = in_turns(options, &torturer(window.max(64)), &settings, turns)?;
        for (setting, own) in settings.iter().zip(&protected) {
            let [time, cpu] = lap_rows(&format!("torture, {rate:.0} pages/s"), *setting, own, &plain);
            let judged = *setting == (Mode::Replay, None) && *rate == TARGET_RATE;
            rows.push(time);
            rows.push(if judged { cpu.target(Target::RatioAtMost(TORTURE_RATIO_MAX)) } else { cpu });
        }
    }
    Ok(())
}

/// A VM that waits, and what everybody takes meanwhile.
fn idle(options: &BenchOptions, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let (looks, each) = if options.quick { (3, Span::from_ms(700)) } else { (10, Span::from_ms(3_000)) };
    for mode in [Mode::Replay, Mode::Checkpoint] {
        let sizes: &[u64] = if mode == Mode::Checkpoint { &[64, 4096] } else { &[64] };
        for mib in sizes.iter().copied() {
            let mut lab = Lab::start(options, 2, false)?;
            let guest = Guest::new("idle", ByteCount::mib(mib), mode, &["--ticks", FOR_EVER, "--tick-ms", "3600000"]);
            let place = lab.add(&guest, "idle")?;
            lab.pass(Span::from_ms(300))?;
            let (primary, secondary) = lab.pids(place)?;
            let pids = [primary, secondary, lab.run.cluster().controller_pid()];
            let (mut sums, mut parts, mut resident) = (Vec::new(), [const { Vec::new() }; 3], Vec::new());
            for _ in 0..looks {
                let watch = CpuWatch::begin(&pids)?;
                lab.pass(each)?;
                let percent: Vec<f64> = watch.shares()?.iter().map(|share| share * 100.0).collect();
                sums.push(percent.iter().sum());
                parts.iter_mut().zip(&percent).for_each(|(part, percent)| part.push(*percent));
                resident.push(resident_bytes(secondary)? as f64);
            }
            let name = format!("idle VM, {mib} MiB, {mode} mode");
            if mib == 64 {
                let mut row = Row::new(format!("{name}: share of a core, all processes"), Unit::Percent, &sums)
                    .target(Target::AtMost(IDLE_PERCENT_MAX));
                for (who, part) in ["primary", "secondary", "controller"].iter().zip(&parts) {
                    row = row.part(who, part);
                }
                rows.push(row);
            }
            rows.push(
                Row::new(format!("{name}: standby's resident memory"), Unit::Bytes, &resident)
                    .target(Target::AtMost(STANDBY_BYTES_MAX)),
            );
            lab.run.shut_down_all()?;
        }
    }
    Ok(())
}
