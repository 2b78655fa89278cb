//! A connection to a controller that may die and be started again.
//!
//! ```text
//!   Up --- the connection breaks ---> Down --- somebody listens again ---> Up (whoever uses it asks for everything anew)
//!                                       |--- nobody does in time ---> an error
//! ```
//! It begins Up: a controller that has died, and is started again, is waited for; where there never was one, there is no link.

use crate::console_input::InputNews;
use crate::protected::{RunError, ask_to_feed, is_broken, send_now, wait_for_any};
use ft_protocol::VmId;
use ft_protocol::wire::{Answer, ExtentTag, Request, Status, ToClient};
use nix::poll::PollFlags;
use shared_mem::Extent;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm::client::{Client, ClientError, Patience};
use vmm::transport::Address;

/// Between two tries to find a controller again.
const TRY_INTERVAL: Duration = Duration::from_millis(50);

/// What an answer came to: nothing if there is no controller at the moment.
type Answered = Option<(Answer, Vec<(ExtentTag, Extent)>)>;

/// The connection.
#[derive(Debug)]
pub(super) struct Link {
    pool: Address,
    /// How long a controller that has died is waited for.
    patience: Duration,
    /// Who waits wants to end once this is readable.
    interrupt: Option<Arc<OwnedFd>>,
    state: State,
}

#[derive(Debug)]
enum State {
    Up(Box<Client>),
    Down { since: Instant, next_try: Instant },
}

/// What came over the connection, or became of it.
#[derive(Debug)]
pub(super) enum News {
    /// The controller says something.
    Message(ToClient),
    /// The controller is gone.
    Gone,
    /// There is one again. It knows nothing of who was attached to the one before.
    Back,
}

impl Link {
    /// Connects. Until the link is settled it waits for no controller, and for no answer, once `interrupt` is readable.
    ///
    /// # Errors
    /// When there never was a controller, none comes in time, or it refuses.
    pub(super) fn connect(
        pool: &Address,
        patience: Duration,
        interrupt: Option<BorrowedFd<'_>>,
    ) -> Result<Self, RunError> {
        let interrupt = interrupt.map(|fd| fd.try_clone_to_owned()).transpose().map_err(RunError::Wait)?.map(Arc::new);
        let until = Patience { until: None, interrupt: interrupt.clone() };
        let client = match Client::connect_when_back(pool, until, patience) {
            Err(error) if error.is_away() && !patience.is_zero() => {
                return Err(RunError::ControllerGone { pool: pool.to_string(), bound: patience });
            }
            connected => connected?,
        };
        Ok(Self { pool: pool.clone(), patience, interrupt, state: State::Up(Box::new(client)) })
    }

    /// From now on whoever uses it looks between two requests whether somebody wants to end.
    pub(super) fn settle(&mut self) {
        self.interrupt = None;
        if let State::Up(client) = &mut self.state {
            client.set_patience(Patience::default());
        }
    }

    /// Whether somebody wants to end.
    pub(super) fn is_interrupted(&self) -> bool {
        Patience { until: None, interrupt: self.interrupt.clone() }.is_interrupted()
    }

    /// Somebody wants to end: what is to be asked before that is waited for, but not beyond this.
    pub(super) fn hurry(&mut self, bound: Duration) {
        if let State::Up(client) = &mut self.state {
            client.set_patience(Patience::until(Instant::now() + bound));
        }
    }

    /// What happened since the last call, one by one; `None` when that is all.
    pub(super) fn next(&mut self) -> Result<Option<News>, RunError> {
        match &mut self.state {
            State::Up(client) => match client.next(Duration::ZERO) {
                Ok(message) => Ok(message.map(News::Message)),
                Err(error) => {
                    self.broke(error)?;
                    Ok(Some(News::Gone))
                }
            },
            State::Down { since, next_try } => {
                let (since, now) = (*since, Instant::now());
                if now < *next_try {
                    return Ok(None);
                }
                self.try_again(since, now)
            }
        }
    }

    fn try_again(&mut self, since: Instant, now: Instant) -> Result<Option<News>, RunError> {
        let until = Patience { until: None, interrupt: self.interrupt.clone() };
        match Client::connect_with(&self.pool, until) {
            Ok(client) => {
                self.state = State::Up(Box::new(client));
                Ok(Some(News::Back))
            }
            // One that listens but does not answer, or dies again while it does, is waited for like one that is not there.
            Err(error) if !matches!(error, ClientError::Rejected { .. }) => {
                if now.duration_since(since) >= self.patience {
                    return Err(RunError::ControllerGone { pool: self.pool.to_string(), bound: self.patience });
                }
                self.state = State::Down { since, next_try: now + TRY_INTERVAL };
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for something. `None`: there is no controller at the moment; [`Link::next`] tells of it.
    pub(super) fn ask(&mut self, request: Request, extents: Vec<(ExtentTag, Extent)>) -> Result<Answered, RunError> {
        let State::Up(client) = &mut self.state else { return Ok(None) };
        match client.request(request, extents) {
            Ok(answer) => Ok(Some(answer)),
            // The connection itself still says so at the next look: nothing is told twice, nothing is lost.
            Err(error) if is_broken(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for something that can be asked for twice, of the next controller if this one dies. What else came over a
    /// connection that broke is forgotten.
    ///
    /// # Errors
    /// When no controller comes in time, or it refuses.
    pub(super) fn ask_patiently(&mut self, request: &Request) -> Result<(Answer, Vec<(ExtentTag, Extent)>), RunError> {
        loop {
            match self.ask(request.clone(), Vec::new())? {
                Some(answer) => return Ok(answer),
                None => self.wait_for_another()?,
            }
        }
    }

    /// Waits for the next controller; the connection to the last one is broken.
    ///
    /// # Errors
    /// When none comes in time, or it refuses.
    pub(super) fn wait_for_another(&mut self) -> Result<(), RunError> {
        if matches!(self.state, State::Up(_)) {
            let now = Instant::now();
            self.state = State::Down { since: now, next_try: now };
        }
        while !matches!(self.next()?, Some(News::Back)) {
            let (_, wait) = self.waits_for(TRY_INTERVAL);
            let ended = self.interrupt.as_ref().map(|fd| (fd.as_fd(), PollFlags::POLLIN));
            if wait_for_any(wait, ended.as_slice(), &[])?.contains(&true) {
                return Err(ClientError::GivenUp.into());
            }
        }
        Ok(())
    }

    /// Says something that has no answer.
    pub(super) fn tell(&mut self, request: Request) -> Result<(), RunError> {
        let State::Up(client) = &mut self.state else { return Ok(()) };
        match client.notify(request, Vec::new()) {
            Err(error) if !is_broken(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The same, not waiting for a controller to take it: false where none does, and nothing is sent.
    pub(super) fn tell_now(&mut self, request: Request) -> Result<bool, RunError> {
        let State::Up(client) = &mut self.state else { return Ok(false) };
        Ok(send_now(client, request)?)
    }

    /// Asks to feed a VM's console; news of a refusal.
    pub(super) fn ask_to_feed(&mut self, vm: VmId) -> Result<Option<InputNews>, RunError> {
        let State::Up(client) = &mut self.state else { return Ok(None) };
        Ok(ask_to_feed(client, vm)?)
    }

    /// Drops what was told before the last answer.
    pub(super) fn forget_news(&mut self) {
        if let State::Up(client) = &mut self.state {
            client.forget_unasked();
        }
    }

    /// The state of everything.
    pub(super) fn status(&mut self) -> Result<Option<Status>, RunError> {
        match self.ask(Request::Status, Vec::new())? {
            Some((Answer::Status(status), _)) => Ok(Some(status)),
            Some(_) => Err(ClientError::WrongAnswer.into()),
            None => Ok(None),
        }
    }

    fn broke(&mut self, error: ClientError) -> Result<(), RunError> {
        if !is_broken(&error) {
            return Err(error.into());
        }
        let now = Instant::now();
        self.state = State::Down { since: now, next_try: now };
        Ok(())
    }

    /// What to wait for, and at most how long.
    pub(super) fn waits_for(&self, bound: Duration) -> (Option<BorrowedFd<'_>>, Duration) {
        match &self.state {
            State::Up(client) => (Some(client.connection().as_fd()), bound),
            State::Down { next_try, .. } => (None, bound.min(next_try.saturating_duration_since(Instant::now()))),
        }
    }
}
