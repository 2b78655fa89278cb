//! ftvm with the guest.

use crate::console::{Console, fresh};
use crate::events::{self, Happened};
use crate::guest::Guest;
use crate::{Failure, PATIENCE};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Machines under emulation are silent for longer than hosts usually may be.
const HEARTBEAT_MS: &str = "20000";
/// The trace target of commits.
const COMMITS: &str = "ftvm::commit";
const POLL: Duration = Duration::from_millis(5);

/// How a guest is protected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Protection {
    pub(crate) hosts: u32,
    pub(crate) epoch_ms: u64,
    /// Whether each commit is told; it costs a line.
    pub(crate) tell_commits: bool,
}

/// A guest under `ftvm run`.
pub(crate) struct Ftvm {
    pub(crate) console: Console,
    events: PathBuf,
}

impl Ftvm {
    pub(crate) fn start(guest: &Guest, protection: Option<Protection>) -> Result<Self, Failure> {
        let events = fresh("events");
        let mut command = Command::new("ftvm");
        command.args(["run", "--no-input"]);
        guest.for_ftvm(&mut command);
        match protection {
            None => command.args(["--mode", "none"]),
            Some(Protection { hosts, epoch_ms, tell_commits }) => {
                command.args(["--epoch-ms", &epoch_ms.to_string()]);
                if tell_commits {
                    command.env("RUST_LOG", format!("warn,{COMMITS}=trace"));
                }
                command.arg("--events").arg(&events);
                command.args(["--hosts", &hosts.to_string(), "--respawn", "--heartbeat-ms", HEARTBEAT_MS])
            }
        };
        Ok(Self { console: Console::start(&mut command, Stdio::null())?, events })
    }

    pub(crate) fn happened(&self) -> Happened {
        events::read(&fs::read_to_string(&self.events).unwrap_or_default())
    }

    /// Waits until it is protected, at least in its `life`th life, and gives the process of its primary.
    pub(crate) fn await_protected(&self, life: usize) -> Result<u32, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let happened = self.happened();
            if let (true, true, Some(primary)) = (happened.lives >= life, happened.is_protected, happened.primary) {
                return Ok(primary);
            }
            if Instant::now() > deadline {
                return Err(self.console.failure("it is not protected in time"));
            }
            thread::sleep(POLL);
        }
    }

    pub(crate) fn end(self) -> Result<(), Failure> {
        self.console.end()
    }
}

/// The lines about commits that a host, with its standard error in a file, has written so far.
pub(crate) fn commits(host: u32) -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string(format!("/proc/{host}/fd/2"))?;
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    Ok(whole.lines().filter(|line| line.contains(COMMITS)).map(str::to_owned).collect())
}
