//! What a cluster has written down in etcd.

use super::etcd::{BadEndpoint, Endpoint, Etcd, EtcdError};
use super::keeper::Held;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use ft_protocol::spec::name_is_valid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// What names this boot of this machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How long a host is registered when it no longer says that it is there.
const HOST_LEASE_SECONDS: u64 = 10;
/// Renewals that fit into the time of a host's lease, and tries to get another one.
const RENEWALS: u32 = 4;

/// A cluster's part of etcd.
#[derive(Debug)]
pub struct Registry {
    pub(super) etcd: Arc<Etcd>,
    cluster: String,
}

/// What names no part of an etcd.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No endpoint.
    #[error("no endpoint of etcd is given")]
    NoEndpoint,
    /// Not an endpoint.
    #[error(transparent)]
    Endpoint(#[from] BadEndpoint),
    /// Not a name.
    #[error("`{0}` is no name of a cluster: 1 to 63 of a-z 0-9 . _ -")]
    Name(String),
}

/// Where a controller is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerPlace {
    /// The boot of its machine.
    boot: String,
    /// Its socket there.
    socket: PathBuf,
    /// Its address for other machines, if it has one.
    remote: Option<String>,
    process: u32,
}

/// What a host says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlace {
    /// The boot of its machine.
    boot: String,
    /// Its name.
    pub host: String,
    /// Its process there.
    pub process: u32,
}

impl ControllerPlace {
    /// This process, which listens there.
    #[must_use]
    pub fn here(socket: PathBuf, remote: Option<String>) -> Self {
        let socket = std::path::absolute(&socket).unwrap_or(socket);
        Self { boot: boot(), socket, remote, process: std::process::id() }
    }

    /// The addresses that are good on this machine.
    #[must_use]
    pub(crate) fn places(&self) -> Vec<PathBuf> {
        let near = (self.boot == boot()).then(|| self.socket.clone());
        near.into_iter().chain(self.remote.as_ref().map(PathBuf::from)).collect()
    }
}

impl fmt::Display for ControllerPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.remote {
            Some(remote) => write!(f, "process {} at {remote}", self.process),
            None => write!(f, "process {} at {}", self.process, self.socket.display()),
        }
    }
}

impl Registry {
    /// The part of the cluster of this name, at these endpoints.
    ///
    /// # Errors
    /// There is no endpoint, or the name is none.
    pub fn new(endpoints: Vec<Endpoint>, cluster: &str) -> Result<Self, RegistryError> {
        if endpoints.is_empty() {
            return Err(RegistryError::NoEndpoint);
        }
        if !name_is_valid(cluster) {
            return Err(RegistryError::Name(cluster.chars().take(80).collect()));
        }
        Ok(Self { etcd: Arc::new(Etcd::new(endpoints)), cluster: cluster.to_owned() })
    }

    /// As [`Registry::new`], with the endpoints as text, between commas.
    ///
    /// # Errors
    /// As for [`Registry::new`]; an endpoint is none.
    pub fn parse(endpoints: &str, cluster: &str) -> Result<Self, RegistryError> {
        let texts = endpoints.split(',').map(str::trim).filter(|text| !text.is_empty());
        Self::new(texts.map(str::parse).collect::<Result<_, _>>()?, cluster)
    }

    pub(super) fn controller_key(&self) -> String {
        format!("/ftvm/{}/controller", self.cluster)
    }

    fn hosts_key(&self) -> String {
        format!("/ftvm/{}/hosts", self.cluster)
    }

    /// Where the controller is; `None`: there is none at the moment.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn controller(&self) -> Result<Option<ControllerPlace>, EtcdError> {
        let found = self.etcd.get(&self.controller_key())?;
        let read = |value: &[u8]| serde_json::from_slice(value).map_err(|_| EtcdError::Answer { call: "kv/range" });
        found.map(|entry| read(&entry.value)).transpose()
    }

    /// The hosts that are registered, by name.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn hosts(&self) -> Result<Vec<HostPlace>, EtcdError> {
        let found = self.etcd.list(&format!("{}/", self.hosts_key()))?;
        let read = |value: &Vec<u8>| serde_json::from_slice(value).map_err(|_| EtcdError::Answer { call: "kv/range" });
        found.iter().map(read).collect()
    }

    /// Registers a host, for as long as what is given back lives. An etcd that does not answer is no reason for a host not to
    /// serve: it is registered as soon as it does.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn register_host(&self, name: &str) -> std::io::Result<Registration> {
        let key = format!("{}/{name}", self.hosts_key());
        let place = HostPlace { boot: boot(), host: name.to_owned(), process: std::process::id() };
        let value = serde_json::to_vec(&place).expect("texts and a number");
        let etcd = Arc::clone(&self.etcd);
        let (stop, stopped) = bounded::<()>(0);
        let work = move || {
            let mut lease = None;
            let mut complained = false;
            loop {
                match be_registered(&etcd, &mut lease, &key, &value) {
                    Ok(()) => complained = false,
                    Err(error) if !complained => {
                        tracing::warn!("this host is not registered: {}", crate::chain(&error));
                        complained = true;
                    }
                    Err(_) => {}
                }
                let wait = Duration::from_secs(HOST_LEASE_SECONDS) / RENEWALS;
                if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            if let Some(held) = lease {
                // Otherwise it ends by itself.
                let _ = etcd.revoke(&held.id);
            }
        };
        let thread = std::thread::Builder::new().name("registration".to_owned()).spawn(work)?;
        Ok(Registration { stop: Some(stop), thread: Some(thread) })
    }
}

/// Renews the lease of a host, or gets one.
fn be_registered(etcd: &Etcd, lease: &mut Option<Held>, key: &str, value: &[u8]) -> Result<(), EtcdError> {
    if let Some(held) = lease
        && held.renew(etcd)?
    {
        return Ok(());
    }
    let held = Held::get(etcd, HOST_LEASE_SECONDS)?;
    // One without a key ends by itself.
    etcd.put(key, value, &held.id)?;
    *lease = Some(held);
    Ok(())
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {} of etcd at {}", self.cluster, self.etcd.endpoints())
    }
}

/// A host is registered until this is dropped.
#[derive(Debug)]
pub struct Registration {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its hook.
            let _ = thread.join();
        }
    }
}

fn boot() -> String {
    std::fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controllers_socket_is_good_on_its_own_machine_only() {
        let here = ControllerPlace::here("/run/s".into(), Some("tcp:10.0.0.1:7,/dev/dax0.0".to_owned()));
        assert_eq!(here.places(), [PathBuf::from("/run/s"), "tcp:10.0.0.1:7,/dev/dax0.0".into()]);
        let elsewhere = ControllerPlace { boot: "another".to_owned(), ..here.clone() };
        assert_eq!(elsewhere.places(), [PathBuf::from("tcp:10.0.0.1:7,/dev/dax0.0")]);
        let text = serde_json::to_string(&here).unwrap();
        assert_eq!(serde_json::from_str::<ControllerPlace>(&text).unwrap(), here);
    }

    #[test]
    fn names_and_endpoints_are_checked() {
        assert!(Registry::parse("127.0.0.1:2379, http://b:1", "prod").is_ok());
        assert_eq!(Registry::parse(" ,", "prod").unwrap_err(), RegistryError::NoEndpoint);
        assert!(matches!(Registry::parse("a:1", "a/b"), Err(RegistryError::Name(_))));
        assert!(matches!(Registry::parse("a:1,b", "prod"), Err(RegistryError::Endpoint(_))));
    }
}
