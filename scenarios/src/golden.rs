//! The unprotected run that a protected one is held against.

use crate::cluster::{Child, ChildExit, wait_for};
use crate::guest::GuestSource;
use crate::units::ByteCount;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vmm::client::Patience;

/// The exit code for a guest that crashed, which is an end like any other.
pub const CRASHED_EXIT_CODE: i32 = 82;

/// What to run.
#[derive(Clone, Debug)]
pub struct GoldenOptions<'a> {
    /// The ftvm program.
    pub executable: &'a Path,
    /// The guest.
    pub guest: &'a GuestSource,
    /// Guest memory.
    pub memory: ByteCount,
    /// Guest arguments.
    pub args: &'a [String],
    /// Where to leave console and standard error.
    pub directory: &'a Path,
    /// Its disk: a new file, and the size.
    pub disk: Option<(PathBuf, ByteCount)>,
    /// The console's file there.
    pub file: &'a str,
    /// How long it may take, and who may end it.
    pub patience: Patience,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Golden {
    /// The console.
    pub console: Vec<u8>,
    /// The exit code: the guest's.
    pub exit_code: i32,
    /// The checksum of its memory at the end.
    pub memory_crc: Option<u32>,
    /// The checksum of its disk at the end, if it has one.
    pub disk_crc: Option<u32>,
    /// How long it took.
    pub duration: Duration,
}

/// Why there is no unprotected run.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// A file for its output cannot be made or read.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refuses to wait for it.
    #[error("cannot wait for the unprotected run")]
    Wait(#[source] io::Error),
    /// It took too long.
    #[error("the unprotected run did not end within its time limit, {:.1} s", .0.as_secs_f64())]
    TimeOut(Duration),
    /// Whoever wanted it wants to end.
    #[error("the unprotected run was interrupted")]
    Interrupted,
    /// Something killed it, or it failed.
    #[error("the unprotected run failed ({exit}): {stderr}")]
    Failed {
        /// How it ended.
        exit: ChildExit,
        /// Its last words.
        stderr: String,
    },
}

/// Runs the guest unprotected, in a process of its own.
///
/// # Errors
/// When it does not come to an end of its own.
pub fn run_unprotected(options: &GoldenOptions<'_>) -> Result<Golden, GoldenError> {
    let console = options.directory.join(options.file);
    let stderr = options.directory.join("unprotected.stderr");
    let file_error = |source| GoldenError::File { path: console.clone(), source };
    let out = File::create(&console).map_err(file_error)?;
    let mut command = Command::new(options.executable);
    command.args(["run", "--mode", "none", "--memory", &options.memory.get().to_string()]);
    if let Some((path, size)) = &options.disk {
        command.arg("--disk").arg(format!("{},size={}", path.display(), size.get()));
    }
    let memory_crc = options.directory.join("unprotected.memory-crc");
    command.arg("--memory-crc").arg(&memory_crc);
    command.arg("--private-to").arg(std::process::id().to_string());
    command.arg(options.guest.to_string()).arg("--").args(options.args);
    let start = Instant::now();
    let mut child = Child::start(command, Stdio::null(), out.into(), stderr)
        .map_err(|source| GoldenError::Spawn { program: options.executable.to_owned(), source })?;
    let Some(exit) = await_end(&mut child, &options.patience).map_err(GoldenError::Wait)? else {
        child.kill_and_reap();
        let interrupted = options.patience.is_interrupted();
        return Err(if interrupted { GoldenError::Interrupted } else { GoldenError::TimeOut(start.elapsed()) });
    };
    let duration = start.elapsed();
    match exit {
        ChildExit::Code(exit_code) if exit_code == CRASHED_EXIT_CODE || child.stderr().is_empty() => {
            let memory_crc = std::fs::read_to_string(&memory_crc).ok();
            let memory_crc = memory_crc.and_then(|text| u32::from_str_radix(text.trim(), 16).ok());
            let disk_crc = options.disk.as_ref().and_then(|(path, _)| file_crc(path));
            let console = std::fs::read(&console).map_err(file_error)?;
            Ok(Golden { console, exit_code, memory_crc, disk_crc, duration })
        }
        exit => Err(GoldenError::Failed { exit, stderr: child.stderr() }),
    }
}

/// The checksum of a file; `None`: it cannot be read.
pub(crate) fn file_crc(path: &Path) -> Option<u32> {
    let mut file = File::open(path).ok()?;
    let mut hasher = crc32fast::Hasher::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut file, &mut chunk).ok()? {
            0 => return Some(hasher.finalize()),
            count => hasher.update(&chunk[..count]),
        }
    }
}

/// `None`: patience was over first.
fn await_end(child: &mut Child, patience: &Patience) -> io::Result<Option<ChildExit>> {
    /// Whoever has no bound looks again this often.
    const LOOK_INTERVAL: Duration = Duration::from_secs(60);
    loop {
        if let Some(exit) = child.try_reap()? {
            return Ok(Some(exit));
        }
        if patience.is_over() {
            return Ok(None);
        }
        let left = patience.until.map_or(LOOK_INTERVAL, |until| until.saturating_duration_since(Instant::now()));
        let interrupt = patience.interrupt.as_ref().map(|fd| fd.as_fd());
        wait_for(&std::iter::once(child.as_fd()).chain(interrupt).collect::<Vec<_>>(), left)?;
    }
}
