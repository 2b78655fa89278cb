//! Files that say where a cluster is: in place of an address on the command line.

use crate::language::error::{ScenarioError, Source};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use vmm::membership::{Endpoint, Registry};
use vmm::transport::{Address, Key, KeyError, is_place};

/// Why a file says nothing of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterFileError {
    /// It cannot be read.
    #[error("cannot read the cluster's file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It says something that it must not, or does not say what it must.
    #[error(transparent)]
    Invalid(#[from] ScenarioError),
    /// The key that it names.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What the file may say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Raw {
    /// Where the controller is, one place or several: sockets, tcp:HOST:PORT,DEVICE.
    controller: Option<Spanned<Places>>,
    /// The key that all of the cluster have.
    key_file: Option<PathBuf>,
    /// Where the controller is elected.
    etcd: Option<RawEtcd>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawEtcd {
    endpoints: Spanned<Vec<Spanned<String>>>,
    /// The cluster's name there.
    cluster: Spanned<String>,
}

/// One text, or a list of them.
enum Places {
    One(String),
    Several(Vec<Spanned<String>>),
}

impl<'de> Deserialize<'de> for Places {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;
        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = Places;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text in quotes, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Places, E> {
                Ok(Places::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Places, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Places::Several)
            }
        }
        from.deserialize_any(OneOrSeveral)
    }
}

/// Where a cluster is, as a file says.
#[derive(Debug)]
pub struct ClusterFile {
    places: Vec<PathBuf>,
    key: Option<Key>,
    registry: Option<Registry>,
}

impl ClusterFile {
    /// Reads a file, and the key that it names.
    ///
    /// # Errors
    /// One of them cannot be read, or says something that it must not; with its line.
    pub fn read(path: &Path) -> Result<Self, ClusterFileError> {
        let unreadable = |source| ClusterFileError::Unreadable { path: path.to_owned(), source };
        Self::parse(path, &fs::read_to_string(path).map_err(unreadable)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ClusterFileError> {
        let source = Source { path, text, given: Vec::new() };
        let raw: Raw = toml::from_str(text).map_err(|error| source.toml(&error))?;
        let beside = path.parent().unwrap_or(Path::new(""));
        let places = match raw.controller.map(|places| (places.span(), places.into_inner())) {
            None => Vec::new(),
            Some((span, Places::One(place))) => vec![(span, place)],
            Some((_, Places::Several(places))) => {
                places.into_iter().map(|place| (place.span(), place.into_inner())).collect()
            }
        };
        let placed = places.iter().map(|(span, place)| one_place(&source, beside, span, place));
        let places = placed.collect::<Result<Vec<_>, _>>()?;
        let registry = raw.etcd.map(|etcd| etcd.registry(&source)).transpose()?;
        if places.is_empty() && registry.is_none() {
            return Err(source.invalid(&(0..0), "neither `controller` nor `[etcd]` says where the cluster is").into());
        }
        let key = raw.key_file.map(|file| Key::read(&beside.join(file))).transpose()?;
        Ok(Self { places, key, registry })
    }

    /// Where the cluster's controller is looked for, by whoever has this key; without it, by whoever has that of the file.
    #[must_use]
    pub fn address(self, key: Option<Key>) -> Address {
        Address::new(self.places).with_key(key.or(self.key)).with_registry(self.registry)
    }

    /// What a controller needs of it: the key, and where it is elected.
    #[must_use]
    pub fn into_parts(self) -> (Option<Key>, Option<Registry>) {
        (self.key, self.registry)
    }
}

impl RawEtcd {
    fn registry(&self, source: &Source<'_>) -> Result<Registry, ScenarioError> {
        let endpoint = |text: &Spanned<String>| {
            let parsed = text.get_ref().parse::<Endpoint>();
            parsed.map_err(|error| source.invalid(&text.span(), error.to_string()))
        };
        let endpoints = self.endpoints.get_ref().iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
        let place = if endpoints.is_empty() { self.endpoints.span() } else { self.cluster.span() };
        Registry::new(endpoints, self.cluster.get_ref()).map_err(|error| source.invalid(&place, error.to_string()))
    }
}

/// Paths are relative to the file.
fn one_place(source: &Source<'_>, beside: &Path, span: &Range<usize>, place: &str) -> Result<PathBuf, ScenarioError> {
    let path = PathBuf::from(place);
    if place.is_empty() || !is_place(&path) {
        let message = format!("`{place}` is no address of a controller: a socket's path, or tcp:HOST:PORT,DEVICE");
        return Err(source.invalid(span, message));
    }
    Ok(if place.starts_with("tcp:") { path } else { beside.join(path) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn refusal(text: &str) -> String {
        ClusterFile::parse(Path::new("c.toml"), text).expect_err("it is refused").to_string()
    }

    #[test]
    fn a_file_says_where_the_cluster_is() {
        let place = tempfile::tempdir().unwrap();
        let (file, key) = (place.path().join("prod.toml"), place.path().join("key"));
        fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let text = "controller = [\"s\", \"tcp:10.77.0.1:7700,/dev/dax0.0\"]\nkey-file = \"key\"\n\
                    [etcd]\nendpoints = [\"http://10.77.0.1:2379\"]\ncluster = \"prod\"\n";
        fs::write(&file, text).unwrap();
        let read = ClusterFile::read(&file).unwrap();
        assert!(read.key.is_some());
        assert_eq!(read.places, [place.path().join("s"), "tcp:10.77.0.1:7700,/dev/dax0.0".into()]);
        let told = read.address(None).to_string();
        assert!(told.starts_with("cluster prod of etcd at http://10.77.0.1:2379 or "), "{told}");
        let short = ClusterFile::parse(Path::new("/etc/c.toml"), "controller = \"/run/s\"").unwrap();
        assert_eq!(short.places, [PathBuf::from("/run/s")]);
        fs::remove_file(key).unwrap();
        assert!(matches!(ClusterFile::read(&file), Err(ClusterFileError::Key(_))));
        assert!(matches!(ClusterFile::read(place.path()), Err(ClusterFileError::Unreadable { .. })));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_what_was_probably_meant() {
        for (text, words) in [
            ("", &["c.toml:1:1", "neither `controller` nor `[etcd]`"][..]),
            ("\ncontroler = \"s\"", &["c.toml:2:1", "did you mean `controller`?"]),
            ("controller = \"s\"\nkey_file = \"k\"", &["c.toml:2:1", "did you mean `key-file`?"]),
            ("controller = [\"s\",\n\"tcp:nowhere\"]", &["c.toml:2:1", "tcp:HOST:PORT,DEVICE"]),
            ("controller = \"\"", &["c.toml:1:14"]),
            ("controller = 7", &["c.toml:1:14", "a text in quotes, or a list"]),
            ("[etcd]\nendpoint = [\"a:1\"]", &["c.toml:2:1", "did you mean `endpoints`?"]),
            ("[etcd]\nendpoints = [\"a:1\"]", &["cluster"]),
            ("[etcd]\nendpoints = [\"https://a:1\"]\ncluster = \"c\"", &["c.toml:2:14", "no endpoint"]),
            ("[etcd]\nendpoints = []\ncluster = \"c\"", &["c.toml:2:13", "no endpoint"]),
            ("[etcd]\nendpoints = [\"a:1\"]\ncluster = \"C/D\"", &["c.toml:3:11", "no name of a cluster"]),
            ("controller = \"s", &["c.toml:1:"]),
        ] {
            let told = refusal(text);
            assert!(words.iter().all(|word| told.contains(word)), "{text}: {told}");
        }
    }
}
