//! The core of a host process: which roles it holds, and what it makes of the controller's orders.
//!
//! ```text
//!  per VM:   (none) --Standby--> Standby(preparing) --made--> Standby(ready) --Promote--> Primary --live-->
//!                \---------------------------Promote (cold: no standby made)------------> Primary
//!  Release: any --> (none); a deposed primary ends the whole process, as does finding its words sealed
//! ```

mod io;

pub use io::{Action, ExitReason, Input};

use crate::detector::DetectorConfig;
use crate::ids::{Epoch, FollowId, FollowTurn, Generation, VmId};
use crate::planted::{PlantedBug, planted};
use crate::secondary::{self, Secondary};
use crate::time::{Span, Time};
use crate::timeline::Shortage;
use crate::versions::VersionRange;
use crate::wire::{
    FollowStep, FromHost, HeldRole, HostHello, HostProfile, INPUT_SINCE, LOG_LOST_SINCE, Order, PROTOCOLS,
    RECORDED_SINCE, Role, SPACE_SINCE, STOOD_SINCE, ToHost, UNFIT_SINCE,
};
use std::collections::BTreeMap;

/// How long a host tries again when the controller says that the reason may pass.
pub(crate) const REJECTED_BOUND: Span = Span::from_ms(3_000);

#[derive(Debug)]
enum Held {
    Standby { generation: Generation, core: Secondary, follows: Option<Follows> },
    Primary { generation: Generation, live: bool },
}

/// The order by which a secondary follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Follows {
    turn: FollowTurn,
    /// Its number with the controller; one of an older version gives none.
    id: Option<FollowId>,
}

/// The core. One per host process.
#[derive(Debug)]
pub struct Host {
    profile: HostProfile,
    protocols: VersionRange,
    detector: Option<DetectorConfig>,
    linked: bool,
    /// What is spoken with the controller, once it has said so.
    protocol: Option<u32>,
    held: BTreeMap<VmId, Held>,
    /// Orders to follow that came.
    turns: u64,
    /// Primaries that wait for space.
    shortages: BTreeMap<VmId, (Generation, Shortage)>,
    /// Since when the controller has not had this host, for reasons that pass.
    rejected_since: Option<Time>,
}

impl Host {
    /// A host that is not yet connected.
    #[must_use]
    pub fn new(profile: HostProfile) -> Self {
        Self::speaking(profile, PROTOCOLS)
    }

    /// A host that speaks only some of the versions that are known here.
    #[must_use]
    pub fn speaking(profile: HostProfile, protocols: VersionRange) -> Self {
        let (held, shortages) = (BTreeMap::new(), BTreeMap::new());
        Self {
            profile,
            protocols,
            detector: None,
            linked: false,
            protocol: None,
            held,
            turns: 0,
            shortages,
            rejected_since: None,
        }
    }

    /// Takes an input and appends what is to be done.
    pub fn handle(&mut self, now: Time, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::LinkUp => self.link_up(actions),
            Input::LinkDown => self.link_down(actions),
            Input::Message(message) => self.message(now, message, actions),
            Input::StandbyMade { vm, generation } => self.standby_made(now, vm, generation, actions),
            Input::Beat { vm, count } => self.secondary(now, vm, secondary::Input::Beat(count), actions),
            Input::Live { vm, generation, report } => {
                if self.reigns(vm, generation) {
                    self.held.insert(vm, Held::Primary { generation, live: true });
                    self.send(FromHost::Live { vm, generation, report }, actions);
                }
            }
            Input::Fenced { vm, generation } => {
                if self.reigns(vm, generation) {
                    self.held.remove(&vm);
                    self.send(FromHost::Fenced { vm, generation }, actions);
                    actions.push(Action::Exit(ExitReason::Fenced { vm, generation }));
                }
            }
            Input::Yielded { vm, generation, stood } => {
                if self.reigns(vm, generation) {
                    self.held.remove(&vm);
                    actions.push(Action::Discard(vm));
                    if self.protocol.is_some_and(|protocol| protocol >= STOOD_SINCE) {
                        self.send(FromHost::Stood { vm, generation, stood }, actions);
                    }
                    self.send(FromHost::Yielded { vm, generation }, actions);
                }
            }
            Input::Recorded { vm, generation, since } => {
                if self.reigns(vm, generation) && self.protocol.is_some_and(|protocol| protocol >= RECORDED_SINCE) {
                    self.send(FromHost::Recorded { vm, generation, since }, actions);
                }
            }
            Input::Followed { vm, turn, epoch, step } => {
                if let Some((generation, follow)) = self.follows(vm, turn) {
                    let message = match follow {
                        Some(follow) => FromHost::FollowedAs { follow, vm, generation, epoch, step },
                        None => FromHost::Followed { vm, generation, epoch, step },
                    };
                    self.send(message, actions);
                }
            }
            Input::ModeIs { vm, generation, mode } => {
                if self.reigns(vm, generation) {
                    self.send(FromHost::ModeIs { vm, generation, mode }, actions);
                }
            }
            Input::Diverged { vm, generation, turn: None, report } => {
                if self.reigns(vm, generation) {
                    self.send(FromHost::Diverged { vm, generation, report }, actions);
                }
            }
            Input::Diverged { vm, turn: Some(turn), report, .. } => {
                if let Some((generation, follow)) = self.follows(vm, turn) {
                    let message = match follow {
                        Some(follow) => FromHost::DivergedAs { follow, vm, generation, report },
                        None => FromHost::Diverged { vm, generation, report },
                    };
                    self.send(message, actions);
                }
            }
            Input::LogLost { vm, generation, report } => {
                if self.reigns(vm, generation) {
                    let message = match self.tells_of_lost_logs() {
                        true => FromHost::LogLost { vm, generation, report },
                        false => FromHost::Diverged { vm, generation, report },
                    };
                    self.send(message, actions);
                }
            }
            Input::FollowFailed { vm, turn, reason } => {
                if let Some((generation, follow)) = self.follows(vm, turn) {
                    // A step that cannot be: an older controller does not wait for this secondary any more either.
                    let (epoch, step) = (Epoch::ZERO, FollowStep::Adopted);
                    let message = match follow {
                        Some(follow) if self.tells_of_lost_logs() => {
                            FromHost::FollowFailed { follow, vm, generation, reason }
                        }
                        Some(follow) => FromHost::FollowedAs { follow, vm, generation, epoch, step },
                        None => FromHost::Followed { vm, generation, epoch, step },
                    };
                    self.send(message, actions);
                }
            }
            Input::Space { vm, generation, shortage } => {
                if self.reigns(vm, generation) {
                    match shortage {
                        Some(shortage) => _ = self.shortages.insert(vm, (generation, shortage)),
                        None => _ = self.shortages.remove(&vm),
                    }
                    self.say_space(vm, generation, shortage, actions);
                }
            }
            Input::OutputsMeasured { vm, generation, latency } => {
                // An older controller would not understand it.
                if self.reigns(vm, generation) && self.protocol.is_some_and(|protocol| protocol >= SPACE_SINCE) {
                    self.send(FromHost::OutputsMeasured { vm, generation, latency }, actions);
                }
            }
            Input::InputAt { vm, generation, at } => {
                // Nobody of an older version has asked.
                if self.reigns(vm, generation) && self.protocol.is_some_and(|protocol| protocol >= INPUT_SINCE) {
                    self.send(FromHost::InputAt { vm, generation, at }, actions);
                }
            }
            Input::GuestEnded { vm } => {
                self.held.remove(&vm);
                actions.push(Action::Discard(vm));
            }
            Input::Unfit { vm, generation, reason } => {
                if self.generation_of(vm) == Some(generation) {
                    self.held.remove(&vm);
                    actions.push(Action::Discard(vm));
                    let message = match self.protocol {
                        Some(protocol) if protocol >= UNFIT_SINCE => FromHost::Unfit { vm, generation, reason },
                        _ => FromHost::GaveUp { vm, generation, reason },
                    };
                    self.send(message, actions);
                }
            }
            Input::Failed { vm, generation, reason } => {
                if self.generation_of(vm) == Some(generation) {
                    self.held.remove(&vm);
                    actions.push(Action::Discard(vm));
                    self.send(FromHost::GaveUp { vm, generation, reason }, actions);
                }
            }
        }
    }

    /// VMs whose primary this host watches.
    pub fn watched(&self) -> impl Iterator<Item = VmId> + '_ {
        self.held.iter().filter(|(_, held)| matches!(held, Held::Standby { .. })).map(|(vm, _)| *vm)
    }

    /// When the heartbeats of those primaries should be sampled next, from the last time on; `None`: there is none.
    #[must_use]
    pub fn sample_after(&self) -> Option<Span> {
        let watching = |held: &Held| match held {
            Held::Standby { core, .. } => Some(core.sample_after()),
            Held::Primary { .. } => None,
        };
        self.held.values().filter_map(watching).min()
    }

    /// Without a controller to wait for it, a secondary cannot follow: the next one may have gone on meanwhile.
    fn link_down(&mut self, actions: &mut Vec<Action>) {
        (self.linked, self.protocol) = (false, None);
        for (&vm, held) in &mut self.held {
            if let Held::Standby { follows, .. } = held
                && follows.take().is_some()
            {
                actions.push(Action::Unfollow(vm));
            }
        }
    }

    fn link_up(&mut self, actions: &mut Vec<Action>) {
        self.linked = true;
        let roles = self.held.iter().map(|(&vm, held)| match held {
            Held::Standby { generation, core, .. } => {
                HeldRole { vm, generation: *generation, role: Role::Secondary { prepared: core.is_prepared() } }
            }
            Held::Primary { generation, live } => {
                HeldRole { vm, generation: *generation, role: Role::Primary { live: *live } }
            }
        });
        actions.push(Action::SayHello(HostHello {
            protocols: self.protocols,
            profile: self.profile.clone(),
            roles: roles.collect(),
        }));
    }

    fn message(&mut self, now: Time, message: ToHost, actions: &mut Vec<Action>) {
        match message {
            ToHost::Welcome { protocol, .. } if !self.protocols.contains(protocol) => {
                let ours = self.protocols;
                let reason = format!("the controller wants to speak protocol {protocol}, this host speaks {ours}");
                actions.push(Action::Exit(ExitReason::Refused(reason)));
            }
            ToHost::Welcome { host, heartbeat_bound: bound, heartbeat_interval, suspicion, protocol } => {
                self.protocol = Some(protocol);
                self.rejected_since = None;
                self.detector = Some(DetectorConfig { bound, interval: heartbeat_interval, suspicion });
                actions.push(Action::Join { host, interval: heartbeat_interval });
                for vm in self.watched().collect::<Vec<_>>() {
                    self.secondary(now, vm, secondary::Input::LinkUp, actions);
                }
                for (vm, (generation, shortage)) in std::mem::take(&mut self.shortages) {
                    // Said to a controller that may be gone.
                    if self.reigns(vm, generation) {
                        self.shortages.insert(vm, (generation, shortage));
                        self.say_space(vm, generation, Some(shortage), actions);
                    }
                }
            }
            ToHost::Rejected { reason, retry: true } => {
                let since = *self.rejected_since.get_or_insert(now);
                let is_over = now.since(since) > REJECTED_BOUND;
                actions.push(if is_over {
                    Action::Exit(ExitReason::Rejected(reason))
                } else {
                    Action::TryAgain(reason)
                });
            }
            ToHost::Rejected { reason, retry: false } => actions.push(Action::Exit(ExitReason::Refused(reason))),
            ToHost::Standby(order) => self.stand_by(order, actions),
            ToHost::Promote(order) => self.promote(order, actions),
            ToHost::Yield { vm, generation } => {
                if self.reigns(vm, generation) {
                    actions.push(Action::Yield(vm));
                }
            }
            ToHost::SetMode { vm, generation, mode } => {
                if self.reigns(vm, generation) {
                    actions.push(Action::SetMode(vm, mode));
                }
            }
            ToHost::OpenInput { vm, generation } => {
                if self.reigns(vm, generation) {
                    actions.push(Action::OpenInput(vm));
                }
            }
            ToHost::Input { vm, generation, position, bytes } => {
                if self.reigns(vm, generation) {
                    actions.push(Action::TakeInput(vm, position, bytes));
                }
            }
            ToHost::Follow { vm, generation, base } => self.follow(vm, generation, base, None, actions),
            ToHost::FollowAs { follow, vm, generation, base } => {
                self.follow(vm, generation, base, Some(follow), actions);
            }
            ToHost::Unfollow { vm, generation } => {
                if let Some(Held::Standby { generation: held, follows, .. }) = self.held.get_mut(&vm)
                    && *held == generation
                    && follows.take().is_some()
                {
                    actions.push(Action::Unfollow(vm));
                }
            }
            ToHost::PrimaryGone { vm, generation, reason } => {
                if self.stands_by(vm, generation) {
                    self.secondary(now, vm, secondary::Input::PrimaryGone(reason), actions);
                }
            }
            ToHost::TakeoverRefused { vm, generation, refusal } => {
                if self.stands_by(vm, generation) {
                    self.secondary(now, vm, secondary::Input::Refused(refusal), actions);
                }
            }
            ToHost::Release { vm, generation, deposed } => self.release(vm, generation, deposed, actions),
            ToHost::Shutdown => actions.push(Action::Exit(ExitReason::Shutdown)),
        }
    }

    fn follow(
        &mut self,
        vm: VmId,
        generation: Generation,
        base: Epoch,
        id: Option<FollowId>,
        actions: &mut Vec<Action>,
    ) {
        if let Some(Held::Standby { generation: held, core, follows }) = self.held.get_mut(&vm)
            && *held == generation
            && core.is_prepared()
        {
            self.turns += 1;
            let turn = FollowTurn::new(self.turns);
            *follows = Some(Follows { turn, id });
            actions.push(Action::Follow(vm, generation, base, turn));
        }
    }

    fn stand_by(&mut self, order: Order, actions: &mut Vec<Action>) {
        // Orders come from the controller over one connection in order; a late one for an older generation is void.
        let Some(detector) = self.detector else { return };
        if self.generation_of(order.vm).is_some_and(|held| held > order.generation) {
            return;
        }
        if self.held.remove(&order.vm).is_some() {
            actions.push(Action::Discard(order.vm));
        }
        self.held.insert(
            order.vm,
            Held::Standby { generation: order.generation, core: Secondary::new(detector), follows: None },
        );
        actions.push(Action::MakeStandby(order));
    }

    fn promote(&mut self, order: Order, actions: &mut Vec<Action>) {
        if self.generation_of(order.vm).is_some_and(|held| held > order.generation)
            || self.reigns(order.vm, order.generation)
        {
            return;
        }
        if matches!(self.held.get(&order.vm), Some(Held::Primary { .. })) {
            // A younger generation on the same host: what ran under the older one is stale.
            actions.push(Action::Discard(order.vm));
        }
        self.held.insert(order.vm, Held::Primary { generation: order.generation, live: false });
        actions.push(Action::RunPrimary(order));
    }

    fn release(&mut self, vm: VmId, generation: Generation, deposed: bool, actions: &mut Vec<Action>) {
        if self.generation_of(vm).is_none_or(|held| held > generation) {
            return;
        }
        match self.held.remove(&vm) {
            // At once: the machine may be what hangs, and its end would be waited for.
            Some(Held::Primary { generation, .. }) if deposed => {
                self.send(FromHost::Fenced { vm, generation }, actions);
                actions.push(Action::Exit(ExitReason::Fenced { vm, generation }));
            }
            _ => actions.push(Action::Discard(vm)),
        }
    }

    fn standby_made(&mut self, now: Time, vm: VmId, generation: Generation, actions: &mut Vec<Action>) {
        if !self.stands_by(vm, generation) {
            return;
        }
        self.send(FromHost::StandbyReady { vm, generation }, actions);
        self.secondary(now, vm, secondary::Input::Prepared, actions);
    }

    fn secondary(&mut self, now: Time, vm: VmId, input: secondary::Input, actions: &mut Vec<Action>) {
        let Some(Held::Standby { generation, core, .. }) = self.held.get_mut(&vm) else { return };
        let generation = *generation;
        if let Some(secondary::Ask(reason)) = core.handle(now, input) {
            self.send(FromHost::AskTakeover { vm, generation, reason }, actions);
        }
    }

    fn say_space(&self, vm: VmId, generation: Generation, shortage: Option<Shortage>, actions: &mut Vec<Action>) {
        // An older controller would not understand it. Its users see that the epoch stands still.
        if self.protocol.is_some_and(|protocol| protocol >= SPACE_SINCE) {
            let message = match shortage {
                Some(shortage) => FromHost::OutOfSpace { vm, generation, shortage },
                None => FromHost::SpaceAgain { vm, generation },
            };
            self.send(message, actions);
        }
    }

    /// Sends where there is a connection; otherwise the next hello tells the controller what matters.
    fn send(&self, message: FromHost, actions: &mut Vec<Action>) {
        if self.linked {
            actions.push(Action::Send(message));
        }
    }

    fn generation_of(&self, vm: VmId) -> Option<Generation> {
        self.held.get(&vm).map(|held| match held {
            Held::Standby { generation, .. } | Held::Primary { generation, .. } => *generation,
        })
    }

    fn reigns(&self, vm: VmId, generation: Generation) -> bool {
        matches!(self.held.get(&vm), Some(Held::Primary { generation: held, .. }) if *held == generation)
    }

    /// What a machine that follows by this order follows, if that is still wanted.
    fn follows(&self, vm: VmId, turn: FollowTurn) -> Option<(Generation, Option<FollowId>)> {
        let Some(Held::Standby { generation, follows: Some(follows), .. }) = self.held.get(&vm) else { return None };
        let present = follows.turn == turn || planted(PlantedBug::StaleReportSent);
        present.then_some((*generation, follows.id))
    }

    fn tells_of_lost_logs(&self) -> bool {
        self.protocol.is_some_and(|protocol| protocol >= LOG_LOST_SINCE)
    }

    fn stands_by(&self, vm: VmId, generation: Generation) -> bool {
        matches!(self.held.get(&vm), Some(Held::Standby { generation: held, .. }) if *held == generation)
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
