//! Programs beside the guests: started when the guests run, ended with them, judged by their exit codes and histories.

use super::verdict::{Clue, Verdict};
use super::{RunDirectory, RunnerError};
use crate::cluster::{Child, ChildExit, last_words};
use crate::event::{Event, What};
use crate::history::{self, Entry, HistoryError, Line};
use crate::language::WorkloadPart;
use crate::units::show_span;
use ft_protocol::{Span, Time};
use nix::sys::signal::{SigSet, Signal};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a workload may take to end when it is asked to, at the end of the guests or of a run; then it is killed.
const END_BOUND: Span = Span::from_ms(2_000);

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
    /// It was told to end, as the guests had: then.
    told: Option<Time>,
    /// It did not do so in time, and was killed.
    killed: bool,
    /// It had not ended when the run was over.
    cut_short: bool,
    history: PathBuf,
    stderr: PathBuf,
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
        let program: PathBuf =
            if part.command[0].is_empty() { around.executable.into() } else { part.command[0].clone().into() };
        let started = |source: io::Error| {
            let told = format!("`{}`: {source}", program.display());
            RunnerError::Workload {
                line: part.line,
                name: part.name.clone(),
                source: io::Error::new(source.kind(), told),
            }
        };
        let mut command = Command::new(&program);
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
        vmm::tied::ends_with_us(&mut command);
        // Not as the processes of the cluster call theirs: `a.1` may be a workload's name.
        let stderr = directory.file(&format!("{}.err", part.name));
        let child =
            with_all_signals(|| Child::start(command, Stdio::null(), file.into(), stderr.clone())).map_err(started)?;
        let part = part.clone();
        Ok(Self { part, child: Some(child), exit: None, told: None, killed: false, cut_short: false, history, stderr })
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
        let WorkloadPart { line, name, .. } = &self.part;
        let failed = |source| RunnerError::Workload { line: *line, name: name.clone(), source };
        let exit = child.try_reap().map_err(failed)?;
        let Some(exit) = exit else { return Ok(None) };
        self.exit = Some(exit);
        // What it has started ends with it.
        Child::signal_group(child.pid(), Signal::SIGKILL);
        self.child = None;
        Ok(Some(What::WorkloadEnded { workload: self.part.name.clone(), exit }))
    }

    pub(super) fn is_over(&self) -> bool {
        self.child.is_none()
    }

    /// The guests have ended: it shall, too, if it is one of those that run until then. One that does not is killed.
    pub(super) fn guests_ended(&mut self, now: Time) {
        let Some(child) = self.child.as_ref().filter(|_| self.part.until_end) else { return };
        let Some(told) = self.told else {
            self.told = Some(now);
            return self.ask_to_end();
        };
        if now >= told + END_BOUND && !self.killed {
            self.killed = true;
            Child::signal_group(child.pid(), Signal::SIGKILL);
        }
    }

    /// When it is killed, if it has not ended by then.
    pub(super) fn killed_at(&self) -> Option<Time> {
        self.told.filter(|_| self.child.is_some() && !self.killed).map(|told| told + END_BOUND)
    }

    fn ask_to_end(&self) {
        if let Some(child) = &self.child {
            Child::signal_group(child.pid(), Signal::SIGTERM);
            // One that stands still would not hear it.
            Child::signal_group(child.pid(), Signal::SIGCONT);
        }
    }

    /// Ends it, whatever it does; until then it may end by itself.
    fn end_by(&mut self, deadline: Instant) {
        let Some(mut child) = self.child.take() else { return };
        let group = child.pid();
        self.cut_short = true;
        match child.wait_until(deadline) {
            Ok(Some(exit)) => self.exit = Some(exit),
            _ => child.kill_and_reap(),
        }
        Child::signal_group(group, Signal::SIGKILL);
    }

    /// Its name, if it had not ended when the run was over.
    pub(super) fn was_cut_short(&self) -> Option<&str> {
        self.cut_short.then_some(self.part.name.as_str())
    }

    /// How it ended, and whether what it saw was right.
    pub(super) fn verdicts(&self) -> Vec<Verdict> {
        let name = &self.part.name;
        let expected = ChildExit::Code(self.part.exit_code);
        // Whoever ends by the signal that asks for it has done so, unless another end is expected of it.
        let as_told = self.told.is_some()
            && self.part.exit_code == 0
            && self.exit == Some(ChildExit::Signal(Signal::SIGTERM as i32));
        let holds = !self.cut_short && !self.killed && (self.exit == Some(expected) || as_told);
        let found = match self.exit {
            _ if self.cut_short => "it still ran".to_owned(),
            _ if self.killed => {
                format!("it was asked to end (SIGTERM) when the guests had, and killed {} later", show_span(END_BOUND))
            }
            _ if as_told => "it ended when the guests had".to_owned(),
            Some(exit) if exit == expected => format!("it ended with {exit}"),
            Some(exit) => {
                let said = std::fs::read(&self.stderr).unwrap_or_default();
                format!("it ended with {exit}{}", last_words(&String::from_utf8_lossy(&said)))
            }
            None => "it had not ended".to_owned(),
        };
        let expectation = format!("workload {name} ends with {expected}");
        let ending = Verdict::decided(expectation, holds, found, Some(self.part.line));
        let mut verdicts = vec![ending.open_if(self.cut_short)];
        if self.part.linearizable {
            verdicts.push(self.linearizable());
        }
        verdicts
    }

    /// What its clients saw, as far as its history goes. Clients have their own idea of times: what they say of others than those
    /// of the run counts as of its beginning or end.
    pub(super) fn told(&self, start: Time, end: Time) -> Vec<Event> {
        let event = |at: Time, id, entry| {
            let workload = self.part.name.clone();
            Event { at: at.clamp(start, end), what: What::WorkloadTold { workload, id, entry } }
        };
        let unread = |error| {
            let note = format!("its history is read no further: {}", vmm::chain(&error));
            event(end, None, Entry::Note(note))
        };
        let content = match history::content(&self.history) {
            Ok(content) => content,
            // Most have none.
            Err(HistoryError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Vec::new();
            }
            Err(error) => return vec![unread(error)],
        };
        let mut events = Vec::new();
        for line in history::lines(&content) {
            match line {
                Ok(Line { id, at_ns, entry }) => events.push(event(Time::from_ns(at_ns), id, entry)),
                Err(error) => {
                    events.push(unread(error));
                    break;
                }
            }
        }
        events
    }

    fn linearizable(&self) -> Verdict {
        let (mut wrong, mut clue) = (false, None);
        let (holds, found) = match history::read(&self.history) {
            Ok(calls) if calls.is_empty() => (false, "its history is empty".to_owned()),
            Ok(calls) => {
                let checked = history::check(&calls, history::Bounds::default());
                match checked.verdict {
                    // Whatever had no answer may never have been done.
                    history::Verdict::Linearizable if checked.pending == checked.operations => {
                        (false, format!("none of its {} operations had an answer", checked.operations))
                    }
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
                    history::Verdict::Violated(violation) => {
                        wrong = true;
                        clue = Some(Clue::At(violation.stuck.invoked));
                        (false, violation.to_string())
                    }
                    history::Verdict::Undecided { key } => (false, format!("key `{key}` could not be decided")),
                }
            }
            Err(error) => (false, vmm::chain(&error)),
        };
        let expectation = format!("the history of workload {} is linearizable", self.part.name);
        // One that was cut short may have been so in the middle of a line.
        Verdict::decided(expectation, holds, found, Some(self.part.line)).open_if(self.cut_short && !wrong).see(clue)
    }
}

impl Drop for Workload {
    /// Whatever made an end of the run: nothing of it stays behind.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let group = child.pid();
            child.kill_and_reap();
            Child::signal_group(group, Signal::SIGKILL);
        }
    }
}

/// Ends them all, whatever they do.
pub(super) fn end_all(workloads: &mut [Workload]) {
    let deadline = Instant::now() + Duration::from_nanos(END_BOUND.ns());
    workloads.iter().for_each(Workload::ask_to_end);
    workloads.iter_mut().for_each(|workload| workload.end_by(deadline));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A workload that runs this, its first line being the number of a process that it has started.
    fn started_as(script: &str) -> (Workload, u32, tempfile::TempDir) {
        let place = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(place.path(), "run").unwrap();
        let command = ["sh", "-c", script].map(ToOwned::to_owned).to_vec();
        let part = WorkloadPart {
            name: "w".to_owned(),
            line: 1,
            command,
            directory: PathBuf::new(),
            until_end: false,
            linearizable: false,
            exit_code: 0,
        };
        let around =
            Surroundings { socket: Path::new(""), executable: Path::new("ftvm"), segment: None, seed: 1, vm: "guest" };
        let workload = Workload::start(&part, &around, &directory).unwrap();
        let said = || std::fs::read_to_string(directory.file("w.out")).unwrap();
        await_that("the workload says whom it has started", || said().ends_with('\n'));
        let pid = said().trim().parse().unwrap();
        assert!(!is_dead(pid));
        (workload, pid, place)
    }

    /// A workload that has started another process; that one's number.
    fn started() -> (Workload, u32, tempfile::TempDir) {
        started_as("sleep 1000 & echo $!; echo why >&2; wait")
    }

    /// The same, but it ignores what it is asked, and so does what it has started.
    fn stubborn() -> (Workload, u32, tempfile::TempDir) {
        started_as("trap '' TERM; sleep 1000 & echo $!; while true; do wait; done")
    }

    fn await_that(what: &str, is_so: impl Fn() -> bool) {
        let limit = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < limit, "awaited: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// It may still wait for somebody to reap it.
    fn is_dead(pid: u32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |state| state.contains(") Z "))
    }

    #[test]
    fn what_it_has_started_ends_with_it() {
        let (mut workload, started, _place) = started();
        end_all(std::slice::from_mut(&mut workload));
        await_that("what it has started is dead", || is_dead(started));
        let [verdict] = &workload.verdicts()[..] else { panic!("one verdict") };
        assert!(verdict.mark() == "open" && verdict.found == "it still ran", "{verdict:?}");
    }

    #[test]
    fn one_that_does_not_end_when_it_is_asked_to_is_killed_soon() {
        let (mut workload, started, _place) = stubborn();
        let asked = Instant::now();
        end_all(std::slice::from_mut(&mut workload));
        assert!(workload.is_over() && asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
        await_that("what it has started is dead", || is_dead(started));
    }

    /// Found by an acceptance review: the run waited for it until its time was over.
    #[test]
    fn one_that_does_not_end_with_the_guests_is_killed_and_fails() {
        let (mut workload, started, _place) = stubborn();
        let now = Time::from_ns(5);
        workload.guests_ended(now);
        assert!(workload.killed_at().is_none() && !is_dead(started), "the run waits for it");
        workload.part.until_end = true;
        workload.guests_ended(now);
        let then = workload.killed_at().unwrap();
        assert_eq!(then, now + END_BOUND);
        workload.guests_ended(then - Span::from_ms(1));
        assert!(!is_dead(started));
        workload.guests_ended(then);
        await_that("what it has started is dead", || is_dead(started));
        let limit = Instant::now() + Duration::from_secs(60);
        while workload.reap().unwrap().is_none() {
            assert!(Instant::now() < limit, "it is not dead");
        }
        let [verdict] = &workload.verdicts()[..] else { panic!("one verdict") };
        assert!(verdict.fails() && verdict.found.ends_with("and killed 2.00 s later"), "{verdict:?}");
    }

    #[test]
    fn what_its_clients_saw_is_told_as_far_as_it_can_be_read() {
        let (workload, _, _place) = started();
        assert!(workload.told(Time::ZERO, Time::from_ns(9)).is_empty(), "it has no history");
        let history = "{\"at_ns\":1,\"note\":\"early\"}\n{\"id\":4,\"at_ns\":7,\"return\":\"done\"}\n\
                       {\"at_ns\":18446744073709551615,\"note\":\"mad\"}\nno line\n{\"at_ns\":8,\"note\":\"behind\"}\n";
        std::fs::write(&workload.history, history).unwrap();
        let told = workload.told(Time::from_ns(5), Time::from_ns(9));
        let seen: Vec<(u64, String)> = told.iter().map(|event| (event.at.ns(), format!("{:?}", event.what))).collect();
        let expected = [(5, "early"), (7, "Return(Done)"), (9, "mad"), (9, "line 4 is no event")];
        assert_eq!(seen.len(), expected.len(), "{seen:?}");
        for ((at, text), (expected_at, part)) in seen.iter().zip(expected) {
            assert!(*at == expected_at && text.contains(part), "{seen:?}");
        }
    }

    /// Found by an acceptance review: nothing that was asked was answered, and the history was called linearizable.
    #[test]
    fn a_history_without_an_answer_proves_nothing() {
        let (workload, _, _place) = started();
        let call = r#"{"id":1,"at_ns":1,"invoke":{"client":0,"key":"a","operation":{"set":"1"}}}"#;
        std::fs::write(&workload.history, format!("{call}\n")).unwrap();
        let verdict = workload.linearizable();
        assert!(verdict.fails() && verdict.found == "none of its 1 operations had an answer", "{verdict:?}");
    }

    /// Found by an acceptance review: one that was to end with a code of its own was let pass when it died of SIGTERM.
    #[test]
    fn one_that_is_to_end_with_a_code_does_not_end_well_by_a_signal() {
        for (code, holds) in [(0, true), (7, false)] {
            let (mut workload, ..) = started();
            workload.part.until_end = true;
            workload.part.exit_code = code;
            workload.guests_ended(Time::from_ns(5));
            let limit = Instant::now() + Duration::from_secs(60);
            while workload.reap().unwrap().is_none() {
                assert!(Instant::now() < limit, "it is not dead");
            }
            let [verdict] = &workload.verdicts()[..] else { panic!("one verdict") };
            assert_eq!(verdict.fails(), !holds, "{verdict:?}");
        }
    }

    #[test]
    fn one_that_is_dropped_leaves_nobody_behind() {
        let (workload, started, _place) = started();
        drop(workload);
        await_that("what it has started is dead", || is_dead(started));
    }
}
