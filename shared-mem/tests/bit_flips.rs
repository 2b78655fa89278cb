//! Every flipped bit of a pool is refused with an error, or changes nothing that the pool says.

mod whole_pool;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use shared_mem::Pool;
use whole_pool::{build, files, on_tmpfs, survey};

/// What is there twice: no flip there costs anything.
const TWICE: [&str; 3] = ["superblock", "vm-directory", "cluster"];

/// Flips these bytes' bits all; of zeroes in between (unused space, mostly) only some.
fn bits(content: &[u8]) -> Vec<(usize, u32)> {
    let interesting = |at: usize| content[at] != 0 || at % 64 < 8;
    let all = (0..content.len()).filter(|at| interesting(*at));
    all.flat_map(|at| {
        let repeated = at > 200 && content[at - 16..at].iter().all(|byte| *byte == content[at]);
        // Long runs of one value (page contents, zeroes) all behave alike: one bit of them at each place will do.
        let single = u32::try_from(at % 8).unwrap();
        let bits = if repeated { single..single + 1 } else { 0..8 };
        bits.map(move |bit| (at, bit))
    })
    .collect()
}

#[test]
fn every_flipped_bit_is_refused_or_harmless() {
    let dir = on_tmpfs();
    let pool = dir.path().join("pool");
    build(&pool).unwrap();
    let sound = survey(&pool).unwrap();
    let (mut refused, mut harmless) = (0, 0);
    for (name, content) in files(&pool).unwrap() {
        if name.ends_with("/image") || name.ends_with("/disk") || name == "lock" {
            continue;
        }
        // The console's own bytes carry no check, like those of image and disk: they are the guest's.
        let checked = if name.ends_with("/console") { 4096 } else { content.len() };
        let file = OpenOptions::new().write(true).open(pool.join(&name)).unwrap();
        for (at, bit) in bits(&content[..checked]) {
            let offset = at.try_into().unwrap();
            file.write_all_at(&[content[at] ^ (1 << bit)], offset).unwrap();
            match survey(&pool) {
                Err(error) => {
                    let twice = TWICE.contains(&name.as_str()) || name.ends_with("/control");
                    assert!(!twice, "{name} byte {at} bit {bit}: {error}");
                    refused += 1;
                }
                Ok(mut found) => {
                    // A heartbeat may fall back by one beat: it is late then, as heartbeats may be.
                    if found.beat.count + 1 == sound.beat.count {
                        found.beat = sound.beat;
                    }
                    assert!(found == sound, "{name} byte {at} bit {bit} changed what the pool says");
                    harmless += 1;
                }
            }
            if TWICE.contains(&name.as_str()) {
                let found = Pool::open(&pool).unwrap_or_else(|error| panic!("{name} byte {at} bit {bit}: {error}"));
                assert_eq!(found.vms().unwrap().len(), 1, "{name} byte {at} bit {bit} has cost a VM");
                drop(found);
                let mended = survey(&pool).unwrap_or_else(|error| panic!("{name} byte {at} bit {bit}: {error}"));
                assert!(mended == sound, "{name} byte {at} bit {bit} changed what the pool says");
                // What is stored anew has another number.
                std::fs::write(pool.join(&name), &content).unwrap();
            }
            file.write_all_at(&content[at..=at], offset).unwrap();
        }
    }
    assert!(survey(&pool).unwrap() == sound, "all flips were undone");
    assert!(refused > 5_000 && harmless > 0, "{refused} refused, {harmless} harmless");
}

#[test]
fn a_truncated_file_is_refused() {
    let dir = on_tmpfs();
    let pool = dir.path().join("pool");
    build(&pool).unwrap();
    for (name, content) in files(&pool).unwrap() {
        if name.ends_with("/disk") || name.ends_with("/image") || name == "lock" || name == "heartbeat.0" {
            continue;
        }
        for length in [0, 17, content.len() / 2] {
            std::fs::write(pool.join(&name), &content[..length]).unwrap();
            let small = name == "superblock" && length >= 128;
            assert!(small || survey(&pool).is_err(), "{name} cut to {length} bytes");
        }
        std::fs::write(pool.join(&name), &content).unwrap();
    }
    survey(&pool).unwrap();
}
