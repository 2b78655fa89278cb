//! Where a cluster's controller is to be found, and what proves that one is of the cluster.

use super::key::Key;
use super::{ConnectError, Connection, remote};
use crate::membership::Registry;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One place or several: the paths of sockets, and `tcp:HOST:PORT,DEVICE`; and a register in which it can be looked up.
#[derive(Clone, Debug, Default)]
pub struct Address {
    places: Vec<PathBuf>,
    key: Option<Arc<Key>>,
    registry: Option<Arc<Registry>>,
}

impl Address {
    /// These places, which are tried one after the other.
    #[must_use]
    pub fn new(places: Vec<PathBuf>) -> Self {
        Self { places, key: None, registry: None }
    }

    /// With the key that controllers on other machines ask for.
    #[must_use]
    pub fn with_key(mut self, key: Option<Key>) -> Self {
        self.key = key.map(Arc::new);
        self
    }

    /// With a register, which is asked first.
    #[must_use]
    pub fn with_registry(mut self, registry: Option<Registry>) -> Self {
        self.registry = registry.map(Arc::new);
        self
    }

    /// Where the cluster's members are registered.
    #[must_use]
    pub fn registry(&self) -> Option<&Arc<Registry>> {
        self.registry.as_ref()
    }

    /// Whether connecting takes no longer than a look at this machine.
    #[must_use]
    pub fn is_at_hand(&self) -> bool {
        self.registry.is_none() && self.places.iter().all(|place| !remote::is_remote(place))
    }

    /// Opens what connections will need. To be called before a process gives up its right to open files.
    ///
    /// # Errors
    /// A device cannot be opened, a place is none, or the register that alone would say where the device is does not answer or knows no
    /// controller.
    pub fn prepare(&self) -> Result<(), ConnectError> {
        self.places.iter().try_for_each(|place| remote::prepare(place))?;
        // Whoever is elected later has the device by the same name.
        // Without the register's answer nobody knows it, and it could not be opened any more when the answer comes.
        let elected = self.elected();
        let told = self.registry.is_none() || self.places.iter().any(|place| remote::is_remote(place));
        let elected = if told { elected.unwrap_or_default() } else { elected? };
        if !told && elected.is_empty() {
            return Err(ConnectError::NotElected { address: self.to_string() });
        }
        elected.iter().try_for_each(|place| remote::prepare(place))
    }

    /// Connects to the first place where somebody is.
    ///
    /// # Errors
    /// Nobody is at any of them, or whoever is there refuses.
    pub fn connect(&self) -> Result<Connection, ConnectError> {
        let mut refused = None;
        let elected = self.elected();
        let known = elected.iter().flatten().chain(&self.places);
        for place in known {
            match Connection::connect_with(place, self.key.as_deref()) {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    if refused.as_ref().is_none_or(|known| says(&error) >= says(known)) {
                        refused = Some(error);
                    }
                }
            }
        }
        match (refused, elected) {
            (Some(error), _) if self.places.len() + usize::from(self.registry.is_some()) <= 1 => Err(error),
            (Some(error), _) => Err(ConnectError::Nowhere { address: self.to_string(), source: Box::new(error) }),
            (None, Err(source)) => Err(source),
            (None, Ok(_)) => Err(ConnectError::NotElected { address: self.to_string() }),
        }
    }

    /// Where the register says that the controller is, as far as this machine can reach it.
    fn elected(&self) -> Result<Vec<PathBuf>, ConnectError> {
        let Some(registry) = &self.registry else { return Ok(Vec::new()) };
        let found = registry.controller();
        let found = found.map_err(|source| ConnectError::Register { address: self.to_string(), source })?;
        Ok(found.map(|controller| controller.places()).unwrap_or_default())
    }
}

/// How much it says of the cluster: most of all that somebody is there, and refuses; that somebody was there says more than that
/// nobody is.
fn says(error: &ConnectError) -> u8 {
    match error {
        ConnectError::Refused { .. } | ConnectError::NotServed { .. } => 2,
        error => u8::from(error.is_away()),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.places.iter().map(|place| place.display().to_string());
        let registry = self.registry.iter().map(ToString::to_string);
        f.write_str(&registry.chain(places).collect::<Vec<_>>().join(" or "))
    }
}

impl From<PathBuf> for Address {
    fn from(place: PathBuf) -> Self {
        Self::new(vec![place])
    }
}

impl From<&PathBuf> for Address {
    fn from(place: &PathBuf) -> Self {
        place.clone().into()
    }
}

impl From<&Path> for Address {
    fn from(place: &Path) -> Self {
        place.to_owned().into()
    }
}

impl From<&Self> for Address {
    fn from(address: &Self) -> Self {
        address.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Listener;

    #[test]
    fn the_first_place_where_somebody_listens_is_taken() {
        let place = tempfile::tempdir().unwrap();
        let [nobody, somebody] = ["nobody", "somebody"].map(|name| place.path().join(name));
        let _listener = Listener::bind(&somebody).unwrap();
        let address = Address::new(vec![nobody.clone(), somebody.clone()]);
        assert!(address.is_at_hand());
        address.prepare().unwrap();
        address.connect().unwrap();
        let error = Address::new(vec![nobody.clone(), nobody.clone()]).connect().unwrap_err();
        assert!(matches!(&error, ConnectError::Nowhere { address, .. } if address.contains(" or ")), "{error}");
        assert!(matches!(Address::from(&nobody).connect(), Err(ConnectError::Unreachable { .. })));
        drop(std::os::unix::net::UnixListener::bind(&nobody).unwrap());
        let away = Address::new(vec![nobody, place.path().join("never")]).connect().unwrap_err();
        assert!(away.is_away(), "that somebody was there is not hidden by where nobody was: {away}");
        let remote = Address::new(vec![somebody, "tcp:127.0.0.1:1,/no/such/device".into()]);
        assert!(!remote.is_at_hand());
        assert!(matches!(remote.prepare(), Err(ConnectError::Device { .. })));
    }
}
