//! The project's own programs, built so that they run where nothing else is: linked statically with glibc.
//!
//! `FTVM_NESTED_FTVM` names an ftvm that is there already: it is taken as it is, with the shared libraries that it needs.

use crate::directory;
use crate::tool::{self, ToolError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const FLAGS: &str = "-C target-feature=+crt-static -C strip=symbols";

/// What cargo sets for those that it runs, and must not reach the cargo that is run from here.
const STRIPPED: [&str; 7] = [
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_MAKEFLAGS",
    "MAKEFLAGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
];

/// The programs cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Cargo fails.
    #[error("the static programs do not build")]
    Cargo(#[from] ToolError),
    /// It is not known what a program needs.
    #[error("it is not known which libraries a program needs")]
    Libraries(#[source] ToolError),
    /// A program cannot be stripped.
    #[error("a program cannot be freed of its debug information")]
    Strip(#[source] ToolError),
    /// The cache cannot be used.
    #[error("the cache of nested machines, {path}, cannot be used")]
    Cache {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    directory: PathBuf,
    ftvm: Option<PathBuf>,
}

impl Programs {
    /// Builds them, unless they are as new as their sources; all but an `ftvm` that is there already.
    ///
    /// # Errors
    /// They do not build.
    pub fn build(ftvm: Option<&Path>) -> Result<Self, BuildError> {
        let cache = directory::cache();
        let (cache, _lock) = directory::lock().map_err(|source| BuildError::Cache { path: cache, source })?;
        let built = cache.join("build");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(directory::workspace()).args(["build", "--release", "--locked", "--quiet", "--bins"]);
        cargo.args(["-p", "nested-inside", "--target", TARGET, "--target-dir"]).arg(&built);
        let named = || std::env::var_os("FTVM_NESTED_FTVM").map(PathBuf::from);
        let ftvm = ftvm.map(Path::to_owned).or_else(named);
        if ftvm.is_none() {
            cargo.args(["-p", "ftvm"]);
        }
        for name in STRIPPED {
            cargo.env_remove(name);
        }
        tool::run(cargo.env("RUSTFLAGS", FLAGS), "cargo")?;
        Ok(Self { directory: built.join(TARGET).join("release"), ftvm })
    }

    /// The file of a program.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        match &self.ftvm {
            Some(ftvm) if name == "ftvm" => ftvm.clone(),
            _ => self.directory.join(name),
        }
    }
}

/// A program without its debug information, which would fill the machines' memory.
///
/// # Errors
/// It is none, or the tool is missing.
pub fn stripped(program: &Path) -> Result<Vec<u8>, ToolError> {
    let out = tempfile::NamedTempFile::new().map_err(|source| unwritable(program, source))?;
    tool::run(Command::new("objcopy").arg("--strip-debug").arg(program).arg(out.path()), "binutils")?;
    std::fs::read(out.path()).map_err(|source| unwritable(program, source))
}

fn unwritable(program: &Path, source: io::Error) -> ToolError {
    ToolError::Start { program: format!("objcopy for {}", program.display()), source }
}

/// The shared libraries that a program needs, and the loader; none for a static one.
///
/// # Errors
/// The loader does not say.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>, ToolError> {
    let said = match tool::run(Command::new("ldd").arg(program), "libc-bin") {
        Ok(said) => said,
        // So it says of a static one, and fails.
        Err(ToolError::Failed { complaint, .. }) if complaint.contains("not a dynamic") => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let said = String::from_utf8_lossy(&said).into_owned();
    let paths = said.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).filter(|path| path.is_file()).collect())
}
