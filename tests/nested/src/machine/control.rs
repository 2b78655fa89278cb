//! The control channel: this side of the agent.

use super::MachineError;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use nested_inside::wire::{self, End, PIECE_BYTES, Reply, Request, TaskId};
use std::collections::BTreeMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

type Waiting = Arc<Mutex<BTreeMap<TaskId, Sender<Reply>>>>;

/// A connection to the agent of one machine. Usable from several threads.
pub(super) struct Control {
    name: String,
    stream: Mutex<UnixStream>,
    waiting: Waiting,
    next: AtomicU32,
}

/// A program that runs in a machine, or has ended there.
pub struct Process {
    control: Arc<Control>,
    task: TaskId,
    replies: Receiver<Reply>,
    output: Output,
    what: String,
}

/// What a program wrote, and how it ended.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Its end; none as long as it runs.
    pub end: Option<End>,
}

impl Output {
    /// Whether it ended well.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.end == Some(End::Code(0))
    }

    /// Both outputs, to be read by people.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", String::from_utf8_lossy(&self.stdout), String::from_utf8_lossy(&self.stderr))
    }
}

impl Control {
    /// Waits until the agent says that it is there.
    pub(super) fn open(name: &str, mut stream: UnixStream, timeout: Duration) -> Result<Arc<Self>, MachineError> {
        let channel = |source| MachineError::Channel { machine: name.to_owned(), source };
        stream.set_read_timeout(Some(timeout)).map_err(|error| channel(error.into()))?;
        let (_, hello) = wire::receive::<Reply>(&mut stream).map_err(channel)?;
        if !matches!(hello, Reply::Hello) {
            return Err(MachineError::Speech { machine: name.to_owned(), said: format!("{hello:?}") });
        }
        stream.set_read_timeout(None).map_err(|error| channel(error.into()))?;
        let mut ears = stream.try_clone().map_err(|error| channel(error.into()))?;
        let waiting = Waiting::default();
        thread::spawn({
            let waiting = waiting.clone();
            move || {
                while let Ok((task, reply)) = wire::receive::<Reply>(&mut ears) {
                    if let Some(sender) = held(&waiting).get(&task) {
                        // Whoever does not wait any more does not want it.
                        let _ = sender.send(reply);
                    }
                }
                // Dropping the senders tells all who wait that the machine is gone.
                held(&waiting).clear();
            }
        });
        Ok(Arc::new(Self { name: name.to_owned(), stream: Mutex::new(stream), waiting, next: AtomicU32::new(1) }))
    }

    pub(super) fn start(self: &Arc<Self>, argv: &[&str]) -> Result<Process, MachineError> {
        let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
        let what = argv.join(" ");
        let (task, replies) = self.task();
        self.ask(task, &Request::Run { argv })?;
        Ok(Process { control: self.clone(), task, replies, output: Output::default(), what })
    }

    pub(super) fn put(&self, path: &str, mode: u32, content: &[u8], timeout: Duration) -> Result<(), MachineError> {
        let (task, replies) = self.task();
        let mut offset = 0;
        // An empty file is one empty piece.
        for piece in content.chunks(PIECE_BYTES).chain(content.is_empty().then_some(&[][..])) {
            self.ask(task, &Request::Put { path: path.to_owned(), offset, bytes: piece.to_vec(), mode })?;
            offset += u64::try_from(piece.len()).expect("usize is no more than u64");
            match self.hear(&replies, Instant::now() + timeout, path)? {
                Reply::Done => {}
                other => return Err(self.refusal(path, other)),
            }
        }
        self.forget(task);
        Ok(())
    }

    pub(super) fn get(&self, path: &str, timeout: Duration) -> Result<Vec<u8>, MachineError> {
        let (task, replies) = self.task();
        self.ask(task, &Request::Get { path: path.to_owned() })?;
        let mut content = Vec::new();
        loop {
            match self.hear(&replies, Instant::now() + timeout, path)? {
                Reply::Piece(piece) => content.extend_from_slice(&piece),
                Reply::Done => break,
                other => return Err(self.refusal(path, other)),
            }
        }
        self.forget(task);
        Ok(content)
    }

    fn task(&self) -> (TaskId, Receiver<Reply>) {
        let task = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, replies) = unbounded();
        held(&self.waiting).insert(task, sender);
        (task, replies)
    }

    fn forget(&self, task: TaskId) {
        held(&self.waiting).remove(&task);
    }

    fn ask(&self, task: TaskId, request: &Request) -> Result<(), MachineError> {
        let mut stream = held(&self.stream);
        wire::send(&mut *stream, task, request)
            .map_err(|source| MachineError::Channel { machine: self.name.clone(), source })
    }

    fn hear(&self, replies: &Receiver<Reply>, deadline: Instant, what: &str) -> Result<Reply, MachineError> {
        let left = deadline.saturating_duration_since(Instant::now());
        replies.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => MachineError::Silent { machine: self.name.clone(), what: what.to_owned() },
            RecvTimeoutError::Disconnected => MachineError::Gone { machine: self.name.clone(), what: what.to_owned() },
        })
    }

    fn refusal(&self, what: &str, reply: Reply) -> MachineError {
        match reply {
            Reply::Failed(why) => MachineError::Refused { machine: self.name.clone(), what: what.to_owned(), why },
            other => MachineError::Speech { machine: self.name.clone(), said: format!("{other:?}") },
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Ends the reader; it fails when the machine is gone.
        let _ = held(&self.stream).shutdown(Shutdown::Both);
    }
}

impl Process {
    /// Writes to its standard input.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn write(&self, bytes: &[u8]) -> Result<(), MachineError> {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.control.ask(self.task, &Request::Stdin(piece.to_vec()))?;
        }
        Ok(())
    }

    /// Ends its standard input.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn close_input(&self) -> Result<(), MachineError> {
        self.control.ask(self.task, &Request::Stdin(Vec::new()))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn signal(&self, signal: i32) -> Result<(), MachineError> {
        self.control.ask(self.task, &Request::Signal(signal))
    }

    /// What it has written so far, and its end when it has ended.
    ///
    /// # Errors
    /// The machine is gone, or could not start it.
    pub fn look(&mut self) -> Result<&Output, MachineError> {
        while let Ok(reply) = self.replies.try_recv() {
            self.take(reply)?;
        }
        Ok(&self.output)
    }

    /// Waits until `done` likes what it has written; its end ends the waiting too.
    ///
    /// # Errors
    /// Nothing of that happened in time, or the machine is gone.
    pub fn await_output(&mut self, timeout: Duration, done: impl Fn(&Output) -> bool) -> Result<&Output, MachineError> {
        let deadline = Instant::now() + timeout;
        while !done(&self.output) && self.output.end.is_none() {
            let reply = self.control.hear(&self.replies, deadline, &self.what)?;
            self.take(reply)?;
        }
        Ok(&self.output)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end in time, or the machine is gone.
    pub fn wait(mut self, timeout: Duration) -> Result<Output, MachineError> {
        self.await_output(timeout, |_| false)?;
        Ok(std::mem::take(&mut self.output))
    }

    /// What it is.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    fn take(&mut self, reply: Reply) -> Result<(), MachineError> {
        match reply {
            Reply::Stdout(bytes) => self.output.stdout.extend_from_slice(&bytes),
            Reply::Stderr(bytes) => self.output.stderr.extend_from_slice(&bytes),
            Reply::Ended(end) => self.output.end = Some(end),
            other => return Err(self.control.refusal(&self.what, other)),
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.control.forget(self.task);
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
