//! A simulated process: its life, its clock, its cache, and how fast it is.

use super::draw::{Draw, Range};
use super::fault::Lines;
use super::queue::Event;
use ft_protocol::Time;
use shared_mem::lossy::{KeepAll, KeepNone, LossyCache, RandomSurvivors};

/// Where all clocks of a run begin, so that a clock can jump back.
pub(crate) const CLOCK_START_NS: u64 = 1_000_000_000;

/// What becomes of a process that is to die in the middle of an access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doom {
    pub(crate) lines: Lines,
    pub(crate) restart_us: u64,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Actor {
    /// Counts lives: events of earlier ones are void.
    pub(crate) life: u32,
    pub(crate) alive: bool,
    pub(crate) stopped: bool,
    /// So many times longer than usual takes everything.
    pub(crate) slowness: u64,
    /// How far its clock is ahead.
    pub(crate) skew_ns: i64,
    pub(crate) cache: LossyCache,
    pub(crate) doom: Option<Doom>,
    /// What came due while it was stopped.
    pub(crate) deferred: Vec<Event>,
    /// A step of its main loop is scheduled.
    pub(crate) turning: bool,
    /// A fault has ever hit it.
    pub(crate) disturbed: bool,
    /// What it tells the controller was held up once.
    pub(crate) held_up: bool,
    /// How long steps of a scenario have held it at failpoints.
    pub(crate) held_ns: u64,
    /// When its life began.
    pub(crate) risen_ns: u64,
    /// When the life before it began.
    pub(crate) risen_before_ns: u64,
    /// When its last life ended.
    pub(crate) died_ns: u64,
    /// When its next life begins, of who is dead and comes back.
    pub(crate) back_ns: Option<u64>,
    draw: Draw,
}

impl Actor {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self {
            life: 1,
            alive: true,
            stopped: false,
            slowness: 1,
            skew_ns: 0,
            cache: LossyCache::new(),
            doom: None,
            deferred: Vec::new(),
            turning: false,
            disturbed: false,
            held_up: false,
            held_ns: 0,
            risen_ns: 0,
            risen_before_ns: 0,
            died_ns: 0,
            back_ns: None,
            draw: Draw::new(seed, stream),
        }
    }

    /// What its clock shows.
    pub(crate) fn clock(&self, now_ns: u64) -> Time {
        Time::from_ns((CLOCK_START_NS + now_ns).saturating_add_signed(self.skew_ns))
    }

    /// When its clock will show `time`, if it does not jump; never in the past.
    pub(crate) fn when_clock_shows(&self, time: Time, now_ns: u64) -> u64 {
        time.ns().saturating_add_signed(-self.skew_ns).saturating_sub(CLOCK_START_NS).max(now_ns)
    }

    /// How long something takes it, in nanoseconds.
    pub(crate) fn takes(&mut self, us: Range) -> u64 {
        let ns = Range::new(us.least * 1_000, us.most * 1_000);
        self.draw.between(ns) * self.slowness
    }

    /// A decision of its own.
    pub(crate) fn between(&mut self, range: Range) -> u64 {
        self.draw.between(range)
    }

    /// Ends its life; its unflushed lines go as the fault says.
    pub(crate) fn die(&mut self, lines: Lines) {
        match lines {
            Lines::Kept => self.cache.crash(&mut KeepAll),
            Lines::Lost => self.cache.crash(&mut KeepNone),
            Lines::Mixed(salt) => self.cache.crash(&mut RandomSurvivors::new(salt)),
        }
        self.alive = false;
        self.disturbed = true;
        self.life += 1;
        self.deferred.clear();
        self.doom = None;
        self.turning = false;
    }

    /// Begins a new life with an empty cache.
    pub(crate) fn rise(&mut self, now_ns: u64) {
        assert!(!self.alive, "only the dead rise");
        self.risen_before_ns = self.risen_ns;
        self.risen_ns = now_ns;
        self.alive = true;
        self.back_ns = None;
        self.stopped = false;
        self.slowness = 1;
        self.cache = LossyCache::new();
    }
}
