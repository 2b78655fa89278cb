//! Scenario language, runner on real processes, deterministic simulator.
#![forbid(unsafe_code)]

pub mod attached;
pub mod cluster;
pub mod cluster_file;
pub mod compare;
pub mod console_input;
pub mod demo;
pub mod devices;
pub mod disk_image;
pub mod echo_load;
pub mod event;
pub mod foreground;
pub mod golden;
pub mod guest;
pub mod history;
pub mod kv_load;
pub mod language;
pub mod protected;
pub mod report;
pub mod runner;
pub mod segment_claim;
pub mod sim;
pub mod status_line;
pub mod summary;
pub mod telling;
pub mod timeline;
pub mod units;
