//! Runs a guest on this host alone, without pool, protocol or secondary: the yardstick that protected runs are held
//! against.

use crate::disk_file::{DiskFile, DiskFileError};
use crate::machine::device::SentPacket;
use crate::machine::device::virtio;
use crate::machine::flat::{self, FlatGuestError};
use crate::machine::layout::anonymous_memory;
use crate::machine::{LiveInputs, Machine, MachineConfig, MachineError, MemoryError, OpenKvmError, Stop, open_kvm};
use crate::net::{self, MacAddress, NetError, NetPort};
use crossbeam_channel::{Receiver, bounded};
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::spec::NetSpec;
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
    /// A network cannot be used.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The disk cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskFileError),
}

/// A guest as it is to be run.
#[derive(Debug)]
pub struct UnprotectedGuest<'a> {
    /// Its ELF file.
    pub elf: &'a [u8],
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Its arguments.
    pub args: &'a [String],
    /// Its network devices.
    pub nets: &'a [NetSpec],
    /// Its disk.
    pub disk: Option<DiskFile>,
}

/// Runs a flat guest to its end, its console going to `console` as it comes.
///
/// # Errors
/// When it cannot be started, the machine fails, its disk cannot be written, or nobody takes the console's bytes.
pub fn run(guest: UnprotectedGuest<'_>, console: &mut dyn Write) -> Result<GuestEnd, UnprotectedError> {
    let kvm = open_kvm()?;
    let memory = anonymous_memory(guest.memory_bytes)?;
    let entry = flat::load(&memory, guest.elf, guest.args)?;
    let (networks, inputs) = Networks::open(guest.nets)?;
    let mut disk = guest.disk;
    let config = MachineConfig {
        inputs: Box::new(inputs),
        mmio_devices: virtio::devices(guest.nets, disk.as_ref().map(DiskFile::disk)),
        cpu: None,
    };
    let mut machine = Machine::prepare(&kvm, memory, config)?;
    machine.enter(&entry)?;
    loop {
        let stop = machine.run()?;
        if !machine.pending_console().is_empty() {
            let output = machine.take_console();
            console.write_all(&output.bytes).and_then(|()| console.flush()).map_err(UnprotectedError::Console)?;
        }
        networks.send(&machine.take_packets());
        if let Some(disk) = &mut disk {
            match stop {
                Stop::Flush | Stop::Exited(_) | Stop::Crashed(_) => disk.flush()?,
                Stop::Output | Stop::Kicked | Stop::SourcePaused | Stop::Wait { .. } => disk.relieve()?,
            }
        }
        match stop {
            Stop::Output | Stop::Kicked | Stop::Flush => {}
            Stop::SourcePaused => unreachable!("inputs from the host never pause"),
            Stop::Wait { until } => networks.wait(machine.guest_time().until(until)),
            Stop::Exited(code) => return Ok(GuestEnd::Exited(code)),
            Stop::Crashed(report) => return Ok(GuestEnd::Crashed(report.to_string())),
        }
    }
}

/// The guest's networks.
struct Networks {
    ports: Vec<NetPort>,
    /// Rung when a frame has come.
    arrivals: Receiver<()>,
}

impl Networks {
    fn open(nets: &[NetSpec]) -> Result<(Self, LiveInputs), NetError> {
        let (ring, arrivals) = bounded(1);
        let (mut ports, mut queues) = (Vec::new(), Vec::new());
        for spec in nets {
            net::check(&spec.backend)?;
            let ring = ring.clone();
            let (port, queue) = NetPort::open(&spec.backend, move || {
                // Full: it has rung already.
                let _ = ring.try_send(());
            })?;
            port.announce(MacAddress(spec.mac));
            ports.push(port);
            queues.push(queue);
        }
        Ok((Self { ports, arrivals }, LiveInputs::with_networks(queues)))
    }

    fn send(&self, packets: &[SentPacket]) {
        for packet in packets {
            self.ports[usize::from(packet.nic.0)].send(&packet.frame);
        }
    }

    /// Waits so long, or until a frame has come.
    fn wait(&self, time: std::time::Duration) {
        match self.ports.is_empty() {
            true => std::thread::sleep(time),
            // Whether it has rung, the machine finds by itself.
            false => drop(self.arrivals.recv_timeout(time)),
        }
    }
}
