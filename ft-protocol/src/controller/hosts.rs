//! The controller's view of hosts: who is connected, who is silent, who may be trusted with a role.

use crate::detector::{Detector, DetectorConfig, Verdict};
use crate::ids::{Incarnation, LinkId};
use crate::time::{Span, Time};
use crate::wire::HostProfile;

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
            profile: None,
            detector: Detector::new(detector),
        }
    }

    /// Whether the host may be given a role now.
    pub(super) fn is_fit(&self) -> bool {
        self.link.is_some() && self.health == Health::Up
    }

    /// Whether the host lives, as far as one can see.
    pub(super) fn is_beating(&self) -> bool {
        self.link.is_some() && matches!(self.health, Health::Up | Health::HeldDown { .. })
    }

    /// Whether its own beats prove that it lives.
    pub(super) fn is_lively(&self) -> bool {
        self.health == Health::Up && self.detector.is_lively()
    }

    pub(super) fn connect(&mut self, link: LinkId, profile: HostProfile, detector: DetectorConfig) {
        assert!(self.link.is_none(), "the old connection is closed first");
        self.link = Some(link);
        self.incarnation = Some(profile.incarnation);
        self.profile = Some(profile);
        self.health = Health::Up;
        self.detector = Detector::new(detector);
    }

    pub(super) fn disconnect(&mut self) {
        self.link = None;
        self.health = Health::Down;
    }

    pub(super) fn beat(&mut self, now: Time, count: Option<u64>, hold_down: Span) -> Change {
        let verdict = self.detector.sample(now, count);
        match (self.health, verdict) {
            (Health::Up | Health::HeldDown { .. }, Verdict::Silent(silence)) => {
                self.health = Health::Silent;
                Change::FellSilent(silence)
            }
            (Health::Awaited, Verdict::Silent(silence)) => {
                self.health = Health::Down;
                Change::FellSilent(silence)
            }
            (Health::Silent, Verdict::Beating) => {
                self.health = Health::HeldDown { until: now + hold_down };
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
