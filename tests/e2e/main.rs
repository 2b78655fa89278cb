//! End to end: the ftvm program as a user has it, with real processes that really die.

mod bad_input;
mod bench;
mod cleanup;
mod cluster_by_hand;
mod console_floods;
mod console_input;
mod consoles;
mod damaged_logs;
mod descriptors;
mod devices;
mod elections;
mod every_guest;
mod flush;
mod full_pool;
mod given_up;
mod guests;
mod hangs;
mod huge_pages;
mod kills;
mod kv_kills;
mod latencies;
mod lockstep;
mod losses;
#[path = "../shared/machine.rs"]
mod machine;
mod memory_cost;
mod outputs;
mod protected_devices;
mod recordings;
mod remote_controllers;
mod restarts;
mod scenario_ends;
mod scenario_files;
mod several_vms;
mod support;
mod takeover_time;
