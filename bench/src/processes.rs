//! What processes take, as the kernel counts it.

use super::Failure;
use ft_protocol::{Span, Time};
use std::fs::{read_dir, read_to_string};
use vmm::clock::monotonic;

/// Processor time of a process, all its threads together.
pub(crate) fn cpu_time(pid: u32) -> Result<Span, Failure> {
    let mut total: u64 = 0;
    for thread in read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the two looks.
        let Ok(text) = read_to_string(thread?.path().join("schedstat")) else { continue };
        total += text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Span::from_ns(total))
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64, Failure> {
    let text = read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("a process without resident memory")?;
    let kib: u64 = line.split_whitespace().next().and_then(|kib| kib.parse().ok()).ok_or("no size in VmRSS")?;
    Ok(kib << 10)
}

/// Processor time of some processes, from now on.
pub(crate) struct CpuWatch {
    began: Time,
    pids: Vec<(u32, Span)>,
}

impl CpuWatch {
    pub(crate) fn begin(pids: &[u32]) -> Result<Self, Failure> {
        let pids = pids.iter().map(|pid| Ok((*pid, cpu_time(*pid)?))).collect::<Result<_, Failure>>()?;
        Ok(Self { began: monotonic(), pids })
    }

    /// The share of one core that each has taken since.
    pub(crate) fn shares(&self) -> Result<Vec<f64>, Failure> {
        let took = monotonic().since(self.began).ns().max(1);
        let share = |(pid, before): &(u32, Span)| -> Result<f64, Failure> {
            Ok(cpu_time(*pid)?.ns().saturating_sub(before.ns()) as f64 / took as f64)
        };
        self.pids.iter().map(share).collect()
    }
}
