//! Which cluster a command is about.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::progress;
use scenarios::cluster_file::{ClusterFile, ClusterFileError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vmm::client::{Client, Patience};
use vmm::transport::{Address, Key, KeyError};

const POOL_VARIABLE: &str = "FTVM_POOL";
const CLUSTER_VARIABLE: &str = "FTVM_CLUSTER";

/// The options of commands that are about a cluster.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct PoolOption {
    /// The controller's socket, or tcp:HOST:PORT,DEVICE for one on another machine
    #[arg(long, value_name = "SOCKET", env = POOL_VARIABLE, required_unless_present = "cluster")]
    pool: Option<PathBuf>,
    /// A file that says where the cluster is, in place of --pool
    #[arg(long, value_name = "FILE", env = CLUSTER_VARIABLE)]
    cluster: Option<PathBuf>,
    #[command(flatten)]
    key: KeyOption,
}

/// The key of a cluster.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct KeyOption {
    /// The key that is asked for between machines: a file of 16 bytes or more, the same on all
    #[arg(long, value_name = "FILE", env = "FTVM_KEY_FILE")]
    key_file: Option<PathBuf>,
}

impl KeyOption {
    /// The key, if one is named.
    pub(crate) fn read(&self) -> Result<Option<Key>, Failure> {
        Ok(self.key_file.as_deref().map(Key::read).transpose()?)
    }
}

impl PoolOption {
    /// Where the controller is.
    pub(crate) fn address(&self) -> Result<Address, Failure> {
        // What is said here and now counts for more than the environment.
        let is_said = |value: &Option<PathBuf>, variable: &str| {
            value.as_deref().is_some_and(|value| std::env::var_os(variable).as_deref() != Some(value.as_os_str()))
        };
        let said = (is_said(&self.pool, POOL_VARIABLE), is_said(&self.cluster, CLUSTER_VARIABLE));
        match (self.pool.as_deref(), self.cluster.as_deref(), said) {
            (Some(_), Some(_), (true, true)) => Err(Failure::line(
                ExitCode::Usage,
                "--pool and --cluster both say where the cluster is: say one of them",
            )),
            (Some(_), Some(_), (false, false)) => Err(Failure::line(
                ExitCode::Usage,
                format!("{POOL_VARIABLE} and {CLUSTER_VARIABLE} both say where the cluster is: unset one of them"),
            )),
            (pool, Some(_), (true, _)) => resolve(pool, None, &self.key),
            (_, cluster @ Some(_), _) => resolve(None, cluster, &self.key),
            (pool, None, _) => resolve(pool, None, &self.key),
        }
    }
}

/// How long a command that asks once waits for a controller that has died: one that is started again listens at once.
const AWAY_BOUND: Duration = Duration::from_secs(20);

impl PoolOption {
    /// A connection to the controller. One that has died is waited for; only then is it asked, so that it is asked once.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let address = self.address()?;
        let connect = || Client::connect_when_back(&address, Patience::default(), AWAY_BOUND);
        Ok(progress::show(waiting_for(&address), connect)?)
    }
}

/// What is said of a controller that keeps somebody waiting for so long.
pub(crate) fn waiting_for(address: &Address) -> impl Fn(Duration) -> String + Send + use<> {
    let address = address.to_string();
    move |taken| format!("waits for the controller at {address}: {} s so far", taken.as_secs())
}

/// Where the controller is that one of these says.
pub(crate) fn resolve(pool: Option<&Path>, cluster: Option<&Path>, key: &KeyOption) -> Result<Address, Failure> {
    let key = key.read()?;
    match (pool, cluster) {
        (_, Some(file)) => Ok(ClusterFile::read(file)?.address(key)),
        (Some(place), None) => Ok(Address::from(place).with_key(key)),
        (None, None) => Err(Failure::line(ExitCode::Usage, "say --pool or --cluster")),
    }
}

/// What a command needs to be told to be about the same cluster.
pub(crate) fn as_options(pool: Option<&Path>, cluster: Option<&Path>) -> String {
    match (pool, cluster) {
        (_, Some(file)) => format!("--cluster {}", file.display()),
        (place, None) => format!("--pool {}", place.unwrap_or(Path::new("")).display()),
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::new(key_code(&error), &error)
    }
}

fn key_code(error: &KeyError) -> ExitCode {
    match error {
        KeyError::Unreadable { source, .. } => reading_code(source),
        KeyError::Length { .. } => ExitCode::Usage,
        KeyError::Exposed { .. } => ExitCode::NotPermitted,
    }
}

fn reading_code(source: &io::Error) -> ExitCode {
    if source.kind() == io::ErrorKind::PermissionDenied { ExitCode::NotPermitted } else { ExitCode::FileMissing }
}

impl From<ClusterFileError> for Failure {
    fn from(error: ClusterFileError) -> Self {
        let code = match &error {
            ClusterFileError::Unreadable { source, .. } => reading_code(source),
            ClusterFileError::Invalid(_) => ExitCode::Usage,
            ClusterFileError::Key(error) => key_code(error),
        };
        Self::new(code, &error)
    }
}
