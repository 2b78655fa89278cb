//! The blocks over the base: reads see the newest, and what is applied is dropped.

use crate::machine::device::virtio::disk::{BLOCK_BYTES, Disk, DiskBase, DiskError};
use ft_protocol::Epoch;
use proptest::prelude::*;
use shared_mem::BlockIndex;
use std::io::Write;

const BLOCKS: usize = 4;
const BYTES: usize = BLOCKS * BLOCK_BYTES;

#[test]
fn only_whole_blocks_make_a_disk() {
    for bytes in [0, 1, 4095, 4097] {
        assert!(matches!(Disk::new(DiskBase::Zeroes, bytes), Err(DiskError::Size { .. })), "{bytes}");
    }
}

#[test]
fn behind_the_end_of_its_file_a_disk_is_zero() {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&[7; 5000]).expect("written");
    let disk = Disk::new(DiskBase::File(file), BYTES as u64).expect("whole blocks");
    let mut got = vec![1; BYTES];
    disk.read(0, &mut got).expect("readable");
    assert_eq!(got, [vec![7; 5000], vec![0; BYTES - 5000]].concat());
}

#[test]
fn a_block_written_again_outlives_its_older_epoch() {
    let mut disk = Disk::new(DiskBase::Zeroes, BYTES as u64).expect("whole blocks");
    let byte_at = |disk: &Disk, at: u64| {
        let mut byte = [0];
        disk.read(at, &mut byte).expect("readable");
        byte[0]
    };
    disk.write(0, &[1]).expect("written");
    disk.committed(Epoch::new(5));
    assert_eq!(disk.dirty_blocks().count(), 0);
    disk.write(1, &[2]).expect("written");
    let dirty: Vec<_> = disk.dirty_blocks().map(|(block, content)| (block, content[..3].to_vec())).collect();
    assert_eq!(dirty, [(BlockIndex::new(0), vec![1, 2, 0])]);
    disk.applied(Epoch::new(5));
    assert_eq!((byte_at(&disk, 0), byte_at(&disk, 1)), (1, 2), "the base lacks the second write");
    disk.committed(Epoch::new(6));
    disk.applied(Epoch::new(5));
    assert_eq!(disk.kept_blocks(), 1);
    disk.applied(Epoch::new(6));
    assert_eq!(disk.kept_blocks(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Write { at: usize, bytes: Vec<u8> },
    Commit,
    Apply { behind: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..BYTES, prop::collection::vec(any::<u8>(), 1..BLOCK_BYTES * 2))
            .prop_map(|(at, bytes)| Step::Write { at, bytes }),
        2 => Just(Step::Commit),
        2 => (0usize..3).prop_map(|behind| Step::Apply { behind }),
    ]
}

proptest! {
    /// With a base that applies each epoch some time after its commit, reads are those of a plain array.
    #[test]
    fn a_disk_is_an_array(steps in prop::collection::vec(step(), 1..40)) {
        let file = tempfile::tempfile().expect("a temporary file");
        let base = DiskBase::File(file.try_clone().expect("a descriptor"));
        let mut disk = Disk::new(base, BYTES as u64).expect("whole blocks");
        let mut array = vec![0; BYTES];
        // Records that the base has not applied yet; the epoch of record n is n + 1.
        let mut records: Vec<Vec<(BlockIndex, [u8; BLOCK_BYTES])>> = Vec::new();
        let mut applied = 0;
        for step in steps {
            match step {
                Step::Write { at, mut bytes } => {
                    bytes.truncate(BYTES - at);
                    disk.write(at as u64, &bytes).expect("written");
                    array[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                Step::Commit => {
                    records.push(disk.dirty_blocks().map(|(block, content)| (block, *content)).collect());
                    prop_assert!(records.last().expect("pushed").is_sorted_by_key(|(block, _)| block.get()));
                    disk.committed(Epoch::new(records.len() as u64));
                    prop_assert_eq!(disk.dirty_blocks().count(), 0);
                }
                Step::Apply { behind } => {
                    while applied + behind < records.len() {
                        for (block, content) in &records[applied] {
                            std::os::unix::fs::FileExt::write_all_at(&file, content, block.offset().get())
                                .expect("applied");
                        }
                        applied += 1;
                    }
                    disk.applied(Epoch::new(applied as u64));
                }
            }
            let mut got = vec![0; BYTES];
            disk.read(0, &mut got).expect("readable");
            prop_assert!(got == array);
        }
    }
}
