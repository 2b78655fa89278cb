//! The thread of one VM on this host: makes the standby machine, waits, and runs it as primary when told to.

use super::arrivals::Arrivals;
use super::driver::SharedLink;
use super::networks::Networks;
use super::parts::{PrimaryParts, StandbyParts};
use super::primary::{self, Beginning};
use crate::failpoint;
use crate::machine::device::virtio::{self, Disk, DiskBase};
use crate::machine::{Kicker, LiveInputs, Machine, MachineConfig};
use crate::wake::WakingSender;
use crossbeam_channel::{Receiver, Sender};
use ft_protocol::latency::OutputLatency;
use ft_protocol::spec::Mode;
use ft_protocol::timeline::Shortage;
use ft_protocol::wire::{LiveReport, Order};
use ft_protocol::{Generation, Time, VmId};
use kvm_ioctls::Kvm;
use shared_mem::{HeartbeatReader, Mapping, ReadOnly, WorkingMemory};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a VM's thread tells the host.
#[derive(Debug)]
pub(super) enum VmEvent {
    StandbyMade { generation: Generation },
    Live { generation: Generation, report: LiveReport },
    Fenced { generation: Generation },
    Yielded { generation: Generation },
    ModeIs { generation: Generation, mode: Mode },
    Diverged { generation: Generation, report: String },
    Outputs { generation: Generation, latency: OutputLatency },
    Space { generation: Generation, shortage: Option<Shortage> },
    GuestEnded,
    Failed { generation: Generation, reason: String },
}

/// What a VM's thread is told.
pub(super) enum Command {
    Promote(Box<Promotion>),
    /// Commit everything and stop: another host goes on.
    Yield,
    /// Protect the guest in this mode.
    Turn(Mode),
    /// Something changed that the thread should look at.
    Look,
    Discard,
}

pub(super) struct Promotion {
    pub(super) order: Order,
    pub(super) parts: PrimaryParts,
    pub(super) ordered_at: Time,
}

/// Handle of the thread. Dropping it stops the machine and waits for that.
pub(super) struct VmThread {
    commands: Sender<Command>,
    kicker: Arc<Mutex<Option<Kicker>>>,
    heartbeat: Option<HeartbeatReader<Mapping<ReadOnly>>>,
    thread: Option<JoinHandle<()>>,
}

/// All that the thread has from the host.
pub(super) struct Surroundings {
    pub(super) vm: VmId,
    pub(super) commands: Receiver<Command>,
    pub(super) to_self: Sender<Command>,
    pub(super) kicker: Arc<Mutex<Option<Kicker>>>,
    pub(super) link: SharedLink,
    pub(super) host: WakingSender<(VmId, VmEvent)>,
}

impl Surroundings {
    pub(super) fn say(&self, event: VmEvent) {
        self.host.send((self.vm, event));
    }
}

impl VmThread {
    /// Starts a thread that makes a standby machine for the order.
    pub(super) fn stand_by(
        order: &Order,
        mut parts: StandbyParts,
        kvm: &Arc<Kvm>,
        link: &SharedLink,
        host: WakingSender<(VmId, VmEvent)>,
    ) -> Result<Self, Failure> {
        let (commands, received) = crossbeam_channel::unbounded();
        let heartbeat = parts.heartbeat.take();
        let kicker = Arc::new(Mutex::new(None));
        let around = Surroundings {
            vm: order.vm,
            commands: received,
            to_self: commands.clone(),
            kicker: Arc::clone(&kicker),
            link: Arc::clone(link),
            host,
        };
        let kvm = Arc::clone(kvm);
        let mut generation = order.generation;
        let order = order.clone();
        let thread = std::thread::Builder::new().name(format!("{}", order.vm)).spawn(move || {
            if let Err(error) = live(&kvm, &order, parts, &around, &mut generation) {
                around.say(VmEvent::Failed { generation, reason: crate::chain(&*error) });
            }
        })?;
        Ok(Self { commands, kicker, heartbeat, thread: Some(thread) })
    }

    /// The heartbeat counter of the primary's host; `None` when it cannot be read.
    pub(super) fn heartbeat(&self) -> Option<u64> {
        self.heartbeat.as_ref()?.sample().ok().map(|beat| beat.count)
    }

    pub(super) fn promote(&self, order: Order, parts: PrimaryParts, ordered_at: Time) {
        // A thread that has ended has said why.
        let _ = self.commands.send(Command::Promote(Box::new(Promotion { order, parts, ordered_at })));
    }
}

impl VmThread {
    /// Has the machine commit everything and stop; it says when that is done.
    pub(super) fn yield_up(&self) {
        self.tell(Command::Yield);
    }

    /// Has the machine protect its guest in this mode; it says when it does.
    pub(super) fn turn(&self, mode: Mode) {
        self.tell(Command::Turn(mode));
    }

    fn tell(&self, command: Command) {
        // A thread that has ended has said why.
        let _ = self.commands.send(command);
        if let Some(kicker) = &*self.kicker.lock().expect("nothing panics under this lock") {
            kicker.kick();
        }
    }
}

impl Drop for VmThread {
    fn drop(&mut self) {
        self.tell(Command::Discard);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its hook.
            let _ = thread.join();
        }
    }
}

/// The thread's life.
fn live(
    kvm: &Kvm,
    order: &Order,
    parts: StandbyParts,
    around: &Surroundings,
    generation: &mut Generation,
) -> Result<(), Failure> {
    let memory = WorkingMemory::over_image(&parts.image)?;
    // The placement compares what hosts have said; a controller that knows nothing shows what is here.
    let cpu = (!order.cpu.leaves.is_empty()).then(|| order.cpu.clone());
    let disk = match &parts.disk {
        Some(image) => {
            let base = DiskBase::Pool(Mapping::read_only(image)?);
            Some(Arc::new(Mutex::new(Disk::new(base, order.spec.disk_bytes)?)))
        }
        None => None,
    };
    let mmio_devices = virtio::devices(&order.spec.nets, disk.clone());
    let config = MachineConfig { cpu, mmio_devices, ..MachineConfig::live() };
    let machine = Machine::prepare(kvm, memory.guest_memory().clone(), config)?;
    failpoint::pass("host.standby.made");
    around.say(VmEvent::StandbyMade { generation: *generation });
    loop {
        match around.commands.recv() {
            Ok(Command::Promote(promotion)) => {
                *generation = promotion.order.generation;
                let arrivals = Arc::new(Arrivals::new(around.to_self.clone()));
                let (networks, packets) = Networks::open(&promotion.order.spec.nets, &arrivals);
                let live = LiveInputs::with_networks(packets);
                let promotion = *promotion;
                let beginning =
                    Beginning { machine, memory, disk, standby: parts, promotion, live, networks, arrivals };
                return primary::run(beginning, around);
            }
            // A standby has nothing to yield, and hears with its promotion how the guest is protected.
            Ok(Command::Look | Command::Yield | Command::Turn(_)) => {}
            Ok(Command::Discard) | Err(_) => return Ok(()),
        }
    }
}
