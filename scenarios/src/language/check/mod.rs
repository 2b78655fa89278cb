//! From what is written to a scenario: everything that the types of [`raw`](super::raw) do not see.

mod acts;
mod expect;
mod steps;

use super::error::Source;
use super::matrix::Cell;
use super::raw::{RawCluster, RawScenario, RawVm, RawWorkload};
use super::{ClusterPart, FencePart, HostPart, ModePart, PlacementPart, Scenario, ScenarioError, VmPart, WorkloadPart};
use crate::cluster::{HOSTS_MAX, HostName};
use crate::guest::GuestSource;
use crate::units::ByteCount;
use ft_protocol::Span;
use serde::Deserialize as _;
use std::path::{Path, PathBuf};
use toml::Spanned;

const HOSTS: u16 = 3;
const MEMORY: ByteCount = ByteCount::mib(64);
const SEED: u64 = 1;
const TIME_LIMIT: Span = Span::from_ms(60_000);
/// The word for this program among commands.
const ITSELF: &str = "ftvm";
/// Lost frames are counted of so many.
const FRAMES_OF: u16 = 1_000;
/// The name of the only VM, unless it has one.
const ONLY_VM: &str = "guest";

/// What the parts of a scenario refer to.
struct Known<'a, 'b> {
    source: &'a Source<'b>,
    hosts: Vec<HostName>,
    vms: Vec<String>,
}

impl Known<'_, '_> {
    fn host(&self, text: &Spanned<String>) -> Result<HostName, ScenarioError> {
        self.hosts.iter().find(|name| name.as_str() == text.get_ref()).cloned().ok_or_else(|| {
            let last = self.hosts.last().map_or("a", HostName::as_str);
            let message = format!("there is no host `{}`: the hosts are a to {last}", text.get_ref());
            self.source.unknown(&text.span(), message, text.get_ref(), self.hosts.iter().map(HostName::as_str))
        })
    }

    /// The first one, unless another one is named.
    fn vm(&self, text: Option<&Spanned<String>>) -> Result<usize, ScenarioError> {
        let Some(text) = text else { return Ok(0) };
        self.vms.iter().position(|name| name == text.get_ref()).ok_or_else(|| {
            let known = self.vms.iter().map(String::as_str);
            let message = format!("there is no VM named `{}`", text.get_ref());
            self.source.unknown(&text.span(), message, text.get_ref(), known)
        })
    }
}

pub(super) fn scenario(source: &Source<'_>, cell: Cell<'_>) -> Result<Scenario, ScenarioError> {
    let Cell { at, table } = cell;
    let places = expect::places(source, &table);
    let raw = RawScenario::deserialize(toml::Deserializer::from(table)).map_err(|error| source.toml(&error))?;
    check_comparable(source, &raw)?;
    let cluster = cluster(source, &raw.cluster)?;
    let path = source.path;
    let hosts = (0..cluster.hosts).map(HostName::nth).collect();
    let names = vm_names(source, &raw.vm.0)?;
    let known = Known { source, hosts, vms: names };
    check_cluster(&known, &raw.cluster)?;
    let vms = vms(&known, raw.vm.0)?;
    let steps = steps::steps(&known, &raw.step)?;
    steps::check_together(source, &raw.step, &steps, &cluster)?;
    Ok(Scenario {
        path: path.to_owned(),
        name: name_of(path, &at),
        cell: at,
        description: raw.description,
        seed: raw.seed.unwrap_or(SEED),
        time_limit: raw.time_limit.map_or(TIME_LIMIT, |limit| limit.0),
        workloads: workloads(source, raw.workload)?,
        expect: expect::expect(&known, raw.expect, places, &steps)?,
        cluster,
        vms,
        steps,
    })
}

/// What comes over a network is never the same twice.
fn check_comparable(source: &Source<'_>, raw: &RawScenario) -> Result<(), ScenarioError> {
    let compared = raw.expect.console.as_ref().or(raw.expect.memory.as_ref());
    match compared {
        Some(key) if raw.vm.0.iter().any(|vm| vm.net) => {
            Err(source
                .invalid(&key.span(), "a guest with a network has no unprotected run that it could be compared with"))
        }
        _ => Ok(()),
    }
}

fn name_of(path: &Path, cell: &[(String, String)]) -> String {
    let stem = path.file_stem().map_or_else(|| "scenario".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let cell: Vec<String> = cell.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if cell.is_empty() { stem } else { format!("{stem}[{}]", cell.join(",")) }
}

fn cluster(source: &Source<'_>, raw: &RawCluster) -> Result<ClusterPart, ScenarioError> {
    let hosts = match &raw.hosts {
        None => HOSTS,
        Some(hosts) if (1..=HOSTS_MAX).contains(hosts.get_ref()) => *hosts.get_ref(),
        Some(hosts) => return Err(source.invalid(&hosts.span(), format!("a cluster has 1 to {HOSTS_MAX} hosts"))),
    };
    let fence = raw.fence_agent.as_ref().map(|agent| FencePart {
        agent: beside(source.path, agent.get_ref()),
        parameters: raw.fence_parameters.clone(),
        timeout: raw.fence_timeout.map(|timeout| timeout.0),
    });
    let host = raw.host.iter().map(|host| HostPart {
        name: HostName::new(host.name.get_ref()),
        memory: host.memory.map(|memory| memory.0),
        labels: host.labels.clone(),
    });
    if let Some(loss) = raw.segment_loss.as_ref().filter(|loss| *loss.get_ref() > FRAMES_OF) {
        return Err(source.invalid(&loss.span(), format!("a segment loses 0 to {FRAMES_OF} frames of {FRAMES_OF}")));
    }
    Ok(ClusterPart {
        segment_loss: raw.segment_loss.as_ref().map_or(0, |loss| *loss.get_ref()),
        segment_delay: raw.segment_delay.map_or(Span::ZERO, |delay| delay.0),
        hosts,
        heartbeat_bound: raw.heartbeat.map(|bound| bound.0),
        respawn: raw.respawn,
        stall_bound: raw.stall.map(|bound| bound.0),
        fence,
        pool_size: raw.pool_size.map(|size| size.0),
        host: host.collect(),
    })
}

fn check_cluster(known: &Known<'_, '_>, raw: &RawCluster) -> Result<(), ScenarioError> {
    raw.host.iter().try_for_each(|host| known.host(&host.name).map(|_| ()))
}

/// A path with a slash is relative to the scenario's file; a bare word is what it is.
fn beside(path: &Path, program: &str) -> String {
    if !program.contains('/') || program.starts_with('/') {
        return program.to_owned();
    }
    directory_of(path).join(program).to_string_lossy().into_owned()
}

fn directory_of(path: &Path) -> PathBuf {
    path.parent().map_or(PathBuf::new(), Path::to_owned)
}

fn vm_names(source: &Source<'_>, raw: &[RawVm]) -> Result<Vec<String>, ScenarioError> {
    let mut names: Vec<String> = Vec::new();
    for vm in raw {
        let name = match &vm.name {
            Some(name) if names.contains(name.get_ref()) => {
                return Err(source.invalid(&name.span(), format!("there is another VM named `{}`", name.get_ref())));
            }
            Some(name) if !ft_protocol::spec::name_is_valid(name.get_ref()) => {
                let message = "the name of a VM is 1 to 63 of a-z 0-9 . _ -, and does not begin with a dot";
                return Err(source.invalid(&name.span(), message));
            }
            Some(name) => name.get_ref().clone(),
            None if raw.len() == 1 => ONLY_VM.to_owned(),
            None => {
                return Err(
                    source.invalid(&source.find_key("[vm]"), "where there are several VMs, each needs a `name`")
                );
            }
        };
        names.push(name);
    }
    if names.is_empty() {
        return Err(source.invalid(&(0..0), "a scenario needs a `vm`"));
    }
    Ok(names)
}

fn vms(known: &Known<'_, '_>, raw: Vec<RawVm>) -> Result<Vec<VmPart>, ScenarioError> {
    let with_names = raw.into_iter().zip(&known.vms);
    with_names.map(|(raw, name)| vm(known, raw, name.clone())).collect()
}

fn vm(known: &Known<'_, '_>, raw: RawVm, name: String) -> Result<VmPart, ScenarioError> {
    let Ok(guest) = raw.guest.parse();
    let guest = match guest {
        GuestSource::File(file) => GuestSource::File(directory_of(known.source.path).join(file)),
        builtin @ GuestSource::Builtin(_) => builtin,
    };
    let mode: ModePart = raw.mode;
    Ok(VmPart {
        name,
        guest,
        args: raw.args,
        memory: raw.memory.map_or(MEMORY, |memory| memory.0),
        mode,
        epoch_interval: raw.epoch.map(|epoch| epoch.0),
        net: raw.net,
        disk: raw.disk.map(|size| size.0),
        working_set: raw.working_set.map(|size| size.0),
        placement: PlacementPart {
            prefer: raw.prefer.as_ref().map(|host| known.host(host)).transpose()?,
            failback: raw.failback.map(|hold| hold.0),
            require_spare: raw.require_spare,
            apart: raw.apart,
        },
    })
}

fn workloads(source: &Source<'_>, raw: Vec<Spanned<RawWorkload>>) -> Result<Vec<WorkloadPart>, ScenarioError> {
    let mut workloads: Vec<WorkloadPart> = Vec::new();
    for spanned in raw {
        let (line, _) = source.place(spanned.span().start);
        let raw = spanned.into_inner();
        if !ft_protocol::spec::name_is_valid(raw.name.get_ref()) {
            let message = "the name of a workload is 1 to 63 of a-z 0-9 . _ -, and does not begin with a dot";
            return Err(source.invalid(&raw.name.span(), message));
        }
        if workloads.iter().any(|other| other.name == *raw.name.get_ref()) {
            let message = format!("there is another workload named `{}`", raw.name.get_ref());
            return Err(source.invalid(&raw.name.span(), message));
        }
        let span = raw.command.span();
        let mut command = raw.command.into_inner();
        let Some(program) = command.first_mut() else {
            return Err(source.invalid(&span, "a workload needs a program"));
        };
        // Relative to the working directory that it is given, which is the scenario's.
        // This very program, wherever it is.
        if program == ITSELF {
            program.clear();
        }
        *program = match std::path::absolute(beside(source.path, program)) {
            Ok(absolute) if program.contains('/') => absolute.to_string_lossy().into_owned(),
            _ => program.clone(),
        };
        workloads.push(WorkloadPart {
            name: raw.name.into_inner(),
            line,
            command,
            directory: directory_of(source.path),
            until_end: raw.until_end,
            linearizable: raw.linearizable,
            exit_code: raw.exit_code,
        });
    }
    Ok(workloads)
}
