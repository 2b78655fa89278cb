//! What was laid out or announced outlives its maker, from the moment its maker says so.

use std::panic::catch_unwind;
use std::sync::atomic::Ordering;

use super::survivors::{Choice, choices};
use super::world::{GENERATION, GEOMETRY, Held, hold, violation};
use crate::blob_store::{self, BlobStore};
use crate::boot_image;
use crate::commit_word::CommitWord;
use crate::console::{ConsoleRing, console_file_bytes};
use crate::control::{CONTROL_BYTES, ControlBlock};
use crate::disk_image;
use crate::guarded_word;
use crate::journal::{JournalReader, format_journal};
use crate::lossy::{LossyCache, LossyMemory};
use crate::mem::{PoolRead, PoolWrite};
use crate::numbers::{Epoch, Generation, LogPosition, Offset, PAGE_BYTES, PAGE_SIZE, VmSlot};
use crate::planted::{Laid, PlantedBug, plant, plant_at};
use crate::pool::reserve::{copy_whole, zero_parts};
use crate::pool::{device, raise};
use crate::record_log::{LogReader, format_log, log_file_bytes};
use crate::superblock::{SUPERBLOCK_BYTES, Superblock};
use crate::vm_directory::{VmDirectory, directory_file_bytes};

/// Makes something, lets its maker die, and hands the memory to somebody who looks.
fn outlives(
    choice: Choice,
    len: u64,
    make: impl FnOnce(&LossyMemory) -> Held,
    look: impl FnOnce(&LossyMemory) -> Held,
) -> Held {
    let maker = LossyCache::new();
    let memory = LossyMemory::new(len, &maker);
    make(&memory)?;
    maker.crash(&mut *choice.survivors());
    look(&memory.through(&LossyCache::new()))
}

fn journal(choice: Choice) -> Held {
    let base = Epoch::new(4);
    outlives(
        choice,
        GEOMETRY.file_bytes(),
        |memory| format_journal(memory, GENERATION, &GEOMETRY, base).map_err(violation),
        |memory| {
            let reader = JournalReader::new(memory, GENERATION, GEOMETRY).map_err(violation)?;
            hold(reader.check_journal_header() == Ok(base), || "journal header".to_owned())?;
            let word = reader.word().map_err(violation)?;
            hold(word.epoch == base && !word.sealed, || format!("{word:?}"))
        },
    )
}

fn log(choice: Choice) -> Held {
    let base = LogPosition::new(800);
    outlives(
        choice,
        log_file_bytes(PAGE_SIZE),
        |memory| format_log(memory, GENERATION, PAGE_SIZE, base).map_err(violation),
        |memory| {
            let reader = LogReader::new(memory, PAGE_SIZE).map_err(violation)?;
            hold(reader.header() == Ok((GENERATION, base)), || "log header".to_owned())?;
            let tail = reader.tail().map_err(violation)?;
            hold(tail.position == base, || format!("{tail:?}"))
        },
    )
}

fn console(choice: Choice) -> Held {
    outlives(
        choice,
        console_file_bytes(PAGE_SIZE),
        |memory| ConsoleRing::format(memory, PAGE_SIZE).map(|_| ()).map_err(violation),
        |memory| {
            let ring = ConsoleRing::open(memory).map_err(violation)?;
            ring.tail().map(|_| ()).map_err(violation)
        },
    )
}

fn fresh_control(choice: Choice) -> Held {
    outlives(
        choice,
        CONTROL_BYTES,
        |memory| ControlBlock::format(memory).map(drop).map_err(violation),
        |memory| {
            let control = ControlBlock::open(memory).map_err(violation)?;
            hold(control.damage().is_none(), || format!("{:?}", control.damage()))?;
            let found = (control.generation().map_err(violation)?, control.applied().map_err(violation)?);
            hold(found == (Generation::ZERO, Epoch::ZERO), || format!("{found:?}"))
        },
    )
}

fn control(choice: Choice) -> Held {
    let (generation, applied) = (Generation::new(2), Epoch::new(7));
    outlives(
        choice,
        CONTROL_BYTES,
        |memory| {
            let control = ControlBlock::format(memory).map_err(violation)?;
            control.set_applied(applied).map_err(violation)?;
            control.set_generation(generation).map_err(violation)
        },
        |memory| {
            let control = ControlBlock::open(memory).map_err(violation)?;
            let check = |how: &str| {
                let found = (control.generation().map_err(violation)?, control.applied().map_err(violation)?);
                hold(found == (generation, applied), || format!("{found:?} {how}"))
            };
            check("as it was left")?;
            for line in [0, 64, 128, 192] {
                memory.store_u64(Offset::new(line), 7, Ordering::Relaxed).map_err(violation)?;
            }
            check("by the copies alone")
        },
    )
}

fn blob(choice: Choice) -> Held {
    outlives(
        choice,
        blob_store::total_bytes(64),
        |memory| {
            let store = BlobStore::new(memory, Offset::ZERO, 64).map_err(violation)?;
            store.format().map_err(violation)
        },
        |memory| {
            let store = BlobStore::new(memory, Offset::ZERO, 64).map_err(violation)?;
            hold(store.load() == Ok(None), || "empty store".to_owned())
        },
    )
}

fn directory(choice: Choice) -> Held {
    outlives(
        choice,
        directory_file_bytes(2),
        |memory| VmDirectory::format(memory, 2).map(|_| ()).map_err(violation),
        |memory| {
            let directory = VmDirectory::open(memory, 2).map_err(violation)?;
            hold(directory.entry(VmSlot::new(1)) == Ok(None), || "entry".to_owned())
        },
    )
}

fn boot(choice: Choice) -> Held {
    outlives(
        choice,
        PAGE_SIZE,
        |memory| boot_image::store(memory, &[7; 300]).map_err(violation),
        |memory| hold(boot_image::load(memory) == Ok(vec![7; 300]), || "boot image".to_owned()),
    )
}

fn a_superblock() -> Superblock {
    let layout = crate::superblock::LAYOUT_VERSION;
    Superblock { layout, pool_id: [1; 16], vm_slots: 1, host_slots: 1, cluster_bytes: PAGE_SIZE }
}

fn first_copy_is_whole(memory: &LossyMemory) -> Held {
    let mut bytes = [0; 128];
    memory.read(Offset::ZERO, &mut bytes).map_err(violation)?;
    hold(Superblock::parse(&bytes) == Ok(a_superblock()), || "superblock".to_owned())
}

fn superblock(choice: Choice) -> Held {
    let superblock = a_superblock();
    outlives(choice, SUPERBLOCK_BYTES, |memory| superblock.store(memory).map_err(violation), first_copy_is_whole)
}

fn disk(choice: Choice) -> Held {
    use std::os::unix::fs::FileExt;
    let file = tempfile::tempfile().map_err(violation)?;
    file.write_all_at(&[7; 5000], 0).map_err(violation)?;
    outlives(
        choice,
        2 * PAGE_SIZE,
        |memory| disk_image::fill(memory, &file).map_err(violation),
        |memory| {
            let mut found = [0; 5000];
            memory.read(Offset::ZERO, &mut found).map_err(violation)?;
            hold(found == [7; 5000], || "disk".to_owned())
        },
    )
}

/// What was mended is whole for whoever comes next.
fn mended_control(choice: Choice) -> Held {
    outlives(
        choice,
        CONTROL_BYTES,
        |memory| {
            let control = ControlBlock::format(memory).map_err(violation)?;
            control.set_applied(Epoch::new(7)).map_err(violation)?;
            for line in [0, 64, 192] {
                memory.store_u64(Offset::new(line), 7, Ordering::Relaxed).map_err(violation)?;
            }
            memory.flush(Offset::ZERO, CONTROL_BYTES).and_then(|()| memory.fence()).map_err(violation)?;
            let damaged = control.mend().map_err(violation)?;
            hold(damaged.is_some(), || "nothing was mended".to_owned())
        },
        |memory| {
            let damage = ControlBlock::open(memory).map_err(violation)?.damage();
            hold(damage.is_none(), || format!("{damage:?}"))
        },
    )
}

fn mended_superblock(choice: Choice) -> Held {
    let superblock = a_superblock();
    outlives(
        choice,
        SUPERBLOCK_BYTES,
        |memory| {
            superblock.store(memory).map_err(violation)?;
            memory.store_u64(Offset::new(16), 7, Ordering::Relaxed).map_err(violation)?;
            memory.flush(Offset::ZERO, SUPERBLOCK_BYTES).and_then(|()| memory.fence()).map_err(violation)?;
            let wrong = superblock.mend(memory).map_err(violation)?;
            hold(wrong.len() == 1, || format!("mended {wrong:?}"))
        },
        first_copy_is_whole,
    )
}

fn device_heads(choice: Choice) -> Held {
    outlives(
        choice,
        device::FILES_AT,
        |memory| device::write_heads(memory, 1 << 30).map_err(violation),
        |memory| {
            let wrong = device::wrong_heads(memory).map_err(violation)?;
            hold(wrong.is_empty(), || format!("{wrong:?}"))
        },
    )
}

/// What a wiped device says is not believed any more.
fn wiped_device(choice: Choice) -> Held {
    outlives(
        choice,
        device::FILES_AT,
        |memory| {
            device::write_heads(memory, 1 << 30).map_err(violation)?;
            device::wipe_head(memory).map_err(violation)
        },
        |memory| {
            let wrong = device::wrong_heads(memory).map_err(violation)?;
            hold(wrong.first().is_some_and(|(copy, _)| *copy == "first"), || "the head is back".to_owned())
        },
    )
}

/// A seal of an older layout is one of this layout for whoever comes next.
fn sealed_anew(choice: Choice) -> Held {
    let sealed_before = guarded_word::encode(9) | 1 << 63;
    outlives(
        choice,
        PAGE_SIZE,
        |memory| {
            memory.store_u64(Offset::ZERO, sealed_before, Ordering::Relaxed).map_err(violation)?;
            memory.flush(Offset::ZERO, 8).and_then(|()| memory.fence()).map_err(violation)?;
            raise::seal_word_anew(memory, Offset::ZERO).map_err(violation)
        },
        |memory| {
            let word = CommitWord::load(memory, Offset::ZERO).map_err(violation)?;
            hold(word.sealed && word.epoch == Epoch::new(9), || format!("{word:?}"))
        },
    )
}

/// Who is given space finds nothing of its last owner's there.
fn zeroed(choice: Choice) -> Held {
    let parts = [(Offset::new(PAGE_SIZE), PAGE_SIZE + 64)];
    outlives(
        choice,
        4 * PAGE_SIZE,
        |memory| {
            memory.write(Offset::ZERO, &[7; 3 * PAGE_BYTES]).map_err(violation)?;
            memory.flush(Offset::ZERO, 3 * PAGE_SIZE).and_then(|()| memory.fence()).map_err(violation)?;
            zero_parts(memory, &parts).map_err(violation)
        },
        |memory| {
            let mut found = [7; PAGE_BYTES + 64];
            memory.read(Offset::new(PAGE_SIZE), &mut found).map_err(violation)?;
            hold(found.iter().all(|byte| *byte == 0), || "what was there before".to_owned())
        },
    )
}

/// Who opens a file that was made anew finds all that the old one had.
fn copied(choice: Choice) -> Held {
    const BYTES: usize = 2 * PAGE_BYTES + 64;
    outlives(
        choice,
        3 * PAGE_SIZE,
        |memory| {
            let old = LossyMemory::new(2 * PAGE_SIZE + 64, &LossyCache::new());
            old.write(Offset::ZERO, &[7; BYTES]).and_then(|()| copy_whole(&old, memory)).map_err(violation)
        },
        |memory| {
            let mut found = [0; BYTES];
            memory.read(Offset::ZERO, &mut found).map_err(violation)?;
            hold(found.iter().all(|byte| *byte == 7), || "a part is missing".to_owned())
        },
    )
}

fn log_copy(_: Choice) -> Held {
    super::log_copy::crashes().map(drop)
}

type Structure = fn(Choice) -> Held;

/// Everything that is laid out, and the test that cannot do without its flush and its fence.
const STRUCTURES: [(Laid, Structure); 16] = [
    (Laid::BootImage, boot),
    (Laid::DiskImage, disk),
    (Laid::Journal, journal),
    (Laid::RecordLog, log),
    (Laid::LogCopyTail, log_copy),
    (Laid::Console, console),
    (Laid::ControlBlock, fresh_control),
    (Laid::ControlMend, mended_control),
    (Laid::Blob, blob),
    (Laid::DirectoryHeaders, directory),
    (Laid::Superblock, superblock),
    (Laid::SuperblockMend, mended_superblock),
    (Laid::DeviceHead, device_heads),
    (Laid::DeviceWipe, wiped_device),
    (Laid::CopiedFile, copied),
    (Laid::ZeroedSpace, zeroed),
];

/// The protections of what is laid out, each in each place.
#[test]
fn each_place_needs_its_flush_and_its_fence() {
    for (place, (laid, structure)) in STRUCTURES.into_iter().enumerate() {
        assert_eq!(laid as usize, place, "ZeroedSpace is the last one; each has its test");
        for bug in [PlantedBug::FormatFlush, PlantedBug::FormatFence] {
            plant_at(bug, laid);
            let noticed =
                choices(1).any(|choice| catch_unwind(|| structure(choice)).map_or(true, |held| held.is_err()));
            plant(None);
            assert!(noticed, "nobody misses {bug:?} of {laid:?}");
        }
    }
    assert_eq!(STRUCTURES.len(), Laid::ZeroedSpace as usize + 1);
}

/// Everything that is laid out, under every choice of survivors.
pub(super) fn crashes() -> Held<usize> {
    let mut cases = 0;
    for choice in choices(1) {
        // What copies logs has an enumeration of its own.
        let structures = STRUCTURES.into_iter().filter(|(laid, _)| *laid != Laid::LogCopyTail).map(|(_, test)| test);
        for structure in structures.chain([control as Structure, sealed_anew]) {
            structure(choice)?;
            cases += 1;
        }
    }
    Ok(cases)
}

#[test]
fn fresh_structures_outlive_their_maker() {
    assert!(crashes().unwrap() > 50);
}
