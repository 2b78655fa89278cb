//! Failpoints: named places inside commit, apply, takeover and grants at which a process can be made to die, stop or dawdle.
//!
//! They are for scenarios and tests, are part of every build so that what is tested is what runs, and cost one load where
//! none is set. The environment variable `FTVM_FAILPOINTS` sets them for one process:
//! `NAME=ACTION[@HIT]`, several separated by `;`. ACTION is `kill` (SIGKILL to itself), `stop` (SIGSTOP to itself) or
//! `delay:MS`; HIT says at which passage, counted from 1 (default 1). `kill` and `stop` act once, `delay` from HIT on.
//! `gate:PATH`, which has no HIT, waits at every passage while there is a file at PATH.

use nix::sys::signal::{self, Signal};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The environment variable.
pub const FAILPOINTS_VARIABLE: &str = "FTVM_FAILPOINTS";

/// Every failpoint, in the order in which a commit, an apply and a takeover pass them.
pub const FAILPOINTS: [&str; 38] = [
    "host.commit.stopped",
    "host.commit.harvested",
    "host.commit.copied",
    "host.commit.closed",
    "host.commit.checksummed",
    "host.commit.published",
    "host.log.written",
    "host.log.appended",
    "host.standby.made",
    "host.follow.loaded",
    "host.follow.comparing",
    "host.follow.compared",
    "host.takeover.ordered",
    "host.takeover.loaded",
    "host.takeover.replayed",
    "controller.apply.begun",
    "controller.apply.checked",
    "controller.apply.kept",
    "controller.apply.pages-written",
    "controller.apply.pages-durable",
    "controller.apply.state-durable",
    "controller.apply.console-durable",
    "controller.apply.applied",
    "controller.apply.given-back",
    "controller.apply.freed",
    "controller.takeover.log-closed",
    "controller.takeover.word-closed",
    "controller.takeover.sealed",
    "controller.state.persisting",
    "controller.state.persisted",
    "controller.takeover.journal-made",
    "controller.takeover.log-copied",
    "controller.takeover.laid-out",
    "controller.takeover.opened",
    "controller.grant.part-opened",
    "controller.grant.opened",
    "controller.takeover.promoted",
    "controller.standby.ordered",
];

/// Places that are passed before every store into the pool, where only a gate can be: a host whose gates are closed is cut
/// from the pool.
pub const GATES: [&str; 3] = ["host.beat", "host.commit.publishing", "host.log.appending"];

/// Places that no scenario can name: its runner would wait for the one that stands there.
const OUTSIDE_SCENARIOS: [&str; 4] =
    ["controller.client.asked", "controller.vm.making", "controller.vm.made", "controller.vm.removing"];

/// Between two looks whether a gate is open.
const GATE_INTERVAL: Duration = Duration::from_millis(1);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    Kill,
    Stop,
    Delay(Duration),
    Gate(PathBuf),
}

#[derive(Debug)]
struct Armed {
    act: Act,
    at: u64,
    hits: AtomicU64,
}

/// Why the variable cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FailpointError {
    /// Not of the form `NAME=ACTION[@HIT]`.
    #[error(
        "{FAILPOINTS_VARIABLE}: `{part}` is not NAME=kill|stop|delay:MS with an optional @HIT, nor NAME=gate:/PATH"
    )]
    Form {
        /// The part between semicolons.
        part: String,
    },
    /// No such failpoint.
    #[error("{FAILPOINTS_VARIABLE}: there is no failpoint `{name}`")]
    Unknown {
        /// The name.
        name: String,
    },
}

/// What is armed, by name: one failpoint may do something at several of its passages.
type Armory = BTreeMap<&'static str, Vec<Armed>>;

static ARMED: OnceLock<Armory> = OnceLock::new();

/// Reads the environment variable. Before this, and without it, no failpoint does anything.
pub fn arm() -> Result<(), FailpointError> {
    let Ok(text) = std::env::var(FAILPOINTS_VARIABLE) else { return Ok(()) };
    let armed = parse(&text)?;
    if !armed.is_empty() {
        // Armed before: the same variable of the same process.
        let _ = ARMED.set(armed);
    }
    Ok(())
}

fn all() -> impl Iterator<Item = &'static str> {
    FAILPOINTS.iter().chain(&OUTSIDE_SCENARIOS).chain(&GATES).copied()
}

/// Passes a failpoint.
///
/// # Panics
/// In debug builds, if the name is in no list: then nobody could name it either.
pub(crate) fn pass(name: &'static str) {
    debug_assert!(all().any(|known| known == name), "failpoint {name} is not listed");
    for armed in ARMED.get().and_then(|armed| armed.get(name)).into_iter().flatten() {
        let hit = armed.hits.fetch_add(1, Ordering::Relaxed) + 1;
        match &armed.act {
            Act::Delay(time) if hit >= armed.at => std::thread::sleep(*time),
            Act::Gate(path) => {
                while path.exists() {
                    std::thread::sleep(GATE_INTERVAL);
                }
            }
            Act::Kill if hit == armed.at => raise(name, hit, Signal::SIGKILL),
            Act::Stop if hit == armed.at => raise(name, hit, Signal::SIGSTOP),
            _ => {}
        }
    }
}

/// What a process says before it stops at a passage of a failpoint.
#[must_use]
pub fn stops_at(name: &str, hit: u64) -> String {
    says(name, hit, Signal::SIGSTOP)
}

fn says(name: &str, hit: u64, signal: Signal) -> String {
    format!("failpoint {name}@{hit}: {signal}")
}

fn raise(name: &str, hit: u64, signal: Signal) {
    // Not a line of the log, whose level is the user's choice: scenarios wait for this one.
    eprintln!("{}", says(name, hit, signal));
    // To this thread, not to the process: the kernel may hand a process's signal to another of its threads, and this one
    // would run on until that one has been scheduled. So nothing behind the failpoint is executed. It needs no permission.
    let _ = signal::raise(signal);
}

fn parse(text: &str) -> Result<Armory, FailpointError> {
    let mut armory = Armory::new();
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, armed) = parse_one(part).ok_or_else(|| FailpointError::Form { part: part.to_owned() })??;
        armory.entry(name).or_default().push(armed);
    }
    Ok(armory)
}

fn parse_one(part: &str) -> Option<Result<(&'static str, Armed), FailpointError>> {
    let (name, rest) = part.split_once('=')?;
    let (act, at) = match rest.split_once('@') {
        Some((act, at)) if !act.starts_with("gate:") => (act, at.parse().ok().filter(|at| *at > 0)?),
        _ => (rest, 1),
    };
    let act = match act {
        "kill" => Act::Kill,
        "stop" => Act::Stop,
        _ if act.starts_with("gate:/") => Act::Gate(PathBuf::from(act.strip_prefix("gate:")?)),
        _ => Act::Delay(Duration::from_millis(act.strip_prefix("delay:")?.parse().ok()?)),
    };
    let gates = if matches!(act, Act::Gate(_)) { &GATES[..] } else { &[] };
    let Some(known) = FAILPOINTS.iter().chain(&OUTSIDE_SCENARIOS).chain(gates).copied().find(|known| *known == name)
    else {
        return Some(Err(FailpointError::Unknown { name: name.to_owned() }));
    };
    Some(Ok((known, Armed { act, at, hits: AtomicU64::new(0) })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_read_or_refused() {
        let armed = parse("host.commit.closed=kill@3; controller.apply.freed=delay:20;").unwrap();
        assert_eq!((&armed["host.commit.closed"][0].act, armed["host.commit.closed"][0].at), (&Act::Kill, 3));
        assert_eq!(armed["controller.apply.freed"][0].act, Act::Delay(Duration::from_millis(20)));
        let gate = parse("host.beat=gate:/tmp/x@y").unwrap();
        assert_eq!(gate["host.beat"][0].act, Act::Gate(PathBuf::from("/tmp/x@y")));
        assert!(matches!(parse("host.beat=kill"), Err(FailpointError::Unknown { .. })), "that is no place to die");
        for bad in [
            "x",
            "host.beat=gate:",
            "host.beat=gate:relative",
            "host.commit.closed=",
            "host.commit.closed=kill@0",
            "host.commit.closed=delay:x",
        ] {
            assert_eq!(parse(bad).unwrap_err(), FailpointError::Form { part: bad.to_owned() });
        }
        assert!(matches!(parse("nowhere=kill"), Err(FailpointError::Unknown { .. })));
    }

    #[test]
    fn several_passages_of_one_failpoint_are_armed() {
        let armed = parse("host.commit.closed=stop@1;host.commit.closed=stop@2").unwrap();
        assert_eq!(armed["host.commit.closed"].iter().map(|armed| armed.at).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = all().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().count());
    }
}
