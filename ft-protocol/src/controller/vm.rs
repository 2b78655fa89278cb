//! One VM, as the controller sees it. The transitions are in `takeover.rs` and `protection.rs`.

use crate::commit_meta::GuestEnd;
use crate::controller::asks::Doubt;
use crate::controller::follow::Following;
use crate::controller::input::Feeder;
use crate::controller::io::LostFiles;
use crate::controller::log_damage::LogRefused;
use crate::controller::outputs::Outputs;
use crate::controller::progress::Progress;
use crate::controller::space::Waiting;
use crate::controller::state::VmRecord;
use crate::cpu::CpuProfile;
use crate::ids::{Epoch, Generation, HostId, LinkId, VmId};
use crate::planted::{PlantedBug, planted};
use crate::spec::{Mode, VmSpec};
use crate::time::{Span, Time};
use crate::wire::{Access, Grant, Part};
use std::collections::{BTreeMap, BTreeSet};

/// Where a VM is in its life.
///
/// ```text
///  Creating --> Unled --> Promoting --> Running --> Ended
///                ^  ^         |            |
///                |  +---------|--- seal ---+--- takeover: Sealing --> Draining --+
///                |            +------------+                                     |
///                +---------------------------- drained --------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its part of the pool is being made for this client's request.
    Creating { client: LinkId, request: u64 },
    /// The generation is sealed and drained, or was never given to anybody: waits for a host.
    Unled,
    /// `host` was told to become primary of the generation.
    Promoting { host: HostId, since: Time },
    /// `host` runs the guest.
    Running { host: HostId },
    /// The words of the generation are being sealed.
    Sealing { winner: Option<HostId> },
    /// Records up to `final_epoch` are being applied.
    Draining { winner: Option<HostId>, final_epoch: Epoch },
    /// The guest's life is over.
    Ended { end: GuestEnd },
    /// Its part of the pool cannot be used. What was known of it before is kept for a controller that finds it repaired.
    Damaged { record: Box<VmRecord> },
    /// Its part of the pool is given back as soon as nothing works on it any more; `leaving`: that is being done.
    Deleting { client: LinkId, request: u64, leaving: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standby {
    pub(super) host: HostId,
    pub(super) ready: bool,
    /// When it was asked for.
    pub(super) since: Time,
}

/// A client that has asked for a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ModeWaiter {
    pub(super) mode: Mode,
    pub(super) link: LinkId,
    pub(super) id: u64,
}

/// A primary that is thought to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suspicion {
    /// Since when.
    pub(super) since: Time,
    /// Nothing but the silence of its host's heartbeat tells so: the next beat takes it back.
    pub(super) by_silence: bool,
}

/// A planned change of primary.
///
/// ```text
///  Preparing (the target makes its standby) --> Yielding (the primary commits and stops) --> seal, drain, promote
///      |  target lost, refused: cancelled           |  no answer in time: the seal ends the primary's reign all the same
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Switchover {
    pub(super) to: HostId,
    pub(super) step: SwitchoverStep,
    /// Who waits for it to be done.
    pub(super) client: Option<(LinkId, u64)>,
    /// Since when the guest stands still, once its primary has said so.
    pub(super) stood_since: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SwitchoverStep {
    Preparing,
    /// Asked at a time; `since` goes on while there is a reason to wait for longer.
    Yielding {
        asked_at: Time,
        since: Time,
    },
    Yielded,
}

#[derive(Debug)]
pub(super) struct Vm {
    pub(super) id: VmId,
    pub(super) spec: VmSpec,
    pub(super) generation: Generation,
    /// The generation was given to a host, or is about to be.
    pub(super) given: bool,
    /// Its journal and log are there.
    pub(super) opened: bool,
    pub(super) phase: Phase,
    pub(super) standby: Option<Standby>,
    pub(super) cpu: CpuProfile,
    /// The format of the machine state at `base`.
    pub(super) state_version: Option<u32>,
    /// The format that the reigning primary writes.
    pub(super) writes: Option<u32>,
    /// The epoch that the reigning generation goes on from.
    pub(super) base: Epoch,
    pub(super) takeovers: u64,
    pub(super) switchovers: u64,
    pub(super) switchover: Option<Switchover>,
    /// Of the last switchover.
    pub(super) switchover_blackout: Option<Span>,
    pub(super) applied: Epoch,
    /// The youngest epoch of the generation that is known to be committed.
    pub(super) committed: Epoch,
    pub(super) console_end: u64,
    /// A record is with the driver.
    pub(super) applying: bool,
    /// The console floor that the driver was given with that record.
    pub(super) applying_floor: Option<u64>,
    /// The console floor that the driver was given with the move of the log: record and log are with it at once, and one's
    /// floor says nothing about what the other found full.
    pub(super) draining_floor: Option<u64>,
    /// Console output of this generation's record log is with the driver; more may have come since.
    pub(super) draining_log: Option<Generation>,
    pub(super) log_moved: bool,
    /// The mode that the primary was told to turn to and has not said it is in. It is told another one only then, so that
    /// what it says of its log is known to be of the mode it is in.
    pub(super) mode_order: Option<Mode>,
    /// The reigning primary's log is damaged.
    pub(super) log_refused: Option<LogRefused>,
    /// The mode that it is protected in, as watchers know it; where a controller begins, the one that is wanted.
    pub(super) mode_told: Mode,
    /// Who waits for the VM to be protected in another mode.
    pub(super) mode_waiters: Vec<ModeWaiter>,
    /// What a replay did that the record log does not say, if one ever did.
    pub(super) diverged: Option<String>,
    /// What part of a record log was damaged, if one ever was while this controller lived.
    pub(super) log_lost: Option<String>,
    /// What is wrong with its part of the pool.
    pub(super) damage: Option<String>,
    /// What is wrong with it so that no more host can stand by, and when that is to be looked at again.
    pub(super) unprotectable: Option<(String, Time)>,
    /// What is gone of its files, while those who have them open go on.
    pub(super) gone: Option<LostFiles>,
    /// The secondary that watchers know to protect it.
    pub(super) protected_by: Option<HostId>,
    /// Why its secondary followed no more, the last time.
    pub(super) unfollowed: Option<String>,
    /// The secondary that follows, in lockstep mode; application waits for it.
    pub(super) following: Option<Following>,
    /// Since which epoch all inputs of the reigning generation are in its log.
    pub(super) recorded_since: Option<Epoch>,
    /// When the secondary last came any further, or had nothing left to follow.
    pub(super) follow_progress_at: Time,
    /// The secondary is not to follow before this time, after it did not get on.
    pub(super) follow_at: Time,
    /// The next record waits for a reader of the console.
    pub(super) console_full: bool,
    /// Lossless readers of the console and the positions that they have consumed.
    pub(super) readers: BTreeMap<LinkId, u64>,
    /// The client that feeds its console.
    pub(super) feeder: Option<Feeder>,
    /// Up to where the console of a lossless VM may have been read, while no reader is attached.
    pub(super) unread_from: u64,
    /// The watchers know that nobody can run it.
    pub(super) stranded_told: bool,
    /// The primary is thought to be gone, and the secondary is expected to ask.
    pub(super) suspected: Option<Suspicion>,
    /// The secondary's ask that the beats of the primary's host are to answer, by which it was lively until then.
    pub(super) doubted: Option<Doubt>,
    /// A record of the generation was refused: nothing after it can be applied.
    pub(super) poisoned: bool,
    /// Not to be given to a host before this time, after the pool refused a new generation.
    pub(super) retry_at: Time,
    /// Hosts that gave it up before its guest ran there: they are not asked again while they are held down.
    pub(super) refusers: BTreeSet<HostId>,
    /// Hosts that say that its guest cannot be started, or gone on with.
    pub(super) unfit_on: BTreeSet<HostId>,
    /// Hosts that once could not read what the controller had found sound, since its guest last came to life.
    pub(super) misread_by: BTreeSet<HostId>,
    /// Promotions that took too long, since it last lived.
    pub(super) vain_promotions: u32,
    /// What was seen of the primary's progress.
    pub(super) progress: Option<Progress>,
    /// What the reigning generation waits for, as long as the pool has no space.
    pub(super) waiting: Option<Waiting>,
    /// How long its outputs waited.
    pub(super) outputs: Outputs,
    /// The generation that an earlier controller left.
    pub(super) recovered: Option<Generation>,
    /// Where it would get its next secondary.
    pub(super) spare: Option<HostId>,
    /// Places that are kept free for it until it has taken them.
    pub(super) intended: Vec<HostId>,
    /// Where it was driven from, and may go back to.
    pub(super) home: Option<HostId>,
    /// When it went live where it is, as far as this controller knows.
    pub(super) settled_at: Option<Time>,
}

/// What loading a guest may take, for each byte of its memory: every page is copied when it is first written.
const BOOT_NS_PER_BYTE: u64 = 100;

/// A promotion that takes that many times as long as it should, doubled, is not waited for any longer.
const DOUBLINGS_MAX: u32 = 6;

impl Vm {
    /// How long a promotion may take, of which `usual` is for a guest that has been committed. One that has not is booted;
    /// one that is recorded does an epoch's work once more. That may still be too little: what there is to be replayed
    /// grows when one host after the other dies within an epoch, and the hosts may have much else to do. So the time
    /// doubles with each promotion that did not come to anything, lest a VM is given from host to host for ever.
    pub(super) fn promotion_bound(&self, usual: Span) -> Span {
        let boots = self.applied == Epoch::ZERO;
        let boot_ns = if boots { self.spec.memory_bytes.saturating_mul(BOOT_NS_PER_BYTE) } else { 0 };
        let replay = if self.spec.mode.records() { self.spec.epoch_interval } else { Span::ZERO };
        let bound = Span::from_ns(usual.ns().saturating_add(boot_ns).saturating_add(replay.ns()));
        let vain = if planted(PlantedBug::PromotionBoundFixed) { 0 } else { self.vain_promotions.min(DOUBLINGS_MAX) };
        bound.times(1 << vain)
    }

    pub(super) fn new(id: VmId, spec: VmSpec, phase: Phase) -> Self {
        Self {
            id,
            mode_told: spec.mode,
            spec,
            generation: Generation::FIRST,
            given: false,
            opened: false,
            phase,
            standby: None,
            cpu: CpuProfile::default(),
            state_version: None,
            writes: None,
            base: Epoch::ZERO,
            takeovers: 0,
            switchovers: 0,
            switchover: None,
            switchover_blackout: None,
            applied: Epoch::ZERO,
            committed: Epoch::ZERO,
            console_end: 0,
            applying: false,
            applying_floor: None,
            draining_floor: None,
            draining_log: None,
            log_moved: false,
            mode_order: None,
            log_refused: None,
            mode_waiters: Vec::new(),
            diverged: None,
            log_lost: None,
            damage: None,
            unprotectable: None,
            gone: None,
            protected_by: None,
            unfollowed: None,
            following: None,
            recorded_since: None,
            follow_progress_at: Time::ZERO,
            follow_at: Time::ZERO,
            console_full: false,
            readers: BTreeMap::new(),
            feeder: None,
            unread_from: 0,
            stranded_told: false,
            suspected: None,
            doubted: None,
            poisoned: false,
            retry_at: Time::ZERO,
            refusers: BTreeSet::new(),
            unfit_on: BTreeSet::new(),
            misread_by: BTreeSet::new(),
            vain_promotions: 0,
            progress: None,
            waiting: None,
            outputs: Outputs::default(),
            recovered: None,
            spare: None,
            intended: Vec::new(),
            home: None,
            settled_at: None,
        }
    }

    /// Protected in checkpoint mode from now on.
    pub(super) fn fall_back(&mut self) {
        self.spec.epoch_interval = self.spec.mode.interval_in(Mode::Checkpoint, self.spec.epoch_interval);
        self.spec.mode = Mode::Checkpoint;
    }

    /// The host that was told to run the guest, whether it does already or not.
    pub(super) fn primary(&self) -> Option<HostId> {
        match self.phase {
            Phase::Promoting { host, .. } | Phase::Running { host } => Some(host),
            _ => None,
        }
    }

    /// Hosts that have a role for it.
    pub(super) fn role_hosts(&self) -> impl Iterator<Item = HostId> {
        self.primary().into_iter().chain(self.standby.map(|standby| standby.host))
    }

    pub(super) fn has_role_on(&self, host: HostId) -> bool {
        self.role_hosts().any(|role| role == host)
    }

    /// Whether the host has, or may come to have, anything to do with it.
    pub(super) fn wants(&self, host: HostId, name: &str) -> bool {
        let named = [self.spare, self.home, self.switchover.as_ref().map(|switchover| switchover.to)];
        let by_phase = match &self.phase {
            // Nobody runs it again.
            Phase::Ended { .. } | Phase::Deleting { .. } => return false,
            Phase::Sealing { winner } | Phase::Draining { winner, .. } => *winner == Some(host),
            Phase::Damaged { record } => [record.primary, record.moving_to, record.home].contains(&Some(host)),
            _ => false,
        };
        let preferred = self.spec.policy.preferred.as_deref() == Some(name);
        by_phase || preferred || named.contains(&Some(host)) || self.intended.contains(&host) || self.has_role_on(host)
    }

    /// What a host needs to go on from the last epoch that was applied.
    pub(super) fn stable_grants(&self) -> impl Iterator<Item = Grant> + use<> {
        let vm = self.id;
        let disk = (self.spec.disk_bytes > 0).then_some(Part::Disk(vm));
        let parts = [Part::Image(vm), Part::State(vm), Part::Control(vm), Part::Boot(vm)];
        parts.into_iter().chain(disk).map(|part| Grant { part, access: Access::ReadOnly })
    }

    /// Why no host can stand by, whichever it is; `None`: that is not known.
    pub(super) fn unprotectable_because(&self) -> Option<String> {
        self.unprotectable.as_ref().map(|(reason, _)| format!("no host can stand by: {reason}"))
    }

    /// Its secondary is there and is not about to become its primary: without it, it runs on unprotected.
    pub(super) fn could_do_without(&self, host: HostId) -> bool {
        let runs = matches!(self.phase, Phase::Running { .. }) && self.suspected.is_none();
        runs && self.switchover.is_none() && self.standby.is_some_and(|standby| standby.host == host)
    }

    pub(super) fn ready_standby(&self) -> Option<HostId> {
        self.standby.filter(|standby| standby.ready).map(|standby| standby.host)
    }

    /// What it waits for is not its primary's doing: a reader of the console, space in the pool, the application of what is
    /// committed.
    pub(super) fn is_held_up(&self) -> bool {
        self.console_full || self.waiting.is_some() || self.applied < self.committed
    }

    /// The format of the machine state in the pool: a primary that has committed nothing yet has changed nothing.
    pub(super) fn pool_version(&self) -> Option<u32> {
        if self.committed.max(self.applied) > self.base { self.writes } else { self.state_version }
    }

    /// The formats that a host must read that is to go on with what is in the pool, or will be when it is to go on.
    pub(super) fn versions_needed(&self) -> impl Iterator<Item = u32> {
        self.pool_version().into_iter().chain(self.primary().and(self.writes))
    }

    /// Up to where the console was read by all who must not lose any of it.
    pub(super) fn console_floor(&self) -> Option<u64> {
        let slowest = self.readers.values().copied().min();
        slowest.or(self.spec.console_lossless.then_some(self.unread_from))
    }

    /// A reader is gone. Of a lossless console, the next one goes on where the slowest stopped.
    pub(super) fn detach(&mut self, link: LinkId) -> bool {
        let slowest = self.readers.values().copied().min();
        let gone = self.readers.remove(&link).is_some();
        if gone && self.readers.is_empty() {
            self.unread_from = slowest.unwrap_or(self.unread_from);
        }
        gone
    }

    pub(super) fn record(&self) -> VmRecord {
        if let Phase::Damaged { record } = &self.phase {
            return (**record).clone();
        }
        VmRecord {
            vm: self.id,
            spec: self.spec.clone(),
            generation: self.generation,
            primary: self.primary(),
            takeovers: self.takeovers,
            switchovers: self.switchovers,
            cpu: self.cpu.clone(),
            state_version: self.state_version,
            writes: self.writes,
            base: self.base,
            home: self.home,
            diverged: self.diverged.clone(),
            moving_to: self.switchover.as_ref().map(|switchover| switchover.to),
            ended: match &self.phase {
                Phase::Ended { end } => Some(end.clone()),
                _ => None,
            },
        }
    }

    /// Nobody is to have a role for it any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. } | Phase::Deleting { .. } | Phase::Damaged { .. })
    }

    pub(super) fn phase_word(&self) -> &'static str {
        match self.phase {
            Phase::Creating { .. } => "creating",
            Phase::Unled if self.stranded_told => "stranded",
            Phase::Unled => "waiting",
            Phase::Promoting { .. } => "promoting",
            Phase::Running { .. } => "running",
            Phase::Sealing { .. } | Phase::Draining { .. } => "taking-over",
            Phase::Ended { .. } => "ended",
            Phase::Damaged { .. } => "damaged",
            Phase::Deleting { .. } => "deleting",
        }
    }
}
