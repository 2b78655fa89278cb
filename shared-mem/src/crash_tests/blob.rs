//! The writer of a blob dies at any event of a replacement.

use super::survivors::{Choice, choices};
use super::world::{Held, hold, violation};
use crate::blob_store::{self, BlobError, BlobStore};
use crate::lossy::{LossyCache, LossyMemory};
use crate::numbers::Offset;

const CAPACITY: u64 = 256;
const BLOBS: u8 = 4;

fn blob(number: u8) -> Vec<u8> {
    vec![number; 100 + usize::from(number) * 30]
}

/// How a blob is stored, and what is done before it is loaded again.
#[derive(Clone, Copy)]
struct Way {
    store: fn(&BlobStore<&LossyMemory>, &[u8]) -> Result<(), BlobError>,
    mend: bool,
}

fn case(fresh: &LossyMemory, at: u64, choice: Choice, way: Way) -> Held<u64> {
    let cache = LossyCache::new();
    let memory = fresh.fork(&cache);
    let store = BlobStore::new(&memory, Offset::ZERO, CAPACITY).map_err(violation)?;
    cache.die_after(at);
    let (mut stored, mut tried) = (0, 0);
    for number in 1..=BLOBS {
        tried = number;
        match (way.store)(&store, &blob(number)) {
            Ok(()) => stored = number,
            Err(_) if cache.is_dead() => break,
            Err(error) => return Err(violation(error)),
        }
    }
    let events = cache.events();
    cache.crash(&mut *choice.survivors());
    let memory = memory.through(&LossyCache::new());
    let store = BlobStore::new(&memory, Offset::ZERO, CAPACITY).map_err(violation)?;
    if way.mend {
        store.mend().map_err(violation)?;
    }
    let found = store.load().map_err(violation)?;
    let expected = |number| (number > 0).then(|| blob(number));
    let right = (stored..=tried).any(|number| found == expected(number));
    hold(right, || format!("{found:?} after {stored} of {tried} blobs"))?;
    Ok(events)
}

/// Every crash point of some replacements; returns how many cases there were.
pub(super) fn crashes() -> Held<usize> {
    let once = crashes_of(Way { store: |store, blob| store.store(blob), mend: false })?;
    let twice = crashes_of(Way { store: |store, blob| store.store_twice(blob), mend: true })?;
    Ok(once + twice)
}

fn crashes_of(way: Way) -> Held<usize> {
    let fresh = LossyMemory::new(blob_store::total_bytes(CAPACITY), &LossyCache::new());
    let store = BlobStore::new(&fresh, Offset::ZERO, CAPACITY).map_err(violation)?;
    store.format().map_err(violation)?;
    let events = case(&fresh, u64::MAX, Choice::None, way)?;
    let mut cases = 0;
    for at in 0..=events {
        for choice in choices(at) {
            case(&fresh, at, choice, way)?;
            cases += 1;
        }
    }
    Ok(cases)
}

#[test]
fn a_blob_writer_may_die_at_any_event() {
    let cases = crashes().unwrap();
    assert!(cases > 900, "{cases} cases");
}
