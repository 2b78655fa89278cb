//! The plan of a run: its weather and its faults, drawn from the seed (swarm) or read from an event file.
//!
//! Swarm: each run first draws which kinds of fault it has at all and how many of them, so that rare combinations are not
//! drowned by the most violent kind.

use super::draw::{Draw, Range};
use super::fault::{Fault, FaultEvent, Lines, Point, Target, Ways, When};
use super::weather::Weather;
use ft_protocol::spec::Mode;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Which kinds of fault runs may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultProfile {
    /// Any kind; each run draws some.
    Swarm,
    /// None.
    None,
    /// Hosts and controller die.
    Crash,
    /// Processes hang, are slow, or have bad clocks.
    Hang,
    /// Connections stall and close.
    Network,
    /// The pool is out of reach, full, or forgets bits.
    Pool,
    /// The client is slow or reconnects, the controller dies.
    Client,
    /// VMs are moved and hosts drained, while processes die and hang.
    Planned,
    /// VMs are protected in replay mode, and turned to others; any kind.
    Replay,
    /// VMs are protected in lockstep mode, and turned to others; any kind.
    Lockstep,
}

impl FaultProfile {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Swarm,
        Self::None,
        Self::Crash,
        Self::Hang,
        Self::Network,
        Self::Pool,
        Self::Client,
        Self::Planned,
        Self::Replay,
        Self::Lockstep,
    ];

    /// How its VMs are protected at first.
    fn mode(self) -> Mode {
        match self {
            Self::Replay => Mode::Replay,
            Self::Lockstep => Mode::Lockstep,
            _ => Mode::Checkpoint,
        }
    }

    /// Whether bits of the pool flip of which there is a second copy: nothing may come of it.
    fn flips_control(self) -> bool {
        matches!(self, Self::Swarm | Self::Pool | Self::Replay | Self::Lockstep)
    }

    fn kinds(self) -> &'static [Kind] {
        use Kind::{
            CloseClient, CloseLink, Corrupt, CutPool, Delete, DieInPool, Drain, FillPool, HangVcpu, JumpClock, Kill,
            KillController, Slow, StallClient, StallLink, Stop, Switchover, Upgrade,
        };
        match self {
            Self::Swarm => &Kind::ALL,
            Self::Replay | Self::Lockstep => &Kind::RECORDED,
            Self::None => &[],
            Self::Crash => &[Kill, DieInPool, KillController],
            Self::Hang => &[Stop, Slow, JumpClock, HangVcpu],
            Self::Network => &[StallLink, CloseLink, StallClient, CloseClient],
            Self::Pool => &[CutPool, Corrupt, FillPool],
            Self::Client => &[StallClient, CloseClient, KillController],
            Self::Planned => &[Switchover, Drain, Delete, Upgrade, Kill, KillController, Stop, HangVcpu],
        }
    }
}

impl fmt::Display for FaultProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Swarm => "swarm",
            Self::None => "none",
            Self::Crash => "crash",
            Self::Hang => "hang",
            Self::Network => "network",
            Self::Pool => "pool",
            Self::Client => "client",
            Self::Planned => "planned",
            Self::Replay => "replay",
            Self::Lockstep => "lockstep",
        })
    }
}

/// A fault profile that the simulator does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown fault profile `{0}`: known are swarm, none, crash, hang, network, pool, client, planned, replay, lockstep"
)]
pub struct UnknownProfile(String);

impl FromStr for FaultProfile {
    type Err = UnknownProfile;
    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        let known = Self::ALL.into_iter().find(|profile| profile.to_string() == text);
        known.ok_or_else(|| UnknownProfile(text.chars().take(32).collect()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Kill,
    DieInPool,
    KillController,
    Stop,
    Slow,
    JumpClock,
    CutPool,
    StallLink,
    CloseLink,
    StallClient,
    CloseClient,
    Corrupt,
    FillPool,
    Switchover,
    Drain,
    HangVcpu,
    Delete,
    Upgrade,
    SetMode,
}

impl Kind {
    const ALL: [Self; 18] = [
        Self::Kill,
        Self::DieInPool,
        Self::KillController,
        Self::Stop,
        Self::Slow,
        Self::JumpClock,
        Self::CutPool,
        Self::StallLink,
        Self::CloseLink,
        Self::StallClient,
        Self::CloseClient,
        Self::Corrupt,
        Self::FillPool,
        Self::Switchover,
        Self::Drain,
        Self::HangVcpu,
        Self::Delete,
        Self::Upgrade,
    ];

    /// Those of runs with record logs. Nothing is damaged there: a guest that was given something at a commit whose record
    /// is lost cannot be replayed from the one before. Turning comes twice, for it is what those runs are about.
    const RECORDED: [Self; 19] = [
        Self::Kill,
        Self::DieInPool,
        Self::KillController,
        Self::Stop,
        Self::Slow,
        Self::JumpClock,
        Self::CutPool,
        Self::StallLink,
        Self::CloseLink,
        Self::StallClient,
        Self::CloseClient,
        Self::FillPool,
        Self::Switchover,
        Self::Drain,
        Self::HangVcpu,
        Self::Delete,
        Self::Upgrade,
        Self::SetMode,
        Self::SetMode,
    ];
}

/// What a run is made of besides its seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Delays, bounds and sizes.
    pub weather: Weather,
    /// What goes wrong.
    pub faults: Vec<FaultEvent>,
}

/// Most faults of one run.
const FAULTS_MAX: u64 = 10;

/// What of a journal a flipped bit lies in: the lowest bits of its salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Salted {
    /// The journal's header.
    Header,
    /// The commit word.
    Word,
    /// A record that is committed and waits for its application.
    Record,
}

impl Salted {
    pub(crate) const fn of(salt: u64) -> Self {
        match salt % 8 {
            0 => Self::Header,
            1 => Self::Word,
            _ => Self::Record,
        }
    }

    pub(crate) const fn salt(self, bits: u64) -> u64 {
        bits / 8 * 8
            + match self {
                Self::Header => 0,
                Self::Word => 1,
                Self::Record => 2,
            }
    }
}

/// The stream that plans are drawn from; actors have the streams after it.
pub(crate) const PLAN_STREAM: u64 = 0;

/// What was added later, so that older draws stay what they were.
const UNEVEN_STREAM: u64 = 3;
const ENTRIES_STREAM: u64 = 4;

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn draw(seed: u64, hosts: u16, vms: u16, profile: FaultProfile) -> Self {
        let mut draw = Draw::new(seed, PLAN_STREAM);
        let weather = Weather::draw(&mut draw);
        let weather = match profile.mode() {
            Mode::Checkpoint => weather,
            mode => weather.recorded(&mut draw, mode),
        };
        let weather = match profile.mode() {
            Mode::Checkpoint => weather,
            _ => weather.one_by_one(&mut Draw::new(seed, ENTRIES_STREAM)),
        };
        let mut later = Draw::new(seed, UNEVEN_STREAM);
        let weather = weather.uneven(&mut later, vms);
        let only_planned = profile == FaultProfile::Planned && later.chance(10);
        let kinds: Vec<Kind> = profile.kinds().iter().copied().filter(|_| draw.chance(45)).collect();
        let mut drawer = Drawer { draw, hosts, vms, weather };
        let mut faults = Vec::new();
        if !kinds.is_empty() {
            for _ in 0..1 + drawer.draw.below(FAULTS_MAX) {
                let kind = drawer.draw.pick(&kinds);
                drawer.add(kind, &mut faults);
            }
        }
        if only_planned {
            faults.retain(|event| event.fault.is_planned());
        }
        if profile.flips_control() && later.chance(25) {
            for _ in 0..1 + later.below(4) {
                let us = later.below(drawer.weather.safety_us);
                let vm = u16::try_from(later.below(u64::from(vms))).unwrap_or(0);
                let fault = Fault::FlipControl { vm, salt: later.bits() };
                faults.push(FaultEvent { when: When::At { us }, fault });
            }
        }
        Self { weather, faults }
    }

    /// Nothing fails, as far as the plan goes.
    pub(crate) fn is_calm(&self) -> bool {
        self.faults.iter().all(|event| event.fault.is_planned())
    }
}

pub(super) struct Drawer {
    pub(super) draw: Draw,
    hosts: u16,
    vms: u16,
    pub(super) weather: Weather,
}

impl Drawer {
    /// Draws a fault; some come in pairs at nearly the same time.
    fn add(&mut self, kind: Kind, faults: &mut Vec<FaultEvent>) {
        if self.compound(kind, faults) {
            return;
        }
        let when = self.when();
        let fault = self.fault(kind);
        faults.push(FaultEvent { when, fault });
        if self.draw.chance(15)
            && let When::At { us } = when
        {
            let fault = self.fault(kind);
            faults.push(FaultEvent { when: When::At { us: us + self.draw.below(300) }, fault });
        }
    }

    fn when(&mut self) -> When {
        if self.draw.chance(50) {
            return When::At { us: self.draw.below(self.weather.safety_us) };
        }
        let recorded = [Point::LogReplayed, Point::EpochFollowed, Point::EpochFollowed];
        let own = self.weather.mode.records() && self.draw.chance(20);
        let step = if own { self.draw.pick(&recorded) } else { self.draw.pick(&Point::ALL) };
        let most = match step {
            Point::VcpuStopped
            | Point::RecordWritten
            | Point::RecordChecksummed
            | Point::RecordPublished
            | Point::OutputReleased
            | Point::DoorbellRung
            | Point::RecordLoaded
            | Point::RecordBegun
            | Point::RecordApplied
            | Point::SlotFreed => 30,
            Point::GuestEnded => 1,
            Point::EpochFollowed => 12,
            _ => 5,
        };
        let nth = u32::try_from(1 + self.draw.below(most)).unwrap_or(1);
        When::After { step, nth }
    }

    fn target(&mut self) -> Target {
        let vm = self.vm();
        match self.draw.below(10) {
            0..6 => Target::Primary(vm),
            6..8 => Target::Secondary(vm),
            _ => Target::Host(self.host()),
        }
    }

    pub(super) fn vm(&mut self) -> u16 {
        u16::try_from(self.draw.below(u64::from(self.vms))).unwrap_or(0)
    }

    pub(super) fn host(&mut self) -> u16 {
        u16::try_from(self.draw.below(u64::from(self.hosts))).unwrap_or(0)
    }

    pub(super) fn lines(&mut self) -> Lines {
        match self.draw.below(3) {
            0 => Lines::Kept,
            1 => Lines::Lost,
            _ => Lines::Mixed(self.draw.bits()),
        }
    }

    /// Often few, so that the fault falls into the step after the one that it waited for; sometimes enough to get to the end
    /// of a large record.
    fn accesses(&mut self) -> u64 {
        let bound = self.draw.pick(&[4, 60, 600]);
        self.draw.below(bound)
    }

    pub(super) fn for_us(&mut self) -> u64 {
        // Around the bound of the heartbeat it matters most.
        let bound = self.weather.heartbeat_us * self.weather.heartbeats_missing;
        match self.draw.below(3) {
            0 => 1 + self.draw.below(bound / 2),
            1 => 1 + self.draw.below(2 * bound),
            _ => bound + self.draw.below(4 * bound),
        }
    }

    fn fault(&mut self, kind: Kind) -> Fault {
        let restart = self.weather.restart_us;
        match kind {
            Kind::Kill => {
                Fault::Kill { who: self.target(), lines: self.lines(), restart_us: self.draw.between(restart) }
            }
            Kind::DieInPool => {
                let who = if self.draw.chance(40) { Target::Controller } else { self.target() };
                let accesses = self.accesses();
                Fault::DieInPool { who, accesses, lines: self.lines(), restart_us: self.draw.between(restart) }
            }
            Kind::KillController => Fault::Kill {
                who: Target::Controller,
                lines: self.lines(),
                restart_us: self.draw.between(Range::new(500, restart.most)),
            },
            Kind::Stop => {
                let who = if self.draw.chance(15) { Target::Controller } else { self.target() };
                Fault::Stop { who, for_us: self.for_us() }
            }
            Kind::Slow => {
                let who = if self.draw.chance(20) { Target::Controller } else { self.target() };
                Fault::Slow { who, factor: self.draw.pick(&[2, 5, 20]), for_us: self.for_us() }
            }
            Kind::JumpClock => {
                let who = if self.draw.chance(20) { Target::Controller } else { self.target() };
                let by = i64::try_from(self.draw.below(40_000)).unwrap_or(0);
                Fault::JumpClock { who, by_us: if self.draw.chance(50) { by } else { -by } }
            }
            Kind::CutPool => {
                let accesses = self.accesses();
                Fault::CutPool { who: self.target(), accesses, for_us: self.for_us() }
            }
            Kind::StallLink => {
                let ways = self.draw.pick(&[Ways::Both, Ways::FromController, Ways::ToController]);
                Fault::StallLink { who: self.target(), ways, for_us: self.for_us() }
            }
            Kind::CloseLink => Fault::CloseLink { who: self.target() },
            Kind::StallClient => {
                let for_us = self.for_us();
                if self.draw.chance(50) { Fault::StallClient { for_us } } else { Fault::PauseClient { for_us } }
            }
            Kind::CloseClient => Fault::CloseClient,
            Kind::Corrupt => {
                let vm = self.vm();
                Fault::Corrupt { vm, salt: self.draw.bits() }
            }
            Kind::FillPool => Fault::FillPool { for_us: self.for_us() },
            Kind::Switchover => {
                let vm = self.vm();
                let to = self.draw.chance(50).then(|| self.host());
                Fault::Switchover { vm, to }
            }
            Kind::Drain => Fault::Drain { host: self.host() },
            Kind::HangVcpu => {
                let for_us = self.draw.chance(50).then(|| self.for_us());
                Fault::HangVcpu { vm: self.vm(), for_us }
            }
            Kind::Delete => Fault::Delete { vm: self.vm(), again: self.draw.chance(80) },
            Kind::Upgrade => Fault::Upgrade { host: self.host() },
            Kind::SetMode => {
                let modes = [Mode::Checkpoint, Mode::Replay, Mode::Lockstep, self.weather.mode];
                Fault::SetMode { vm: self.vm(), mode: self.draw.pick(&modes) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_plan_and_profiles_keep_to_their_kinds() {
        assert_eq!(Plan::draw(5, 3, 1, FaultProfile::Swarm), Plan::draw(5, 3, 1, FaultProfile::Swarm));
        assert!((0..50).all(|seed| Plan::draw(seed, 3, 1, FaultProfile::None).faults.is_empty()));
        let crashes = (0..50).flat_map(|seed| Plan::draw(seed, 3, 1, FaultProfile::Crash).faults);
        assert!(crashes.into_iter().all(|event| matches!(event.fault, Fault::Kill { .. } | Fault::DieInPool { .. })));
        for profile in FaultProfile::ALL {
            assert_eq!(profile.to_string().parse(), Ok(profile));
        }
        assert!("everything".parse::<FaultProfile>().is_err());
    }
}
