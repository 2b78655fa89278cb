//! Failpoints of scenarios, as steps that the simulator knows, and who stands at them.

use super::fault::{Point, Target as Whom};
use super::queue::{Event, Mend};
use super::stage::Stage;
use super::world::World;
use crate::cluster::HostSignal;
use crate::event::What;
use crate::runner::Hamper;

/// The step of the protocol that a failpoint lies behind.
pub(super) fn point_of(name: &str) -> Option<Point> {
    Some(match name {
        "host.standby.made" => Point::StandbyMade,
        "host.takeover.ordered" => Point::PrimaryOrdered,
        "host.takeover.loaded" => Point::StateLoaded,
        "host.takeover.replayed" => Point::LogReplayed,
        "host.commit.stopped" => Point::VcpuStopped,
        "host.commit.harvested" | "host.commit.copied" | "host.commit.closed" => Point::RecordWritten,
        "host.commit.checksummed" => Point::RecordChecksummed,
        "host.commit.published" => Point::RecordPublished,
        "host.follow.compared" => Point::EpochFollowed,
        "controller.apply.checked" => Point::RecordBegun,
        "controller.apply.applied" => Point::RecordApplied,
        "controller.apply.freed" => Point::SlotFreed,
        "controller.takeover.sealed" => Point::WordSealed,
        "controller.takeover.opened" => Point::GenerationOpened,
        "controller.takeover.promoted" => Point::PromotionSent,
        "controller.standby.ordered" => Point::StandbySent,
        "controller.state.persisted" => Point::StatePersisted,
        _ => return None,
    })
}

/// A process that stands at a failpoint.
pub(super) struct Held {
    /// Until this step has fired.
    step: usize,
    pub(super) who: Whom,
    since_ns: u64,
}

impl Stage {
    /// Whether a process stands at a failpoint.
    pub(super) fn holds(&self, who: Whom) -> bool {
        self.held.iter().any(|held| held.who == who)
    }
}

impl World {
    /// A step of the protocol was done by a process: steps may wait for it.
    pub(crate) fn stage_reached(&mut self, point: Point) {
        if point == Point::RecordPublished {
            self.stage_published();
        }
        let (at, by) = (self.stage_time(), self.acting);
        let Some(stage) = &mut self.stage else { return };
        let Some(by) = by else { return };
        let who = Stage::name(by);
        let here: Vec<(usize, &'static str, u64)> = stage
            .schedule
            .awaited_failpoints()
            .filter(|(_, process, name, _)| **process == who && point_of(name) == Some(point))
            .map(|(index, _, name, hit)| (index, name, hit))
            .collect();
        // Each counts this passage, also if it is another one's.
        here.iter().for_each(|(index, ..)| stage.passed[*index] += 1);
        for (index, name, hit) in here {
            if stage.passed[index] < hit {
                continue;
            }
            stage.schedule.reached(at, index);
            stage.held.push(Held { step: index, who: by, since_ns: self.now_ns });
            let (process, failpoint) = (Stage::name(by), name.to_owned());
            stage.see(at, What::FailpointReached { process, failpoint });
            self.actor_mut(by).stopped = true;
            self.schedule(0, Event::Scene);
            return;
        }
    }

    /// Whether a step holds a process at a failpoint: to suspect it is right then.
    pub(super) fn is_held(&self, who: Whom) -> bool {
        self.stage.as_ref().is_some_and(|stage| stage.holds(who))
    }

    /// Who was held at failpoints for nearly as long as others are patient may still be suspected for it when it goes on: the beat before and the
    /// next one are each up to an interval away. Several times count together, as nobody knows what it came to in between.
    fn was_held(&mut self, held: &Held) {
        let weather = &self.plan.weather;
        let beats_us = weather.heartbeat_us * weather.heartbeats_missing.saturating_sub(2);
        let patience_ns = beats_us.min(weather.stall_us) * 1_000;
        let held_ns = self.now_ns - held.since_ns;
        let actor = self.actor_mut(held.who);
        actor.held_ns += held_ns;
        actor.disturbed |= actor.held_ns >= patience_ns;
    }

    /// Who stood at a failpoint until this step had fired goes on, unless something else stops it, too.
    pub(super) fn let_go_on(&mut self, index: usize) {
        let Some(stage) = &mut self.stage else { return };
        let released: Vec<Held> = stage.held.extract_if(.., |held| held.step == index).collect();
        for held in released {
            self.was_held(&held);
            let host = Stage::name(held.who);
            if self.stage.as_ref().is_some_and(|stage| stage.hampers.has(&host, Hamper::Stop)) {
                continue;
            }
            self.see(What::Signalled { host, signal: HostSignal::Cont });
            self.mend(Mend::Continue(held.who));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failpoint_that_scenarios_may_name_is_a_step_of_the_simulator() {
        let unknown: Vec<&str> =
            crate::language::SIMULATED_FAILPOINTS.into_iter().filter(|name| point_of(name).is_none()).collect();
        assert_eq!(unknown, [""; 0]);
    }
}
