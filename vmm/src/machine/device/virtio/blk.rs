//! virtio-blk: a disk whose requests are done in the exit of their notification.

use super::disk::{Disk, DiskError};
use super::ring::{Chain, ChainLimits, Refusal, Ring};
use super::transport::{Backend, Fault, QueueKind, Service};
use crate::machine::device::Context;
use crate::machine::inputs::{ExitNumber, InputError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

const SECTOR_BYTES: u64 = 512;
/// Type, a reserved word, and the first sector.
const HEADER_BYTES: usize = 16;
const STATUS_BYTES: usize = 1;
/// What the driver is told when it asks for the disk's name: twenty bytes.
const NAME: &[u8; 20] = b"ftvm-disk\0\0\0\0\0\0\0\0\0\0\0";

/// Most pieces of data in a request.
const SEGMENTS_MAX: usize = 64;
/// Most bytes of data in a request: with the queue's size this bounds the work of one exit.
const DATA_BYTES_MAX: usize = 256 << 10;
/// Most bytes of a piece.
const SEGMENT_BYTES_MAX: usize = DATA_BYTES_MAX / SEGMENTS_MAX;
const REQUEST: ChainLimits =
    ChainLimits { descriptors_max: SEGMENTS_MAX + 2, bytes_max: (HEADER_BYTES + DATA_BYTES_MAX + STATUS_BYTES) as u64 };
const QUEUE_SIZE_MAX: u16 = 128;
const QUEUES: [QueueKind; 1] = [QueueKind { size_max: QUEUE_SIZE_MAX, service: Service::Notified }];
const _: () = assert!(QUEUE_SIZE_MAX as usize >= SEGMENTS_MAX + 2, "the largest request fits an empty queue");

/// Capacity in sectors (8 bytes), the largest segment (4), segments (4).
const CONFIG_BYTES: usize = 16;

pub(super) struct Blk {
    disk: Arc<Mutex<Disk>>,
    sectors: u64,
    config: [u8; CONFIG_BYTES],
}

/// How a request ends.
enum Done {
    /// So many bytes of the chain's writable part were filled.
    Ok(usize),
    Failed,
    Unsupported,
}

impl Blk {
    pub(super) fn new(disk: Arc<Mutex<Disk>>) -> Self {
        let sectors = lock(&disk).bytes() / SECTOR_BYTES;
        let mut config = [0; CONFIG_BYTES];
        config[..8].copy_from_slice(&sectors.to_le_bytes());
        let bytes = u32::try_from(SEGMENT_BYTES_MAX).expect("a small number");
        config[8..12].copy_from_slice(&bytes.to_le_bytes());
        let segments = u32::try_from(SEGMENTS_MAX).expect("a small number");
        config[12..].copy_from_slice(&segments.to_le_bytes());
        Self { disk, sectors, config }
    }

    fn request(&self, chain: &Chain, ring: &Ring<'_>, context: &mut Context<'_>) -> Result<Done, Fault> {
        let mut header = [0; HEADER_BYTES];
        if !chain.readable.read(ring.memory, 0, &mut header) {
            let (head, got) = (chain.head, chain.readable.len());
            return Err(Refusal::TooFewBytes { head, least: HEADER_BYTES, got }.into());
        }
        let kind = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
        let sector = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
        let out_bytes = chain.readable.len() - HEADER_BYTES;
        let in_bytes = chain.writable.len() - STATUS_BYTES;
        let at = context.exit;
        match kind {
            VIRTIO_BLK_T_IN => {
                let Some(from) = self.place(sector, in_bytes) else { return Ok(Done::Failed) };
                let mut data = vec![0; in_bytes];
                lock(&self.disk).read(from, &mut data).map_err(|error| unreadable(at, error))?;
                put(chain, ring, &data)
            }
            VIRTIO_BLK_T_OUT => {
                let Some(to) = self.place(sector, out_bytes) else { return Ok(Done::Failed) };
                let mut data = vec![0; out_bytes];
                if !chain.readable.read(ring.memory, HEADER_BYTES, &mut data) {
                    return Err(Refusal::RingOutside.into());
                }
                lock(&self.disk).write(to, &data).map_err(|error| unreadable(at, error))?;
                Ok(Done::Ok(0))
            }
            VIRTIO_BLK_T_FLUSH => {
                context.effects.flush = true;
                Ok(Done::Ok(0))
            }
            VIRTIO_BLK_T_GET_ID => put(chain, ring, &NAME[..in_bytes.min(NAME.len())]),
            _ => Ok(Done::Unsupported),
        }
    }

    /// Where a request is on the disk, if it is whole sectors inside it.
    fn place(&self, sector: u64, bytes: usize) -> Option<u64> {
        let bytes = bytes as u64;
        let end = sector.checked_add(bytes / SECTOR_BYTES)?;
        (bytes.is_multiple_of(SECTOR_BYTES) && end <= self.sectors).then(|| sector * SECTOR_BYTES)
    }
}

impl Backend for Blk {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_SIZE_MAX | 1 << VIRTIO_BLK_F_SEG_MAX
    }

    fn queues(&self) -> &'static [QueueKind] {
        &QUEUES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn serve(&mut self, _queue: usize, ring: &mut Ring<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        for _ in 0..ring.size() {
            let Some(chain) = ring.pop(REQUEST)? else { return Ok(()) };
            if chain.writable.len() < STATUS_BYTES {
                let (head, got) = (chain.head, chain.writable.len());
                return Err(Refusal::TooFewBytes { head, least: STATUS_BYTES, got }.into());
            }
            let (status, written) = match self.request(&chain, ring, context)? {
                Done::Ok(written) => (VIRTIO_BLK_S_OK, written),
                Done::Failed => (VIRTIO_BLK_S_IOERR, 0),
                Done::Unsupported => (VIRTIO_BLK_S_UNSUPP, 0),
            };
            let status = u8::try_from(status).expect("a small number");
            if !chain.writable.write(ring.memory, chain.writable.len() - STATUS_BYTES, &[status]) {
                return Err(Refusal::RingOutside.into());
            }
            ring.finish(&chain, written + STATUS_BYTES)?;
        }
        Ok(())
    }
}

fn put(chain: &Chain, ring: &Ring<'_>, data: &[u8]) -> Result<Done, Fault> {
    match chain.writable.write(ring.memory, 0, data) {
        true => Ok(Done::Ok(data.len())),
        false => Err(Refusal::RingOutside.into()),
    }
}

/// What is on the disk is an input of the guest: without it there is no going on.
fn unreadable(at: ExitNumber, error: DiskError) -> Fault {
    Fault::Input(InputError::Disk { at, source: Box::new(error) })
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    // Every change of a disk is whole even if its thread panics behind it.
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}
