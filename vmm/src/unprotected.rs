//! Runs a guest on this host alone, without pool, protocol or secondary: the yardstick that protected runs are held
//! against.

use crate::machine::flat::{self, FlatGuestError};
use crate::machine::layout::anonymous_memory;
use crate::machine::{Machine, MachineConfig, MachineError, MemoryError, OpenKvmError, Stop, open_kvm};
use ft_protocol::commit_meta::GuestEnd;
use std::io::{self, Write};

/// Why an unprotected guest could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum UnprotectedError {
    /// KVM cannot be used.
    #[error(transparent)]
    Kvm(#[from] OpenKvmError),
    /// There is no memory for the guest.
    #[error("no memory for the guest")]
    Memory(#[from] MemoryError),
    /// The file is no guest.
    #[error("the guest cannot be started")]
    Guest(#[from] FlatGuestError),
    /// The machine failed.
    #[error("the machine failed")]
    Machine(#[from] MachineError),
    /// The console's bytes could not be written.
    #[error("cannot write the guest's console")]
    Console(#[source] io::Error),
}

/// Runs a flat guest to its end, its console going to `console` as it comes.
///
/// # Errors
/// When it cannot be started, the machine fails, or nobody takes the console's bytes.
pub fn run(
    elf: &[u8],
    memory_bytes: u64,
    args: &[String],
    console: &mut dyn Write,
) -> Result<GuestEnd, UnprotectedError> {
    let kvm = open_kvm()?;
    let memory = anonymous_memory(memory_bytes)?;
    let entry = flat::load(&memory, elf, args)?;
    let mut machine = Machine::prepare(&kvm, memory, MachineConfig::live())?;
    machine.enter(&entry)?;
    loop {
        let stop = machine.run()?;
        if !machine.pending_console().is_empty() {
            let output = machine.take_console();
            console.write_all(&output.bytes).and_then(|()| console.flush()).map_err(UnprotectedError::Console)?;
        }
        match stop {
            Stop::Output | Stop::Kicked | Stop::Flush => {}
            Stop::SourcePaused => unreachable!("inputs from the host never pause"),
            Stop::Wait { until } => std::thread::sleep(machine.guest_time().until(until)),
            Stop::Exited(code) => return Ok(GuestEnd::Exited(code)),
            Stop::Crashed(report) => return Ok(GuestEnd::Crashed(report.to_string())),
        }
    }
}
