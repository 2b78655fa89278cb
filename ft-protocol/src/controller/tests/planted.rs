//! Tests that have to fail when the bug they are there for is planted.

use super::{follow, places, takeover};
use crate::planted::{PlantedBug, is_noticed_by};

#[test]
fn the_tests_of_this_core_notice_what_the_simulator_hardly_meets() {
    let tests: [(PlantedBug, fn()); 6] = [
        (PlantedBug::PromotionBoundFixed, takeover::a_promotion_has_twice_the_time_of_the_one_that_came_to_nothing),
        (PlantedBug::LogClosedUnderDrain, takeover::a_log_that_is_read_is_not_given_back),
        (PlantedBug::BeatsOfNewLife, takeover::beats_of_a_new_life_are_not_those_of_the_primary),
        (PlantedBug::FloorsMixed, takeover::room_that_a_reader_makes_is_used_where_a_log_is_moved_meanwhile),
        (PlantedBug::StandbysStay, places::a_secondary_makes_room_for_a_guest_that_runs_nowhere),
        (PlantedBug::StaleReportBelieved, follow::what_is_said_of_an_earlier_order_is_not_believed),
    ];
    for (bug, test) in tests {
        test();
        assert!(is_noticed_by(bug, test), "{bug:?} does nothing that its test sees");
    }
}
