//! A fence agent that ends hosts which are QEMU machines, through their monitors. It speaks the protocol of Pacemaker's
//! fence-agents (FenceAgentAPI.md), as `ftvm pool --fence-agent` does.
//!
//! Parameters: `action` (off, status, monitor, metadata), `port` (the machine's name; `plug` too), and `monitor`: the path of its
//! QMP socket, in which `%` stands for the name. A machine is off when its socket refuses connections: a killed QEMU leaves the
//! file. One that ends by itself removes it; that it was this agent's doing is written to `MONITOR.off` then. A socket that is
//! not there says nothing without that.

use crate::machine::Qmp;
use serde_json::json;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// What QEMU may take for an answer, and for its end.
const BOUND: Duration = Duration::from_secs(10);
/// Between two looks at whether it has ended.
const POLL: Duration = Duration::from_millis(10);

/// What an agent exits with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is done; a machine that was asked about is on.
    Done,
    /// It failed, or is not known.
    Failed,
    /// The machine is off.
    Off,
}

impl Verdict {
    /// The protocol's number.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Off => 2,
        }
    }
}

/// Does what the `KEY=VALUE` lines say.
///
/// # Errors
/// What is wrong with them, or with the machine, in one line.
pub fn act(parameters: &str) -> Result<Verdict, String> {
    let value = |names: &[&str]| {
        let mut pairs = parameters.lines().rev().filter_map(|line| line.split_once('='));
        pairs.find(|(key, _)| names.contains(key)).map(|(_, value)| value.trim().to_owned())
    };
    let action = value(&["action"]).unwrap_or_else(|| "off".to_owned());
    if action == "metadata" {
        println!("{}", include_str!("fence.xml"));
        return Ok(Verdict::Done);
    }
    let pattern = value(&["monitor"]).ok_or("no monitor= says where the machine's QMP socket is")?;
    let name = value(&["port", "plug"]).ok_or("no port= names the machine")?;
    if name.contains('/') {
        return Err(format!("{name} is no machine's name"));
    }
    let monitor = PathBuf::from(pattern.replace('%', &name));
    match action.as_str() {
        "off" => {
            off(&monitor)?;
            Ok(Verdict::Done)
        }
        "status" | "monitor" => {
            if is_off(&monitor)? {
                return Ok(Verdict::Off);
            }
            Qmp::connect(&monitor, BOUND).map(|_| Verdict::Done).map_err(|error| error.to_string())
        }
        other => Err(format!("the action {other} is not offered: off, status, monitor and metadata are")),
    }
}

fn off(monitor: &Path) -> Result<(), String> {
    if is_off(monitor)? {
        return Ok(());
    }
    let mut qmp = Qmp::connect(monitor, BOUND).map_err(|error| error.to_string())?;
    // QEMU may be gone before it has answered; whether it is, is seen next.
    let _ = qmp.execute("quit", &json!({}));
    drop(qmp);
    let deadline = Instant::now() + BOUND;
    while UnixStream::connect(monitor).is_ok() {
        if Instant::now() >= deadline {
            return Err(format!("the machine at {} does not end", monitor.display()));
        }
        thread::sleep(POLL);
    }
    fs::write(mark(monitor), "").map_err(|error| format!("{}: {error}", mark(monitor).display()))
}

/// Says that the machine has ended because it was told to.
fn mark(monitor: &Path) -> PathBuf {
    let mut path = monitor.as_os_str().to_owned();
    path.push(".off");
    path.into()
}

fn is_off(monitor: &Path) -> Result<bool, String> {
    match UnixStream::connect(monitor) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound && mark(monitor).exists() => Ok(true),
        Err(error) => Err(format!("{} says nothing about the machine: {error}", monitor.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict, act};
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::thread;

    /// As much of QEMU as a fence agent sees; it ends when it is told to, and removes its socket.
    fn machine(path: PathBuf) -> thread::JoinHandle<()> {
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            loop {
                let (stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let mut stream = stream;
                // Whoever only looks whether somebody listens is gone by now.
                if stream.write_all(b"{\"QMP\":{}}\n").is_err() {
                    continue;
                }
                while let Some(Ok(line)) = lines.next() {
                    if line.contains("quit") {
                        return std::fs::remove_file(path).unwrap();
                    }
                    stream.write_all(b"{\"event\":\"NOISE\"}\n{\"return\":{}}\n").unwrap();
                }
            }
        })
    }

    #[test]
    fn a_machine_is_ended_and_known_to_be_off() {
        let place = tempfile::tempdir().unwrap();
        let qemu = machine(place.path().join("a.qmp"));
        let parameters = |action: &str| format!("action={action}\nport=a\nmonitor={}/%.qmp\n", place.path().display());
        assert_eq!(act(&parameters("status")), Ok(Verdict::Done));
        assert_eq!(act(&parameters("off")), Ok(Verdict::Done));
        qemu.join().unwrap();
        assert_eq!(act(&parameters("status")), Ok(Verdict::Off));
        assert_eq!(act(&parameters("off")), Ok(Verdict::Done), "twice is fine");
    }

    #[test]
    fn what_is_not_known_is_not_off() {
        assert!(act("action=status\nport=a\nmonitor=/nonexistent/%").unwrap_err().contains("says nothing"));
        assert!(act("action=status\nport=../a\nmonitor=/%").is_err());
        assert!(act("action=on\nport=a\nmonitor=/%").unwrap_err().contains("not offered"));
        assert!(act("port=a").unwrap_err().contains("monitor="));
    }
}
