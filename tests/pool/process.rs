//! A process of the cluster under test.

use crate::support::Place;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Code(i32),
    Signal(i32),
}

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stderr: PathBuf,
}

impl Process {
    /// Starts it; what it says goes to a file.
    pub(crate) fn start(place: &Place, name: &str, mut command: Command) -> Self {
        let stderr = (0..).map(|life| place.file(&format!("{name}.{life}.stderr"))).find(|path| !path.exists());
        let stderr = stderr.expect("numbers do not end");
        let file = File::create(&stderr).expect("the test's own file can be written");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn();
        Self { child: child.expect("the program can be started"), stderr }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // A child that has not been waited for keeps its number.
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a process number"));
        kill(pid, signal).expect("a child can be signalled");
    }

    pub(crate) fn end(&mut self) -> Option<End> {
        let status = self.child.try_wait().expect("a child can be waited for")?;
        Some(status.code().map_or_else(|| End::Signal(status.signal().unwrap_or_default()), End::Code))
    }

    /// Whether it is frozen.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // pid (name) state: the name may hold anything.
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// What it has said.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone unless the test is over or has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
