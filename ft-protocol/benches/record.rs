//! Entries of the record log: encoding and decoding.
#![allow(missing_docs, reason = "what the macros make has none")]

use criterion::{Criterion, criterion_group, criterion_main};
use ft_protocol::record::{Entry, EntryBody};
use std::hint::black_box;

fn entries(c: &mut Criterion) {
    let frame = [7; 64];
    let bodies = [
        ("a mark", EntryBody::Mark),
        ("console output of 64 bytes", EntryBody::Output { position: 12_345, bytes: (&frame[..]).into() }),
    ];
    let mut group = c.benchmark_group("entry");
    for (name, body) in bodies {
        let entry = Entry { at_exit: 1_000_000, digest: 7, body };
        let mut payload = Vec::new();
        group.bench_function(format!("encode {name}"), |b| {
            b.iter(|| {
                payload.clear();
                black_box(&entry).encode_payload(&mut payload);
                payload.len()
            });
        });
        group.bench_function(format!("decode {name}"), |b| {
            b.iter(|| {
                Entry::decode(entry.tag(), entry.at_exit, black_box(&payload)).expect("it was just encoded").digest
            });
        });
    }
    group.finish();
}

criterion_group!(benches, entries);
criterion_main!(benches);
