//! How long the guest stands still for a commit of ftvm's and for snapshots of QEMU's, while it writes to so much memory over and
//! over.

use crate::console::fresh;
use crate::ftvm::{Ftvm, Protection, commits};
use crate::guest::Guest;
use crate::qemu::{Begin, MICROVM, Qemu};
use crate::{Failure, PATIENCE, tell};
use nested_inside::sample::{Plan, Sample, Snapshot};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

const WAYS: [Snapshot; 3] = [Snapshot::Full, Snapshot::Precopy, Snapshot::Background];
/// Commits that are not counted: pages are first written, slots first used.
const WARM_UP: usize = 3;
/// The guest goes round its memory before anything is measured.
const ROUNDS: &str = "burner: round 3 of";
/// Between two snapshots the guest goes round again.
const REST: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(50);

pub(crate) fn round(plan: &Plan, mib: u64) -> Result<(), Failure> {
    let guest = Guest { memory_mib: plan.memory_mib, runs: format!("burner,{mib},1000000000") };
    ftvm(plan, mib, &guest)?;
    qemu(plan, mib, &guest)
}

fn ftvm(plan: &Plan, mib: u64, guest: &Guest) -> Result<(), Failure> {
    let protection = Protection { hosts: 2, epoch_ms: epoch_ms(mib), tell_commits: true };
    let mut ftvm = Ftvm::start(guest, Some(protection))?;
    ftvm.console.await_line(|text| text.starts_with(ROUNDS))?;
    let primary = ftvm.await_protected(1)?;
    let before = commits(primary)?.len() + WARM_UP;
    let wanted = usize::try_from(plan.pauses)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let lines = commits(primary)?;
        if let Some(lines) = lines.get(before..before + wanted) {
            for line in lines {
                tell(&Sample::Commit { working_set_mib: mib, line: line.clone() })?;
            }
            return ftvm.end();
        }
        if Instant::now() > deadline {
            return Err(ftvm.console.failure("there are too few commits"));
        }
        thread::sleep(POLL);
        ftvm.console.rest();
    }
}

/// Long enough for a first write to every page, which costs an emulated machine up to 100 us.
fn epoch_ms(mib: u64) -> u64 {
    100 + (mib << 20) / 4096 / 8
}

fn qemu(plan: &Plan, mib: u64, guest: &Guest) -> Result<(), Failure> {
    let mut qemu = Qemu::start(MICROVM, guest, &Begin::Boot)?;
    qemu.console.await_line(|text| text.starts_with(ROUNDS))?;
    let path = fresh("snapshot");
    for _ in 0..plan.pauses {
        for way in WAYS {
            thread::sleep(REST);
            qemu.console.rest();
            match qemu.snapshot(way, &path) {
                Ok(taken) => tell(&Sample::Snapshot {
                    way,
                    working_set_mib: mib,
                    pause_ns: taken.pause_ns,
                    whole_ns: taken.whole_ns,
                    bytes: taken.bytes,
                })?,
                // Only kernels with userfaultfd's write protection have it.
                Err(why) if way == Snapshot::Background => {
                    tell(&Sample::Unable { what: "background snapshot".to_owned(), why: why.to_string() })?;
                }
                Err(why) => return Err(why),
            }
        }
    }
    fs::remove_file(&path)?;
    Ok(())
}
