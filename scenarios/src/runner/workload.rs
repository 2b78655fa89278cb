//! Programs beside the guests: started when the guests run, ended with them, judged by their exit codes and histories.

use super::verdict::Verdict;
use super::{RunDirectory, RunnerError};
use crate::cluster::{Child, ChildExit};
use crate::event::What;
use crate::history;
use crate::language::WorkloadPart;
use nix::sys::signal::{SigSet, Signal};
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a workload may take to end when it is asked to.
const END_BOUND: Duration = Duration::from_secs(10);

/// What workloads are told about the run.
pub(super) struct Surroundings<'a> {
    /// Where the controller listens.
    pub(super) socket: &'a Path,
    /// The ftvm program.
    pub(super) executable: &'a Path,
    /// The segment of the guests' network.
    pub(super) segment: Option<&'a Path>,
    /// Where random numbers start.
    pub(super) seed: u64,
    /// The name of the first VM.
    pub(super) vm: &'a str,
}

/// A workload's process.
#[derive(Debug)]
pub(super) struct Workload {
    part: WorkloadPart,
    child: Option<Child>,
    exit: Option<ChildExit>,
    /// It was told to end.
    told: bool,
    history: PathBuf,
}

impl Workload {
    pub(super) fn start(
        part: &WorkloadPart,
        around: &Surroundings<'_>,
        directory: &RunDirectory,
    ) -> Result<Self, RunnerError> {
        let out = directory.file(&format!("{}.out", part.name));
        // The workload may have another working directory than we have.
        let absolute = |path: PathBuf| std::path::absolute(&path).map_err(|source| RunnerError::File { path, source });
        let history = absolute(directory.file(&format!("{}.history.jsonl", part.name)))?;
        let file = File::create(&out).map_err(|source| RunnerError::File { path: out.clone(), source })?;
        let segment = around.segment.unwrap_or(Path::new(""));
        let fill_in = |text: &String| {
            text.replace("{segment}", &segment.to_string_lossy())
                .replace("{history}", &history.to_string_lossy())
                .replace("{seed}", &around.seed.to_string())
        };
        let program =
            if part.command[0].is_empty() { around.executable.into() } else { part.command[0].clone().into() };
        let mut command = Command::new::<std::ffi::OsString>(program);
        command.args(part.command[1..].iter().map(fill_in));
        if !part.directory.as_os_str().is_empty() {
            command.current_dir(&part.directory);
        }
        command
            .env("FTVM", around.executable)
            .env("FTVM_POOL", around.socket)
            .env("FTVM_SEED", around.seed.to_string())
            .env("FTVM_VM", around.vm)
            .env("FTVM_RUN_DIR", absolute(directory.path().to_owned())?)
            .env("FTVM_SEGMENT", segment)
            .env("FTVM_HISTORY", &history);
        let stderr = directory.file(&format!("{}.stderr", part.name));
        let child = with_all_signals(|| Child::start(command, Stdio::null(), file.into(), stderr))
            .map_err(|source| RunnerError::Workload { name: part.name.clone(), source })?;
        Ok(Self { part: part.clone(), child: Some(child), exit: None, told: false, history })
    }

    pub(super) fn started(&self) -> What {
        What::WorkloadStarted { workload: self.part.name.clone(), pid: self.child.as_ref().map_or(0, Child::pid) }
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.child.as_ref().map(|child| child.as_fd())
    }

    /// Its end, once.
    pub(super) fn reap(&mut self) -> Result<Option<What>, RunnerError> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let exit = child.try_reap().map_err(|source| RunnerError::Workload { name: self.part.name.clone(), source })?;
        let Some(exit) = exit else { return Ok(None) };
        self.exit = Some(exit);
        self.child = None;
        Ok(Some(What::WorkloadEnded { workload: self.part.name.clone(), exit }))
    }

    pub(super) fn is_over(&self) -> bool {
        self.child.is_none()
    }

    /// The guests have ended: it shall, too, if it is one of those that run until then.
    pub(super) fn guests_ended(&mut self) {
        if let Some(child) = self.child.as_ref().filter(|_| self.part.until_end && !self.told) {
            self.told = true;
            // It may just have ended by itself.
            let _ = child.signal(Signal::SIGTERM);
        }
    }

    /// Ends it, whatever it does.
    pub(super) fn end(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = child.signal(Signal::SIGTERM);
        match child.wait_until(Instant::now() + END_BOUND) {
            Ok(Some(exit)) => self.exit = Some(exit),
            _ => child.kill_and_reap(),
        }
    }

    /// How it ended, and whether what it saw was right.
    pub(super) fn verdicts(&self) -> Vec<Verdict> {
        let name = &self.part.name;
        let expected = ChildExit::Code(self.part.exit_code);
        // Whoever ends by the signal that asks for it has done so.
        let as_told = self.told && self.exit == Some(ChildExit::Signal(Signal::SIGTERM as i32));
        let mut verdicts = vec![Verdict {
            expectation: format!("workload {name} ends with {expected}"),
            holds: self.exit == Some(expected) || as_told,
            found: match (self.exit, as_told) {
                (_, true) => "it ended when the guests had".to_owned(),
                (Some(exit), false) => format!("it ended with {exit}"),
                (None, false) => "it had not ended".to_owned(),
            },
            line: Some(self.part.line),
        }];
        if self.part.linearizable {
            verdicts.push(self.linearizable());
        }
        verdicts
    }

    fn linearizable(&self) -> Verdict {
        let (holds, found) = match history::read(&self.history) {
            Ok(calls) if calls.is_empty() => (false, "its history is empty".to_owned()),
            Ok(calls) => {
                let checked = history::check(&calls, history::Bounds::default());
                match checked.verdict {
                    history::Verdict::Linearizable => {
                        let (operations, keys) = (checked.operations, checked.keys);
                        (
                            true,
                            format!(
                                "it is: {operations} operations on {keys} keys, {} without an answer",
                                checked.pending
                            ),
                        )
                    }
                    history::Verdict::Violated(violation) => (false, violation.to_string()),
                    history::Verdict::Undecided { key } => (false, format!("key `{key}` could not be decided")),
                }
            }
            Err(error) => (false, vmm::chain(&error)),
        };
        let expectation = format!("the history of workload {} is linearizable", self.part.name);
        Verdict { expectation, holds, found, line: Some(self.part.line) }
    }
}

/// Does something while no signal is blocked for this thread: a child inherits what is, and could not be asked to end.
fn with_all_signals<T>(act: impl FnOnce() -> T) -> T {
    // Neither call fails: the sets are valid.
    let before = SigSet::empty().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK);
    let done = act();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    done
}
