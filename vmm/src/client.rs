//! A client's connection to the controller: requests, answers, and what the controller tells unasked.

use crate::transport::{ConnectError, Connection, Outgoing, ReceiveError, Received, SendError};
use ft_protocol::wire::{Answer, ExtentTag, FromClient, Hello, PROTOCOL_VERSION, Request, RequestError, ToClient};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shared_mem::Extent;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an answer may take; making a large VM's part of the pool is the slowest request.
const ANSWER_BOUND: Duration = Duration::from_secs(60);

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
    /// The answer belongs to another request.
    #[error("the controller gave an answer of the wrong kind")]
    WrongAnswer,
    /// Waiting for the connection failed.
    #[error("cannot wait for the controller")]
    Wait(#[source] Errno),
}

/// A client's connection to the controller.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    next_id: u64,
    unasked: VecDeque<ToClient>,
}

impl Client {
    /// Connects and introduces itself.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let connection = Connection::connect(socket)?;
        connection.send(&Outgoing::new(Hello::Client { protocol: PROTOCOL_VERSION }, Vec::new())?)?;
        let mut client = Self { connection, next_id: 1, unasked: VecDeque::new() };
        let deadline = Instant::now() + ANSWER_BOUND;
        match client.receive_by(deadline)? {
            Some(Received { message: ToClient::Welcome, .. }) => Ok(client),
            Some(Received { message: ToClient::Rejected { reason }, .. }) => Err(ClientError::Rejected { reason }),
            Some(_) => Err(ClientError::WrongAnswer),
            None => Err(ClientError::NoAnswer(ANSWER_BOUND)),
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
            let Some(received) = self.receive_by(deadline)? else { return Err(ClientError::NoAnswer(ANSWER_BOUND)) };
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

    /// The next message that is no answer, or `None` when none comes within `bound`.
    pub fn next(&mut self, bound: Duration) -> Result<Option<ToClient>, ClientError> {
        if let Some(message) = self.unasked.pop_front() {
            return Ok(Some(message));
        }
        Ok(self.receive_by(Instant::now() + bound)?.map(|received| received.message))
    }

    /// The connection, to wait for it together with other descriptors. Call [`Client::next`] until it gives `None` first:
    /// messages that came while an answer was awaited are kept inside.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    fn receive_by(&mut self, deadline: Instant) -> Result<Option<Received<ToClient>>, ClientError> {
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
            let mut fds = [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(ClientError::Wait(errno)),
            }
        }
    }
}
