//! What every test needs: a place of its own, KVM, and waiting for states.

pub(crate) use crate::machine::kvm;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long any state may take to come. Only tests that fail ever wait that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at a state.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(3);

/// Waits until `look` finds something.
pub(crate) fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come about within {} s", PATIENCE.as_secs());
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Directories of a test's own: the pool is in one on tmpfs, everything else in the other.
pub(crate) struct Place {
    pool: TempDir,
    files: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let pool = tempfile::Builder::new().prefix("ftvmtest").tempdir_in("/dev/shm").expect("/dev/shm is there");
        Self { pool, files: tempfile::tempdir().expect("a temporary directory can be made") }
    }

    /// The pool's directory.
    pub(crate) fn pool(&self) -> PathBuf {
        self.pool.path().join("pool")
    }

    /// The directory that pools are made in.
    pub(crate) fn pools(&self) -> &Path {
        self.pool.path()
    }

    /// Where a file of this name is, or would be.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// The program, with its places in ours.
    pub(crate) fn ftvm(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftvm"));
        command.args(arguments).current_dir(self.files.path());
        command.env("FTVM_POOL_DIR", self.pools()).env("TMPDIR", self.files.path());
        command.env_remove("RUST_LOG").env_remove("FTVM_FAILPOINTS");
        command
    }

    /// Removes a file of the pool.
    pub(crate) fn lose(&self, file: &str) {
        std::fs::remove_file(self.pool().join(file)).expect("it was there");
    }

    /// `ftvm pool check`: the pool must be sound. One that changes too fast to be read is looked at again.
    pub(crate) fn check_pool(&self, when: &str) {
        await_some("a look at the pool", || {
            let output = self.ftvm(&["pool", "check"]).arg(self.pool()).output().expect("the program can be started");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            match output.status.code() {
                Some(0) => Some(()),
                Some(84) => None,
                code => {
                    panic!("{when}: pool check ended with {code:?}:\n{said}{}", String::from_utf8_lossy(&output.stderr))
                }
            }
        });
    }
}
