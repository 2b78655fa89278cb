//! Builds the bundled flat guests: a workspace of its own under `guests/`, whose flags have nothing in common with
//! those of the host programs.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What cargo sets for this build and must not reach the other one: flags, wrappers such as clippy's, and settings of
/// whoever runs it.
const STRIPPED: [&str; 14] = [
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_TARGET_DIR",
    "CARGO_MAKEFLAGS",
    "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER",
    "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
    "MAKEFLAGS",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];

fn main() {
    let manifest_dir = path("CARGO_MANIFEST_DIR");
    let guests = manifest_dir.join("guests");
    let target_dir = path("OUT_DIR").join("guests");
    watch(&guests);
    println!("cargo::rerun-if-changed=build.rs");

    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo names itself"));
    // Flags come from guests/.cargo/config.toml, which cargo finds from its working directory.
    cargo.current_dir(&guests).args(["build", "--release", "--locked", "--quiet", "--workspace"]);
    cargo.args(["--target", TARGET, "--target-dir"]).arg(&target_dir);
    for name in STRIPPED {
        cargo.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PROFILE_") || name.starts_with("CARGO_CFG_")) {
            cargo.env_remove(name);
        }
    }
    let status = cargo.status().expect("cargo can be started");
    assert!(status.success(), "the bundled guests did not build: {status}");
    println!("cargo::rustc-env=FTVM_GUESTS_DIR={}", target_dir.join(TARGET).join("release").display());
}

/// Rebuilds when a source of the guests changes, but not when an editor or a build leaves something else there.
fn watch(guests: &Path) {
    let settings = ["Cargo.toml", "Cargo.lock", ".cargo", "flat-rt", "flat-virtio"];
    let programs = ["burn", "counter", "disk", "echo", "idle", "kv", "netecho", "rebel", "torture"];
    for part in settings.into_iter().chain(programs) {
        println!("cargo::rerun-if-changed={}", guests.join(part).display());
    }
}

fn path(variable: &str) -> PathBuf {
    PathBuf::from(env::var_os(variable).expect("cargo sets it"))
}
