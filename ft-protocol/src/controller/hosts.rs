//! The controller's view of hosts: who is connected, who is silent, who may be trusted with a role.

use super::ControllerConfig;
use crate::detector::{Detector, DetectorConfig, Verdict};
use crate::ids::{Incarnation, LinkId};
use crate::phi::Phi;
use crate::planted::{PlantedBug, planted};
use crate::time::{Span, Time};
use crate::wire::HostProfile;

/// A host that has not failed for this long has a clean record again.
const FLAP_WINDOW: Span = Span::from_ms(10_000);

/// A flapping host is held down twice as long with each failure, but only so many times.
const FLAP_DOUBLINGS_MAX: u32 = 5;

/// Health of a host, as the controller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Connected and beating.
    Up,
    /// Connected and beating again after a silence, but not yet trusted with a new role.
    HeldDown {
        /// When it will be.
        until: Time,
    },
    /// Its heartbeat has stopped.
    Silent,
    /// Known from an earlier life of the controller, not yet connected to this one.
    Awaited,
    /// Not connected.
    Down,
}

/// One host, present or past.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) link: Option<LinkId>,
    pub(super) incarnation: Option<Incarnation>,
    pub(super) health: Health,
    pub(super) draining: bool,
    /// Its process is known to have ended, and has not come back.
    pub(super) is_dead: bool,
    /// Since when it is down, if it is.
    pub(super) down_since: Option<Time>,
    failures: u32,
    failed_at: Option<Time>,
    /// Since when it is awaited.
    pub(super) awaited_since: Option<Time>,
    /// Since when it is trusted.
    pub(super) up_since: Option<Time>,
    /// The version that is spoken with it.
    pub(super) protocol: Option<u32>,
    /// What it said of itself when it connected last.
    pub(super) profile: Option<HostProfile>,
    detector: Detector,
}

/// What a heartbeat sample changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    FellSilent(Span),
    BeatsAgain,
}

impl Host {
    pub(super) fn new(name: String, health: Health, detector: DetectorConfig) -> Self {
        Self {
            name,
            link: None,
            incarnation: None,
            health,
            draining: false,
            is_dead: false,
            down_since: None,
            failures: 0,
            failed_at: None,
            awaited_since: None,
            up_since: None,
            protocol: None,
            profile: None,
            detector: Detector::new(detector),
        }
    }

    /// Whether the host may be given a role now.
    pub(super) fn is_fit(&self) -> bool {
        self.link.is_some() && self.health == Health::Up || planted(PlantedBug::DeadHostFit)
    }

    /// Whether the host lives, as far as one can see.
    pub(super) fn is_beating(&self) -> bool {
        self.link.is_some() && matches!(self.health, Health::Up | Health::HeldDown { .. })
    }

    /// Whether it is not trusted again yet.
    pub(super) fn is_held_down(&self) -> bool {
        matches!(self.health, Health::HeldDown { .. })
    }

    /// Whether its own beats prove that it lives.
    pub(super) fn is_lively(&self) -> bool {
        self.health == Health::Up && self.detector.is_lively()
    }

    /// Whether the look before this moment saw it beat.
    pub(super) fn has_just_beaten(&self) -> bool {
        self.detector.has_just_beaten()
    }

    /// Whether somebody who has seen its last beat earlier can take it for silent already.
    pub(super) fn is_nearly_suspected(&self) -> bool {
        self.detector.is_nearly_suspected()
    }

    /// A host that comes back is trusted at once, unless it is flapping.
    pub(super) fn connect(&mut self, now: Time, link: LinkId, profile: HostProfile, config: &ControllerConfig) {
        assert!(self.link.is_none(), "the old connection is closed first");
        self.link = Some(link);
        self.is_dead = false;
        self.down_since = None;
        self.incarnation = Some(profile.incarnation);
        self.profile = Some(profile);
        self.health = match self.flap_hold(now, config) {
            Some(hold) => Health::HeldDown { until: now + hold },
            None => Health::Up,
        };
        self.up_since = (self.health == Health::Up).then_some(now);
        self.detector = Detector::new(config.detector);
    }

    fn note_failure(&mut self, now: Time) {
        let clean = self.failed_at.is_none_or(|at| now.since(at) > FLAP_WINDOW);
        self.failures = if clean { 1 } else { self.failures.saturating_add(1) };
        self.failed_at = Some(now);
    }

    /// How long a flapping host is not to be trusted; `None`: it is not flapping.
    fn flap_hold(&self, now: Time, config: &ControllerConfig) -> Option<Span> {
        let recent = self.failed_at.is_some_and(|at| now.since(at) <= FLAP_WINDOW);
        let beyond = self.failures.checked_sub(config.flaps_free.saturating_add(1)).filter(|_| recent)?;
        Some(config.hold_down.times(1 << beyond.min(FLAP_DOUBLINGS_MAX)))
    }

    pub(super) fn disconnect(&mut self, now: Time) {
        self.note_failure(now);
        self.link = None;
        self.protocol = None;
        self.up_since = None;
        self.health = Health::Down;
        self.down_since = Some(now);
    }

    /// The host lives, but does not do what it should: it gets no new role for a while.
    pub(super) fn distrust(&mut self, now: Time, config: &ControllerConfig) {
        self.note_failure(now);
        if self.is_beating() {
            let hold = self.flap_hold(now, config).unwrap_or(config.hold_down);
            self.health = Health::HeldDown { until: now + hold };
            self.up_since = None;
        }
    }

    /// For how long the host has been trusted without a break.
    pub(super) fn trusted_for(&self, now: Time) -> Option<Span> {
        self.up_since.filter(|_| self.is_fit()).map(|since| now.since(since))
    }

    /// Whether the host failed more than once within the time that makes a clean record.
    pub(super) fn is_flapping(&self, now: Time) -> bool {
        self.failures > 1 && self.failed_at.is_some_and(|at| now.since(at) <= FLAP_WINDOW)
    }

    /// The degree of suspicion of its present silence.
    pub(super) fn phi(&self) -> Option<Phi> {
        self.link.and_then(|_| self.detector.phi())
    }

    /// How unevenly it beats.
    pub(super) fn jitter(&self) -> Option<Span> {
        self.detector.jitter()
    }

    pub(super) fn beat(&mut self, now: Time, count: Option<u64>, config: &ControllerConfig) -> Change {
        let verdict = self.detector.sample(now, count);
        match (self.health, verdict) {
            (Health::Up | Health::HeldDown { .. }, Verdict::Silent(silence)) => {
                self.note_failure(now);
                self.health = Health::Silent;
                self.up_since = None;
                Change::FellSilent(silence)
            }
            (Health::Awaited, Verdict::Silent(silence)) => {
                self.health = Health::Down;
                self.down_since = Some(now);
                Change::FellSilent(silence)
            }
            (Health::Silent, Verdict::Beating) => {
                let hold = self.flap_hold(now, config).unwrap_or(config.hold_down);
                self.health = Health::HeldDown { until: now + hold };
                Change::BeatsAgain
            }
            _ => Change::None,
        }
    }

    /// Ends a hold-down whose time is over; says whether it did.
    pub(super) fn end_hold_down(&mut self, now: Time) -> bool {
        match self.health {
            Health::HeldDown { until } if until <= now => {
                self.health = Health::Up;
                self.up_since = Some(now);
                true
            }
            _ => false,
        }
    }

    pub(super) fn health_word(&self) -> &'static str {
        match self.health {
            Health::Up if self.draining => "draining",
            Health::Up => "up",
            Health::HeldDown { .. } => "held-down",
            Health::Silent => "silent",
            Health::Awaited => "awaited",
            Health::Down => "down",
        }
    }
}
