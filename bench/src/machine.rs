//! The machine that figures are of.

use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use std::fs::read_to_string;
use std::path::Path;

/// What figures depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Processors that may be used.
    pub processors: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of the tmpfs that pools are made on.
    pub pool_bytes: u64,
    /// The kernel.
    pub kernel: String,
    /// KVM's kind: a hardware module, or another one.
    pub kvm: String,
    /// Transparent huge pages, as the kernel is set.
    pub huge_pages: String,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn describe() -> Self {
        let first = |path: &str, key: &str| {
            let text = read_to_string(path).unwrap_or_default();
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.split_once(':'));
            value.map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let line = |path: &str| read_to_string(path).unwrap_or_default().trim().to_owned();
        let memory = first("/proc/meminfo", "MemTotal");
        let kib: u64 = memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        Self {
            processor: first("/proc/cpuinfo", "model name"),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: kib << 10,
            pool_bytes: statvfs("/dev/shm").map_or(0, |stat| stat.blocks() * stat.fragment_size()),
            kernel: line("/proc/sys/kernel/osrelease"),
            kvm: kvm_module(),
            huge_pages: line("/sys/kernel/mm/transparent_hugepage/enabled"),
        }
    }
}

fn kvm_module() -> String {
    if vmm::machine::open_kvm().is_err() {
        return "none".to_owned();
    }
    let modules = read_to_string("/proc/modules").unwrap_or_default();
    let names = modules.lines().filter_map(|line| line.split_whitespace().next());
    let mut found: Vec<&str> = names.filter(|name| name.starts_with("kvm_")).collect();
    found.sort_unstable();
    if found.is_empty() { "built into the kernel".to_owned() } else { found.join(", ") }
}

/// Runnable tasks, averaged over a minute.
#[must_use]
pub fn load() -> f64 {
    let text = read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// How much may be taken for a pool there: what the file system has, and the machine, if it lies in its memory.
pub(crate) fn spare_bytes(pool_parent: &Path) -> u64 {
    let pool = statvfs(pool_parent).map_or(0, |stat| stat.blocks_available() * stat.fragment_size());
    if !is_memory(pool_parent) {
        return pool;
    }
    let text = read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    pool.min(kib << 10)
}

/// Whether files there lie in memory, and nowhere else.
pub(crate) fn is_memory(directory: &Path) -> bool {
    let in_memory = [TMPFS_MAGIC, HUGETLBFS_MAGIC];
    statfs(directory).is_ok_and(|stat| in_memory.contains(&stat.filesystem_type()))
}
