//! How long a guest is not heard after the process that runs it was killed: ftvm's primary, or a QEMU with a snapshot.

use crate::console::{Console, Line, fresh, signal};
use crate::ftvm::{Ftvm, Protection};
use crate::guest::Guest;
use crate::qemu::{Begin, MICROVM, Qemu};
use crate::{Failure, PATIENCE, ns, tell};
use nested_inside::sample::{EPOCH_MS, Plan, Sample, Snapshot, Survival, TICK_MS, TICKER_MIB};
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Lines before a death and after it.
const STEADY_LINES: usize = 25;
const POLL: Duration = Duration::from_millis(5);

/// A line of the guest's, with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tick {
    at: Instant,
    number: u64,
}

/// What a death did to the console.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    silence: Duration,
    again: u64,
    lost: u64,
}

pub(crate) fn round(plan: &Plan) -> Result<(), Failure> {
    let guest = Guest { memory_mib: plan.memory_mib, runs: format!("ticker,{TICK_MS},{TICKER_MIB}") };
    let mut ftvm = Ftvm::start(&guest, Some(Protection { hosts: 3, epoch_ms: EPOCH_MS, tell_commits: false }))?;
    for life in 1..=usize::try_from(plan.kills)? {
        report(Survival::Takeover, &takeover(&mut ftvm, life)?)?;
    }
    ftvm.end()?;
    let path = fresh("snapshot");
    let mut qemu = Qemu::start(MICROVM, &guest, &Begin::Boot)?;
    for _ in 0..plan.kills {
        for way in [Survival::Restore, Survival::PreparedRestore] {
            let ticks;
            (qemu, ticks) = restore(qemu, &guest, way, &path)?;
            report(way, &ticks)?;
        }
    }
    fs::remove_file(&path)?;
    Ok(())
}

fn report(way: Survival, ticks: &[Tick]) -> Result<(), Failure> {
    let Heard { silence, again, lost } = heard(ticks).ok_or("nothing was heard")?;
    tell(&Sample::Blackout { way, ns: ns(silence), again, lost })
}

/// Kills the primary's host, and listens until the next one is steady.
fn takeover(ftvm: &mut Ftvm, life: usize) -> Result<Vec<Tick>, Failure> {
    let primary = ftvm.await_protected(life)?;
    steady(&mut ftvm.console, STEADY_LINES)?;
    let mut ticks = steady(&mut ftvm.console, 1)?;
    signal(primary, Signal::SIGKILL)?;
    let deadline = Instant::now() + PATIENCE;
    while ftvm.happened().lives <= life {
        ticks.extend(ftvm.console.next(POLL)?.as_ref().and_then(tick));
        if Instant::now() > deadline {
            return Err(ftvm.console.failure("nobody takes over"));
        }
    }
    ticks.extend(steady(&mut ftvm.console, STEADY_LINES)?);
    Ok(ticks)
}

/// Makes a snapshot, lets the guest run on, kills its QEMU, and listens to the one that goes on from the snapshot.
fn restore(mut qemu: Qemu, guest: &Guest, way: Survival, path: &Path) -> Result<(Qemu, Vec<Tick>), Failure> {
    steady(&mut qemu.console, STEADY_LINES)?;
    qemu.snapshot(Snapshot::Full, path)?;
    let prepared = match way {
        Survival::PreparedRestore => Some(Qemu::start(MICROVM, guest, &Begin::Wait)?),
        Survival::Takeover | Survival::Restore => None,
    };
    qemu.console.rest();
    let mut ticks = steady(&mut qemu.console, STEADY_LINES)?;
    signal(qemu.console.pid(), Signal::SIGKILL)?;
    let mut next = match prepared {
        Some(mut prepared) => {
            prepared.load(path)?;
            prepared
        }
        None => Qemu::start(MICROVM, guest, &Begin::Snapshot(path))?,
    };
    next.go_on()?;
    ticks.extend(qemu.console.kill().iter().filter_map(tick));
    ticks.extend(steady(&mut next.console, STEADY_LINES)?);
    Ok((next, ticks))
}

/// So many of the guest's next lines.
fn steady(console: &mut Console, count: usize) -> Result<Vec<Tick>, Failure> {
    let mut ticks = Vec::new();
    while ticks.len() < count {
        let line = console.await_line(|text| text.starts_with(TICKER))?;
        ticks.extend(tick(&line));
    }
    Ok(ticks)
}

const TICKER: &str = "ticker: ";

fn tick(line: &Line) -> Option<Tick> {
    Some(Tick { at: line.at, number: line.text.strip_prefix(TICKER)?.parse().ok()? })
}

/// Lines that were cut by a death are not counted as lines: their numbers come again, or are lost.
fn heard(ticks: &[Tick]) -> Option<Heard> {
    let silence = ticks.windows(2).map(|pair| pair[1].at.saturating_duration_since(pair[0].at)).max()?;
    let (mut again, mut lost) = (0, 0);
    let mut next = ticks.first()?.number;
    for tick in ticks {
        if tick.number < next {
            again += 1;
        } else {
            lost += tick.number - next;
            next = tick.number + 1;
        }
    }
    Some(Heard { silence, again, lost })
}

#[cfg(test)]
mod tests {
    use super::{Heard, Tick, heard, tick};
    use crate::console::Line;
    use std::time::{Duration, Instant};

    #[test]
    fn a_death_is_a_silence_and_what_is_said_twice() {
        let start = Instant::now();
        let ticks = |told: &[(u64, u64)]| -> Vec<Tick> {
            told.iter().map(|&(ms, number)| Tick { at: start + Duration::from_millis(ms), number }).collect()
        };
        let silence = Duration::from_millis;
        assert_eq!(heard(&[]), None);
        let unbroken = ticks(&[(0, 7), (20, 8), (45, 9)]);
        assert_eq!(heard(&unbroken), Some(Heard { silence: silence(25), again: 0, lost: 0 }));
        let back = ticks(&[(0, 7), (20, 8), (320, 6), (340, 7), (360, 8), (380, 9)]);
        assert_eq!(heard(&back), Some(Heard { silence: silence(300), again: 3, lost: 0 }));
        let gap = ticks(&[(0, 7), (20, 10), (40, 11)]);
        assert_eq!(heard(&gap), Some(Heard { silence: silence(20), again: 0, lost: 2 }));
    }

    #[test]
    fn only_whole_lines_of_the_guest_count() {
        let at = Instant::now();
        let line = |text: &str| tick(&Line { at, text: text.to_owned() }).map(|tick| tick.number);
        assert_eq!(line("ticker: 12"), Some(12));
        assert_eq!(line("tick"), None);
        assert_eq!(line("ticker: 1ticker: 2"), None);
    }
}
