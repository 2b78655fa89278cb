//! The parts of the pool that came with an order, mapped.

use ft_protocol::ids::FollowTurn;
use ft_protocol::spec::VmSpec;
use ft_protocol::wire::{Access, ExtentTag, Grant, Order, Part};
use ft_protocol::{Epoch, Generation, VmId};
use shared_mem::{
    ActivityWriter, ControlBlock, Extent, HeartbeatReader, JournalGeometry, JournalReader, JournalWriter, Mapping,
    ReadOnly, ReadWrite, StateArea,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a standby works with; a primary keeps it.
pub(super) struct StandbyParts {
    pub(super) image: Extent,
    pub(super) boot: Extent,
    /// The disk image, if the VM has a disk.
    pub(super) disk: Option<Extent>,
    pub(super) state: StateArea<Mapping<ReadOnly>>,
    pub(super) control: ControlBlock<Mapping<ReadOnly>>,
    pub(super) heartbeat: Option<HeartbeatReader<Mapping<ReadOnly>>>,
}

/// What only a primary works with.
pub(super) struct PrimaryParts {
    pub(super) journal: JournalWriter<Mapping<ReadWrite>, Extent>,
    pub(super) log: Extent,
    /// Where it says what it does; without, nobody can tell an idle guest from a stuck one.
    pub(super) activity: Option<ActivityWriter<Mapping<ReadWrite>>>,
}

/// What a secondary that follows reads beside.
pub(super) struct FollowParts {
    pub(super) generation: Generation,
    /// The order to follow, for what is said of it.
    pub(super) turn: FollowTurn,
    /// What the stable image holds.
    pub(super) base: Epoch,
    pub(super) journal: JournalReader<Mapping<ReadOnly>>,
    pub(super) log: Extent,
}

impl FollowParts {
    pub(super) fn open(
        (vm, generation, base): (VmId, Generation, Epoch),
        turn: FollowTurn,
        spec: &VmSpec,
        mut extents: Vec<(ExtentTag, Extent)>,
    ) -> Result<Self, Failure> {
        let mut take = |part: Part| -> Result<Extent, Failure> {
            let wanted = Grant { part, access: Access::ReadOnly };
            let at = extents.iter().position(|(tag, _)| tag.grant == wanted);
            at.map(|at| extents.swap_remove(at).1).ok_or_else(|| format!("the order came without {part:?}").into())
        };
        let journal = Mapping::read_only(&take(Part::Journal(vm, generation))?)?;
        let log = take(Part::Log(vm, generation))?;
        let journal = JournalReader::new(journal, shared_mem::Generation::new(generation.get()), geometry(spec))?;
        Ok(Self { generation, turn, base, journal, log })
    }
}

fn geometry(spec: &VmSpec) -> JournalGeometry {
    let shape = spec.journal;
    JournalGeometry { slots: shape.slots, slot_bytes: shape.slot_bytes, reserved_bytes: shape.reserved_bytes }
}

impl StandbyParts {
    pub(super) fn open(order: &Order, mut extents: Vec<(ExtentTag, Extent)>) -> Result<Self, Failure> {
        let vm = order.vm;
        let mut take = |part: Part| -> Result<Extent, Failure> {
            let wanted = Grant { part, access: Access::ReadOnly };
            let at = extents.iter().position(|(tag, _)| tag.grant == wanted);
            at.map(|at| extents.swap_remove(at).1).ok_or_else(|| format!("the order came without {part:?}").into())
        };
        let image = take(Part::Image(vm))?;
        let boot = take(Part::Boot(vm))?;
        let disk = (order.spec.disk_bytes > 0).then(|| take(Part::Disk(vm))).transpose()?;
        let state = StateArea::new(Mapping::read_only(&take(Part::State(vm))?)?);
        let control = ControlBlock::open(Mapping::read_only(&take(Part::Control(vm))?)?)?;
        let heartbeat = match order.primary {
            Some(host) => Some(HeartbeatReader::new(Mapping::read_only(&take(Part::Heartbeat(host))?)?)),
            None => None,
        };
        Ok(Self { image, boot, disk, state, control, heartbeat })
    }
}

impl PrimaryParts {
    pub(super) fn open(
        order: &Order,
        extents: &[(ExtentTag, Extent)],
        heartbeat: Option<&Extent>,
    ) -> Result<Self, Failure> {
        let find = |part: Part| -> Result<&Extent, Failure> {
            let wanted = Grant { part, access: Access::ReadWrite };
            let found = extents.iter().find(|(tag, _)| tag.grant == wanted);
            found.map(|(_, extent)| extent).ok_or_else(|| format!("the order came without {part:?}").into())
        };
        let extent = find(Part::Journal(order.vm, order.generation))?;
        let log = find(Part::Log(order.vm, order.generation))?.try_clone()?;
        let geometry = geometry(&order.spec);
        let generation = shared_mem::Generation::new(order.generation.get());
        let mapping = Mapping::read_write(extent)?;
        let journal = JournalWriter::new(mapping, extent.try_clone()?, generation, geometry)?;
        let activity = match heartbeat {
            Some(page) => Some(ActivityWriter::new(Mapping::read_write(page)?, order.vm.get())),
            None => None,
        };
        Ok(Self { journal, log, activity })
    }
}
