//! Waiting for everything that an event loop cares about: sockets, threads, signals, the parent's death, time.

use ft_protocol::{LinkId, Span};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::AsFd;

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// A connection can be accepted.
    Listener,
    /// Another thread has sent something.
    Wake,
    /// A connection has a message, is closed, or can be written to again.
    Link(LinkId),
    /// The lease that this process lives by is lost.
    Lease,
    /// The process shall end: SIGTERM, SIGINT, SIGHUP, or the parent is gone.
    End,
}

const LISTENER: u64 = 0;
const WAKE: u64 = 1;
const SIGNALS: u64 = 2;
const LIFELINE: u64 = 3;
const LEASE: u64 = 4;
/// Links have their own numbers, from here on.
const LINKS: u64 = 16;

/// Events taken in one go; the rest comes with the next call.
const BATCH: usize = 64;

/// An epoll instance with signals and the lifeline already in it.
#[derive(Debug)]
pub struct Events {
    epoll: Epoll,
    signals: SignalFd,
}

impl Events {
    /// Starts to watch for signals and, with `lifeline`, for the end of standard input. The signals are blocked from here
    /// on in this thread and those that it starts: call it first.
    pub fn new(lifeline: bool) -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
        if lifeline {
            match epoll.add(io::stdin().as_fd(), EpollEvent::new(EpollFlags::EPOLLRDHUP, LIFELINE)) {
                // A file or /dev/null cannot be waited for: it has no other end that could die.
                Ok(()) | Err(Errno::EPERM) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Self { epoll, signals })
    }

    /// Watches for something to read.
    pub fn watch(&self, what: &impl AsFd, watched: Watched) -> io::Result<()> {
        self.epoll.add(what.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, token(watched)))?;
        Ok(())
    }

    /// Changes whether a connection is also watched for room to write.
    pub fn watch_writing(&self, what: &impl AsFd, watched: Watched, writing: bool) -> io::Result<()> {
        let flags = if writing { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        self.epoll.modify(what.as_fd(), &mut EpollEvent::new(flags, token(watched)))?;
        Ok(())
    }

    /// Waits, at most for `bound`, and gives what is ready.
    pub fn wait(&self, bound: Span) -> io::Result<Vec<Watched>> {
        let mut events = [EpollEvent::empty(); BATCH];
        // Rounded up, so that the last fraction of a millisecond does not spin.
        let ms = u16::try_from(bound.ns().div_ceil(1_000_000)).unwrap_or(u16::MAX);
        let count = match self.epoll.wait(&mut events, EpollTimeout::from(ms)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        Ok(events[..count].iter().map(|event| self.decode(event.data())).collect())
    }

    fn decode(&self, token: u64) -> Watched {
        match token {
            LISTENER => Watched::Listener,
            WAKE => Watched::Wake,
            SIGNALS => {
                // Taken, so that it is not reported again; which of them it was does not matter.
                let _ = self.signals.read_signal();
                Watched::End
            }
            LIFELINE => Watched::End,
            LEASE => Watched::Lease,
            link => Watched::Link(LinkId::new(link - LINKS)),
        }
    }
}

fn token(watched: Watched) -> u64 {
    match watched {
        Watched::Listener => LISTENER,
        Watched::Wake => WAKE,
        Watched::End => SIGNALS,
        Watched::Lease => LEASE,
        Watched::Link(link) => LINKS + link.get(),
    }
}
