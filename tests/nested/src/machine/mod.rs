//! One nested machine: a QEMU process, its control channel and its monitor.
//!
//! ```text
//!   start ──> booting ──agent says hello──> ready ──run, put, get──> ready
//!                │                            ├─ kill (SIGKILL): power loss
//!                │                            └─ drop: killed
//!                └─ QEMU ends, or no hello in time: an error with the end of console and complaint
//! ```

mod control;
mod qemu;

pub use control::{Output, Process};
pub use nested_inside::qmp::{Qmp, QmpError};
pub use nested_inside::wire::End;

use crate::segment::{Relay, RelayPaths};
use crate::tool::{self, ToolError};
use control::Control;
use nested_inside::wire::WireError;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// A machine boots in 4 to 8 s; loaded test machines take many times that.
const BOOT_TIMEOUT: Duration = Duration::from_secs(600);
/// For what should be quick, and for programs whose caller states no bound.
const TASK_TIMEOUT: Duration = Duration::from_secs(300);
/// From the end of QEMU's side of a channel to QEMU's own.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at something that is about to happen.
const POLL: Duration = Duration::from_millis(10);
/// As much of consoles and complaints as errors repeat.
const TAIL_BYTES: usize = 600;

/// A machine does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// QEMU cannot be had.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file of the machine cannot be made.
    #[error("machine {machine}: {path} cannot be used")]
    File {
        /// The machine.
        machine: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// QEMU ended before the machine was up.
    #[error("machine {machine}: QEMU ended while it booted ({status}): {tail}")]
    Ended {
        /// The machine.
        machine: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its complaint and of the console.
        tail: String,
    },
    /// The agent never said a word.
    #[error("machine {machine} does not answer within {}s of its start; its console ends with: {tail}", after.as_secs())]
    Mute {
        /// The machine.
        machine: String,
        /// How long it had.
        after: Duration,
        /// The end of its complaint and of the console.
        tail: String,
    },
    /// The control channel failed.
    #[error("machine {machine}: the control channel failed")]
    Channel {
        /// The machine.
        machine: String,
        /// How.
        source: WireError,
    },
    /// The agent said what makes no sense.
    #[error("machine {machine}: the agent said what was not asked for: {said}")]
    Speech {
        /// The machine.
        machine: String,
        /// What it said.
        said: String,
    },
    /// Nothing came in time.
    #[error("machine {machine}: {what}: what was waited for did not come in time")]
    Silent {
        /// The machine.
        machine: String,
        /// What was asked of it.
        what: String,
    },
    /// The machine ended meanwhile.
    #[error("machine {machine}: {what}: the machine is gone")]
    Gone {
        /// The machine.
        machine: String,
        /// What was asked of it.
        what: String,
    },
    /// The agent cannot do it.
    #[error("machine {machine}: {what}: {why}")]
    Refused {
        /// The machine.
        machine: String,
        /// What was asked of it.
        what: String,
        /// Why not.
        why: String,
    },
    /// A program failed that must not.
    #[error("machine {machine}: {what} ended with {end}: {tail}")]
    Failed {
        /// The machine.
        machine: String,
        /// The program.
        what: String,
        /// How it ended.
        end: String,
        /// The end of what it said.
        tail: String,
    },
    /// The monitor.
    #[error("machine {machine}")]
    Monitor {
        /// The machine.
        machine: String,
        /// What it said.
        source: QmpError,
    },
}

/// What a machine is made of.
pub(crate) struct Hardware {
    pub(crate) name: String,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) memory_mib: u64,
    /// The file of the shared memory device, and its size.
    pub(crate) pool: Option<(PathBuf, u64)>,
    /// Its address on the segment, with the network's bits.
    pub(crate) address: Option<String>,
    pub(crate) mac: Option<String>,
}

/// A machine that boots.
pub(crate) struct Booting {
    machine: MachineParts,
    started: Instant,
}

struct MachineParts {
    name: String,
    place: PathBuf,
    qemu: Child,
    relay: Option<Relay>,
}

/// A machine that is up. It is killed when this is dropped.
pub struct Machine {
    parts: MachineParts,
    control: Arc<Control>,
    boot_time: Duration,
}

impl Booting {
    /// Starts QEMU. The machine ends with the thread that calls this.
    pub(crate) fn start(hardware: &Hardware, place: &Path, switch: Option<&Path>) -> Result<Self, MachineError> {
        let name = hardware.name.clone();
        let file = |path: &Path, source| MachineError::File { machine: name.clone(), path: path.to_owned(), source };
        check()?;
        fs::create_dir(place).map_err(|source| file(place, source))?;
        let relay = match switch {
            None => None,
            Some(switch) => {
                let paths = RelayPaths { relay: place.join("net.relay"), qemu: place.join("net.qemu") };
                Some(Relay::start(switch, &paths).map_err(|source| file(switch, source))?)
            }
        };
        let complaint = place.join("qemu.log");
        let stderr = File::create(&complaint).map_err(|source| file(&complaint, source))?;
        let qemu = qemu::command(hardware, place)
            .stderr(stderr)
            .spawn()
            .map_err(|source| ToolError::Start { program: qemu::PROGRAM.to_owned(), source })?;
        let machine = MachineParts { name: name.clone(), place: place.to_owned(), qemu, relay };
        Ok(Self { machine, started: Instant::now() })
    }

    /// Waits until the agent answers.
    pub(crate) fn ready(mut self) -> Result<Machine, MachineError> {
        let socket = self.machine.place.join("agent");
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(_) => self.still_there()?,
            }
            thread::sleep(POLL);
        };
        match Control::open(&self.machine.name, stream, BOOT_TIMEOUT.saturating_sub(self.started.elapsed())) {
            Ok(control) => Ok(Machine { boot_time: self.started.elapsed(), parts: self.machine, control }),
            Err(MachineError::Channel { .. }) => self.lost_channel(),
            Err(other) => Err(other),
        }
    }

    /// Says why the channel was lost. QEMU's end closes it, a moment before there is an exit status.
    fn lost_channel(mut self) -> Result<Machine, MachineError> {
        let lost = Instant::now();
        while lost.elapsed() < END_TIMEOUT {
            self.still_there()?;
            thread::sleep(POLL);
        }
        Err(self.mute())
    }

    fn still_there(&mut self) -> Result<(), MachineError> {
        let machine = &mut self.machine;
        if let Ok(Some(status)) = machine.qemu.try_wait() {
            return Err(MachineError::Ended { machine: machine.name.clone(), status, tail: machine.tail() });
        }
        if self.started.elapsed() < BOOT_TIMEOUT { Ok(()) } else { Err(self.mute()) }
    }

    fn mute(&self) -> MachineError {
        let after = self.started.elapsed();
        MachineError::Mute { machine: self.machine.name.clone(), after, tail: self.machine.tail() }
    }
}

impl Machine {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// From the start of QEMU to the agent's first word.
    #[must_use]
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// Runs a program without input to its end, which must come within five minutes.
    ///
    /// # Errors
    /// It cannot be started or does not end, or the machine is gone. A program that fails is not an error.
    pub fn run(&self, argv: &[&str]) -> Result<Output, MachineError> {
        let process = self.start(argv)?;
        process.close_input()?;
        process.wait(TASK_TIMEOUT)
    }

    /// Runs a program that must end well, and gives its standard output.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self, argv: &[&str]) -> Result<String, MachineError> {
        let output = self.run(argv)?;
        if output.is_success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(MachineError::Failed {
            machine: self.name().to_owned(),
            what: argv.join(" "),
            end: format!("{:?}", output.end),
            tail: tail_of(output.text().as_bytes()),
        })
    }

    /// Runs a shell script that must end well.
    ///
    /// # Errors
    /// It does not.
    pub fn shell(&self, script: &str) -> Result<String, MachineError> {
        self.check(&["sh", "-c", script])
    }

    /// Starts a program. It goes on when the result is dropped.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn start(&self, argv: &[&str]) -> Result<Process, MachineError> {
        self.control.start(argv)
    }

    /// Writes a file, with these permissions; directories are made.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, path: &str, permissions: u32, content: &[u8]) -> Result<(), MachineError> {
        self.control.put(path, permissions, content, TASK_TIMEOUT)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn get(&self, path: &str) -> Result<Vec<u8>, MachineError> {
        self.control.get(path, TASK_TIMEOUT)
    }

    /// Its monitor.
    ///
    /// # Errors
    /// It does not answer.
    pub fn monitor(&self) -> Result<Qmp, MachineError> {
        Qmp::connect(&self.monitor_path(), TASK_TIMEOUT)
            .map_err(|source| MachineError::Monitor { machine: self.name().to_owned(), source })
    }

    /// Where its monitor listens: one connection at a time.
    #[must_use]
    pub fn monitor_path(&self) -> PathBuf {
        self.parts.place.join("qmp")
    }

    /// What it has said on its console.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.parts.place.join("console.log")).unwrap_or_default()).into_owned()
    }

    /// The number of its QEMU process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.parts.qemu.id()
    }

    /// Whether its QEMU still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.parts.qemu.try_wait(), Ok(None))
    }

    /// Ends it at once, as a power loss does.
    pub fn kill(&mut self) {
        self.parts.kill();
    }
}

impl MachineParts {
    fn kill(&mut self) {
        // Fails only when it has ended already.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        self.relay = None;
    }

    fn tail(&self) -> String {
        let read = |name| fs::read(self.place.join(name)).unwrap_or_default();
        tail_of(&[read("qemu.log"), read("console.log")].concat())
    }
}

impl Drop for MachineParts {
    fn drop(&mut self) {
        self.kill();
    }
}

/// QEMU's program.
pub(crate) fn program() -> Result<PathBuf, ToolError> {
    tool::demand(qemu::PROGRAM, qemu::PACKAGE)
}

pub(crate) fn check() -> Result<(), ToolError> {
    program()?;
    tool::demand("setpriv", "util-linux").map(drop)
}

/// The end of what was said, on one line.
fn tail_of(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(&said[said.len().saturating_sub(TAIL_BYTES)..]).into_owned();
    let printable = text.trim().replace(['\r', '\x1b'], "").replace('\n', " | ");
    if printable.is_empty() { "nothing".to_owned() } else { printable }
}

#[cfg(test)]
mod tests {
    use super::{Booting, Hardware, MachineError};
    use std::path::PathBuf;

    fn hardware(kernel: PathBuf) -> Hardware {
        let initrd = kernel.clone();
        Hardware { name: "a".to_owned(), kernel, initrd, memory_mib: 64, pool: None, address: None, mac: None }
    }

    #[test]
    fn a_machine_that_cannot_start_says_why() {
        if let Err(error) = super::check() {
            assert!(error.to_string().contains("apt-get install"), "it says what to do: {error}");
            return eprintln!("SKIPPED: {error}");
        }
        let place = tempfile::tempdir().unwrap();
        let booting = Booting::start(&hardware(place.path().join("nothing")), &place.path().join("a"), None).unwrap();
        let error = booting.ready().err().expect("there is no kernel");
        assert!(matches!(error, MachineError::Ended { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("machine a") && text.contains("nothing") && !text.contains('\n'), "{text}");
    }
}
