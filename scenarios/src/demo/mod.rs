//! The newcomer's first minute: a guest outlives kill after kill, and its console does not show it.

mod narration;
mod plan;

pub use plan::{PlannedKill, Victim, plan_kills};

use crate::cluster::{Cluster, ClusterError, ClusterOptions, HostName, HostSignal, OwnedDirectory};
use crate::compare::first_difference;
use crate::golden::{Golden, GoldenError, GoldenOptions, run_unprotected};
use crate::guest::{GuestError, GuestSource};
use crate::protected::{JournalOptions, Outcome, ProtectedRun, Respawn, RunError, VmOptions};
use crate::summary::{Summary, ms};
use crate::timeline::Timeline;
use crate::units::{ByteCount, show_span};
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::spec::Mode;
use ft_protocol::{Span, Time};
use narration::Narration;
use nix::poll::PollFlags;
use serde::Serialize;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;
use vmm::client::Patience;
use vmm::clock::monotonic;

/// Console bytes taken at once.
const CONSOLE_BYTES: usize = 1 << 20;
/// Between two looks for a victim while a role is vacant.
const RETRY_INTERVAL: Span = Span::from_ms(1);

/// What the demo does.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The ftvm program.
    pub executable: PathBuf,
    /// Where the pool is made.
    pub pool_parent: PathBuf,
    /// Where its random numbers start.
    pub seed: u64,
    /// How many kills.
    pub kills: u32,
    /// How many hosts.
    pub hosts: u16,
    /// Guest memory.
    pub memory: ByteCount,
    /// Arguments for the guest, `torture`.
    pub args: Vec<String>,
    /// Longest time between two commits; `None`: the default.
    pub epoch_interval: Option<Span>,
    /// Silence after which a host is suspected; `None`: the default.
    pub heartbeat_bound: Option<Span>,
    /// How long each of the two runs may take.
    pub time_limit: Span,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct DemoReport {
    /// Where the random numbers started.
    pub seed: u64,
    /// Whether nobody could tell.
    pub holds: bool,
    /// Why not.
    pub failures: Vec<String>,
    /// Kills done.
    pub kills: u64,
    /// Kills of whoever was primary.
    pub primaries_killed: u64,
    /// The unprotected run.
    pub unprotected_ms: f64,
    /// The guest's own checksum of all its memory, as the unprotected run printed it.
    pub checksum: Option<String>,
    /// The protected run in numbers.
    pub summary: Summary,
}

/// Why the demo could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The guest is none.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The unprotected run failed.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// The cluster, or the directory for the demo's files, cannot be made.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The protected run broke.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Nobody wants to see it.
    #[error("cannot write the demo's timeline")]
    Output(#[source] io::Error),
    /// The cluster took all of the time.
    #[error("the cluster was not ready within {}", show_span(*limit))]
    NotReady {
        /// How long it might have taken.
        limit: Span,
    },
    /// The user wants to end.
    #[error("interrupted")]
    Interrupted,
}

/// Shows the demo: tells its timeline to `out` while it goes.
///
/// # Errors
/// When it cannot be shown; that the guest was harmed is no error but in the report.
pub fn show_demo(
    options: &DemoOptions,
    interrupt: BorrowedFd<'_>,
    out: &mut dyn Write,
) -> Result<DemoReport, DemoError> {
    let scratch = OwnedDirectory::create(&std::env::temp_dir())?;
    let result = show_in(options, &scratch, interrupt, out);
    scratch.remove();
    result
}

fn show_in(
    options: &DemoOptions,
    scratch: &OwnedDirectory,
    interrupt: BorrowedFd<'_>,
    out: &mut dyn Write,
) -> Result<DemoReport, DemoError> {
    let guest = GuestSource::Builtin("torture".to_owned());
    let image = guest.read()?;
    image.check(options.memory.get(), &options.args)?;
    say(out, &format!("ftvm demo: guest torture, {} of memory, seed {}\n\n", options.memory, options.seed))?;
    let limit = Duration::from_nanos(options.time_limit.ns());
    let golden = run_unprotected(&GoldenOptions {
        executable: &options.executable,
        guest: &guest,
        memory: options.memory,
        args: &options.args,
        directory: scratch.path(),
        file: "console.unprotected",
        disk: None,
        patience: Patience::new(limit, interrupt).map_err(GoldenError::Wait)?,
    });
    let golden = match golden {
        Err(GoldenError::Interrupted) => return Err(DemoError::Interrupted),
        golden => golden?,
    };
    let checksum = checksum(&golden.console);
    let unprotected = Span::from_ns(u64::try_from(golden.duration.as_nanos()).unwrap_or(u64::MAX));
    let line = format!(
        "unprotected  {}, {} console bytes, checksum {}\nprotected    on {} hosts, {} kills to come\n",
        show_span(unprotected),
        golden.console.len(),
        checksum.as_deref().unwrap_or("none"),
        options.hosts,
        options.kills
    );
    say(out, &line)?;

    let patience = Patience::new(limit, interrupt).map_err(RunError::Wait)?;
    let of_cluster = ClusterOptions {
        executable: options.executable.clone(),
        hosts: options.hosts,
        pool_parent: options.pool_parent.clone(),
        heartbeat_bound: options.heartbeat_bound,
        record: Vec::new(),
        keep: false,
        custom: crate::cluster::ClusterCustom::default(),
    };
    let vm = VmOptions {
        memory: options.memory,
        args: options.args.clone(),
        mode: Mode::Checkpoint,
        epoch_interval: options.epoch_interval,
        working_set: None,
        journal: JournalOptions::default(),
        policy: ft_protocol::policy::Policy::default(),
        nets: Vec::new(),
        disk_bytes: 0,
    };
    let started = Cluster::start_with(of_cluster, patience.clone())
        .map_err(RunError::from)
        .and_then(|cluster| ProtectedRun::start(cluster, &image, &vm, Respawn::All, None));
    let run = match started {
        Err(error) if error.gave_up() && patience.is_interrupted() => return Err(DemoError::Interrupted),
        Err(error) if error.gave_up() => return Err(DemoError::NotReady { limit: options.time_limit }),
        started => started?,
    };
    let kills = plan_kills(options.seed, options.kills, golden.console.len() as u64);
    let limit = monotonic() + options.time_limit;
    let mut run = run;
    run.set_patience(Patience::new(Duration::from_nanos(options.time_limit.ns()), interrupt).map_err(RunError::Wait)?);
    let mut demo =
        Demo { narration: Narration::new(run.started_at()), run, kills, killed: Vec::new(), console: Vec::new() };
    let outcome = match demo.perform(limit, interrupt, out) {
        Err(DemoError::Run(error)) if error.gave_up() && patience.is_interrupted() => {
            return Err(DemoError::Interrupted);
        }
        Err(DemoError::Run(error)) if error.gave_up() => None,
        outcome => outcome?,
    };
    let report = demo.finish(options, &golden, checksum, unprotected, outcome)?;
    say(out, &verdict(&report, &golden))?;
    Ok(report)
}

struct Demo {
    run: ProtectedRun,
    narration: Narration,
    kills: Vec<PlannedKill>,
    killed: Vec<Victim>,
    console: Vec<u8>,
}

impl Demo {
    fn perform(
        &mut self,
        limit: Time,
        interrupt: BorrowedFd<'_>,
        out: &mut dyn Write,
    ) -> Result<Option<Outcome>, DemoError> {
        let mut due = None;
        loop {
            while self.run.read_console(&mut self.console, CONSOLE_BYTES)? > 0 {}
            let now = monotonic();
            if let Some(kill) = self.kills.get(self.killed.len()).copied()
                && self.console.len() as u64 >= kill.console_position
            {
                let at = *due.get_or_insert(now + Span::from_us(kill.jitter_us));
                if now >= at {
                    due = match self.kill(kill, out)? {
                        true => None,
                        false => Some(now + RETRY_INTERVAL),
                    };
                }
            }
            if let Some(outcome) = self.run.outcome() {
                return Ok(Some(outcome));
            }
            if now >= limit {
                return Ok(None);
            }
            let until = due.map_or(limit, |due| due.min(limit));
            let turn = self.run.turn(until, &[(interrupt, PollFlags::POLLIN)])?;
            if turn.ready[0] {
                return Err(DemoError::Interrupted);
            }
            say(out, &self.narration.tell(&turn.events, self.run.timeline()))?;
        }
    }

    /// Kills whoever has the role now; false when nobody has any.
    fn kill(&mut self, kill: PlannedKill, out: &mut dyn Write) -> Result<bool, DemoError> {
        let roles = self.run.roles()?;
        let alive = |host: &Option<HostName>| host.clone().filter(|host| self.run.cluster().host_pid(host).is_some());
        let (primary, secondary) = (alive(&roles.primary), alive(&roles.secondary));
        let found = match kill.victim {
            Victim::Primary => primary.map(|host| (Victim::Primary, host)),
            // In a moment without a secondary the primary is all the more worth a kill.
            Victim::Secondary => {
                secondary.map(|host| (Victim::Secondary, host)).or_else(|| primary.map(|host| (Victim::Primary, host)))
            }
        };
        let Some((victim, host)) = found else { return Ok(false) };
        let role = if victim == Victim::Primary { "primary" } else { "secondary" };
        let number = self.killed.len() + 1;
        let line = self.narration.kill(monotonic(), number, self.kills.len(), &host, role);
        self.run.signal(&host, HostSignal::Kill)?;
        self.killed.push(victim);
        say(out, &line)?;
        Ok(true)
    }

    fn finish(
        mut self,
        options: &DemoOptions,
        golden: &Golden,
        checksum: Option<String>,
        unprotected: Span,
        outcome: Option<Outcome>,
    ) -> Result<DemoReport, DemoError> {
        let epochs = self.run.status().map_or(0, |status| status.vms.first().map_or(0, |vm| vm.applied.get()));
        let start = self.run.started_at();
        let summary = Summary::new(self.run.timeline(), outcome.as_ref(), start, monotonic(), epochs);
        let timeline = self.run.shut_down()?;
        let failures = failures(golden, &self.console, outcome.as_ref(), &timeline, &self.killed, self.kills.len());
        Ok(DemoReport {
            seed: options.seed,
            holds: failures.is_empty(),
            failures,
            kills: self.killed.len() as u64,
            primaries_killed: self.killed.iter().filter(|victim| **victim == Victim::Primary).count() as u64,
            unprotected_ms: ms(unprotected),
            checksum,
            summary,
        })
    }
}

/// Everything by which somebody could tell the protected run from the unprotected one, and what makes a demo worthless.
fn failures(
    golden: &Golden,
    console: &[u8],
    outcome: Option<&Outcome>,
    timeline: &Timeline,
    killed: &[Victim],
    planned: usize,
) -> Vec<String> {
    let mut failures = Vec::new();
    match outcome {
        Some(Outcome::Ended(GuestEnd::Exited(code))) if i64::from(*code) == i64::from(golden.exit_code) => {}
        Some(Outcome::Ended(GuestEnd::Exited(code))) => {
            failures.push(format!("the guest exited with {code}, unprotected with {}", golden.exit_code));
        }
        Some(Outcome::Ended(GuestEnd::Crashed(line))) => failures.push(format!("the guest crashed: {line}")),
        Some(Outcome::Lost { .. } | Outcome::Deleted) => {
            failures.push("the guest was lost: no host was left".to_owned())
        }
        None => failures.push("the guest did not end in time".to_owned()),
    }
    if let Some(difference) = first_difference(&golden.console, console) {
        failures.push(format!("the console {difference}"));
    }
    if killed.len() < planned {
        failures.push(format!("only {} of {planned} kills were done", killed.len()));
    }
    if killed.contains(&Victim::Primary) && timeline.takeovers_done() == 0 {
        failures.push("a primary was killed, but there was no takeover".to_owned());
    }
    failures
}

fn verdict(report: &DemoReport, golden: &Golden) -> String {
    if !report.holds {
        return format!("\nFAILED: {}\nagain: ftvm demo --seed {}\n", report.failures.join("; "), report.seed);
    }
    let blackout = report.summary.blackout_max_ms.map_or("none".to_owned(), |ms| format!("{ms:.1} ms"));
    format!(
        "\nequal: all {} console bytes, checksum {}, exit code {}\n\
         {} kills ({} of the primary), {} takeovers, longest blackout {blackout}; nobody could tell\n",
        golden.console.len(),
        report.checksum.as_deref().unwrap_or("none"),
        golden.exit_code,
        report.kills,
        report.primaries_killed,
        report.summary.takeovers,
    )
}

/// What `torture` prints last.
fn checksum(console: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(console);
    text.lines().rev().find_map(|line| line.strip_prefix("checksum ")).map(ToOwned::to_owned)
}

fn say(out: &mut dyn Write, text: &str) -> Result<(), DemoError> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(DemoError::Output)
}
