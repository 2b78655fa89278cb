//! Recordings as files (docs/recording.md).

use crate::checksum::put_crc;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::cpu::CpuProfile;
use ft_protocol::record::{Entry, EntryBody};
use vmm::recording::{self, CommitHead, CommitKind, RecordedEnd, RecordedMachine, RecordingWriter};

const HEAD_BYTES: usize = 16;
const ENVELOPE_BYTES: usize = 32;

pub(crate) fn recording(data: &[u8]) {
    let _ = recording::parse(data);
    let _ = recording::parse(&resealed(data));
}

/// The same with right checksums, numbers and lengths: mutations get to what stands in the chunks.
fn resealed(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    put_crc(&mut bytes, 0, 12, 12);
    let (mut at, mut number) = (HEAD_BYTES, 0_u64);
    while let Some(envelope) = bytes.get_mut(at..at + ENVELOPE_BYTES) {
        envelope[8..16].copy_from_slice(&number.to_le_bytes());
        let stored = u32::from_le_bytes([envelope[16], envelope[17], envelope[18], envelope[19]]);
        let is_plain = envelope[4..8] == [0; 4];
        if is_plain {
            envelope.copy_within(16..20, 20);
        }
        let content = at + ENVELOPE_BYTES;
        let end = usize::try_from(stored).ok().and_then(|stored| content.checked_add(stored));
        let Some(end) = end.filter(|end| *end <= bytes.len()) else { break };
        put_crc(&mut bytes, content, end, at + 24);
        put_crc(&mut bytes, at, at + 28, at + 28);
        (at, number) = (end, number + 1);
    }
    bytes
}

pub(crate) fn recording_seeds() -> Vec<Vec<u8>> {
    // Files are what the writer makes; where there is no place for one there are no seeds, and mutations begin with nothing.
    let Ok(directory) = tempfile::tempdir() else { return Vec::new() };
    let ends = [RecordedEnd::Guest(GuestEnd::Exited(3)), RecordedEnd::LeftOff("a reason".to_owned())];
    let file = |(number, end): (usize, &RecordedEnd)| {
        let path = directory.path().join(number.to_string());
        let machine = RecordedMachine {
            program: "test".to_owned(),
            guest: "none".to_owned(),
            args: vec!["--an".to_owned(), "argument".to_owned()],
            mode: "none".to_owned(),
            memory_bytes: 1 << 20,
            macs: vec![[2, 0, 0, 0, 0, 1]],
            disk_bytes: 4096,
            cpu: CpuProfile::default(),
        };
        let mut writer = RecordingWriter::create(&path, &machine).ok()?;
        writer.boot(b"a boot file");
        let mut state = crate::machine::state_seeds();
        for (exit, kind) in [(1, CommitKind::Exit), (2, CommitKind::Kick), (3, CommitKind::Unlogged)] {
            let entry = Entry { at_exit: exit, digest: 7, body: EntryBody::Clock(exit) };
            let mut payload = Vec::new();
            entry.encode_payload(&mut payload);
            writer.entry(entry.tag(), exit, &payload);
            writer.page(exit, &[1; 4096]);
            writer.hash(exit, 99);
            let head = CommitHead { generation: 1, epoch: exit, exits: exit, memory: 5, kind };
            writer.commit(&head, &state.pop().unwrap_or_default());
            writer.flush();
        }
        writer.end(end).ok()?;
        std::fs::read(&path).ok()
    };
    ends.iter().enumerate().filter_map(file).collect()
}
