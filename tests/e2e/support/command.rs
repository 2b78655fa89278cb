//! The program under test.

use super::{PATIENCE, children_of, process, signal};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Instant;
use tempfile::TempDir;

/// Directories of a test's own: pools are made in one on tmpfs, everything else in the other.
pub(crate) struct Place {
    pool: TempDir,
    files: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code, if it exited.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let pool = tempfile::Builder::new().prefix("ftvmtest").tempdir_in("/dev/shm").expect("/dev/shm is there");
        Self { pool, files: tempfile::tempdir().expect("a temporary directory can be made") }
    }

    /// Where pools are made.
    pub(crate) fn pool(&self) -> &Path {
        self.pool.path()
    }

    /// Where a file of this name is, or would be.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Writes a file and says where it is.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, content).expect("the test's own file can be written");
        path
    }

    /// The program, with its places in ours.
    pub(crate) fn ftvm(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftvm"));
        command.args(arguments).stdin(Stdio::null());
        command.env("FTVM_POOL_DIR", self.pool()).env("TMPDIR", self.files.path()).env_remove("RUST_LOG");
        command.current_dir(self.files.path());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Ended {
        self.start(arguments).end()
    }

    /// Starts the program.
    pub(crate) fn start(&self, arguments: &[impl AsRef<OsStr>]) -> Running {
        self.start_command(self.ftvm(arguments))
    }

    /// Starts a command whose output nobody else takes.
    pub(crate) fn start_command(&self, mut command: Command) -> Running {
        let unique = |name: &str| {
            let taken = (0..).map(|number| self.file(&format!("{name}.{number}")));
            taken.into_iter().find(|path| !path.exists()).expect("numbers do not end")
        };
        let (stdout, stderr) = (unique("stdout"), unique("stderr"));
        let file = |path: &Path| Stdio::from(File::create(path).expect("the test's own file can be written"));
        command.stdout(file(&stdout)).stderr(file(&stderr));
        Running { child: command.spawn().expect("the program can be started"), stdout, stderr }
    }

    /// Private clusters' directories that are there.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let entries = |path: &Path| std::fs::read_dir(path).expect("the test's directory is there").flatten();
        let is_cluster =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ftvm-"));
        let pools = entries(self.pool()).map(|entry| entry.path());
        pools.chain(entries(self.files.path()).map(|entry| entry.path()).filter(is_cluster)).collect()
    }
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, number: Signal) {
        signal(self.pid(), number);
    }

    /// Its standard input, which was asked for.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("it is piped, and taken once")
    }

    /// What it has written to standard output so far.
    pub(crate) fn stdout(&self) -> Vec<u8> {
        std::fs::read(&self.stdout).expect("the test's own file can be read")
    }

    /// What it has written to standard error so far.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).expect("the test's own file can be read")).into_owned()
    }

    /// The process of a host of its private cluster.
    pub(crate) fn host(&self, name: &str) -> Option<u32> {
        children_of(self.pid()).into_iter().find(|child| child.host() == Some(name)).map(|child| child.pid)
    }

    /// The process of its controller.
    pub(crate) fn controller(&self) -> Option<u32> {
        children_of(self.pid()).into_iter().find(process::Child::is_controller).map(|child| child.pid)
    }

    /// Whether it runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let deadline = Instant::now() + 4 * PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(Instant::now() < deadline, "the program does not end; it said: {}", self.stderr());
            std::thread::sleep(super::LOOK_INTERVAL);
        };
        Ended { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone unless the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// It ended with this code and one line on standard error, which is given back.
    pub(crate) fn one_line(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        let line = self.stderr.strip_suffix('\n').expect("the line ends");
        assert!(!line.contains('\n') && line.starts_with("ftvm: "), "not one line: {line:?}");
        line
    }

    /// It ended well.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }
}
