//! The thread of one VM on this host: makes the standby machine, waits, and runs it as primary when told to.

use super::arrivals::Arrivals;
use super::beginning;
use super::driver::SharedLink;
use super::follow::{self, FollowEnd};
use super::networks::Networks;
use super::parts::{FollowParts, PrimaryParts, StandbyParts};
use super::primary::{self, Beginning, SharedDisk};
use crate::failpoint;
use crate::machine::device::virtio::{self, Disk, DiskBase};
use crate::machine::linux::HEADER_BYTES as BUNDLE_HEADER_BYTES;
use crate::machine::{self, Kicker, LiveInputs, Machine, MachineConfig, guest_machine, is_unfit_guest};
use crate::mailbox::{self, Receiver, Sender};
use crate::slice;
use crate::wake::WakingSender;
use ft_protocol::console_input::InputAt;
use ft_protocol::ids::FollowTurn;
use ft_protocol::latency::OutputLatency;
use ft_protocol::spec::{Mode, VmSpec};
use ft_protocol::timeline::Shortage;
use ft_protocol::wire::{FollowStep, LiveReport, Order};
use ft_protocol::{Epoch, Generation, Span, Time, VmId};
use kvm_ioctls::Kvm;
use shared_mem::boot_image::{self, BootImageError};
use shared_mem::state_area::StateError;
use shared_mem::{HeartbeatReader, Mapping, ReadOnly, WorkingMemory};
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

type Failure = Box<dyn Error + Send + Sync>;

/// What a VM's thread tells the host. `unfit`: it is the pool's content that cannot be started or gone on with.
#[derive(Debug)]
pub(super) enum VmEvent {
    StandbyMade { generation: Generation },
    Live { generation: Generation, report: LiveReport },
    Fenced { generation: Generation },
    Yielded { generation: Generation, stood: Span },
    ModeIs { generation: Generation, mode: Mode },
    Recorded { generation: Generation, since: Epoch },
    Followed { turn: FollowTurn, epoch: Epoch, step: FollowStep },
    Diverged { generation: Generation, turn: Option<FollowTurn>, report: String },
    LogLost { generation: Generation, report: String },
    FollowFailed { turn: FollowTurn, reason: String },
    Outputs { generation: Generation, latency: OutputLatency },
    Space { generation: Generation, shortage: Option<Shortage> },
    InputAt { generation: Generation, at: InputAt },
    GuestEnded,
    Failed { generation: Generation, reason: String, unfit: bool },
}

/// What a VM's thread is told.
pub(super) enum Command {
    Promote(Box<Promotion>),
    /// Commit everything and stop: another host goes on.
    Yield,
    /// Protect the guest in this mode.
    Turn(Mode),
    /// Say where the guest's console input is, and from now on how it gets on.
    OpenInput,
    /// Console input, and where it belongs in all that the guest is ever given.
    TakeInput(u64, Vec<u8>),
    /// Follow the primary.
    Follow(Box<FollowParts>),
    /// Only stand by again.
    Unfollow,
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
    spec: VmSpec,
}

/// All that the thread has from the host.
pub(super) struct Surroundings {
    pub(super) kvm: Arc<Kvm>,
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
        let (commands, received) = mailbox::channel();
        let heartbeat = parts.heartbeat.take();
        let kicker = Arc::new(Mutex::new(None));
        let around = Surroundings {
            kvm: Arc::clone(kvm),
            vm: order.vm,
            commands: received,
            to_self: commands.clone(),
            kicker: Arc::clone(&kicker),
            link: Arc::clone(link),
            host,
        };
        let mut generation = order.generation;
        let order = order.clone();
        let spec = order.spec.clone();
        let thread = std::thread::Builder::new().name(format!("{}", order.vm)).spawn(move || {
            slice::run_long();
            // What a panic leaves behind of the machine is dropped; the host goes on without it, and says so.
            let life = AssertUnwindSafe(|| live(&order, parts, &around, &mut generation));
            let (reason, unfit) = match catch_unwind(life) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => (crate::chain(&*error), is_unfit(&*error)),
                Err(_) => ("its thread panicked (see the host's standard error)".to_owned(), false),
            };
            around.say(VmEvent::Failed { generation, reason, unfit });
        })?;
        Ok(Self { commands, kicker, heartbeat, thread: Some(thread), spec })
    }

    /// What the VM is, by the order to stand by.
    pub(super) fn spec(&self) -> &VmSpec {
        &self.spec
    }

    /// The heartbeat counter of the primary's host; `None` when it cannot be read.
    pub(super) fn heartbeat(&self) -> Option<u64> {
        self.heartbeat.as_ref()?.sample().ok().map(|beat| beat.count)
    }

    pub(super) fn promote(&self, order: Order, parts: PrimaryParts, ordered_at: Time) {
        self.tell(Command::Promote(Box::new(Promotion { order, parts, ordered_at })));
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

    /// Has the machine say where its console input is.
    pub(super) fn open_input(&self) {
        self.tell(Command::OpenInput);
    }

    /// Gives it console input.
    pub(super) fn take_input(&self, position: u64, bytes: Vec<u8>) {
        self.tell(Command::TakeInput(position, bytes));
    }

    /// Has the standby machine follow the primary.
    pub(super) fn follow(&self, parts: FollowParts) {
        self.tell(Command::Follow(Box::new(parts)));
    }

    /// Has it only stand by again.
    pub(super) fn unfollow(&self) {
        self.tell(Command::Unfollow);
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

/// Whether an error says that what the pool holds of the VM is no guest, or is damaged: any other host would find the same.
fn is_unfit(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |cause: &&(dyn Error + 'static)| (*cause).source());
    is_unfit_guest(error)
        || causes.any(|cause| {
            let slot = cause.downcast_ref().is_some_and(|slot| !matches!(slot, StateError::Access(_)));
            let boot = cause.downcast_ref().is_some_and(|boot| !matches!(boot, BootImageError::Access(_)));
            slot || boot || cause.is::<machine::StateError>()
        })
}

/// A machine that waits to be promoted.
pub(super) struct Standby {
    // The machine goes before its memory.
    pub(super) machine: Machine,
    pub(super) memory: WorkingMemory,
    pub(super) disk: Option<SharedDisk>,
    pub(super) parts: StandbyParts,
}

impl Standby {
    fn make(kvm: &Kvm, order: &Order, parts: StandbyParts) -> Result<Self, Failure> {
        let (machine, memory, disk) = make_machine(kvm, order, &parts)?;
        Ok(Self { machine, memory, disk, parts })
    }

    /// Follows the primary, from what the stable image holds.
    fn follow(&mut self, parts: FollowParts, order: &Order, around: &Surroundings) -> Result<FollowEnd, Failure> {
        self.memory.refresh()?;
        follow::run(self, parts, order, around)
    }

    /// The same with a new machine, as if the old one had never run.
    fn renew(self, kvm: &Kvm, order: &Order) -> Result<Self, Failure> {
        let Self { machine, memory, disk, parts } = self;
        drop((machine, memory, disk));
        Self::make(kvm, order, parts)
    }
}

/// A machine over the stable image, with its disk.
pub(super) fn make_machine(
    kvm: &Kvm,
    order: &Order,
    parts: &StandbyParts,
) -> Result<(Machine, WorkingMemory, Option<SharedDisk>), Failure> {
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
    let linux = guest_machine(&boot_image::load_start(&Mapping::read_only(&parts.boot)?, BUNDLE_HEADER_BYTES)?)?;
    let config = MachineConfig { cpu, mmio_devices, linux, ..MachineConfig::live() };
    let machine = Machine::prepare(kvm, memory.guest_memory().clone(), config)?;
    Ok((machine, memory, disk))
}

/// The thread's life.
fn live(order: &Order, parts: StandbyParts, around: &Surroundings, generation: &mut Generation) -> Result<(), Failure> {
    let kvm = &*around.kvm;
    let mut standby = Standby::make(kvm, order, parts)?;
    failpoint::pass("host.standby.made");
    around.say(VmEvent::StandbyMade { generation: *generation });
    loop {
        let (promotion, warm) = match around.commands.recv() {
            Ok(Command::Promote(promotion)) => (promotion, None),
            Ok(Command::Follow(parts)) => {
                let turn = parts.turn;
                match standby.follow(*parts, order, around) {
                    Ok(FollowEnd::Promoted(promotion, warm)) => (promotion, Some(warm)),
                    Err(error) => {
                        // The controller does not wait for this secondary any more. It still stands by.
                        let reason = crate::chain(&*error);
                        tracing::warn!("{} is not followed any more: {reason}", order.vm);
                        around.say(VmEvent::FollowFailed { turn, reason });
                        standby = standby.renew(kvm, order)?;
                        continue;
                    }
                    Ok(FollowEnd::Reset) => {
                        standby = standby.renew(kvm, order)?;
                        continue;
                    }
                    Ok(FollowEnd::Discarded) => return Ok(()),
                }
            }
            // A standby has nothing to yield, and hears with its promotion how the guest is protected.
            Ok(
                Command::Look
                | Command::Yield
                | Command::Turn(_)
                | Command::Unfollow
                | Command::OpenInput
                | Command::TakeInput(..),
            ) => continue,
            Ok(Command::Discard) | Err(_) => return Ok(()),
        };
        *generation = promotion.order.generation;
        let mut warm = warm;
        if warm.as_ref().is_some_and(|warm| !beginning::fits(warm, &standby.parts, &promotion)) {
            // Where it is, the guest has never been: it is loaded as in every other takeover.
            warm = None;
            standby = standby.renew(kvm, order)?;
        }
        if warm.is_none() {
            standby.memory.refresh()?;
        }
        let Standby { machine, memory, disk, parts } = standby;
        let kicker = machine.is_linux().then(|| machine.kicker());
        let arrivals = Arc::new(Arrivals::new(around.to_self.clone(), kicker));
        let (networks, packets) = Networks::open(&promotion.order.spec.nets, &arrivals);
        let live = LiveInputs::with_networks(packets);
        let promotion = *promotion;
        let beginning = Beginning { machine, memory, disk, standby: parts, promotion, live, networks, arrivals, warm };
        return primary::run(beginning, around);
    }
}
