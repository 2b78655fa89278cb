//! What a run was: enough to do it again, and to know on what it ran.

use super::RunnerOptions;
use crate::cluster::default_pool_parent;
use crate::language::Scenario;
use ft_protocol::Time;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a run was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The scenario's name.
    pub scenario: String,
    /// What it proves.
    pub description: Option<String>,
    /// Its file.
    pub path: PathBuf,
    /// The cell of its matrix.
    pub cell: Vec<(String, String)>,
    /// The seed.
    pub seed: u64,
    /// The line that runs the same again.
    pub again: String,
    /// The commit that ftvm was built from.
    pub commit: String,
    /// When it began, in seconds since 1970.
    pub unix_seconds: u64,
    /// When it began, on the clock of the events.
    pub started_at_ns: u64,
    /// The VMs, by number.
    pub vms: Vec<String>,
    /// The steps, with their lines in the file.
    pub steps: Vec<(String, usize)>,
    /// What it ran on.
    pub machine: MachineFacts,
}

/// What a run ran on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// The kernel's version.
    pub kernel: String,
    /// The processor.
    pub processor: String,
    /// Processors that can be used.
    pub processors: usize,
    /// Memory, in MiB.
    pub memory_mib: u64,
}

impl Manifest {
    /// Of a run that begins.
    #[must_use]
    pub fn new(scenario: &Scenario, options: &RunnerOptions, seed: u64, started_at: Time) -> Self {
        Self {
            scenario: scenario.name.clone(),
            description: scenario.description.clone(),
            path: scenario.path.clone(),
            cell: scenario.cell.clone(),
            seed,
            again: again_in(scenario, seed, &options.pool_parent),
            commit: options.commit.clone(),
            unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            started_at_ns: started_at.ns(),
            vms: scenario.vms.iter().map(|vm| vm.name.clone()).collect(),
            steps: scenario.steps.iter().map(|step| (step.name.clone(), step.line)).collect(),
            machine: MachineFacts::of_this_machine(),
        }
    }
}

/// The line that runs a scenario again, in the usual place.
#[must_use]
pub fn again(scenario: &Scenario, seed: u64) -> String {
    again_in(scenario, seed, &default_pool_parent())
}

/// The same, with its pool in this directory.
fn again_in(scenario: &Scenario, seed: u64, pool_parent: &Path) -> String {
    let mut line = format!("ftvm scenario run --seed {seed}");
    if pool_parent != default_pool_parent() {
        line.push_str(&format!(" --pool-dir {}", quoted(&pool_parent.to_string_lossy())));
    }
    for (key, value) in &scenario.given {
        line.push_str(&format!(" --matrix {}", quoted(&format!("{key}={value}"))));
    }
    line + " " + &quoted(&scenario.path.to_string_lossy())
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

impl MachineFacts {
    fn of_this_machine() -> Self {
        let line = |path: &str, key: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let memory = line("/proc/meminfo", "MemTotal");
        let kib: u64 = memory.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0);
        Self {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            processor: line("/proc/cpuinfo", "model name"),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_mib: kib >> 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_part_them() {
        assert_eq!(quoted("vm.mode=replay"), "vm.mode=replay");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_pool_elsewhere_is_part_of_the_line() {
        let text = "[vm]\nguest = \"builtin:idle\"\n[expect]\nexit-code = 0\n";
        let scenario = Scenario::parse(Path::new("dir/some.toml"), text).expect("a scenario");
        assert_eq!(again(&scenario, 7), "ftvm scenario run --seed 7 dir/some.toml");
        let elsewhere = again_in(&scenario, 7, Path::new("/mnt/huge pages"));
        assert_eq!(elsewhere, "ftvm scenario run --seed 7 --pool-dir '/mnt/huge pages' dir/some.toml");
    }
}
