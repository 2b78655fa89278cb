//! A client's connection to the controller: requests, answers, and what the controller tells unasked.

use crate::transport::{Address, ConnectError, Connection, Outgoing, ReceiveError, Received, SendError};
use ft_protocol::wire::{Answer, ExtentTag, FromClient, Hello, PROTOCOL_VERSION, Request, RequestError, ToClient};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shared_mem::Extent;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an answer may take; making a large VM's part of the pool is the slowest request.
const ANSWER_BOUND: Duration = Duration::from_secs(60);

/// Between two tries to reach a controller that has died.
const TRY_INTERVAL: Duration = Duration::from_millis(50);

/// Why a request, or the connection, failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The controller will not talk to this client.
    #[error("the controller refused the connection: {reason}")]
    Rejected {
        /// One line.
        reason: String,
    },
    /// The request was refused.
    #[error(transparent)]
    Refused(#[from] RequestError),
    /// The connection broke.
    #[error("the connection to the controller broke")]
    Receive(#[from] ReceiveError),
    /// The request could not be sent.
    #[error("the request could not be sent to the controller")]
    Send(#[from] SendError),
    /// No answer came.
    #[error("the controller did not answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// Whoever asked wants to end, or its time is over.
    #[error("the controller's answer was not waited for")]
    GivenUp,
    /// The answer belongs to another request.
    #[error("the controller gave an answer of the wrong kind")]
    WrongAnswer,
    /// Waiting for the connection failed.
    #[error("cannot wait for the controller")]
    Wait(#[source] Errno),
}

impl ClientError {
    /// Whether a connection was not made because the controller has died, or is about to begin or to end: another try may find
    /// the next one.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_away(),
            Self::Receive(ReceiveError::Closed) | Self::Send(SendError::Closed) => true,
            _ => false,
        }
    }
}

/// How long somebody goes on waiting for answers; by default as long as answers may take.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    /// Not beyond this.
    pub until: Option<Instant>,
    /// Not once this is readable.
    pub interrupt: Option<Arc<OwnedFd>>,
}

impl Patience {
    /// For so long from now on, and not once `interrupt` is readable.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn new(bound: Duration, interrupt: BorrowedFd<'_>) -> std::io::Result<Self> {
        let interrupt = Some(Arc::new(interrupt.try_clone_to_owned()?));
        Ok(Self { until: Some(Instant::now() + bound), interrupt })
    }

    /// Until then.
    #[must_use]
    pub fn until(end: Instant) -> Self {
        Self { until: Some(end), interrupt: None }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now()) || self.is_interrupted()
    }

    /// Whether whoever waits wants to end.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupt.is_some() && self.sleep(PollTimeout::ZERO)
    }

    /// Whether whoever waits wants to end, before or within this time.
    fn sleep(&self, at_most: PollTimeout) -> bool {
        let mut fds: Vec<PollFd<'_>> =
            self.interrupt.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        matches!(poll(&mut fds, at_most), Ok(ready) if ready > 0)
    }

    /// Does nothing for this long, unless patience is over before.
    fn pause(&self, bound: Duration) -> Result<(), ClientError> {
        let left = self.until.map_or(bound, |until| until.saturating_duration_since(Instant::now()).min(bound));
        if self.sleep(PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) || self.is_over() {
            return Err(ClientError::GivenUp);
        }
        Ok(())
    }
}

/// A client's connection to the controller.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    patience: Patience,
    next_id: u64,
    unasked: VecDeque<ToClient>,
}

impl Client {
    /// Connects and introduces itself.
    pub fn connect(address: impl Into<Address>) -> Result<Self, ClientError> {
        Self::connect_with(address, Patience::default())
    }

    /// The same, and waits for this and later answers only so long.
    pub fn connect_with(address: impl Into<Address>, patience: Patience) -> Result<Self, ClientError> {
        let connection = address.into().connect()?;
        connection.send(&Outgoing::new(Hello::Client { protocol: PROTOCOL_VERSION }, Vec::new())?)?;
        let mut client = Self { connection, patience, next_id: 1, unasked: VecDeque::new() };
        match client.receive_patiently(Instant::now() + ANSWER_BOUND)?.message {
            ToClient::Welcome => Ok(client),
            ToClient::Rejected { reason } => Err(ClientError::Rejected { reason }),
            _ => Err(ClientError::WrongAnswer),
        }
    }

    /// The same, and waits at most for `bound` for a controller that has died to be started again, and for one that ends before it
    /// has greeted: nothing was asked of it yet. Where there never was one, that is said at once.
    pub fn connect_when_back(
        address: impl Into<Address>,
        patience: Patience,
        bound: Duration,
    ) -> Result<Self, ClientError> {
        let (address, deadline) = (address.into(), Instant::now() + bound);
        loop {
            match Self::connect_with(&address, patience.clone()) {
                Err(error) if error.is_away() && Instant::now() < deadline => patience.pause(TRY_INTERVAL)?,
                connected => return connected,
            }
        }
    }

    /// Asks for something, with these descriptors; gives the answer and the descriptors that come with it.
    pub fn request(
        &mut self,
        request: Request,
        extents: Vec<(ExtentTag, Extent)>,
    ) -> Result<(Answer, Vec<(ExtentTag, Extent)>), ClientError> {
        let id = self.notify(request, extents)?;
        let deadline = Instant::now() + ANSWER_BOUND;
        loop {
            let received = self.receive_patiently(deadline)?;
            match received.message {
                ToClient::Answer { id: answered, answer } if answered == id => {
                    return Ok((answer?, received.extents));
                }
                other => self.unasked.push_back(other),
            }
        }
    }

    /// Sends a request without waiting for its answer; for those that have none.
    pub fn notify(&mut self, request: Request, extents: Vec<(ExtentTag, Extent)>) -> Result<u64, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        self.connection.send(&Outgoing::new(FromClient { id, request }, extents)?)?;
        Ok(id)
    }

    /// The same for what can wait: false where the controller takes no more at the moment, and nothing is sent.
    pub fn notify_now(&mut self, request: Request) -> Result<bool, ClientError> {
        let id = self.next_id;
        match self.connection.send_now(&Outgoing::new(FromClient { id, request }, Vec::new())?) {
            Ok(()) => {
                self.next_id += 1;
                Ok(true)
            }
            Err(SendError::WouldBlock) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The next message that is no answer, or `None` when none comes within `bound`.
    pub fn next(&mut self, bound: Duration) -> Result<Option<ToClient>, ClientError> {
        if let Some(message) = self.unasked.pop_front() {
            return Ok(Some(message));
        }
        Ok(self.receive_by(Instant::now() + bound, None)?.map(|received| received.message))
    }

    /// Drops what came before the last answer and was not asked for. What comes after it stays.
    pub fn forget_unasked(&mut self) {
        self.unasked.clear();
    }

    /// The connection, to wait for it together with other descriptors. Call [`Client::next`] until it gives `None` first:
    /// messages that came while an answer was awaited are kept inside.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Waits only so long for answers from now on.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// The next message of all.
    fn receive_patiently(&mut self, deadline: Instant) -> Result<Received<ToClient>, ClientError> {
        let until = self.patience.until.map_or(deadline, |until| until.min(deadline));
        let interrupt = self.patience.interrupt.clone();
        match self.receive_by(until, interrupt.as_ref().map(|fd| fd.as_fd()))? {
            Some(received) => Ok(received),
            None if self.patience.is_over() => Err(ClientError::GivenUp),
            None => Err(ClientError::NoAnswer(ANSWER_BOUND)),
        }
    }

    /// `None` when none comes by then, or `interrupt` becomes readable before one does.
    fn receive_by(
        &mut self,
        deadline: Instant,
        interrupt: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Received<ToClient>>, ClientError> {
        loop {
            match self.connection.receive_now() {
                Ok(received) => return Ok(Some(received)),
                Err(ReceiveError::WouldBlock) => {}
                Err(error) => return Err(error.into()),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // Rounded up, so that the last fraction of a millisecond does not spin.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let own = std::iter::once(self.connection.as_fd());
            let mut fds: Vec<PollFd<'_>> = own.chain(interrupt).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(ClientError::Wait(errno)),
            }
            // An answer that is there is taken first.
            if fds.iter().map(|fd| fd.any().unwrap_or(false)).eq([false, true]) {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::ConnectError;
    use crate::transport::Listener;
    use ft_protocol::wire::ToClient;
    use nix::sys::eventfd::EventFd;
    use std::os::unix::net::UnixListener;

    /// A controller that listens, and says nothing.
    fn silent() -> (tempfile::TempDir, std::path::PathBuf, Listener) {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("pool.sock");
        let listener = Listener::bind(&socket).unwrap();
        (place, socket, listener)
    }

    #[test]
    fn whoever_wants_to_end_does_not_wait_for_a_silent_controller() {
        let (_place, socket, _listener) = silent();
        let wish = Arc::new(OwnedFd::from(EventFd::from_value(1).unwrap()));
        let patience = Patience { until: None, interrupt: Some(wish) };
        assert!(matches!(Client::connect_with(&socket, patience), Err(ClientError::GivenUp)));
    }

    /// A bound that only a test that fails comes to.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_controller_that_has_died_or_dies_before_it_greets_is_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("pool.sock");
        // Nobody removes the socket of this one.
        drop(UnixListener::bind(&socket).unwrap());
        assert!(Client::connect(&socket).unwrap_err().is_away());
        let gone = Client::connect_when_back(&socket, Patience::default(), Duration::from_millis(1));
        assert!(matches!(gone, Err(ClientError::Connect(ConnectError::Unreachable { .. }))), "{gone:?}");
        let there = socket.clone();
        // Nobody waits for it: whoever is not found would never come.
        std::thread::spawn(move || {
            let listener = Listener::bind(&there).unwrap();
            drop(listener.accept().unwrap());
            let greeted = listener.accept().unwrap();
            greeted.send(&Outgoing::new(ToClient::Welcome, Vec::new()).unwrap()).unwrap();
            // What is not read would end the connection before the greeting is taken.
            let _ = greeted.receive::<()>();
        });
        Client::connect_when_back(&socket, Patience::default(), LONG).unwrap();
    }

    #[test]
    fn where_there_never_was_a_controller_nobody_waits() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        std::fs::write(&file, "no socket").unwrap();
        for path in [place.path().join("nothing"), file, place.path().to_owned()] {
            let began = Instant::now();
            let refused = Client::connect_when_back(&path, Patience::default(), LONG);
            assert!(matches!(refused, Err(ClientError::Connect(ConnectError::Unreachable { .. }))), "{refused:?}");
            assert!(began.elapsed() < LONG, "{}", path.display());
        }
    }

    #[test]
    fn whoever_wants_to_end_does_not_wait_for_a_dead_controller() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("pool.sock");
        drop(UnixListener::bind(&socket).unwrap());
        let wish = Arc::new(OwnedFd::from(EventFd::from_value(1).unwrap()));
        let patience = Patience { until: None, interrupt: Some(wish) };
        assert!(matches!(Client::connect_when_back(&socket, patience, LONG), Err(ClientError::GivenUp)));
    }

    #[test]
    fn nobody_waits_beyond_his_time() {
        let (_place, socket, _listener) = silent();
        let patience = Patience::until(Instant::now() + Duration::from_millis(1));
        assert!(matches!(Client::connect_with(&socket, patience), Err(ClientError::GivenUp)));
    }
}
