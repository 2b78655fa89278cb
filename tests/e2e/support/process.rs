//! Other processes, through /proc.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;

/// A child of some process.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    pub(crate) arguments: Vec<String>,
}

impl Child {
    /// The host's name, if it is a host.
    pub(crate) fn host(&self) -> Option<&str> {
        let is_host = self.arguments.get(1).is_some_and(|command| command == "host");
        let id = self.arguments.iter().position(|argument| argument == "--id")?;
        is_host.then(|| self.arguments[id + 1].as_str())
    }

    /// Whether it is a controller.
    pub(crate) fn is_controller(&self) -> bool {
        self.arguments.get(1).is_some_and(|command| command == "pool")
    }
}

/// The children of a process that live.
pub(crate) fn children_of(parent: u32) -> Vec<Child> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is there").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Some((state, ppid)) = state_of(pid) else { continue };
        if ppid == parent && state != 'Z' {
            let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let arguments = arguments.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
            children.push(Child { pid, arguments: arguments.collect() });
        }
    }
    children
}

/// Whether a process exists, and has not closed everything that it had open: its first thread may be a zombie while others are
/// still dying.
pub(crate) fn is_alive(pid: u32) -> bool {
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    state_of(pid).is_some_and(|(state, _)| state != 'Z' || threads() > 1)
}

/// Whether a signal has stopped it.
pub(crate) fn is_stopped(pid: u32) -> bool {
    state_of(pid).is_some_and(|(state, _)| state == 'T')
}

/// State and parent.
fn state_of(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name between the parentheses may contain anything.
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).expect("process numbers are small");
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|error| panic!("cannot send {signal} to {pid}: {error}"));
}
