//! What a scenario's cluster and VMs are made of.

use super::{RunnerError, RunnerOptions};
use crate::cluster::{CONTROLLER, ClusterCustom, ClusterOptions, HostCustom, HostName};
use crate::language::{Act, Scenario, VmPart, When};
use crate::protected::VmOptions;
use crate::units::ByteCount;
use ft_protocol::policy::{Failback, Policy};
use ft_protocol::spec::{NetBackend, NetSpec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use vmm::net::{Faults, MacAddress, Switch};

/// The cluster that a scenario asks for.
pub(super) fn cluster(scenario: &Scenario, options: &RunnerOptions, pool_parent: &Path, logs: &Path) -> ClusterOptions {
    let part = &scenario.cluster;
    let mut custom = ClusterCustom {
        stall_bound: part.stall_bound,
        fence_arguments: fence_arguments(scenario),
        hosts: hosts(scenario),
        controller_failpoints: failpoints_of(scenario, CONTROLLER),
        controller_clock_can_step: acts(scenario).any(|act| matches!(act, Act::Clock { .. })),
        host_log: None,
        logs: Some(logs.to_owned()),
    };
    for (name, host) in &mut custom.hosts {
        host.failpoints = failpoints_of(scenario, name.as_str());
    }
    ClusterOptions {
        executable: options.executable.clone(),
        hosts: part.hosts,
        pool_parent: pool_parent.to_owned(),
        heartbeat_bound: part.heartbeat_bound,
        record: Vec::new(),
        keep: false,
        custom,
    }
}

fn fence_arguments(scenario: &Scenario) -> Vec<String> {
    let Some(fence) = &scenario.cluster.fence else { return Vec::new() };
    let mut arguments = vec!["--fence-agent".to_owned(), fence.agent.clone()];
    for parameter in &fence.parameters {
        arguments.extend(["--fence-parameter".to_owned(), parameter.clone()]);
    }
    if let Some(timeout) = fence.timeout {
        arguments.extend(["--fence-timeout-ms".to_owned(), timeout.ms().max(1).to_string()]);
    }
    arguments
}

/// All that is done.
fn acts(scenario: &Scenario) -> impl Iterator<Item = &Act> {
    scenario.steps.iter().flat_map(|step| &step.acts)
}

/// Any host may be hit by a cut that names a role: all are made so that they can be.
fn hosts(scenario: &Scenario) -> BTreeMap<HostName, HostCustom> {
    let acts = || acts(scenario);
    let pool_can_be_cut = acts().any(|act| matches!(act, Act::Cut { from, .. } if from.pool()));
    let network_can_be_cut = acts().any(|act| matches!(act, Act::Cut { from, .. } if from.network()));
    let clock_can_step = acts().any(|act| matches!(act, Act::Clock { .. }));
    let custom = HostCustom { pool_can_be_cut, network_can_be_cut, clock_can_step, ..HostCustom::default() };
    let mut hosts: BTreeMap<HostName, HostCustom> =
        (0..scenario.cluster.hosts).map(|index| (HostName::nth(index), custom.clone())).collect();
    for part in &scenario.cluster.host {
        if let Some(host) = hosts.get_mut(&part.name) {
            host.memory = part.memory;
            host.labels.clone_from(&part.labels);
        }
    }
    hosts
}

/// The failpoints at which a process is to stand still, as it is told.
fn failpoints_of(scenario: &Scenario, who: &str) -> String {
    let of_step = scenario.steps.iter().filter_map(|step| match &step.when {
        When::Failpoint { process, name, hit } if process.as_str() == who => Some(format!("{name}=stop@{hit}")),
        _ => None,
    });
    of_step.collect::<Vec<_>>().join(";")
}

/// The segment of the guests' network, if one of them has a network.
pub(super) fn segment(
    scenario: &Scenario,
    directory: &Path,
    seed: u64,
) -> Result<Option<(PathBuf, Arc<Switch>)>, RunnerError> {
    if !scenario.vms.iter().any(|vm| vm.net) {
        return Ok(None);
    }
    let path = directory.join("segment.sock");
    let faults = Faults {
        loss: f64::from(scenario.cluster.segment_loss) / 1_000.0,
        delay: Duration::from_nanos(scenario.cluster.segment_delay.ns()),
        seed,
    };
    let switch = Switch::start(&path, faults)?;
    Ok(Some((path, Arc::new(switch))))
}

/// The network of the VM with this place among the scenario's.
pub(super) fn nets(part: &VmPart, place: usize, segment: Option<&Path>) -> Vec<NetSpec> {
    let Some(path) = segment.filter(|_| part.net) else { return Vec::new() };
    let backend = NetBackend::Segment(path.to_string_lossy().into_owned());
    vec![NetSpec { mac: mac(place).0, backend }]
}

/// The address of that VM's device.
pub(super) fn mac(place: usize) -> MacAddress {
    let number = u8::try_from(place + 1).unwrap_or(u8::MAX);
    MacAddress([2, 0, 0, 0, 0, number])
}

/// The VM that a scenario asks for.
pub(super) fn vm(part: &VmPart, nets: Vec<NetSpec>) -> VmOptions {
    let placement = &part.placement;
    VmOptions {
        memory: part.memory,
        args: part.args.clone(),
        mode: part.mode.into(),
        epoch_interval: part.epoch_interval,
        working_set: part.working_set,
        journal: part.journal,
        nets,
        disk_bytes: part.disk.map_or(0, ByteCount::get),
        policy: Policy {
            anti_affinity: placement.apart.clone(),
            require_spare: placement.require_spare,
            preferred: placement.prefer.as_ref().map(|host| host.as_str().to_owned()),
            failback: placement.failback.map(|hold| Failback { hold }),
        },
    }
}

/// A tmpfs of its own for a pool, until it is dropped.
#[derive(Debug)]
pub(super) struct Tmpfs {
    at: PathBuf,
}

impl Tmpfs {
    /// Mounts one at a directory, which is made.
    pub(super) fn mount(at: PathBuf, bytes: u64) -> Result<Self, RunnerError> {
        std::fs::create_dir_all(&at).map_err(|source| RunnerError::File { path: at.clone(), source })?;
        let size = format!("size={bytes},mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "ftvm-scenario"]).arg(&at).output();
        let why = match mounted {
            Ok(output) if output.status.success() => return Ok(Self { at }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" "),
            Err(error) => format!("`mount` cannot be started: {error}"),
        };
        Err(RunnerError::Skipped {
            reason: format!("`pool-size` needs a tmpfs of its own, which cannot be mounted: {why}"),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: processes that used it may just be ending. What cannot be unmounted stays for the user to see.
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
        let _ = std::fs::remove_dir(&self.at);
    }
}
