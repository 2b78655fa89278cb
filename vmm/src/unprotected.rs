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
use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::cpu::CpuProfile;
use ft_protocol::record::OutputsLogged;
use ft_protocol::spec::NetSpec;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
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
    /// What it is told over the console.
    pub input: Option<TypedInput>,
}

/// Console input, as it comes.
#[derive(Debug)]
pub struct TypedInput {
    /// The bytes.
    pub bytes: Receiver<Vec<u8>>,
    /// Rung behind them.
    pub bell: Bell,
}

impl TypedInput {
    /// The way for the bytes: one piece waits to be taken.
    #[must_use]
    pub fn channel() -> (Sender<Vec<u8>>, Receiver<Vec<u8>>) {
        bounded(1)
    }
}

/// Tells a guest's thread that something has come for it.
#[derive(Debug, Clone)]
pub struct Bell {
    ring: Sender<()>,
    rung: Receiver<()>,
    kicker: Arc<OnceLock<Kicker>>,
}

impl Default for Bell {
    fn default() -> Self {
        let (ring, rung) = bounded(1);
        Self { ring, rung, kicker: Arc::default() }
    }
}

impl Bell {
    /// Wakes a guest that waits, and interrupts one that runs once that was asked for.
    pub fn ring(&self) {
        // Full: it has rung already.
        let _ = self.ring.try_send(());
        if let Some(kicker) = self.kicker.get() {
            kicker.kick();
        }
    }

    /// Has this machine interrupted, too.
    fn kick(&self, kicker: Kicker) {
        assert!(self.kicker.set(kicker).is_ok(), "a guest has one machine");
    }
}

/// Gives the machine what was typed, as far as it has room.
#[derive(Default)]
struct Typing {
    bytes: Option<Receiver<Vec<u8>>>,
    left: Vec<u8>,
}

impl Typing {
    fn give(&mut self, machine: &mut Machine) {
        let Some(bytes) = &self.bytes else { return };
        loop {
            if self.left.is_empty() {
                let Ok(next) = bytes.try_recv() else { return };
                self.left = next;
            }
            let taken = machine.push_console_input(&self.left);
            self.left.drain(..taken);
            if !self.left.is_empty() {
                return;
            }
        }
    }
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
    mut guest: UnprotectedGuest<'_>,
    record: Option<RecordTo<'_>>,
    console: &mut dyn Write,
) -> Result<UnprotectedEnd, UnprotectedError> {
    let kvm = open_kvm()?;
    let memory = anonymous_memory(guest.memory_bytes)?;
    let (networks, inputs) = Networks::open(guest.nets)?;
    let (typed, bell) = guest.input.take().map(|input| (input.bytes, input.bell)).unzip();
    let mut typing = Typing { bytes: typed, left: Vec::new() };
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
        networks.bell.kick(machine.kicker());
    }
    if let Some(bell) = &bell {
        // A guest that looks for input without ever waiting has to be stopped to be given some.
        bell.kick(machine.kicker());
    }
    let bells = Bells { network: networks.bell.rung.clone(), typed: bell };
    if let Some(recording) = &mut recording {
        recording.start(&mut machine, disk.as_ref().map(DiskFile::disk))?;
    }
    let end = loop {
        typing.give(&mut machine);
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
            Stop::Wait { until } => {
                typing.give(&mut machine);
                if !machine.inputs().wakes() {
                    bells.wait(machine.guest_time().until(until));
                }
            }
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
    bell: Bell,
}

impl Networks {
    fn open(nets: &[NetSpec]) -> Result<(Self, LiveInputs), NetError> {
        let bell = Bell::default();
        let (mut ports, mut queues) = (Vec::new(), Vec::new());
        for spec in nets {
            net::check(&spec.backend)?;
            let bell = bell.clone();
            let (port, queue) = NetPort::open(&spec.backend, move || bell.ring())?;
            port.announce(MacAddress(spec.mac));
            ports.push(port);
            queues.push(queue);
        }
        Ok((Self { ports, bell }, LiveInputs::with_networks(queues)))
    }

    fn send(&self, packets: &[SentPacket]) {
        for packet in packets {
            self.ports[usize::from(packet.nic.0)].send(&packet.frame);
        }
    }
}

/// What ends a guest's wait.
struct Bells {
    network: Receiver<()>,
    typed: Option<Bell>,
}

impl Bells {
    /// Waits so long, or until something has come.
    fn wait(&self, time: Duration) {
        let never = never();
        // What has rung, the machine finds by itself.
        select! {
            recv(self.network) -> _ => {}
            recv(self.typed.as_ref().map_or(&never, |bell| &bell.rung)) -> _ => {}
            default(time) => {}
        }
    }
}
