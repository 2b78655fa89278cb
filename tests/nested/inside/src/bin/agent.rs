//! The agent of a nested machine: runs programs and moves files for the harness, over a virtio-serial port.
#![forbid(unsafe_code)]

use nested_inside::PORT_NAME;
use nested_inside::wire::{self, End, PIECE_BYTES, Reply, Request, TaskId, WireError};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Between two looks at a port that is not there yet, or not connected.
const PORT_POLL: Duration = Duration::from_millis(20);

/// A port's end of file means that nobody is connected at this moment.
struct Port(File);

impl Read for Port {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Ok(0) => thread::sleep(PORT_POLL),
                other => return other,
            }
        }
    }
}

/// Everything that is said goes through here, one message at a time.
#[derive(Clone)]
struct Mouth(Arc<Mutex<File>>);

impl Mouth {
    fn say(&self, task: TaskId, reply: &Reply) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A port that does not take it any more has nobody behind it who could be told.
        if let Err(error) = wire::send(&mut *file, task, reply) {
            eprintln!("agent: {error}");
        }
    }
}

struct Running {
    pid: u32,
    stdin: Sender<Vec<u8>>,
}

type Programs = Arc<Mutex<BTreeMap<TaskId, Running>>>;

fn main() {
    let port = open_port();
    let mouth = match port.try_clone() {
        Ok(file) => Mouth(Arc::new(Mutex::new(file))),
        Err(error) => return eprintln!("agent: the port cannot be used twice: {error}"),
    };
    let mut port = Port(port);
    let programs = Programs::default();
    mouth.say(0, &Reply::Hello);
    loop {
        match wire::receive::<Request>(&mut port) {
            Ok((task, request)) => serve(task, request, &mouth, &programs),
            Err(WireError::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return eprintln!("agent: {error}"),
        }
    }
}

/// Opens the harness's port, when the driver has found it.
fn open_port() -> File {
    loop {
        if let Some(device) = find_port() {
            match OpenOptions::new().read(true).write(true).open(&device) {
                Ok(file) => return file,
                Err(error) => eprintln!("agent: {}: {error}", device.display()),
            }
        }
        thread::sleep(PORT_POLL);
    }
}

fn find_port() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let port = ports
        .flatten()
        .find(|port| fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == PORT_NAME))?;
    Some(Path::new("/dev").join(port.file_name()))
}

fn serve(task: TaskId, request: Request, mouth: &Mouth, programs: &Programs) {
    let done = match request {
        Request::Run { argv } => return run(task, &argv, mouth, programs),
        Request::Stdin(bytes) => {
            if let Some(program) = programs.lock().unwrap_or_else(PoisonError::into_inner).get(&task) {
                // Fails when the program reads no more, which is its own affair.
                let _ = program.stdin.send(bytes);
            }
            return;
        }
        Request::Signal(signal) => return send_signal(task, signal, programs),
        Request::Put { path, offset, bytes, mode } => put(Path::new(&path), offset, &bytes, mode),
        Request::Get { path } => {
            let mouth = mouth.clone();
            thread::spawn(move || match get(task, &path, &mouth) {
                Ok(()) => mouth.say(task, &Reply::Done),
                Err(error) => mouth.say(task, &Reply::Failed(format!("{path}: {error}"))),
            });
            return;
        }
    };
    match done {
        Ok(()) => mouth.say(task, &Reply::Done),
        Err(error) => mouth.say(task, &Reply::Failed(error.to_string())),
    }
}

fn put(path: &Path, offset: u64, bytes: &[u8], mode: u32) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(offset == 0).open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(mode))
}

fn get(task: TaskId, path: &str, mouth: &Mouth) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            count => mouth.say(task, &Reply::Piece(buffer[..count].to_vec())),
        }
    }
}

fn run(task: TaskId, argv: &[String], mouth: &Mouth, programs: &Programs) {
    let Some((program, arguments)) = argv.split_first() else {
        return mouth.say(task, &Reply::Failed("no program is named".to_owned()));
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    match command.spawn() {
        Ok(child) => attend(task, child, mouth, programs),
        Err(error) => mouth.say(task, &Reply::Failed(format!("cannot start {program}: {error}"))),
    }
}

/// Moves a program's input and outputs, and waits for its end.
fn attend(task: TaskId, mut child: Child, mouth: &Mouth, programs: &Programs) {
    let (stdin, input) = channel::<Vec<u8>>();
    if let Some(mut pipe) = child.stdin.take() {
        thread::spawn(move || {
            while let Ok(bytes) = input.recv() {
                if bytes.is_empty() || feed(&mut pipe, &bytes).is_err() {
                    return;
                }
            }
        });
    }
    let running = Running { pid: child.id(), stdin };
    programs.lock().unwrap_or_else(PoisonError::into_inner).insert(task, running);
    let outputs = [
        child.stdout.take().map(|pipe| pump(task, pipe, mouth, Reply::Stdout)),
        child.stderr.take().map(|pipe| pump(task, pipe, mouth, Reply::Stderr)),
    ];
    let (mouth, programs) = (mouth.clone(), programs.clone());
    thread::spawn(move || {
        for output in outputs.into_iter().flatten() {
            // A pump does not panic.
            let _ = output.join();
        }
        let status = child.wait();
        programs.lock().unwrap_or_else(PoisonError::into_inner).remove(&task);
        let reply = match status {
            Ok(status) => Reply::Ended(match status.code() {
                Some(code) => End::Code(code),
                None => End::Signal(status.signal().unwrap_or_default()),
            }),
            Err(error) => Reply::Failed(format!("cannot wait for the program: {error}")),
        };
        mouth.say(task, &reply);
    });
}

fn feed(pipe: &mut ChildStdin, bytes: &[u8]) -> io::Result<()> {
    pipe.write_all(bytes)?;
    pipe.flush()
}

fn pump(
    task: TaskId,
    mut pipe: impl Read + Send + 'static,
    mouth: &Mouth,
    wrap: fn(Vec<u8>) -> Reply,
) -> thread::JoinHandle<()> {
    let mouth = mouth.clone();
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => mouth.say(task, &wrap(buffer[..count].to_vec())),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    })
}

/// By the shell's own kill: the standard library has none.
fn send_signal(task: TaskId, signal: i32, programs: &Programs) {
    let pid = programs.lock().unwrap_or_else(PoisonError::into_inner).get(&task).map(|program| program.pid);
    if let Some(pid) = pid {
        // It may have ended meanwhile, which the harness learns anyway.
        let _ = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status();
    }
}
