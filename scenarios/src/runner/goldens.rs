//! Unprotected runs: one for all scenarios with the same guest.

use super::{RunDirectory, RunnerError, RunnerOptions, console_file, patience};
use crate::golden::{Golden, GoldenOptions, run_unprotected};
use crate::language::{Scenario, VmPart};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

/// Unprotected runs that were made already: many scenarios have the same guest.
#[derive(Debug, Default)]
pub struct Goldens {
    made: Mutex<BTreeMap<String, Golden>>,
}

impl Goldens {
    fn get(&self, key: &str) -> Option<Golden> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn keep(&self, key: String, golden: &Golden) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(key, golden.clone());
    }
}

/// The unprotected runs that a scenario is held against.
pub(super) fn golden(
    scenario: &Scenario,
    options: &RunnerOptions,
    goldens: &Goldens,
    directory: &RunDirectory,
    interrupt: BorrowedFd<'_>,
) -> Result<Vec<Option<Golden>>, RunnerError> {
    let of_vm = |(part, expect): (&VmPart, &crate::language::VmExpect)| {
        if !expect.needs_unprotected() {
            return Ok(None);
        }
        let disk = part.disk.map(|size| (directory.file(&console_file(scenario, part, "disk.unprotected")), size));
        let key = format!("{} {} {:?} {:?}", part.guest, part.memory.get(), part.args, part.disk);
        let file = console_file(scenario, part, "console.unprotected");
        if let Some(golden) = goldens.get(&key) {
            directory.write(&file, &golden.console)?;
            return Ok(Some(golden));
        }
        let golden = run_unprotected(&GoldenOptions {
            executable: &options.executable,
            guest: &part.guest,
            memory: part.memory,
            args: &part.args,
            directory: directory.path(),
            file: &file,
            disk,
            patience: patience(scenario, interrupt)?,
        })?;
        goldens.keep(key, &golden);
        Ok(Some(golden))
    };
    scenario.vms.iter().zip(&scenario.expect.vms).map(of_vm).collect()
}
