//! The saved types: what stands in a saved state, apart from what the program works with. KVM's structures are saved as
//! the bytes that Linux fixes for them on x86-64.

use super::format::StateError;
use super::{CpuState, DeviceId, ExitNumber, GuestTime, HistoryDigest, MachineState};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// More registers than KVM lists today; KVM itself takes at most 256 in one call.
const MSRS_MAX: usize = 256;

/// Counts and positions beyond this are no guest's: at a thousand million a second they would take a century. Sums of them
/// stay within 64 bits.
const COUNT_MAX: u64 = 1 << 62;

#[derive(Serialize, Deserialize)]
pub(super) struct SavedMachine<'a> {
    #[serde(borrow)]
    cpu: SavedCpu<'a>,
    devices: Vec<(DeviceId, Vec<u8>)>,
    guest_time: GuestTime,
    #[serde(with = "serde_bytes", borrow)]
    waiting_console: &'a [u8],
    wait_until: Option<GuestTime>,
    console_position: u64,
    exits: ExitNumber,
    exit_code: Option<u32>,
    cpuid_digest: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SavedCpu<'a> {
    #[serde(with = "serde_bytes", borrow)]
    regs: &'a [u8],
    #[serde(with = "serde_bytes", borrow)]
    sregs: &'a [u8],
    #[serde(with = "serde_bytes", borrow)]
    xsave: &'a [u8],
    #[serde(borrow)]
    xcrs: Option<&'a serde_bytes::Bytes>,
    #[serde(borrow)]
    events: Option<&'a serde_bytes::Bytes>,
    #[serde(borrow)]
    debug_regs: Option<&'a serde_bytes::Bytes>,
    mp_state: u32,
    msrs: Vec<(u32, u64)>,
    clock_ns: Option<u64>,
}

/// What version 4 has behind all that the versions before it have.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct SavedInput {
    console_taken: u64,
}

impl SavedInput {
    pub(super) fn of(state: &MachineState) -> Self {
        Self { console_taken: state.console_taken }
    }
}

/// What version 2 has behind the body of version 1.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct SavedPlace {
    packet_position: u64,
    log_position: u64,
    history: HistoryDigest,
}

impl SavedPlace {
    pub(super) fn of(state: &MachineState) -> Self {
        Self { packet_position: state.packet_position, log_position: state.log_position, history: state.history }
    }
}

impl<'a> SavedMachine<'a> {
    pub(super) fn of(state: &'a MachineState) -> Self {
        Self {
            cpu: SavedCpu::of(&state.cpu),
            devices: state.devices.clone(),
            guest_time: state.guest_time,
            waiting_console: &state.waiting_console,
            wait_until: state.wait_until,
            console_position: state.console_position,
            exits: state.exits,
            exit_code: state.exit_code,
            cpuid_digest: state.cpuid_digest,
        }
    }

    pub(super) fn into_state(self, place: &SavedPlace, input: &SavedInput) -> Result<MachineState, StateError> {
        let counts = [
            ("exits", self.exits.0),
            ("console position", self.console_position),
            ("packet position", place.packet_position),
            ("log position", place.log_position),
            ("console input taken", input.console_taken),
        ];
        if let Some((name, count)) = counts.into_iter().find(|(_, count)| *count > COUNT_MAX) {
            return Err(StateError::Count { name, count });
        }
        Ok(MachineState {
            cpu: self.cpu.into_cpu()?,
            devices: self.devices,
            guest_time: self.guest_time,
            waiting_console: self.waiting_console.to_vec(),
            wait_until: self.wait_until,
            console_position: self.console_position,
            console_taken: input.console_taken,
            packet_position: place.packet_position,
            log_position: place.log_position,
            exits: self.exits,
            history: place.history,
            exit_code: self.exit_code,
            cpuid_digest: self.cpuid_digest,
            platform: None,
        })
    }
}

impl<'a> SavedCpu<'a> {
    pub(super) fn of(cpu: &'a CpuState) -> Self {
        Self {
            regs: cpu.regs.as_bytes(),
            sregs: cpu.sregs.as_bytes(),
            xsave: cpu.xsave.as_bytes(),
            xcrs: cpu.xcrs.as_ref().map(bytes),
            events: cpu.events.as_ref().map(bytes),
            debug_regs: cpu.debug_regs.as_ref().map(bytes),
            mp_state: cpu.mp_state,
            msrs: cpu.msrs.clone(),
            clock_ns: cpu.clock_ns,
        }
    }

    pub(super) fn into_cpu(self) -> Result<CpuState, StateError> {
        if self.msrs.len() > MSRS_MAX {
            return Err(StateError::TooManyMsrs { count: self.msrs.len(), limit: MSRS_MAX });
        }
        Ok(CpuState {
            regs: structure("regs", self.regs)?,
            sregs: structure("sregs", self.sregs)?,
            xsave: Box::new(structure("xsave", self.xsave)?),
            xcrs: optional("xcrs", self.xcrs)?,
            events: optional("events", self.events)?,
            debug_regs: optional("debug_regs", self.debug_regs)?,
            mp_state: self.mp_state,
            msrs: self.msrs,
            clock_ns: self.clock_ns,
            lapic: None,
        })
    }
}

pub(super) fn bytes<T: IntoBytes + Immutable>(value: &T) -> &serde_bytes::Bytes {
    serde_bytes::Bytes::new(value.as_bytes())
}

pub(super) fn structure<T: FromBytes>(name: &'static str, bytes: &[u8]) -> Result<T, StateError> {
    T::read_from_bytes(bytes).map_err(|_| StateError::StructureLength {
        name,
        expected: size_of::<T>(),
        got: bytes.len(),
    })
}

fn optional<T: FromBytes>(name: &'static str, bytes: Option<&serde_bytes::Bytes>) -> Result<Option<T>, StateError> {
    bytes.map(|bytes| structure(name, bytes)).transpose()
}
