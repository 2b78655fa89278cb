//! Finds a controller that is away, or moves. A network, or a register, may take seconds to say no: they are asked from a
//! thread of their own, for the host has other things to do.

use super::RECONNECT_INTERVAL;
use crate::clock::span;
use crate::transport::{Address, ConnectError, Connection};
use crossbeam_channel::{Receiver, TryRecvError, bounded};
use ft_protocol::Time;
use std::time::Duration;

/// Between two attempts to reach a controller on another machine.
const REDIAL_INTERVAL: Duration = Duration::from_millis(250);

type Dialled = Result<Connection, ConnectError>;

pub(super) struct Dialer {
    pool: Address,
    /// When it is tried again; none: it need not be.
    next: Option<Time>,
    under_way: Option<Receiver<Dialled>>,
    has_complained: bool,
}

impl Dialer {
    pub(super) fn new(pool: Address) -> Self {
        Self { pool, next: None, under_way: None, has_complained: false }
    }

    /// Whether a controller is looked for.
    pub(super) fn is_looking(&self) -> bool {
        self.next.is_some() || self.under_way.is_some()
    }

    /// Begins to look for one. False: that has begun already.
    pub(super) fn look(&mut self, now: Time) -> bool {
        let begins = !self.is_looking();
        if begins {
            self.try_later(now);
        }
        begins
    }

    /// The connection, once there is one.
    pub(super) fn found(&mut self, now: Time) -> Option<Connection> {
        let dialled = match &self.under_way {
            Some(under_way) => match under_way.try_recv() {
                Ok(dialled) => dialled,
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => {
                    // A panic there has been reported by its hook.
                    self.under_way = None;
                    self.try_later(now);
                    return None;
                }
            },
            None if self.next.is_some_and(|at| at <= now) => self.dial()?,
            None => return None,
        };
        (self.next, self.under_way) = (None, None);
        match dialled {
            Ok(connection) => {
                self.has_complained = false;
                Some(connection)
            }
            Err(error) => {
                // Not there is what everybody waits for; there and unwilling is not.
                let unwilling = matches!(
                    error,
                    ConnectError::Refused { .. } | ConnectError::Device { .. } | ConnectError::NotServed { .. }
                );
                if unwilling && !self.has_complained {
                    tracing::warn!("no controller: {}", crate::chain(&error));
                    self.has_complained = true;
                }
                self.try_later(now);
                None
            }
        }
    }

    fn dial(&mut self) -> Option<Dialled> {
        if self.pool.is_at_hand() {
            return Some(self.pool.connect());
        }
        let (result, under_way) = bounded(1);
        let pool = self.pool.clone();
        self.under_way = Some(under_way);
        // Whoever does not want the connection any more closes it. Without a thread it is tried again.
        let _ = std::thread::Builder::new().name("dialer".to_owned()).spawn(move || result.send(pool.connect()));
        None
    }

    fn try_later(&mut self, now: Time) {
        // Whom others ask as well, over a network, is not asked all the time.
        let interval = if self.pool.is_at_hand() { RECONNECT_INTERVAL } else { REDIAL_INTERVAL };
        self.next = Some(now + span(interval));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic;
    use crate::transport::Listener;
    use std::time::Instant;

    #[test]
    fn a_controller_is_found_where_it_comes_back_and_nobody_waits_for_it() {
        let place = tempfile::tempdir().unwrap();
        let (device, socket) = (place.path().join("device"), place.path().join("socket"));
        std::fs::write(&device, [0; 4096]).unwrap();
        let remote = format!("tcp:127.0.0.1:1,{}", device.display()).into();
        for address in [Address::from(&socket), Address::new(vec![remote, socket.clone()])] {
            let mut dialer = Dialer::new(address);
            assert!(!dialer.is_looking() && dialer.found(monotonic()).is_none());
            assert!(dialer.look(monotonic()) && !dialer.look(monotonic()));
            let listener = Listener::bind(&socket).unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            let _connection = loop {
                match dialer.found(monotonic()) {
                    Some(connection) => break connection,
                    None => assert!(Instant::now() < deadline && dialer.is_looking(), "it is not found"),
                }
                std::thread::yield_now();
            };
            listener.accept().unwrap();
            assert!(!dialer.is_looking());
        }
    }
}
