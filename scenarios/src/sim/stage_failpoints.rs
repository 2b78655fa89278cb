//! Failpoints of scenarios, as steps that the simulator knows.

use super::fault::Point;

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
