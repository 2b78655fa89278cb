//! The record log: what an append costs, and how it does between a producer and a consumer.

use super::super::row::{Row, Target, Unit};
use super::super::{BenchOptions, Failure};
use crossbeam_channel::bounded;
use shared_mem::record_log::{format_log, log_file_bytes};
use shared_mem::{
    Extent, Generation, LogPosition, LogReader, LogWriter, Mapping, Offset, PoolWrite as _, ReadOnly, ReadWrite,
};
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The target for an append.
const APPEND_NS_MAX: f64 = 100.0;
/// Bytes of an entry's payload: a packet's head, a clock's answer.
const PAYLOAD_BYTES: usize = 32;
/// Bytes of an entry with its header.
const STORED_BYTES: u64 = 72;
/// Of the ring.
const RING_BYTES: u64 = 4 << 20;
/// Entries between two looks at how far the consumer is.
const BATCH: u64 = 256;
/// Entries that fit in the ring, a little less.
const ENTRIES_MAX: u64 = RING_BYTES / STORED_BYTES - 2 * BATCH;
const TAG: NonZeroU32 = NonZeroU32::new(3).unwrap();

/// A ring in pool memory.
struct Ring {
    writer: LogWriter<Mapping<ReadWrite>>,
    reader: LogReader<Mapping<ReadOnly>>,
    /// For the plain copy.
    plain: Mapping<ReadWrite>,
}

impl Ring {
    fn new(parent: &Path) -> Result<Self, Failure> {
        let bytes = log_file_bytes(RING_BYTES);
        let file = tempfile::tempfile_in(parent)?;
        file.set_len(bytes)?;
        let extent = Extent::new(file.into(), Offset::ZERO, bytes)?;
        let memory = Mapping::read_write(&extent)?;
        memory.write(Offset::ZERO, &vec![0; usize::try_from(bytes)?])?;
        format_log(&memory, Generation::new(1), RING_BYTES, LogPosition::ZERO)?;
        let other = tempfile::tempfile_in(parent)?;
        other.set_len(bytes)?;
        let plain = Mapping::read_write(&Extent::new(other.into(), Offset::ZERO, bytes)?)?;
        plain.write(Offset::ZERO, &vec![0; usize::try_from(bytes)?])?;
        Ok(Self {
            writer: LogWriter::new(memory, RING_BYTES)?,
            reader: LogReader::new(Mapping::read_only(&extent)?, RING_BYTES)?,
            plain,
        })
    }
}

pub(super) fn measure(options: &BenchOptions, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let (rounds, count) = if options.quick { (21_usize, 20_000) } else { (101, 100_000) };
    let mut ring = Ring::new(&options.pool_parent)?;
    let (mut alone, mut copy) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.push(append_alone(&mut ring, count)?);
        copy.push(copy_alone(&ring, count)?);
    }
    rows.push(
        Row::new("append of an entry", Unit::Ns, &alone)
            .against("copy of its bytes", &copy)
            .target(Target::AtMost(APPEND_NS_MAX)),
    );
    let (mut log, mut channel, mut pipe) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds.div_ceil(2) {
        log.push(through_log(&mut ring, count)?);
        channel.push(through_channel(count)?);
        pipe.push(through_pipe(count)?);
    }
    let throughput = |ns: &[f64]| -> Vec<f64> { ns.iter().map(|ns| 1e9 / ns).collect() };
    rows.push(Row::new("entry from producer to consumer", Unit::Ns, &log).against("crossbeam channel", &channel));
    rows.push(Row::new("entry from producer to consumer", Unit::Ns, &log).against("pipe", &pipe));
    rows.push(
        Row::new("entries from producer to consumer", Unit::PerSecond, &throughput(&log))
            .against("crossbeam channel", &throughput(&channel)),
    );
    Ok(())
}

fn each(begun: Instant, count: u64) -> f64 {
    begun.elapsed().as_secs_f64() * 1e9 / count as f64
}

fn append_alone(ring: &mut Ring, count: u64) -> Result<f64, Failure> {
    let begun = Instant::now();
    for number in 0..count {
        if number % BATCH == 0 {
            ring.writer.free_before(ring.writer.tail());
        }
        ring.writer.append(TAG, number, black_box(&[7; PAYLOAD_BYTES]))?;
    }
    Ok(each(begun, count))
}

fn copy_alone(ring: &Ring, count: u64) -> Result<f64, Failure> {
    let bytes = [7; 72];
    let begun = Instant::now();
    for number in 0..count {
        let at = Offset::new(4096 + number * STORED_BYTES % (RING_BYTES - STORED_BYTES));
        ring.plain.write(at, black_box(&bytes))?;
    }
    Ok(each(begun, count))
}

fn through_log(ring: &mut Ring, count: u64) -> Result<f64, Failure> {
    let Ring { writer, reader, .. } = ring;
    let start = writer.tail();
    writer.free_before(start);
    let consumed = AtomicU64::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let consumer = scope.spawn(|| -> Result<(), String> {
            let mut entries = reader.entries(start).map_err(|error| error.to_string())?;
            let mut seen = 0;
            while seen < count {
                match entries.next_entry().map_err(|error| error.to_string())? {
                    Some(entry) => {
                        black_box(entry.payload);
                        seen += 1;
                        if seen % BATCH == 0 {
                            consumed.store(seen, Ordering::Release);
                        }
                    }
                    None => _ = entries.look_again().map_err(|error| error.to_string())?,
                }
            }
            Ok(())
        });
        let mut starts = std::collections::VecDeque::from([(0, start)]);
        for number in 0..count {
            if number % BATCH == 0 {
                starts.push_back((number, writer.tail()));
                while number - consumed.load(Ordering::Acquire) >= ENTRIES_MAX && !consumer.is_finished() {
                    std::hint::spin_loop();
                }
                let done = consumed.load(Ordering::Acquire);
                while let Some((_, position)) = starts.pop_front_if(|(first, _)| *first <= done) {
                    writer.free_before(position);
                }
            }
            writer.append(TAG, number, black_box(&[7; PAYLOAD_BYTES]))?;
        }
        consumer.join().map_err(|_| "the consumer panicked")??;
        Ok(each(begun, count))
    })
}

fn through_channel(count: u64) -> Result<f64, Failure> {
    let (sender, receiver) = bounded::<(u64, [u8; PAYLOAD_BYTES])>(usize::try_from(ENTRIES_MAX)?);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let consumer = scope.spawn(move || receiver.iter().map(|entry| black_box(entry).0).max());
        for number in 0..count {
            sender.send((number, black_box([7; PAYLOAD_BYTES])))?;
        }
        drop(sender);
        consumer.join().map_err(|_| "the consumer panicked")?;
        Ok(each(begun, count))
    })
}

fn through_pipe(count: u64) -> Result<f64, Failure> {
    let (mut from, mut to) = std::io::pipe()?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let consumer = scope.spawn(move || -> std::io::Result<()> {
            let mut entry = [0; 72];
            for _ in 0..count {
                from.read_exact(&mut entry)?;
                black_box(&entry);
            }
            Ok(())
        });
        let entry = [7; 72];
        for _ in 0..count {
            to.write_all(black_box(&entry))?;
        }
        consumer.join().map_err(|_| "the consumer panicked")??;
        Ok(each(begun, count))
    })
}
