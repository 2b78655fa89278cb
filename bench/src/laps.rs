//! Guests that do the same work lap after lap and print a line at the end of each: how long a lap takes, as a reader of the
//! console sees it, and how much processor time it takes.

use super::lab::{Guest, Lab};
use super::processes::{cpu_time, resident_bytes};
use super::{BenchOptions, Failure};
use ft_protocol::Span;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use vmm::clock::monotonic;

/// Laps before those that are counted: pages are first written, caches are cold.
const WARM_UP: usize = 2;
/// How long a lap may take. It only ends what would otherwise be endless.
const PATIENCE: Span = Span::from_ms(60_000);
/// Console bytes taken at once.
const CONSOLE_BYTES: usize = 1 << 16;

/// Laps of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Laps {
    /// How long each took, in nanoseconds.
    pub(crate) took: Vec<f64>,
    /// Processor time of a lap, in nanoseconds: of the process that runs the guest, of the secondary's, of the controller.
    pub(crate) cpu: [f64; 3],
    /// Resident memory of the same, in bytes, at the end.
    pub(crate) resident: [f64; 3],
}

/// Counts lines as they come.
#[derive(Default)]
struct Lines {
    ends: Vec<Instant>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        self.ends.extend(bytes.iter().filter(|byte| **byte == b'\n').map(|_| now));
    }

    fn laps(&self, count: usize) -> Vec<f64> {
        let pairs = self.ends.windows(2).skip(WARM_UP).take(count);
        pairs.map(|pair| pair[1].duration_since(pair[0]).as_secs_f64() * 1e9).collect()
    }

    /// Lines after which the counted laps begin, and after which they are over.
    fn bounds(count: usize) -> (usize, usize) {
        (WARM_UP + 1, WARM_UP + 1 + count)
    }
}

fn as_figures(values: &[u64]) -> [f64; 3] {
    let mut figures = [0.0; 3];
    figures.iter_mut().zip(values).for_each(|(figure, value)| *figure = *value as f64);
    figures
}

/// The processor time of processes over the counted laps.
struct Watch {
    pids: Vec<u32>,
    before: Option<Vec<Span>>,
}

impl Watch {
    fn look(&self) -> Result<Vec<Span>, Failure> {
        self.pids.iter().map(|pid| cpu_time(*pid)).collect()
    }

    /// After each look at the lines: notes where the counted laps begin.
    fn begin_at(&mut self, lines: &Lines, count: usize) -> Result<(), Failure> {
        if self.before.is_none() && lines.ends.len() >= Lines::bounds(count).0 {
            self.before = Some(self.look()?);
        }
        Ok(())
    }

    fn end(&self, lines: &Lines, count: usize) -> Result<Laps, Failure> {
        let before = self.before.as_ref().ok_or("no lap was counted")?;
        let laps = u64::try_from(count.max(1))?;
        let spent: Vec<u64> =
            self.look()?.iter().zip(before).map(|(after, before)| (after.ns() - before.ns()) / laps).collect();
        let resident = self.pids.iter().map(|pid| resident_bytes(*pid)).collect::<Result<Vec<_>, _>>()?;
        Ok(Laps { took: lines.laps(count), cpu: as_figures(&spent), resident: as_figures(&resident) })
    }
}

/// Runs a guest unprotected for so many laps.
pub(crate) fn unprotected(options: &BenchOptions, guest: &Guest, count: usize) -> Result<Laps, Failure> {
    let mut child = Command::new(&options.executable)
        .args(["run", "--mode", "none", "--memory", &guest.memory.get().to_string()])
        .args(["--private-to", &std::process::id().to_string(), &format!("builtin:{}", guest.name), "--"])
        .args(&guest.args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let result = read_laps(&mut child, count);
    // Fails only when it has ended already.
    let _ = child.kill();
    let _ = child.wait();
    result
}

fn read_laps(child: &mut Child, count: usize) -> Result<Laps, Failure> {
    let mut console = child.stdout.take().ok_or("the console is a pipe")?;
    let mut watch = Watch { pids: vec![child.id()], before: None };
    let mut lines = Lines::default();
    let mut bytes = vec![0; CONSOLE_BYTES];
    while lines.ends.len() < Lines::bounds(count).1 {
        let got = console.read(&mut bytes)?;
        if got == 0 {
            return Err("the unprotected guest ended before it was measured".into());
        }
        lines.take(&bytes[..got]);
        watch.begin_at(&lines, count)?;
    }
    watch.end(&lines, count)
}

/// Runs a guest protected for so many laps.
pub(crate) fn protected(lab: &mut Lab, guest: &Guest, count: usize, name: &str) -> Result<Laps, Failure> {
    let place = lab.add_unprotected(guest, name)?;
    let mut lines = Lines::default();
    let mut watch: Option<Watch> = None;
    let mut bytes = Vec::new();
    let mut deadline = monotonic() + PATIENCE;
    while lines.ends.len() < Lines::bounds(count).1 {
        lab.run.turn(deadline, &[])?;
        lab.check_runs(place)?;
        bytes.clear();
        if lab.run.read_console_of(place, &mut bytes, CONSOLE_BYTES)? > 0 {
            deadline = monotonic() + PATIENCE;
            lines.take(&bytes);
        }
        if monotonic() >= deadline {
            return Err(format!("no lap within {} s", PATIENCE.ms() / 1000).into());
        }
        if watch.is_none() && lab.run.timeline_of(place).is_protected() {
            let (primary, secondary) = lab.pids(place)?;
            watch = Some(Watch { pids: vec![primary, secondary, lab.run.cluster().controller_pid()], before: None });
            // What was done until now was not protected.
            lines = Lines::default();
        }
        if let Some(watch) = &mut watch {
            watch.begin_at(&lines, count)?;
        }
    }
    let laps = watch.ok_or("the guest was never protected")?.end(&lines, count)?;
    lab.run.delete(place)?;
    Ok(laps)
}
