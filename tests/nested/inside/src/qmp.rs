//! QEMU's monitor protocol, as far as it is needed: one command, one answer. Events that come between are kept.

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IoSlice, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Events that nobody has asked for: the oldest go first.
const EVENTS_MAX: usize = 256;

/// The monitor did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// It cannot be reached.
    #[error("the monitor at {path} does not answer")]
    Channel {
        /// Its socket.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It refuses.
    #[error("the monitor refuses {command}: {why}")]
    Refused {
        /// The command.
        command: String,
        /// What it said.
        why: String,
    },
}

/// Something that happened to the machine, without being asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct QmpEvent {
    /// Its name, such as `STOP`.
    pub name: String,
    /// When, by the wall clock of the monitor's machine, in microseconds since 1970.
    pub at_us: u64,
    /// What belongs to it.
    pub data: Value,
}

/// A connection to a monitor.
pub struct Qmp {
    path: String,
    stream: BufReader<UnixStream>,
    events: VecDeque<QmpEvent>,
}

impl Qmp {
    /// Connects.
    ///
    /// # Errors
    /// Nobody is there, or it does not answer within `timeout`.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, QmpError> {
        let path_text = path.display().to_string();
        let channel = |source| QmpError::Channel { path: path_text.clone(), source };
        let stream = UnixStream::connect(path).map_err(channel)?;
        stream.set_read_timeout(Some(timeout)).map_err(channel)?;
        let mut monitor = Self { path: path_text.clone(), stream: BufReader::new(stream), events: VecDeque::default() };
        monitor.line()?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Executes a command and gives what it returns.
    ///
    /// # Errors
    /// It is refused, or the machine is gone.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, QmpError> {
        let line = line_of(command, arguments);
        self.stream.get_mut().write_all(line.as_bytes()).map_err(|source| self.lost(source))?;
        self.answer(command)
    }

    /// Hands the monitor an open file, which it knows by `name` from now on (`fd:NAME`).
    ///
    /// # Errors
    /// It is refused, or the machine is gone.
    pub fn hand_over(&mut self, name: &str, file: &File) -> Result<(), QmpError> {
        let command = "getfd";
        let line = line_of(command, &json!({ "fdname": name }));
        let descriptors = [file.as_raw_fd()];
        let sent = sendmsg::<()>(
            self.stream.get_ref().as_raw_fd(),
            &[IoSlice::new(line.as_bytes())],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::empty(),
            None,
        );
        let sent = sent.map_err(|errno| self.lost(errno.into()))?;
        self.stream.get_mut().write_all(&line.as_bytes()[sent..]).map_err(|source| self.lost(source))?;
        self.answer(command).map(drop)
    }

    /// Waits for an event that `wanted` likes, and forgets those before it.
    ///
    /// # Errors
    /// It does not come in time, or the machine is gone.
    pub fn await_event(&mut self, mut wanted: impl FnMut(&QmpEvent) -> bool) -> Result<QmpEvent, QmpError> {
        loop {
            while let Some(event) = self.events.pop_front() {
                if wanted(&event) {
                    return Ok(event);
                }
            }
            self.message()?;
        }
    }

    /// Forgets the events that nobody has asked for yet.
    pub fn forget_events(&mut self) {
        self.events.clear();
    }

    fn answer(&mut self, command: &str) -> Result<Value, QmpError> {
        loop {
            let Some(mut answer) = self.message()? else { continue };
            if let Some(error) = answer.get("error") {
                return Err(QmpError::Refused { command: command.to_owned(), why: error["desc"].to_string() });
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// The next message, unless it is an event, which is kept.
    fn message(&mut self) -> Result<Option<Value>, QmpError> {
        let message = self.line()?;
        let Some(event) = event_in(&message) else { return Ok(Some(message)) };
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
        Ok(None)
    }

    fn line(&mut self) -> Result<Value, QmpError> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => serde_json::from_str(&line).map_err(|error| self.lost(error.into())),
            Err(source) => Err(self.lost(source)),
        }
    }

    fn lost(&self, source: io::Error) -> QmpError {
        QmpError::Channel { path: self.path.clone(), source }
    }
}

fn line_of(command: &str, arguments: &Value) -> String {
    format!("{}\n", json!({ "execute": command, "arguments": arguments }))
}

fn event_in(message: &Value) -> Option<QmpEvent> {
    let name = message.get("event")?.as_str()?.to_owned();
    let part = |name: &str| message["timestamp"][name].as_u64();
    let at_us = part("seconds")?.checked_mul(1_000_000)?.checked_add(part("microseconds")?)?;
    Some(QmpEvent { name, at_us, data: message["data"].clone() })
}

#[cfg(test)]
mod tests {
    use super::{EVENTS_MAX, Qmp, QmpError};
    use serde_json::json;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::thread;
    use std::time::Duration;

    const BOUND: Duration = Duration::from_secs(60);

    /// A monitor that answers each command with the next of these.
    fn monitor(path: &Path, answers: Vec<String>) -> thread::JoinHandle<Vec<String>> {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"QMP\": {}}\n").unwrap();
            let mut commands = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut heard = vec![commands.next().unwrap().unwrap()];
            stream.write_all(b"{\"return\": {}}\n").unwrap();
            for answer in answers {
                heard.push(commands.next().unwrap().unwrap());
                stream.write_all(answer.as_bytes()).unwrap();
            }
            heard
        })
    }

    fn event(name: &str, us: u64) -> String {
        format!(
            "{{\"event\": \"{name}\", \"data\": {{\"n\": 1}}, \"timestamp\": {{\"seconds\": 2, \"microseconds\": {us}}}}}\n"
        )
    }

    #[test]
    fn events_between_an_order_and_its_answer_are_kept() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("qmp");
        let answers = vec![
            format!("{}{}{{\"return\": {{\"status\": 7}}}}\n", event("RESUME", 1), event("STOP", 30)),
            format!("{{\"error\": {{\"desc\": \"no\"}}}}\n{}", event("RESUME", 80)),
            format!("{}{{\"return\": {{}}}}\n", event("STOP", 90)),
        ];
        let served = monitor(&path, answers);
        let mut qmp = Qmp::connect(&path, BOUND).unwrap();
        assert_eq!(qmp.execute("stop", &json!({ "a": 1 })).unwrap(), json!({ "status": 7 }));
        let refused = qmp.execute("cont", &json!({})).unwrap_err();
        assert!(matches!(refused, QmpError::Refused { .. }) && refused.to_string().contains("no"), "{refused}");
        let stop = qmp.await_event(|event| event.name == "STOP").unwrap();
        assert_eq!((stop.at_us, &stop.data), (2_000_030, &json!({ "n": 1 })));
        // That of before the stop is not taken for the one behind it.
        assert_eq!(qmp.await_event(|event| event.name == "RESUME").unwrap().at_us, 2_000_080);
        qmp.execute("query-status", &json!({})).unwrap();
        qmp.forget_events();
        assert!(qmp.await_event(|_| true).is_err(), "the monitor is gone");
        let heard = served.join().unwrap();
        assert!(heard[1].contains("\"stop\"") && heard[1].contains("\"a\":1"), "{heard:?}");
    }

    #[test]
    fn a_flood_of_events_is_bounded() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("qmp");
        let most = u64::try_from(EVENTS_MAX).unwrap();
        let flood: String = (0..=most).map(|us| event("NICE", us)).collect();
        let served = monitor(&path, vec![flood + "{\"return\": {}}\n"]);
        let mut qmp = Qmp::connect(&path, BOUND).unwrap();
        qmp.execute("query-status", &json!({})).unwrap();
        assert_eq!(qmp.await_event(|_| true).unwrap().at_us, 2_000_001, "the oldest is forgotten");
        served.join().unwrap();
    }
}
