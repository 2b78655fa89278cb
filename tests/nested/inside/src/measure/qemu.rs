//! QEMU with the guest, on the same KVM, and its snapshots.

use crate::console::{Console, fresh};
use crate::guest::Guest;
use crate::{Failure, PATIENCE, ns};
use nested_inside::qmp::{Qmp, QmpEvent};
use nested_inside::sample::Snapshot;
use serde_json::{Value, json};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) const MICROVM: &str = "microvm,x-option-roms=off,isa-serial=on,rtc=off,pit=off,pic=off";
pub(crate) const Q35: &str = "q35";
/// As ftvm's guests: no nested virtualisation, and no XSAVE, which TCG's SVM has not right.
const PROCESSOR: &str = "host,-svm,-xsave";
/// The name under which QEMU knows the snapshot's file.
const FILE: &str = "snapshot";
/// No limit.
const BYTES_PER_SECOND_MAX: u64 = 1 << 40;
/// The last pass is not begun before it is told to, and then at once, in milliseconds.
const DOWNTIME_NEVER_MS: u64 = 1;
const DOWNTIME_ANY_MS: u64 = 2_000_000;
const POLL: Duration = Duration::from_millis(5);

/// What a new QEMU begins with.
pub(crate) enum Begin<'a> {
    /// The kernel.
    Boot,
    /// A snapshot, at once.
    Snapshot(&'a Path),
    /// A snapshot, when it is given one.
    Wait,
}

/// A snapshot that was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) pause_ns: u64,
    pub(crate) whole_ns: u64,
    pub(crate) bytes: u64,
}

pub(crate) struct Qemu {
    pub(crate) console: Console,
    qmp: Qmp,
}

/// The process without its monitor.
pub(crate) fn start(machine: &str, guest: &Guest, begin: &Begin, monitor: &Path) -> Result<Console, Failure> {
    let mut command = Command::new("/usr/bin/qemu-system-x86_64");
    command.args(["-M", machine, "-accel", "kvm", "-cpu", PROCESSOR]);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-serial",
        "file:/proc/self/fd/1",
    ]);
    command.args(["-qmp", &format!("unix:{},server=on,wait=off", monitor.display())]);
    guest.for_qemu(&mut command);
    let stdin = match begin {
        Begin::Boot => Stdio::null(),
        Begin::Snapshot(path) => {
            command.args(["-incoming", "fd:0"]);
            File::open(path)?.into()
        }
        Begin::Wait => {
            command.args(["-incoming", "defer"]);
            Stdio::null()
        }
    };
    Console::start(&mut command, stdin)
}

impl Qemu {
    pub(crate) fn start(machine: &str, guest: &Guest, begin: &Begin) -> Result<Self, Failure> {
        let monitor = fresh("qmp");
        let console = start(machine, guest, begin, &monitor)?;
        Self::with_monitor(console, &monitor)
    }

    pub(crate) fn with_monitor(console: Console, monitor: &Path) -> Result<Self, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let qmp = loop {
            match Qmp::connect(monitor, PATIENCE) {
                Ok(qmp) => break qmp,
                Err(error) if Instant::now() > deadline => return Err(console.failure(&error.to_string())),
                Err(_) => thread::sleep(POLL),
            }
        };
        let mut qemu = Self { console, qmp };
        qemu.capability("events", true)?;
        qemu.qmp.execute("migrate-set-parameters", &json!({ "max-bandwidth": BYTES_PER_SECOND_MAX }))?;
        Ok(qemu)
    }

    /// Makes a snapshot; the guest runs on.
    pub(crate) fn snapshot(&mut self, way: Snapshot, path: &Path) -> Result<Taken, Failure> {
        let file = File::create(path)?;
        let begun = Instant::now();
        // Those of a snapshot that it began with are not those of the one that it makes.
        self.qmp.forget_events();
        if way == Snapshot::Full {
            self.order("stop", &json!({}))?;
        }
        if way == Snapshot::Background {
            self.capability("background-snapshot", true)?;
        }
        self.downtime(if way == Snapshot::Precopy { DOWNTIME_NEVER_MS } else { DOWNTIME_ANY_MS })?;
        self.qmp.hand_over(FILE, &file)?;
        self.order("migrate", &json!({ "uri": format!("fd:{FILE}") }))?;
        if way == Snapshot::Precopy {
            self.await_first_pass()?;
            self.downtime(DOWNTIME_ANY_MS)?;
        }
        let mut events = self.events_until(|event| is_migration(event, &["completed", "failed", "cancelled"]))?;
        let whole_ns = ns(begun.elapsed());
        let ended_well = events.last().is_some_and(|event| is_migration(event, &["completed"]));
        if way == Snapshot::Background {
            self.capability("background-snapshot", false)?;
        }
        if !ended_well {
            let why = self.order("query-migrate", &json!({}))?;
            return Err(format!("the snapshot failed: {why}").into());
        }
        if way != Snapshot::Background {
            // For a moment behind its end a snapshot is not finished.
            self.await_other_than("finish-migrate")?;
            self.order("cont", &json!({}))?;
            events.extend(self.events_until(|event| event.name == "RESUME")?);
        }
        let pause_us = pause_us(&events).ok_or("the monitor does not say when the guest stood still")?;
        Ok(Taken { pause_ns: pause_us.saturating_mul(1000), whole_ns, bytes: file.metadata()?.len() })
    }

    /// Gives a QEMU that waits for it a snapshot.
    pub(crate) fn load(&mut self, path: &Path) -> Result<(), Failure> {
        self.qmp.hand_over(FILE, &File::open(path)?)?;
        self.order("migrate-incoming", &json!({ "uri": format!("fd:{FILE}") })).map(drop)
    }

    /// Has the guest of a snapshot go on, once that is loaded: a snapshot of a guest that was stopped is loaded as one.
    pub(crate) fn go_on(&mut self) -> Result<(), Failure> {
        self.await_other_than("inmigrate")?;
        self.order("cont", &json!({})).map(drop)
    }

    /// The first pass over memory is done when what was dirtied in it has been asked for.
    fn await_first_pass(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = self.order("query-migrate", &json!({}))?;
            if told["status"] != "active" && told["status"] != "setup" {
                return Ok(());
            }
            if told["ram"]["dirty-sync-count"].as_u64() >= Some(2) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("the first pass takes too long: {told}").into());
            }
            thread::sleep(POLL);
        }
    }

    fn await_other_than(&mut self, status: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while self.order("query-status", &json!({}))?["status"] == status {
            if Instant::now() > deadline {
                return Err(self.console.failure(&format!("it is in the state {status} for ever")));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn events_until(&mut self, last: impl Fn(&QmpEvent) -> bool) -> Result<Vec<QmpEvent>, Failure> {
        let mut events = Vec::new();
        self.qmp.await_event(|event| {
            events.push(event.clone());
            last(event)
        })?;
        Ok(events)
    }

    fn downtime(&mut self, ms: u64) -> Result<(), Failure> {
        self.order("migrate-set-parameters", &json!({ "downtime-limit": ms })).map(drop)
    }

    fn capability(&mut self, name: &str, on: bool) -> Result<(), Failure> {
        let one = json!({ "capabilities": [{ "capability": name, "state": on }] });
        self.order("migrate-set-capabilities", &one).map(drop)
    }

    fn order(&mut self, command: &str, arguments: &Value) -> Result<Value, Failure> {
        self.qmp.execute(command, arguments).map_err(|error| self.console.failure(&error.to_string()))
    }
}

fn is_migration(event: &QmpEvent, status: &[&str]) -> bool {
    event.name == "MIGRATION" && event.data["status"].as_str().is_some_and(|now| status.contains(&now))
}

/// From the guest's stop to its going on.
fn pause_us(events: &[QmpEvent]) -> Option<u64> {
    let stop = events.iter().position(|event| event.name == "STOP")?;
    let resume = events[stop..].iter().find(|event| event.name == "RESUME")?;
    resume.at_us.checked_sub(events[stop].at_us)
}

#[cfg(test)]
mod tests {
    use super::{QmpEvent, is_migration, pause_us};
    use serde_json::json;

    fn event(name: &str, at_us: u64) -> QmpEvent {
        QmpEvent { name: name.to_owned(), at_us, data: json!({ "status": "completed" }) }
    }

    #[test]
    fn a_pause_is_from_the_stop_to_the_next_resume() {
        let events = [event("RESUME", 1), event("STOP", 10), event("MIGRATION", 15), event("RESUME", 25)];
        assert_eq!(pause_us(&events), Some(15));
        assert_eq!(pause_us(&events[..3]), None, "it stands still");
        assert_eq!(pause_us(&events[2..]), None, "it never stopped");
        assert!(is_migration(&events[2], &["completed", "failed"]) && !is_migration(&events[2], &["failed"]));
        assert!(!is_migration(&events[1], &["completed"]));
    }
}
