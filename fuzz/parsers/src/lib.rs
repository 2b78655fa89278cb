//! The parsers of bytes that somebody else wrote, or that memory which was damaged may hold, as functions of those bytes, and bytes to
//! begin with.
//!
//! `cargo test -p ftvm-fuzz` runs each target over its seeds and thousands of mutations of them, on the stable toolchain;
//! `.ci/fuzz` gives the same functions to libFuzzer for as long as one likes.

mod checksum;
mod files;
mod guest;
mod kept;
mod machine;
mod mutate;
mod pool;
mod protocol;
mod recording;
mod virtio;
mod wire;

pub use mutate::Mutator;

/// A parser under attack.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Takes any bytes. A panic is a finding.
    pub run: fn(&[u8]),
    /// Well-formed inputs, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 31] = [
    Target { name: "superblock", run: pool::superblock, seeds: pool::superblock_seeds },
    Target { name: "vm-entry", run: pool::vm_entry, seeds: pool::vm_entry_seeds },
    Target { name: "blob", run: pool::blob, seeds: pool::blob_seeds },
    Target { name: "device-table", run: pool::device_table, seeds: pool::device_table_seeds },
    Target { name: "heartbeat", run: pool::heartbeat, seeds: pool::heartbeat_seeds },
    Target { name: "commit-word", run: pool::commit_word, seeds: pool::commit_word_seeds },
    Target { name: "record", run: pool::record, seeds: pool::record_seeds },
    Target { name: "journal", run: pool::journal, seeds: pool::record_seeds },
    Target { name: "log-entry", run: pool::log_entry, seeds: pool::log_entry_seeds },
    Target { name: "log", run: pool::log, seeds: pool::log_seeds },
    Target { name: "control-block", run: kept::control_block, seeds: kept::control_block_seeds },
    Target { name: "console", run: kept::console, seeds: kept::console_seeds },
    Target { name: "state-area", run: kept::state_area, seeds: kept::state_area_seeds },
    Target { name: "boot-image", run: kept::boot_image, seeds: kept::boot_image_seeds },
    Target { name: "redo", run: kept::redo, seeds: kept::redo_seeds },
    Target { name: "input", run: protocol::input, seeds: protocol::input_seeds },
    Target { name: "commit-meta", run: protocol::commit_meta, seeds: protocol::commit_meta_seeds },
    Target { name: "cluster-state", run: protocol::cluster_state, seeds: protocol::cluster_state_seeds },
    Target { name: "machine-state", run: machine::state, seeds: machine::state_seeds },
    Target { name: "linux-guest", run: guest::linux, seeds: guest::linux_seeds },
    Target { name: "flat-guest", run: guest::flat, seeds: guest::flat_seeds },
    Target { name: "greeting", run: wire::greeting, seeds: wire::greeting_seeds },
    Target { name: "hello", run: wire::hello, seeds: wire::hello_seeds },
    Target { name: "from-peers", run: wire::from_peers, seeds: wire::from_peers_seeds },
    Target { name: "to-peers", run: wire::to_peers, seeds: wire::to_peers_seeds },
    Target { name: "frames", run: wire::frames, seeds: wire::frames_seeds },
    Target { name: "virtio", run: virtio::chains, seeds: virtio::seeds },
    Target { name: "scenario", run: files::scenario, seeds: files::scenario_seeds },
    Target { name: "event-file", run: files::event_file, seeds: files::event_file_seeds },
    Target { name: "recording", run: recording::recording, seeds: recording::recording_seeds },
    Target { name: "history", run: files::history, seeds: files::history_seeds },
];

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Gives bytes to the target of that name.
///
/// # Panics
/// When there is none; and for a finding.
pub fn run(name: &str, data: &[u8]) {
    let target = target(name).unwrap_or_else(|| panic!("there is no target {name}"));
    (target.run)(data);
}
