//! Everything that happens in a cluster, as long as anybody wants to know.

use super::link::{Link, News};
use crate::protected::{RunError, wait_for_any};
use ft_protocol::Time;
use ft_protocol::timeline::Happening;
use ft_protocol::wire::{Request, Status, ToClient};
use nix::poll::PollFlags;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use vmm::clock::monotonic;
use vmm::transport::Address;

/// What a watcher sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Something happened, when it did.
    Happened(Time, Happening),
    /// The controller has died.
    ControllerGone(Time),
    /// There is one again.
    ControllerBack(Time),
}

/// Watches a cluster.
#[derive(Debug)]
pub struct Watcher {
    link: Link,
}

impl Watcher {
    /// Watches the cluster whose controller listens there; it tells what it remembers of its life so far first. One that
    /// has died, or dies, is waited for as long as `patience` says, and not once `interrupt` is readable.
    ///
    /// # Errors
    /// When the controller cannot be reached, or is not waited for any more.
    pub fn new(pool: &Address, patience: Duration, interrupt: BorrowedFd<'_>) -> Result<Self, RunError> {
        let mut link = Link::connect(pool, patience, Some(interrupt))?;
        link.ask_patiently(&Request::Watch)?;
        link.settle();
        Ok(Self { link })
    }

    /// What happened since the last call; waits for it until then, or until `interrupt` is readable, which is the second
    /// part of the answer.
    ///
    /// # Errors
    /// When the controller has been gone for too long.
    pub fn next(&mut self, until: Time, interrupt: BorrowedFd<'_>) -> Result<(Vec<Sight>, bool), RunError> {
        let mut sights = Vec::new();
        self.take(&mut sights)?;
        let bound = if sights.is_empty() { until.since(monotonic()).ns() } else { 0 };
        let (own, bound) = self.link.waits_for(Duration::from_nanos(bound));
        let ready = wait_for_any(bound, &[(interrupt, PollFlags::POLLIN)], own.as_slice())?;
        self.take(&mut sights)?;
        Ok((sights, ready[0]))
    }

    fn take(&mut self, sights: &mut Vec<Sight>) -> Result<(), RunError> {
        while let Some(news) = self.link.next()? {
            match news {
                News::Message(ToClient::Happened { at, happening }) => sights.push(Sight::Happened(at, happening)),
                News::Message(_) => {}
                News::Gone => sights.push(Sight::ControllerGone(monotonic())),
                News::Back => {
                    if self.link.ask(Request::Watch, Vec::new())?.is_some() {
                        sights.push(Sight::ControllerBack(monotonic()));
                    }
                }
            }
        }
        Ok(())
    }

    /// The state of everything; `None` while there is no controller.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub fn status(&mut self) -> Result<Option<Status>, RunError> {
        self.link.status()
    }
}
