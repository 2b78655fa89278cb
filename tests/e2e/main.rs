//! End to end: the ftvm program as a user has it, with real processes that really die.

mod bad_input;
mod bench;
mod cleanup;
mod cluster_by_hand;
mod consoles;
mod damaged_logs;
mod descriptors;
mod devices;
mod full_pool;
mod guests;
mod hangs;
mod huge_pages;
mod kills;
mod kv_kills;
mod latencies;
mod lockstep;
mod losses;
mod memory_cost;
mod outputs;
mod protected_devices;
mod recordings;
mod scenario_ends;
mod scenario_files;
mod several_vms;
mod support;
mod takeover_time;
