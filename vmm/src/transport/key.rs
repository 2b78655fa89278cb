//! The key that all of a cluster have, and the greeting in which both ends of a connection between machines prove it.
//!
//! ```text
//!   client  ── MAGIC, version, has a key?, nonce ──────────> controller
//!           <── MAGIC, version, has a key?, nonce, proof ──
//!           ── proof ─────────────────────────────────────>
//!           <── verdict ───────────────────────────────────
//! ```
//! A proof is an HMAC-SHA256 of who gives it and of both nonces: it is good for one connection and one direction. Without a key
//! on either side proofs are zeros, and whoever reaches the port is trusted. What follows the greeting is neither encrypted nor
//! signed: the key keeps out who is not of the cluster, not who can rewrite what others send.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MAGIC: &[u8; 8] = b"ftvm-tcp";
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 32;
const PROOF_BYTES: usize = 32;
const GREETING_BYTES: usize = MAGIC.len() + 2 + NONCE_BYTES;
const WITHOUT_KEY: u8 = 1;
const WITH_KEY: u8 = 2;
const ACCEPTED: u8 = 1;
const REFUSED: u8 = 2;
/// A greeting takes no longer.
const GREETING_BOUND: Duration = Duration::from_secs(10);
/// Shorter keys can be guessed.
const KEY_BYTES_MIN: usize = 16;
const KEY_BYTES_MAX: u64 = 4096;

/// A key that is shared by all of a cluster.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

/// Why a file is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("cannot read the key in {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is too short, or no key at all.
    #[error(
        "{path} is no key: it has to have {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes, `openssl rand -hex 32` makes one"
    )]
    Length {
        /// The file.
        path: PathBuf,
    },
    /// Others can read it.
    #[error("the key in {path} can be read by others: `chmod 600` it, and make another one if somebody may have")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
}

/// Why two machines do not speak with each other.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// The other side broke off, or is silent.
    #[error("the greeting was broken off")]
    Stream(#[source] io::Error),
    /// The other side is something else.
    #[error("no ftvm of this version is there")]
    Stranger,
    /// Only the other side has a key.
    #[error("a key is asked for: say --key-file, or key-file in the cluster's file")]
    KeyNeeded,
    /// Only this side has a key.
    #[error("the other side has no key, so it cannot prove that it is of this cluster")]
    KeyMissing,
    /// Both have, but not the same.
    #[error("the other side has another key")]
    OtherKey,
    /// The other side says no.
    #[error("the other side refuses this key")]
    Refused,
}

/// Who proves something.
#[derive(Clone, Copy)]
enum Side {
    Client,
    Controller,
}

/// What each side says first.
struct Greeting {
    has_key: bool,
    nonce: [u8; NONCE_BYTES],
}

impl Key {
    /// Reads a key. White space around it does not count.
    ///
    /// # Errors
    /// It cannot be read, is no key, or others can read it, too.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.mode() & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned() });
        }
        let mut bytes = Vec::new();
        file.take(KEY_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        let key = bytes.trim_ascii();
        if key.len() < KEY_BYTES_MIN || bytes.len() as u64 > KEY_BYTES_MAX {
            return Err(KeyError::Length { path: path.to_owned() });
        }
        Ok(Self::new(key))
    }

    /// This key.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    fn of(&self, side: Side, client: &Greeting, controller: &Greeting) -> Hmac<Sha256> {
        let mut proof = self.0.clone();
        proof.update(MAGIC);
        proof.update(match side {
            Side::Client => b"client",
            Side::Controller => b"server",
        });
        proof.update(&client.nonce);
        proof.update(&controller.nonce);
        proof
    }

    fn prove(&self, side: Side, client: &Greeting, controller: &Greeting) -> [u8; PROOF_BYTES] {
        self.of(side, client, controller).finalize().into_bytes().into()
    }

    fn proves(&self, side: Side, client: &Greeting, controller: &Greeting, proof: &[u8; PROOF_BYTES]) -> bool {
        self.of(side, client, controller).verify_slice(proof).is_ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Greeting {
    fn new(has_key: bool) -> Result<Self, GreetingError> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| GreetingError::Stream(io::Error::other(error)))?;
        Ok(Self { has_key, nonce })
    }

    fn encoded(&self) -> Vec<u8> {
        let mode = if self.has_key { WITH_KEY } else { WITHOUT_KEY };
        [&MAGIC[..], &[VERSION, mode], &self.nonce].concat()
    }

    fn decode(bytes: &[u8; GREETING_BYTES]) -> Result<Self, GreetingError> {
        let (magic, rest) = bytes.split_at(MAGIC.len());
        let (head, nonce) = rest.split_at(2);
        let has_key = match head {
            [VERSION, WITH_KEY] if magic == MAGIC => true,
            [VERSION, WITHOUT_KEY] if magic == MAGIC => false,
            _ => return Err(GreetingError::Stranger),
        };
        Ok(Self { has_key, nonce: nonce.try_into().expect("the rest of a greeting") })
    }
}

/// Greets a controller.
///
/// # Errors
/// The two do not have the same key, or the other one is no controller.
pub fn greet(stream: impl Bound, key: Option<&Key>) -> Result<(), GreetingError> {
    let mut stream = Bounded::new(stream);
    let ours = Greeting::new(key.is_some())?;
    stream.write(&ours.encoded())?;
    let theirs = Greeting::decode(&stream.read()?)?;
    let proof = stream.read::<PROOF_BYTES>()?;
    let answer = match (key, theirs.has_key) {
        (None, false) => [0; PROOF_BYTES],
        (None, true) => return Err(GreetingError::KeyNeeded),
        (Some(_), false) => return Err(GreetingError::KeyMissing),
        (Some(key), true) if key.proves(Side::Controller, &ours, &theirs, &proof) => {
            key.prove(Side::Client, &ours, &theirs)
        }
        (Some(_), true) => return Err(GreetingError::OtherKey),
    };
    stream.write(&answer)?;
    match stream.read::<1>()? {
        [ACCEPTED] => stream.end(),
        _ => Err(GreetingError::Refused),
    }
}

/// Answers the greeting of a host or client.
///
/// # Errors
/// The two do not have the same key, or the other one is none of ftvm's.
pub fn answer(stream: impl Bound, key: Option<&Key>) -> Result<(), GreetingError> {
    let mut stream = Bounded::new(stream);
    let theirs = Greeting::decode(&stream.read()?)?;
    let ours = Greeting::new(key.is_some())?;
    let proof = key.map_or([0; PROOF_BYTES], |key| key.prove(Side::Controller, &theirs, &ours));
    stream.write(&[ours.encoded(), proof.to_vec()].concat())?;
    // The other side knows now that nothing will come of it, and why.
    match (key, theirs.has_key) {
        (Some(_), false) => return Err(GreetingError::KeyMissing),
        (None, true) => return Err(GreetingError::KeyNeeded),
        _ => {}
    }
    let proof = stream.read::<PROOF_BYTES>()?;
    if key.is_some_and(|key| !key.proves(Side::Client, &theirs, &ours, &proof)) {
        stream.write(&[REFUSED])?;
        return Err(GreetingError::OtherKey);
    }
    stream.write(&[ACCEPTED])?;
    stream.end()
}

/// A stream on which no single read or write takes longer than it is told.
pub trait Bound: Read + Write {
    /// Tells it; `None`: for ever, from now on.
    ///
    /// # Errors
    /// The stream refuses.
    fn bound(&self, time: Option<Duration>) -> io::Result<()>;
}

impl Bound for &TcpStream {
    fn bound(&self, time: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(time)?;
        self.set_write_timeout(time)
    }
}

/// A stream that is given up when all that is read and written takes too long.
struct Bounded<S> {
    stream: S,
    deadline: Instant,
}

impl<S: Bound> Bounded<S> {
    fn new(stream: S) -> Self {
        Self { stream, deadline: Instant::now() + GREETING_BOUND }
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], GreetingError> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            self.stream.bound(Some(self.left()?)).map_err(GreetingError::Stream)?;
            match self.stream.read(&mut bytes[filled..]) {
                Ok(0) => return Err(GreetingError::Stream(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(GreetingError::Stream(error)),
            }
        }
        Ok(bytes)
    }

    /// A greeting fits into the kernel's buffers.
    fn write(&mut self, bytes: &[u8]) -> Result<(), GreetingError> {
        self.stream.bound(Some(self.left()?)).map_err(GreetingError::Stream)?;
        self.stream.write_all(bytes).map_err(GreetingError::Stream)
    }

    fn left(&self) -> Result<Duration, GreetingError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(GreetingError::Stream(io::ErrorKind::TimedOut.into())) } else { Ok(left) }
    }

    fn end(&self) -> Result<(), GreetingError> {
        self.stream.bound(None).map_err(GreetingError::Stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn both(client: Option<&Key>, controller: Option<&Key>) -> (Result<(), GreetingError>, Result<(), GreetingError>) {
        let (one, other) = pair();
        std::thread::scope(|scope| {
            let answered = scope.spawn(|| {
                let other = other;
                answer(&other, controller)
            });
            let greeted = greet(&one, client);
            drop(one);
            (greeted, answered.join().unwrap())
        })
    }

    #[test]
    fn only_those_with_the_same_key_speak_with_each_other() {
        let (key, other) = (Key::new(b"the cluster's own key"), Key::new(b"another cluster's key"));
        assert!(matches!(both(None, None), (Ok(()), Ok(()))));
        assert!(matches!(both(Some(&key), Some(&key)), (Ok(()), Ok(()))));
        assert!(matches!(both(Some(&key), Some(&other)), (Err(GreetingError::OtherKey), Err(_))));
        let (greeted, answered) = both(None, Some(&key));
        assert!(matches!((greeted, answered), (Err(GreetingError::KeyNeeded), Err(GreetingError::KeyMissing))));
        let (greeted, answered) = both(Some(&key), None);
        assert!(matches!((greeted, answered), (Err(GreetingError::KeyMissing), Err(GreetingError::KeyNeeded))));
    }

    /// A client that does not look at the controller's proof, and has none of its own.
    #[test]
    fn who_only_claims_to_have_the_key_is_refused() {
        let key = Key::new(b"the cluster's own key");
        for reflected in [false, true] {
            let (one, other) = pair();
            std::thread::scope(|scope| {
                let answered = scope.spawn(|| answer(&other, Some(&key)));
                let mut stream = Bounded::new(&one);
                stream.write(&Greeting::new(true).unwrap().encoded()).unwrap();
                let _theirs = stream.read::<GREETING_BYTES>().unwrap();
                let proof = stream.read::<PROOF_BYTES>().unwrap();
                stream.write(if reflected { &proof } else { &[7; PROOF_BYTES] }).unwrap();
                assert_eq!(stream.read::<1>().unwrap(), [REFUSED]);
                assert!(matches!(answered.join().unwrap(), Err(GreetingError::OtherKey)));
            });
        }
    }

    #[test]
    fn strangers_and_those_who_break_off_are_refused() {
        for said in [&b""[..], b"ftvm", b"GET / HTTP/1.1\r\nHost: somebody\r\nAccept: */*\r\n\r\n"] {
            let (one, other) = pair();
            (&one).write_all(said).unwrap();
            one.shutdown(std::net::Shutdown::Write).unwrap();
            let refused = answer(&other, None).unwrap_err();
            let expected = if said.len() < GREETING_BYTES { "broken off" } else { "no ftvm" };
            assert!(refused.to_string().contains(expected), "{refused}");
        }
    }

    #[test]
    fn files_that_are_no_keys_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        let write = |content: &[u8], mode| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        assert!(matches!(Key::read(&path), Err(KeyError::Unreadable { .. })));
        write(b"0123456789abcdef\n", 0o640);
        assert!(matches!(Key::read(&path), Err(KeyError::Exposed { .. })));
        write(b"0123456789abcde \n", 0o600);
        assert!(matches!(Key::read(&path), Err(KeyError::Length { .. })));
        write(&[b'x'; 5000], 0o600);
        assert!(matches!(Key::read(&path), Err(KeyError::Length { .. })));
        write(b"0123456789abcdef\n", 0o600);
        let key = Key::read(&path).unwrap();
        assert!(matches!(both(Some(&key), Some(&Key::new(b"0123456789abcdef"))), (Ok(()), Ok(()))));
        assert_eq!(format!("{key:?}"), "Key", "it is never told");
    }
}
