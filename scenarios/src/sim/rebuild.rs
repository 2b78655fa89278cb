//! Rebuilds a VM from the pool alone, as if every host and the controller had died and lost their caches just now.

use super::guest::{Registers, Tick};
use super::pool::{Pool, cluster_store};
use super::truth::{Oracle, PAGE_BYTES};
use ft_protocol::commit_meta::CommitMeta;
use ft_protocol::controller::ClusterState;
use ft_protocol::ids::VmId;
use ft_protocol::record::{Entry, EntryBody};
use shared_mem::blob_store::BlobStore;
use shared_mem::control::ControlBlock;
use shared_mem::journal::JournalReader;
use shared_mem::lossy::LossyMemory;
use shared_mem::mem::{AccessError, PoolRead};
use shared_mem::numbers::{self, Offset};
use shared_mem::state_area::StateArea;
use shared_mem::{LogPosition, LogReader};
use std::sync::atomic::Ordering;

/// What could be rebuilt.
pub(crate) struct Rebuilt {
    /// Steps of the guest.
    pub(crate) step: u64,
    /// Bytes that it has printed.
    pub(crate) console: u64,
}

/// What a rebuilding works with, kept for the next one.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    record: Vec<u8>,
    /// Where in `content` each page that a record has is.
    places: Vec<Option<usize>>,
    content: Vec<u8>,
}

impl Scratch {
    fn clear(&mut self, pages: u64) {
        self.places.clear();
        self.places.resize(index(pages), None);
        self.content.clear();
    }

    fn keep(&mut self, page: u64, content: &[u8]) {
        let at = *self.places[index(page)].get_or_insert(self.content.len());
        self.content.resize(self.content.len().max(at + PAGE_BYTES), 0);
        self.content[at..at + PAGE_BYTES].copy_from_slice(content);
    }
}

/// Memory as it would be found after all caches were lost.
struct Durable<'a>(&'a LossyMemory);

impl PoolRead for Durable<'_> {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn read(&self, at: Offset, into: &mut [u8]) -> Result<(), AccessError> {
        self.0.read_durable(at, into)
    }
    fn read_volatile<B: vm_memory::bitmap::BitmapSlice>(
        &self,
        at: Offset,
        into: &vm_memory::VolatileSlice<'_, B>,
    ) -> Result<(), AccessError> {
        let mut private = vec![0; into.len()];
        self.read(at, &mut private)?;
        into.copy_from(&private);
        Ok(())
    }
    fn load_u64(&self, at: Offset, _: Ordering) -> Result<u64, AccessError> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Recovers the VM by the book: cluster state, control block, stable image, machine state, committed records. Says in
/// one line why it cannot be done, or what differs from the true history. `known` are the guest at the applied epoch, the guest
/// where it was rebuilt last, and the history.
pub(crate) fn rebuild(
    pool: &Pool,
    vm: VmId,
    known: (&Oracle, &mut Oracle, &[Tick]),
    scratch: &mut Scratch,
) -> Result<Rebuilt, String> {
    let partition = pool.partition(vm).ok_or("there is no partition")?;
    let state = cluster_store(Durable(&pool.cluster));
    let generation = persisted_generation(&state, vm)?;
    let control = ControlBlock::open(Durable(&partition.control)).map_err(|error| error.to_string())?;
    let base = control.applied().map_err(|error| error.to_string())?;
    scratch.clear(partition.limits.image_pages);
    let mut bytes = std::mem::take(&mut scratch.record);
    let (mut registers, mut position) = machine_state(partition, base)?;
    if let Some(journal) = partition.journal(generation) {
        let number = numbers::Generation::new(generation.get());
        let reader = JournalReader::new(Durable(&journal.memory), number, partition.geometry)
            .map_err(|error| error.to_string())?;
        let committed = reader.peek_word().ok().map(|word| word.epoch);
        let mut epoch = base;
        while committed.is_none_or(|committed| epoch < committed) {
            epoch = epoch.next();
            let record = match reader.load(epoch, &partition.limits, &mut bytes) {
                Ok(record) => record,
                // Under a damaged word all whole records count.
                Err(_) if committed.is_none() => break,
                Err(error) => return Err(chain(error)),
            };
            for (page, content) in record.pages() {
                scratch.keep(page.get(), content);
            }
            let meta = CommitMeta::decode(record.meta()).map_err(|error| error.to_string())?;
            registers = Registers::decode(meta.machine_state).ok_or("the machine state does not decode")?;
            position = super::guest::log_position(meta.machine_state);
        }
    }
    scratch.record = bytes;
    compare(&Durable(&partition.image), scratch, registers, known)?;
    let opened = ft_protocol::Generation::new(control.generation().map_err(|error| error.to_string())?.get());
    let (step, console) = replayable(partition, opened, position, (registers.step, registers.console))?;
    Ok(Rebuilt { step, console })
}

/// How far the log of a generation goes on from what is committed.
fn replayable(
    partition: &super::pool::Partition,
    generation: ft_protocol::Generation,
    from: u64,
    (mut step, mut console): (u64, u64),
) -> Result<(u64, u64), String> {
    let Some(journal) = partition.journal(generation) else { return Ok((step, console)) };
    let log = LogReader::new(Durable(&journal.log), partition.log_bytes).map_err(|error| error.to_string())?;
    let mut entries = log.entries(LogPosition::new(from)).map_err(chain)?;
    while let Some(entry) = entries.next_entry().map_err(chain)? {
        let entry = Entry::decode(entry.tag, entry.exit_counter, entry.payload).map_err(chain)?;
        step = step.max(entry.at_exit);
        if let EntryBody::Output { position, bytes } = &entry.body {
            console = console.max(position + bytes.len() as u64);
        }
    }
    Ok((step, console))
}

fn persisted_generation(store: &BlobStore<Durable<'_>>, vm: VmId) -> Result<ft_protocol::Generation, String> {
    let bytes = store.load().map_err(|error| error.to_string())?.ok_or("there is no cluster state")?;
    let state = ClusterState::decode(&bytes).map_err(|error| error.to_string())?;
    let record = state.vms.iter().find(|record| record.vm == vm);
    Ok(record.ok_or("the cluster state does not know it")?.generation)
}

fn machine_state(partition: &super::pool::Partition, epoch: numbers::Epoch) -> Result<(Registers, u64), String> {
    if epoch == numbers::Epoch::ZERO {
        return Ok((Registers::default(), 0));
    }
    let bytes = StateArea::new(Durable(&partition.state)).read(epoch).map_err(|error| error.to_string())?;
    let registers = Registers::decode(&bytes).ok_or("the machine state does not decode")?;
    Ok((registers, super::guest::log_position(&bytes)))
}

/// Holds what was rebuilt against an unbroken run.
fn compare(
    image: &Durable<'_>,
    scratch: &Scratch,
    registers: Registers,
    (applied, ahead, history): (&Oracle, &mut Oracle, &[Tick]),
) -> Result<(), String> {
    let ticks = registers.ticks();
    if ticks > history.len() as u64 {
        return Err(format!("it would be at tick {ticks}, where nobody was"));
    }
    if ticks < applied.registers().ticks() {
        return Err(format!("it would be set back to step {}", registers.step));
    }
    if !(applied.registers().ticks()..=ticks).contains(&ahead.registers().ticks()) {
        ahead.set_to(applied);
    }
    ahead.advance_to(ticks, history);
    if ahead.registers() != registers.at_exit() {
        return Err(format!("the registers are {registers:?}, in the true history {:?}", ahead.registers()));
    }
    let mut content = [0; PAGE_BYTES];
    for (page, private) in (0..).zip(&scratch.places) {
        let found = match private {
            Some(at) => &scratch.content[*at..*at + PAGE_BYTES],
            None => {
                image.read(Offset::new(page * PAGE_BYTES as u64), &mut content).map_err(|error| error.to_string())?;
                &content
            }
        };
        if ahead.page(page) != found {
            return Err(format!("page {page} is not that of the true history"));
        }
    }
    Ok(())
}

fn chain(error: impl std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
