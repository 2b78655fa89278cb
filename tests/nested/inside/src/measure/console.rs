//! A program whose standard output is a guest's console, read line by line, each with its time.

use crate::{Failure, PATIENCE};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Where everything is that is written.
pub(crate) const DIRECTORY: &str = "/tmp/measure";
/// As much of complaints as is repeated.
const TAIL_BYTES: usize = 600;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A name that nothing had before.
pub(crate) fn fresh(what: &str) -> PathBuf {
    format!("{DIRECTORY}/{}.{what}", COUNT.fetch_add(1, Ordering::Relaxed)).into()
}

/// A line of a console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// When its last byte was there.
    pub(crate) at: Instant,
    pub(crate) text: String,
}

/// A program that is killed when this is dropped.
pub(crate) struct Console {
    child: Child,
    lines: Receiver<Line>,
    last: String,
    stderr: PathBuf,
    /// When it was started.
    pub(crate) started: Instant,
}

impl Console {
    pub(crate) fn start(command: &mut Command, stdin: Stdio) -> Result<Self, Failure> {
        let stderr = fresh("stderr");
        let started = Instant::now();
        let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(File::create(&stderr)?).spawn()?;
        let pipe = child.stdout.take().ok_or("there is no pipe")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while let Ok(1..) = pipe.read_until(b'\n', &mut bytes) {
                let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                if sender.send(Line { at: Instant::now(), text }).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
        Ok(Self { child, lines, last: String::new(), stderr, started })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line that `wanted` likes.
    pub(crate) fn await_line(&mut self, wanted: impl Fn(&str) -> bool) -> Result<Line, Failure> {
        loop {
            let line = self.next(PATIENCE)?.ok_or_else(|| self.failure("nothing more came in time"))?;
            if wanted(&line.text) {
                return Ok(line);
            }
        }
    }

    /// The next line; none when there is none for so long.
    pub(crate) fn next(&mut self, within: Duration) -> Result<Option<Line>, Failure> {
        match self.lines.recv_timeout(within) {
            Ok(line) => {
                self.last.clone_from(&line.text);
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.failure("it has ended")),
        }
    }

    /// All lines that came since the last one was asked for.
    pub(crate) fn rest(&mut self) -> Vec<Line> {
        self.lines.try_iter().collect()
    }

    /// Kills it and gives the lines that were on their way.
    pub(crate) fn kill(&mut self) -> Vec<Line> {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The pipe's end comes with the process's.
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            lines.push(line);
        }
        lines
    }

    /// Ends it in good order.
    pub(crate) fn end(mut self) -> Result<(), Failure> {
        signal(self.child.id(), nix::sys::signal::Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(self.failure("it does not end"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// With the last line, and the end of what the program complained of.
    pub(crate) fn failure(&self, what: &str) -> Failure {
        let said = fs::read(&self.stderr).unwrap_or_default();
        let tail = String::from_utf8_lossy(&said[said.len().saturating_sub(TAIL_BYTES)..]).trim().replace('\n', " | ");
        format!("{what}; the console's last line: {}; complaint: {tail}", self.last).into()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal(pid: u32, signal: nix::sys::signal::Signal) -> Result<(), Failure> {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid)?), signal)?;
    Ok(())
}
