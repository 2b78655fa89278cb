//! The virtio-mmio transport (version 2): registers, negotiation, queues; what the queues are for, a [`Backend`] knows.
//!
//! ```text
//!  reset ──> features ──FEATURES_OK──> queues ready ──DRIVER_OK──> live ──status 0──> reset
//!                                                                   │
//!                                          a refused queue or chain └──> NEEDS_RESET ──status 0──> reset
//! ```
//!
//! Drivers of flat guests poll: there is no interrupt line. A queue is served in the exit of its notification, or, if the
//! backend polls it, at every point where devices take inputs. So whatever the guest sees of a device is a function of its
//! exits. Where there is a line (Linux), it is up while the interrupt status says so, and drivers notify always.

use super::registers::{self as reg, interrupt, status};
use super::ring::{Refusal, Ring};
use crate::machine::device::{Context, Device, DeviceId, DeviceStateError, Interrupt, decode, encode, word};
use crate::machine::inputs::InputError;
use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::{Queue, QueueState, QueueT};

/// Version of the saved state.
const SAVED_VERSION: u8 = 1;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

/// Why a queue could not be served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The guest broke the rules.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An input could not be had.
    #[error(transparent)]
    Input(#[from] InputError),
}

/// How a queue is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// When the driver notifies.
    Notified,
    /// At every point where devices take inputs; the driver need not notify.
    Polled,
}

/// A queue of a backend.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueKind {
    /// Most descriptors.
    pub(super) size_max: u16,
    /// When it is served.
    pub(super) service: Service,
}

/// What is behind the transport. It keeps no state that is not in guest memory or behind its inputs.
pub(super) trait Backend: Send {
    /// The virtio device type.
    fn device_type(&self) -> u32;

    /// Its features, those of the transport apart.
    fn features(&self) -> u64 {
        0
    }

    /// Its queues.
    fn queues(&self) -> &'static [QueueKind];

    /// Its configuration, read by the driver from the end of the registers on.
    fn config(&self) -> &[u8] {
        &[]
    }

    /// Does what waits in a queue, at most as many chains as the queue has room for.
    fn serve(&mut self, queue: usize, ring: &mut Ring<'_>, context: &mut Context<'_>) -> Result<(), Fault>;
}

/// A queue as the driver has set it up.
#[derive(Debug, Default)]
struct QueueSlot {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    /// There once the queue is ready.
    queue: Option<Queue>,
}

/// A device on the MMIO bus.
pub(super) struct Transport<B> {
    id: DeviceId,
    backend: B,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    interrupt: u32,
    /// There is an interrupt line.
    has_line: bool,
    queues: Vec<QueueSlot>,
}

#[derive(Serialize, Deserialize)]
struct SavedTransport {
    version: u8,
    device_type: u32,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    interrupt: u32,
    queues: Vec<SavedQueue>,
}

#[derive(Serialize, Deserialize)]
struct SavedQueue {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    /// Next positions in the available and in the used ring of a queue that is ready.
    ready: Option<(u16, u16)>,
}

impl<B: Backend> Transport<B> {
    pub(super) fn new(id: DeviceId, backend: B) -> Self {
        let queues = fresh_queues(&backend);
        Self {
            id,
            backend,
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            interrupt: 0,
            has_line: false,
            queues,
        }
    }

    fn features(&self) -> u64 {
        self.backend.features() | VERSION_1
    }

    fn is_live(&self) -> bool {
        self.status & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
    }

    fn selected(&self) -> Option<usize> {
        usize::try_from(self.queue_sel).ok().filter(|index| *index < self.queues.len())
    }

    fn register(&self, offset: u64) -> u32 {
        let half = |value: u64, which: u32| match which {
            0 => low_half(value),
            1 => low_half(value >> 32),
            _ => 0,
        };
        match offset {
            reg::MAGIC => reg::MAGIC_VALUE,
            reg::VERSION => reg::TRANSPORT_VERSION,
            reg::DEVICE_ID => self.backend.device_type(),
            reg::VENDOR_ID => reg::VENDOR,
            reg::DEVICE_FEATURES => half(self.features(), self.device_features_sel),
            reg::QUEUE_NUM_MAX => self.selected().map_or(0, |index| self.backend.queues()[index].size_max.into()),
            reg::QUEUE_READY => self.selected().map_or(0, |index| self.queues[index].queue.is_some().into()),
            reg::INTERRUPT_STATUS => self.interrupt,
            reg::STATUS => self.status,
            // There is no shared memory: all ones say so. And the configuration never changes.
            _ if reg::SHARED_MEMORY.contains(&offset) => u32::MAX,
            reg::CONFIG_GENERATION => 0,
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, value: u32, context: &mut Context<'_>) -> Result<(), InputError> {
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::DRIVER_FEATURES => self.set_driver_features(value),
            reg::QUEUE_SEL => self.queue_sel = value,
            reg::QUEUE_NOTIFY => self.notify(value, context)?,
            reg::INTERRUPT_ACK => self.interrupt &= !value,
            reg::STATUS => self.set_status(value),
            reg::QUEUE_READY => self.set_ready(value, context),
            _ => self.set_up_queue(offset, value),
        }
        Ok(())
    }

    fn set_driver_features(&mut self, value: u32) {
        if self.status & status::FEATURES_OK != 0 {
            return;
        }
        match self.driver_features_sel {
            0 => set_low(&mut self.driver_features, value),
            1 => set_high(&mut self.driver_features, value),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let mut accepted = value & status::DRIVER_BITS | self.status & status::NEEDS_RESET;
        let features_fit = self.driver_features & !self.features() == 0 && self.driver_features & VERSION_1 != 0;
        if !features_fit {
            accepted &= !(status::FEATURES_OK | status::DRIVER_OK);
        }
        // A driver sets bits, and clears all of them by a reset.
        self.status |= accepted;
    }

    fn reset(&mut self) {
        self.status = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        self.interrupt = 0;
        self.queues = fresh_queues(&self.backend);
    }

    fn set_up_queue(&mut self, offset: u64, value: u32) {
        let Some(index) = self.selected() else { return };
        let slot = &mut self.queues[index];
        if slot.queue.is_some() {
            return;
        }
        match offset {
            // A size that does not fit is one that the queue cannot have, which is found when it is made ready.
            reg::QUEUE_NUM => slot.size = u16::try_from(value).unwrap_or(0),
            reg::QUEUE_DESC_LOW => set_low(&mut slot.descriptors, value),
            reg::QUEUE_DESC_HIGH => set_high(&mut slot.descriptors, value),
            reg::QUEUE_DRIVER_LOW => set_low(&mut slot.available, value),
            reg::QUEUE_DRIVER_HIGH => set_high(&mut slot.available, value),
            reg::QUEUE_DEVICE_LOW => set_low(&mut slot.used, value),
            reg::QUEUE_DEVICE_HIGH => set_high(&mut slot.used, value),
            _ => {}
        }
    }

    fn set_ready(&mut self, value: u32, context: &mut Context<'_>) {
        let Some(index) = self.selected() else { return };
        let kind = self.backend.queues()[index];
        let slot = &mut self.queues[index];
        match (value, slot.queue.is_some()) {
            (0, _) => slot.queue = None,
            (_, true) => {}
            (_, false) => {
                let Some(mut queue) = slot.build(kind, (0, 0)) else {
                    return self.refuse(Refusal::Queue { queue: index });
                };
                let mut ring = Ring { queue: &mut queue, memory: context.memory, used: &mut false };
                let silenced = match kind.service {
                    Service::Polled if !self.has_line => ring.silence(),
                    Service::Polled | Service::Notified => Ok(()),
                };
                slot.queue = Some(queue);
                if let Err(refusal) = silenced {
                    self.refuse(refusal);
                }
            }
        }
    }

    fn notify(&mut self, value: u32, context: &mut Context<'_>) -> Result<(), InputError> {
        match usize::try_from(value) {
            Ok(index) if index < self.queues.len() => match self.backend.queues()[index].service {
                Service::Notified => self.serve(index, context),
                // It is polled in the same exit.
                Service::Polled => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn serve(&mut self, index: usize, context: &mut Context<'_>) -> Result<(), InputError> {
        if !self.is_live() {
            return Ok(());
        }
        let Some(queue) = &mut self.queues[index].queue else { return Ok(()) };
        let mut used = false;
        let mut ring = Ring { queue, memory: context.memory, used: &mut used };
        let served = self.backend.serve(index, &mut ring, context);
        let heard = !self.has_line || ring.wants_interrupts();
        if used && heard {
            self.interrupt |= interrupt::USED;
        }
        match served {
            Ok(()) => Ok(()),
            Err(Fault::Input(error)) => Err(error),
            Err(Fault::Refused(refusal)) => {
                self.refuse(refusal);
                Ok(())
            }
        }
    }

    /// Stops the device until the driver resets it.
    fn refuse(&mut self, refusal: Refusal) {
        tracing::debug!(device = self.id.0, %refusal, "virtio device needs a reset");
        self.status |= status::NEEDS_RESET;
        self.interrupt |= interrupt::CONFIGURATION;
    }

    fn read_config(&self, at: u64, data: &mut [u8]) {
        let config = self.backend.config();
        for (at, byte) in (at..).zip(data) {
            *byte = usize::try_from(at).ok().and_then(|at| config.get(at)).copied().unwrap_or(0);
        }
    }

    fn checked(&self, saved: &SavedTransport) -> Option<Vec<QueueSlot>> {
        let kinds = self.backend.queues();
        let known = status::DRIVER_BITS | status::NEEDS_RESET;
        let features_fit = saved.status & status::FEATURES_OK == 0 || saved.driver_features & !self.features() == 0;
        let fits = saved.version == SAVED_VERSION
            && saved.device_type == self.backend.device_type()
            && saved.status & !known == 0
            && saved.interrupt & !interrupt::ALL == 0
            && saved.queues.len() == kinds.len()
            && features_fit;
        if !fits {
            return None;
        }
        kinds.iter().zip(&saved.queues).map(|(kind, queue)| queue.slot(*kind)).collect()
    }
}

impl<B: Backend> Device for Transport<B> {
    fn id(&self) -> DeviceId {
        self.id
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _context: &mut Context<'_>) -> Result<(), InputError> {
        if let Some(at) = offset.checked_sub(reg::CONFIG_START) {
            self.read_config(at, data);
        } else if let (4, true) = (data.len(), offset.is_multiple_of(4)) {
            data.copy_from_slice(&self.register(offset).to_le_bytes());
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], context: &mut Context<'_>) -> Result<(), InputError> {
        match word(data) {
            Some(value) if offset.is_multiple_of(4) => self.set_register(offset, value, context),
            _ => Ok(()),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Result<(), InputError> {
        for (index, kind) in self.backend.queues().iter().enumerate() {
            if kind.service == Service::Polled {
                self.serve(index, context)?;
            }
        }
        Ok(())
    }

    fn connect_interrupt(&mut self) {
        self.has_line = true;
    }

    fn interrupt(&mut self) -> Interrupt {
        Interrupt::Level(self.interrupt != 0)
    }

    fn save(&self) -> Vec<u8> {
        encode(&SavedTransport {
            version: SAVED_VERSION,
            device_type: self.backend.device_type(),
            status: self.status,
            device_features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            driver_features: self.driver_features,
            queue_sel: self.queue_sel,
            interrupt: self.interrupt,
            queues: self.queues.iter().map(SavedQueue::of).collect(),
        })
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), DeviceStateError> {
        let saved: SavedTransport = decode(self.id, saved)?;
        let queues = self.checked(&saved).ok_or(DeviceStateError::Impossible { device: self.id })?;
        self.status = saved.status;
        self.device_features_sel = saved.device_features_sel;
        self.driver_features_sel = saved.driver_features_sel;
        self.driver_features = saved.driver_features;
        self.queue_sel = saved.queue_sel;
        self.interrupt = saved.interrupt;
        self.queues = queues;
        Ok(())
    }
}

impl QueueSlot {
    /// The queue, unless it is one that cannot be: sizes are powers of two, rings are aligned. Whether they are in RAM is
    /// found at each access.
    fn build(&self, kind: QueueKind, (next_avail, next_used): (u16, u16)) -> Option<Queue> {
        let state = QueueState {
            max_size: kind.size_max,
            next_avail,
            next_used,
            event_idx_enabled: false,
            size: self.size,
            ready: true,
            desc_table: self.descriptors,
            avail_ring: self.available,
            used_ring: self.used,
        };
        // An available ring at zero is taken for one that was never set.
        if self.available == 0 { None } else { Queue::try_from(state).ok() }
    }
}

impl SavedQueue {
    fn of(slot: &QueueSlot) -> Self {
        Self {
            size: slot.size,
            descriptors: slot.descriptors,
            available: slot.available,
            used: slot.used,
            ready: slot.queue.as_ref().map(|queue| (queue.next_avail(), queue.next_used())),
        }
    }

    fn slot(&self, kind: QueueKind) -> Option<QueueSlot> {
        let mut slot = QueueSlot {
            size: self.size,
            descriptors: self.descriptors,
            available: self.available,
            used: self.used,
            queue: None,
        };
        if let Some(positions) = self.ready {
            slot.queue = Some(slot.build(kind, positions)?);
        }
        Some(slot)
    }
}

fn fresh_queues(backend: &impl Backend) -> Vec<QueueSlot> {
    backend.queues().iter().map(|_| QueueSlot::default()).collect()
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).expect("a half has 32 bits")
}

fn set_low(whole: &mut u64, half: u32) {
    *whole = *whole & !u64::from(u32::MAX) | u64::from(half);
}

fn set_high(whole: &mut u64, half: u32) {
    *whole = *whole & u64::from(u32::MAX) | u64::from(half) << 32;
}
