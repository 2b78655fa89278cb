//! A host that became primary as it should, and then writes what no sane host writes. Its record is refused, its generation
//! sealed, and the guest goes on elsewhere from the epoch before.

use crate::golden::{Golden, TooShort, long_enough};
use crate::peer::{FakeHost, hello, part, profile};
use crate::run::{Plan, Run};
use crate::support::kvm;
use ft_protocol::commit_meta::CommitMeta;
use ft_protocol::timeline::Happening;
use ft_protocol::wire::{FromHost, LiveReport, Order, Part};
use nix::sys::signal::Signal;
use shared_mem::commit_word::CommitWord;
use shared_mem::mem::survive_truncation;
use shared_mem::{
    ControlBlock, Epoch, Extent, Generation, JournalGeometry, JournalWriter, Mapping, Offset, PageIndex, PoolRead as _,
    PoolWrite as _, ReadWrite, StateArea,
};
use std::path::Path;
use std::sync::atomic::Ordering;
use vmm::machine::MachineState;

/// Long enough for a takeover in its middle.
const STEPS: u64 = 100_000_000;
const MEMORY_PAGES: u64 = (8 << 20) / 4096;
/// Where the commit word lies (docs/pool-layout.md).
const WORD_AT: Offset = Offset::new(64);
const SLOTS_AT: u64 = 4096;

#[derive(Clone, Copy, Debug)]
enum Crime {
    /// A byte changes after the record was checksummed.
    FlippedBody,
    /// Meta bytes that are no meta.
    Meta,
    /// A machine state that is none.
    State,
    /// A machine state whose inputs go on where no entry of the record log lies.
    LogPlace,
    /// Console output that begins far behind the console's end.
    ConsoleGap,
    /// Console output from the end of all positions.
    ConsoleAtTheEndOfTime,
    /// More console output in one epoch than the ring holds.
    ConsoleFlood,
    /// A page beyond the guest's memory.
    PageOutside,
    /// A record of another generation.
    OtherGeneration,
    /// Counts as large as they get, under a right CRC.
    HugeCounts,
    /// The commit word says that a thousand epochs are committed.
    Jump,
    /// The commit word is noise.
    WordNoise,
    /// The journal file is cut off.
    CutOff,
    /// The heartbeat page is cut off, which its successor looks at.
    HeartbeatCutOff,
}

const CRIMES: [Crime; 14] = [
    Crime::FlippedBody,
    Crime::Meta,
    Crime::State,
    Crime::LogPlace,
    Crime::ConsoleGap,
    Crime::ConsoleAtTheEndOfTime,
    Crime::ConsoleFlood,
    Crime::PageOutside,
    Crime::OtherGeneration,
    Crime::HugeCounts,
    Crime::Jump,
    Crime::WordNoise,
    Crime::CutOff,
    Crime::HeartbeatCutOff,
];

/// What the criminal has in its hands.
struct Scene {
    order: Order,
    journal: Extent,
    memory: Mapping<ReadWrite>,
    /// The machine state that it should go on from, which makes the best forgery.
    state: Vec<u8>,
    console_start: u64,
}

impl Scene {
    fn next_epoch(&self) -> Epoch {
        Epoch::new(self.order.base.get() + 1)
    }

    fn geometry(&self) -> JournalGeometry {
        let shape = self.order.spec.journal;
        JournalGeometry { slots: shape.slots, slot_bytes: shape.slot_bytes, reserved_bytes: shape.reserved_bytes }
    }

    fn slot(&self) -> Offset {
        let index = self.next_epoch().get() % u64::from(self.order.spec.journal.slots);
        Offset::new(SLOTS_AT + index * self.order.spec.journal.slot_bytes)
    }

    fn meta<'a>(&'a self, console_start: u64, console: &'a [u8], machine_state: &'a [u8]) -> Vec<u8> {
        CommitMeta { console_start, console, machine_state, ended: None }.encode()
    }

    /// Commits a record as a host would, but with what is given.
    fn commit(&self, generation: u64, page: u64, meta: &[u8], spoil: impl FnOnce(&Mapping<ReadWrite>, Offset)) {
        let memory = Mapping::read_write(&self.journal).unwrap();
        let spill = self.journal.try_clone().unwrap();
        let writer = JournalWriter::new(memory, spill, Generation::new(generation), self.geometry()).unwrap();
        // Whatever is freed: a new journal is empty.
        let mut record = writer.begin(self.next_epoch(), Epoch::new(self.order.base.get())).unwrap();
        record.push_page_bytes(PageIndex::new(page), &[0xee; 4096]).unwrap();
        let record = record.finish(meta).unwrap();
        spoil(&self.memory, self.slot());
        writer.publish(record).unwrap();
    }

    fn commit_crime(&self, crime: Crime, heartbeat: &Extent) {
        let generation = self.order.generation.get();
        let start = self.console_start;
        let sound = self.meta(start, b"", &self.state);
        let nothing = |_: &Mapping<ReadWrite>, _: Offset| {};
        match crime {
            Crime::FlippedBody => self.commit(generation, 5, &sound, |memory, slot| {
                memory.write(slot.plus(4096 + 1000), &[0xef]).unwrap();
            }),
            Crime::Meta => self.commit(generation, 5, b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xffnonsense", nothing),
            Crime::State => self.commit(generation, 5, &self.meta(start, b"", b"FTVMSTAT nonsense"), nothing),
            Crime::LogPlace => {
                let state = MachineState::decode(&self.state).unwrap().at_log_position(7).encode();
                self.commit(generation, 5, &self.meta(start, b"", &state), nothing);
            }
            Crime::ConsoleGap => {
                self.commit(generation, 5, &self.meta(start + 1000, b"forged", &self.state), nothing);
            }
            Crime::ConsoleAtTheEndOfTime => {
                self.commit(generation, 5, &self.meta(u64::MAX - 2, b"forged", &self.state), nothing);
            }
            Crime::ConsoleFlood => {
                self.commit(generation, 5, &self.meta(start, &vec![b'f'; 3 << 20], &self.state), nothing);
            }
            Crime::PageOutside => self.commit(generation, MEMORY_PAGES, &sound, nothing),
            Crime::OtherGeneration => self.commit(generation + 1, 5, &sound, nothing),
            Crime::HugeCounts => self.commit(generation, 5, &sound, |memory, slot| {
                memory.write(slot, &self.huge_header()).unwrap();
            }),
            Crime::Jump => {
                let base = Epoch::new(self.order.base.get());
                CommitWord::publish(&self.memory, WORD_AT, base, Epoch::new(base.get() + 1000)).unwrap();
            }
            Crime::WordNoise => {
                self.memory.store_u64(WORD_AT, 0x0123_4567_89ab_cdef, Ordering::Release).unwrap();
            }
            Crime::CutOff => nix::unistd::ftruncate(&self.journal, 0).unwrap(),
            Crime::HeartbeatCutOff => nix::unistd::ftruncate(heartbeat, 0).unwrap(),
        }
    }

    /// A record header by the book (docs/pool-layout.md), with the largest numbers that go into it.
    fn huge_header(&self) -> [u8; 64] {
        let mut header = [0; 64];
        self.memory.read(self.slot(), &mut header).unwrap();
        header[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        header[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
        header[48..56].copy_from_slice(&u64::MAX.to_le_bytes());
        let crc = crc32(&header[..60]);
        header[60..].copy_from_slice(&crc.to_le_bytes());
        header
    }
}

/// CRC-32 (IEEE), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// Joins, stands by, takes over, and commits its crime.
fn criminal(socket: &Path, crime: Crime) {
    let mut host = FakeHost::join(socket, hello(profile("mallory", 1 << 30), Vec::new()));
    let Some((order, extents)) = host.serve_until_promoted() else { panic!("it was never promoted") };
    let map = |is_it: fn(Part) -> bool| Mapping::read_only(part(&extents, is_it)).unwrap();
    let control = ControlBlock::open(map(|part| matches!(part, Part::Control(_)))).unwrap();
    let applied = control.applied().unwrap();
    assert_eq!(applied.get(), order.base.get());
    let state = StateArea::new(map(|part| matches!(part, Part::State(_)))).read(applied).unwrap();
    let console_start = MachineState::decode(&state).unwrap().console_position();
    let (vm, generation) = (order.vm, order.generation);
    let journal = part(&extents, |part| matches!(part, Part::Journal(..))).try_clone().unwrap();
    let memory = Mapping::read_write(&journal).unwrap();
    let scene = Scene { order, journal, memory, state, console_start };
    host.peer.send(FromHost::Live { vm, generation, report: LiveReport::default() });
    // Doorbells for what does not exist, before and after.
    let epoch = ft_protocol::Epoch::new(u64::MAX - 1);
    host.peer.send(FromHost::Doorbell { vm, generation, epoch });
    scene.commit_crime(crime, &host.page);
    let epoch = ft_protocol::Epoch::new(scene.next_epoch().get());
    host.peer.send(FromHost::Doorbell { vm, generation, epoch });
    host.await_release();
}

fn punished(golden: &Golden, crime: Crime) -> Result<(), TooShort> {
    // What the criminal leaves is found by `pool check`, as long as it is there.
    let mut run = Run::start(golden, &Plan { hosts: &[("a", None)], unsound: true, ..Plan::default() });
    run.step_until("a primary", |run| run.try_vm().is_some_and(|vm| vm.phase == "running"));
    let socket = run.socket();
    let thread = std::thread::spawn(move || criminal(&socket, crime));
    run.await_protection()?;
    run.start_host("c", None);
    run.await_or_end("the spare, and some epochs", |run| {
        let status = run.try_status().filter(|_| !run.has_ended());
        status.is_some_and(|status| status.hosts.len() == 3 && status.vms[0].applied.get() > 3)
    })?;
    run.host("a").signal(Signal::SIGKILL);
    run.step_until("the punishment", |_| thread.is_finished());
    let report = run.everything();
    thread.join().unwrap_or_else(|_| panic!("{crime:?}: the criminal failed: {report}"));
    let mut refused = false;
    run.step_until("a third generation", |run| {
        let told = |happening: &Happening| match happening {
            Happening::RecordRefused { generation, reason, .. } => {
                eprintln!("{crime:?}: generation {}: {reason}", generation.get());
                true
            }
            Happening::PrimaryGone { generation, reason, .. } => {
                generation.get() == 2 && {
                    eprintln!("{crime:?}: {reason}");
                    true
                }
            }
            _ => false,
        };
        refused |= run.happenings.drain(..).any(|happening| told(&happening));
        refused && run.try_vm().is_some_and(|vm| vm.generation.get() > 2)
    });
    let takeovers = run.finish();
    assert!(takeovers >= 2, "{crime:?}: {takeovers} takeovers");
    Ok(())
}

#[test]
fn what_a_mad_primary_commits_is_refused_and_its_reign_ends() {
    let Some(_machine) = kvm() else { return };
    // The criminal's own mappings are cut off with everybody else's.
    survive_truncation().unwrap();
    let golden = Golden::torture(STEPS);
    for crime in CRIMES {
        long_enough(&golden, |golden| punished(golden, crime));
    }
}
