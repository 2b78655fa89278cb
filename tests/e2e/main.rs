//! End to end: the ftvm program as a user has it, with real processes that really die.

mod bad_input;
mod cleanup;
mod cluster_by_hand;
mod descriptors;
mod full_pool;
mod guests;
mod hangs;
mod kills;
mod losses;
mod memory_cost;
mod scenario_files;
mod support;
mod takeover_time;
