//! ftvm on a real kvm-amd, inside nested machines, with this build's own program.
//!
//! Without QEMU these tests are skipped, aloud; `FTVM_REQUIRE_NESTED=1` makes that a failure. They take turns: a machine
//! takes a processor.

mod device_cluster;
mod flat_guests;
mod hosts;
mod kvm_guests;
mod linux_guests;
mod linux_hosts;
mod machines;

use nested::{Cluster, Setup};
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a machine may take for something that takes seconds where nobody else computes.
const PATIENCE: Duration = Duration::from_secs(900);

static TURN: Mutex<()> = Mutex::new(());

/// Machines, for as long as it is this test's turn; none where there can be none.
fn boot(machines: usize, pool_mib: u64) -> Option<(Cluster, MutexGuard<'static, ()>)> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(missing) = nested::check() {
        assert!(!is_required(), "FTVM_REQUIRE_NESTED is set, but {missing}");
        eprintln!("SKIPPED: {missing}");
        return None;
    }
    let setup =
        Setup { machines, memory_mib: 1536, pool_mib, ftvm: Some(env!("CARGO_BIN_EXE_ftvm").into()), has_qemu: false };
    match Cluster::boot(setup) {
        Ok(cluster) => Some((cluster, turn)),
        // What fails later is a failure; a kernel that cannot be fetched is no fault of the program's.
        Err(error @ nested::ClusterError::Image(_)) if !is_required() => {
            eprintln!("SKIPPED: {}", chain(&error));
            None
        }
        Err(error) => panic!("{}", chain(&error)),
    }
}

fn is_required() -> bool {
    std::env::var_os("FTVM_REQUIRE_NESTED").is_some_and(|value| !value.is_empty() && value != "0")
}

/// An error with its causes, on one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        line = format!("{line}: {source}");
        cause = source.source();
    }
    line
}
