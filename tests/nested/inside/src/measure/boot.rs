//! From the start of a process to the first line of the guest's user space.

use crate::console::{Console, fresh};
use crate::ftvm::{Ftvm, Protection};
use crate::guest::{FIRST_LINE, Guest};
use crate::qemu::{self, Begin, MICROVM, Q35};
use crate::{Failure, ns, tell};
use nested_inside::sample::{Boot, EPOCH_MS, Plan, Sample};

const WAYS: [Boot; 4] = [Boot::QemuMicrovm, Boot::Unprotected, Boot::QemuQ35, Boot::Protected];

pub(crate) fn round(plan: &Plan) -> Result<(), Failure> {
    // It waits, and is killed.
    let guest = Guest { memory_mib: plan.memory_mib, runs: "sleep,100000".to_owned() };
    for way in WAYS {
        let ns = once(way, &guest)?;
        tell(&Sample::Boot { way, ns })?;
    }
    Ok(())
}

fn once(way: Boot, guest: &Guest) -> Result<u64, Failure> {
    let ftvm = |protection| {
        let mut ftvm = Ftvm::start(guest, protection)?;
        let time = first_line(&mut ftvm.console)?;
        ftvm.end()?;
        Ok(time)
    };
    match way {
        Boot::QemuMicrovm => first_line(&mut qemu::start(MICROVM, guest, &Begin::Boot, &fresh("qmp"))?),
        Boot::QemuQ35 => first_line(&mut qemu::start(Q35, guest, &Begin::Boot, &fresh("qmp"))?),
        Boot::Unprotected => ftvm(None),
        Boot::Protected => ftvm(Some(Protection { hosts: 2, epoch_ms: EPOCH_MS, tell_commits: false })),
    }
}

fn first_line(console: &mut Console) -> Result<u64, Failure> {
    let line = console.await_line(|text| text.contains(FIRST_LINE))?;
    Ok(ns(line.at - console.started))
}
