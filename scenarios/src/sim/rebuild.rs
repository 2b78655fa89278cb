//! Rebuilds a VM from the pool alone, as if every host and the controller had died and lost their caches just now.

use super::guest::Registers;
use super::pool::{Pool, cluster_store};
use super::truth::{Oracle, PAGE_BYTES};
use ft_protocol::commit_meta::CommitMeta;
use ft_protocol::controller::ClusterState;
use ft_protocol::ids::VmId;
use shared_mem::blob_store::BlobStore;
use shared_mem::control::ControlBlock;
use shared_mem::journal::JournalReader;
use shared_mem::lossy::LossyMemory;
use shared_mem::mem::{AccessError, PoolRead};
use shared_mem::numbers::{self, Offset};
use shared_mem::state_area::StateArea;
use std::sync::atomic::Ordering;

/// What could be rebuilt.
pub(crate) struct Rebuilt {
    pub(crate) registers: Registers,
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
/// one line why it cannot be done, or what differs from the true history.
pub(crate) fn rebuild(pool: &Pool, vm: VmId, applied: &Oracle, scratch: &mut Vec<u8>) -> Result<Rebuilt, String> {
    let partition = pool.partition(vm).ok_or("there is no partition")?;
    let state = cluster_store(Durable(&pool.cluster));
    let generation = persisted_generation(&state, vm)?;
    let control = ControlBlock::open(Durable(&partition.control)).map_err(|error| error.to_string())?;
    let base = control.applied().map_err(|error| error.to_string())?;
    let mut pages: Vec<Option<[u8; PAGE_BYTES]>> = vec![None; index(partition.limits.image_pages)];
    let mut registers = machine_state(partition, base)?;
    if let Some(journal) = partition.journal(generation) {
        let number = numbers::Generation::new(generation.get());
        let reader = JournalReader::new(Durable(&journal.memory), number, partition.geometry)
            .map_err(|error| error.to_string())?;
        let committed = reader.peek_word().ok().map(|word| word.epoch);
        let mut epoch = base;
        while committed.is_none_or(|committed| epoch < committed) {
            epoch = epoch.next();
            let record = match reader.load(epoch, &partition.limits, scratch) {
                Ok(record) => record,
                // Under a damaged word all whole records count.
                Err(_) if committed.is_none() => break,
                Err(error) => return Err(chain(error)),
            };
            for (page, content) in record.pages() {
                let mut copy = [0; PAGE_BYTES];
                copy.copy_from_slice(content);
                pages[index(page.get())] = Some(copy);
            }
            let meta = CommitMeta::decode(record.meta()).map_err(|error| error.to_string())?;
            registers = Registers::decode(meta.machine_state).ok_or("the machine state does not decode")?;
        }
    }
    compare(&Durable(&partition.image), &pages, registers, applied)?;
    Ok(Rebuilt { registers })
}

fn persisted_generation(store: &BlobStore<Durable<'_>>, vm: VmId) -> Result<ft_protocol::Generation, String> {
    let bytes = store.load().map_err(|error| error.to_string())?.ok_or("there is no cluster state")?;
    let state = ClusterState::decode(&bytes).map_err(|error| error.to_string())?;
    let record = state.vms.iter().find(|record| record.vm == vm);
    Ok(record.ok_or("the cluster state does not know it")?.generation)
}

fn machine_state(partition: &super::pool::Partition, epoch: numbers::Epoch) -> Result<Registers, String> {
    if epoch == numbers::Epoch::ZERO {
        return Ok(Registers::default());
    }
    let bytes = StateArea::new(Durable(&partition.state)).read(epoch).map_err(|error| error.to_string())?;
    Registers::decode(&bytes).ok_or_else(|| "the machine state does not decode".to_owned())
}

/// Holds what was rebuilt against an unbroken run.
fn compare(
    image: &Durable<'_>,
    pages: &[Option<[u8; PAGE_BYTES]>],
    registers: Registers,
    applied: &Oracle,
) -> Result<(), String> {
    if registers.step < applied.registers().step {
        return Err(format!("it would be set back to step {}", registers.step));
    }
    let mut oracle = applied.clone();
    oracle.advance_to(registers.step);
    if oracle.registers() != registers {
        return Err(format!("the registers are {registers:?}, in the true history {:?}", oracle.registers()));
    }
    let mut content = [0; PAGE_BYTES];
    for (page, private) in (0..).zip(pages) {
        let found = match private {
            Some(private) => private,
            None => {
                image.read(Offset::new(page * PAGE_BYTES as u64), &mut content).map_err(|error| error.to_string())?;
                &content
            }
        };
        if oracle.page(page) != found {
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
