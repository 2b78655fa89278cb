//! The cluster.

use super::super::error::Source;
use super::super::raw::{RawCluster, RawHost};
use super::super::{ClusterPart, FencePart, HostPart, ScenarioError};
use super::{Known, beside, bounds, check_beside};
use crate::cluster::{HOSTS_MAX, HostName};
use ft_protocol::Span;
use ft_protocol::policy::{LABELS_MAX, label_is_valid};
use toml::Spanned;

const HOSTS: u16 = 3;
/// Lost frames are counted of so many.
pub(super) const FRAMES_OF: u16 = 1_000;
/// What `ftvm pool` takes.
const HEARTBEAT: std::ops::RangeInclusive<Span> = Span::from_ms(10)..=Span::from_ms(600_000);
const STALL: std::ops::RangeInclusive<Span> = Span::from_ms(10)..=Span::from_ms(3_600_000);

pub(super) fn cluster(source: &Source<'_>, raw: &RawCluster) -> Result<ClusterPart, ScenarioError> {
    let hosts = match &raw.hosts {
        None => HOSTS,
        Some(hosts) if (1..=HOSTS_MAX).contains(hosts.get_ref()) => *hosts.get_ref(),
        Some(hosts) => return Err(source.invalid(&hosts.span(), format!("a cluster has 1 to {HOSTS_MAX} hosts"))),
    };
    if let Some(agent) = &raw.fence_agent {
        check_beside(source, &agent.span(), "fence agent", agent.get_ref())?;
    }
    let fence_timeout = bounds::some_time(source, "fence-timeout", raw.fence_timeout.as_ref())?;
    let of_agent = raw.fence_parameters.first().map(Spanned::span).or(raw.fence_timeout.as_ref().map(Spanned::span));
    if let Some(span) = of_agent.filter(|_| raw.fence_agent.is_none()) {
        return Err(source.invalid(&span, "this is for a `fence-agent`: say which"));
    }
    if let Some(line) = raw.fence_parameters.iter().find(|line| !line.get_ref().contains('=')) {
        return Err(source.invalid(&line.span(), format!("`{}` is no KEY=VALUE", line.get_ref())));
    }
    let fence = raw.fence_agent.as_ref().map(|agent| FencePart {
        agent: beside(source.path, agent.get_ref()),
        parameters: raw.fence_parameters.iter().map(|line| line.get_ref().clone()).collect(),
        timeout: fence_timeout,
    });
    let host = |host: &RawHost| {
        Ok(HostPart {
            name: HostName::new(host.name.get_ref()),
            memory: host.memory.map(|memory| memory.0),
            labels: labels(source, &host.labels)?,
        })
    };
    let host = raw.host.iter().map(host).collect::<Result<Vec<_>, ScenarioError>>()?;
    if let Some(loss) = raw.segment_loss.as_ref().filter(|loss| *loss.get_ref() > FRAMES_OF) {
        return Err(source.invalid(&loss.span(), format!("a segment loses 0 to {FRAMES_OF} frames of {FRAMES_OF}")));
    }
    Ok(ClusterPart {
        segment_loss: raw.segment_loss.as_ref().map_or(0, |loss| *loss.get_ref()),
        segment_delay: raw.segment_delay.map_or(Span::ZERO, |delay| delay.0),
        hosts,
        heartbeat_bound: bounds::within(source, "heartbeat", raw.heartbeat.as_ref(), HEARTBEAT)?,
        respawn: raw.respawn,
        stall_bound: bounds::within(source, "stall", raw.stall.as_ref(), STALL)?,
        fence,
        pool_size: bounds::some_bytes(source, "pool-size", raw.pool_size.as_ref())?,
        host,
    })
}

/// Labels of hosts, and groups of VMs, as the controller takes them.
pub(super) fn labels(source: &Source<'_>, given: &[Spanned<String>]) -> Result<Vec<String>, ScenarioError> {
    if let Some(bad) = given.iter().find(|label| !label_is_valid(label.get_ref())) {
        let message = format!("`{}` is no label: 1 to 64 of a-z A-Z 0-9 . _ - = /, as in rack=r1", bad.get_ref());
        return Err(source.invalid(&bad.span(), message));
    }
    if let Some(beyond) = given.get(LABELS_MAX) {
        return Err(source.invalid(&beyond.span(), format!("there are at most {LABELS_MAX}")));
    }
    Ok(given.iter().map(|label| label.get_ref().clone()).collect())
}

/// Each host is one that there is, and is described once.
pub(super) fn check_hosts(known: &Known<'_, '_>, raw: &RawCluster) -> Result<(), ScenarioError> {
    for (index, host) in raw.host.iter().enumerate() {
        known.host(&host.name)?;
        if raw.host[..index].iter().any(|other| other.name.get_ref() == host.name.get_ref()) {
            let message = format!("there is another table for host `{}`", host.name.get_ref());
            return Err(known.source.invalid(&host.name.span(), message));
        }
    }
    Ok(())
}
