//! Runs a guest on this host alone, without pool, protocol or secondary: the yardstick that protected runs are held
//! against.

use crate::disk_file::{DiskFile, DiskFileError};
use crate::machine::device::SentPacket;
use crate::machine::device::virtio;
use crate::machine::history::Recorder;
use crate::machine::layout::anonymous_memory;
use crate::machine::linux::LinuxGuestError;
use crate::machine::{
    BootError, GuestMemory, InputSource, Kicker, LiveInputs, Machine, MachineConfig, MachineError, MemoryError,
    OpenKvmError, Stop, cpu_profile, guest_machine, open_kvm,
};
use crate::net::{self, MacAddress, NetError, NetPort};
use crate::recording::{LiveRecording, RecordError, RecordedEnd, RecordedMachine};
use crossbeam_channel::{Receiver, bounded};
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::cpu::CpuProfile;
use ft_protocol::record::OutputsLogged;
use ft_protocol::spec::NetSpec;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use vm_memory::{Bytes as _, GuestMemoryBackend as _, GuestMemoryRegion as _, MemoryRegionAddress};

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
    Guest(#[from] BootError),
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
    /// The guest cannot be recorded.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Where a guest is recorded, and under which name.
#[derive(Debug, Clone, Copy)]
pub struct RecordTo<'a> {
    /// The file.
    pub path: &'a Path,
    /// What the recording calls the guest.
    pub guest: &'a str,
}

/// How an unprotected guest came to its end.
#[derive(Debug)]
pub struct UnprotectedEnd {
    /// The guest.
    pub guest: GuestEnd,
    /// Its memory.
    memory: GuestMemory,
    /// Its recording, if it was to have one: bytes of the file, or why it is not whole.
    pub recording: Option<Result<u64, RecordError>>,
}

impl UnprotectedEnd {
    /// The checksum (CRC-32) of the guest's memory, region by region as they lie in an image.
    #[must_use]
    pub fn memory_crc(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        let mut chunk = [0; 4096];
        for region in self.memory.iter() {
            for at in (0..region.len()).step_by(chunk.len()) {
                // A region is whole pages.
                if region.read_slice(&mut chunk, MemoryRegionAddress(at)).is_ok() {
                    hasher.update(&chunk);
                }
            }
        }
        hasher.finalize()
    }
}

/// A guest as it is to be run.
#[derive(Debug)]
pub struct UnprotectedGuest<'a> {
    /// What it is started from: a flat guest's ELF file, or an encoded [`LinuxGuest`](crate::machine::linux::LinuxGuest).
    pub image: &'a [u8],
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// A flat guest's arguments.
    pub args: &'a [String],
    /// Its network devices.
    pub nets: &'a [NetSpec],
    /// Its disk.
    pub disk: Option<DiskFile>,
}

/// Runs a guest to its end, its console going to `console` as it comes.
///
/// # Errors
/// When it cannot be started, the machine fails, its disk cannot be written, or nobody takes the console's bytes.
pub fn run(guest: UnprotectedGuest<'_>, console: &mut dyn Write) -> Result<GuestEnd, UnprotectedError> {
    run_recorded(guest, None, console).map(|end| end.guest)
}

/// Runs a guest to its end, and records it on the way.
///
/// # Errors
/// As for [`run`]; also when the recording cannot be begun. One that cannot be gone on with is no error: the guest goes on.
pub fn run_recorded(
    guest: UnprotectedGuest<'_>,
    record: Option<RecordTo<'_>>,
    console: &mut dyn Write,
) -> Result<UnprotectedEnd, UnprotectedError> {
    let kvm = open_kvm()?;
    let memory = anonymous_memory(guest.memory_bytes)?;
    let (networks, inputs) = Networks::open(guest.nets)?;
    // A recording tells which processor the guest was shown, in the table that it is shown again.
    let cpu = record.map(|_| cpu_profile(&kvm)).transpose()?;
    let mut recording = match (record, &cpu) {
        (Some(to), Some(cpu)) => Some(LiveRecording::create(to.path, &described(&guest, to, cpu))?),
        _ => None,
    };
    let inputs: Box<dyn InputSource> = match &recording {
        Some(recording) => Box::new(Recorder::new(inputs, recording.sink(), OutputsLogged::Yes)),
        None => Box::new(inputs),
    };
    let mut disk = guest.disk;
    let mmio_devices = virtio::devices(guest.nets, disk.as_ref().map(DiskFile::disk));
    let kept = memory.clone();
    let linux = guest_machine(guest.image).map_err(|error| BootError::from(LinuxGuestError::from(error)))?;
    let mut machine = Machine::prepare(&kvm, memory, MachineConfig { inputs, mmio_devices, cpu, linux })?;
    machine.boot(guest.image, guest.args)?;
    if linux.is_some() {
        networks.kick(machine.kicker());
    }
    if let Some(recording) = &mut recording {
        recording.start(&mut machine, disk.as_ref().map(DiskFile::disk))?;
    }
    let end = loop {
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
            Stop::SourcePaused => {
                let recording = recording.as_mut().expect("only a recording pauses the inputs from the host");
                recording.commit_if_due(&mut machine)?;
            }
            Stop::Wait { until } => networks.wait(machine.guest_time().until(until)),
            Stop::Exited(code) => break GuestEnd::Exited(code),
            Stop::Crashed(report) => break GuestEnd::Crashed(report.to_string()),
        }
    };
    let ended = RecordedEnd::Guest(end.clone());
    let recording = recording.map(|recording| recording.end(&mut machine, &ended)).transpose()?;
    Ok(UnprotectedEnd { guest: end, memory: kept, recording })
}

fn described(guest: &UnprotectedGuest<'_>, to: RecordTo<'_>, cpu: &CpuProfile) -> RecordedMachine {
    RecordedMachine {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        guest: to.guest.to_owned(),
        args: guest.args.to_vec(),
        mode: "none".to_owned(),
        memory_bytes: guest.memory_bytes,
        macs: guest.nets.iter().map(|net| net.mac).collect(),
        disk_bytes: guest.disk.as_ref().map_or(0, DiskFile::bytes),
        cpu: cpu.clone(),
    }
}

/// The guest's networks.
struct Networks {
    ports: Vec<NetPort>,
    /// Rung when a frame has come.
    arrivals: Receiver<()>,
    /// Kicked when a frame has come for a guest that does not look by itself.
    kicker: Arc<OnceLock<Kicker>>,
}

impl Networks {
    fn open(nets: &[NetSpec]) -> Result<(Self, LiveInputs), NetError> {
        let (ring, arrivals) = bounded(1);
        let kicker = Arc::new(OnceLock::<Kicker>::new());
        let (mut ports, mut queues) = (Vec::new(), Vec::new());
        for spec in nets {
            net::check(&spec.backend)?;
            let (ring, kicker) = (ring.clone(), Arc::clone(&kicker));
            let (port, queue) = NetPort::open(&spec.backend, move || {
                // Full: it has rung already.
                let _ = ring.try_send(());
                if let Some(kicker) = kicker.get() {
                    kicker.kick();
                }
            })?;
            port.announce(MacAddress(spec.mac));
            ports.push(port);
            queues.push(queue);
        }
        Ok((Self { ports, arrivals, kicker }, LiveInputs::with_networks(queues)))
    }

    /// Has this machine kicked when a frame comes.
    fn kick(&self, kicker: Kicker) {
        assert!(self.kicker.set(kicker).is_ok(), "a guest has one machine");
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
