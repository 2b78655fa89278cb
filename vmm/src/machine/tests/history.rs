//! What was recorded on one machine replays on another, to the same end; what differs is noticed.

use super::support::{MIB, guest_code, kvm, run_to_end};
use crate::machine::device::{Context, Device, DeviceId, DeviceStateError};
use crate::machine::history::{HistoryError, HistorySink, HistorySource, Recorder, ReplayThenLive, Replayer};
use crate::machine::test_elf::program;
use crate::machine::{
    ExitNumber, GuestTime, InputError, InputSource, LiveInputs, Machine, MachineConfig, MachineError, MachineState,
    Stop, flat, layout,
};
use ft_protocol::record::{
    CommitPoint, Divergence, DivergenceKind, Entry, EntryBody, EntryKind, EntrySource, Extent, OutputsLogged,
};
use ft_protocol::{Epoch, Generation};
use kvm_ioctls::Kvm;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress};

const MEMORY: u64 = 4 * MIB;

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Entry<'static>>>>);

impl Log {
    fn entries(&self) -> Vec<Entry<'static>> {
        self.0.lock().expect("no panic").clone()
    }
}

impl HistorySink for Log {
    fn append(&mut self, entry: &Entry<'_>) -> Result<(), HistoryError> {
        self.0.lock().expect("no panic").push(entry.clone().into_owned());
        Ok(())
    }
    fn has_room(&self) -> bool {
        true
    }
}

struct Reader {
    entries: VecDeque<Entry<'static>>,
    last_exit: Option<u64>,
}

impl Reader {
    fn of(entries: &[Entry<'static>]) -> Self {
        Self { entries: entries.iter().cloned().collect(), last_exit: entries.last().map(|entry| entry.at_exit) }
    }
}

impl EntrySource for Reader {
    type Error = HistoryError;
    fn next_entry(&mut self) -> Result<Option<Entry<'static>>, HistoryError> {
        Ok(self.entries.pop_front())
    }
    fn extent(&self) -> Extent {
        Extent::Ended { last_exit: self.last_exit }
    }
}

impl HistorySource for Reader {}

/// Twenty times: reads the clock and entropy into memory, waits a little, looks for console input and echoes what there
/// is; ends with the sum of the clock's readings.
fn code() -> &'static [u8] {
    guest_code!(
        "mov rdi, 0x210000",
        "mov ecx, 20",
        "3:",
        "mov edx, 0x600",
        "in eax, dx",
        "add ebx, eax",
        "stosd",
        "mov edx, 0x608",
        "in eax, dx",
        "stosd",
        "mov edx, 0x60c",
        "mov eax, 100",
        "out dx, eax",
        "mov edx, 0x3fd",
        "in al, dx",
        "test al, 1",
        "jz 2f",
        "mov edx, 0x3f8",
        "in al, dx",
        "out dx, al",
        "stosb",
        "2:",
        "dec ecx",
        "jnz 3b",
        "mov eax, ebx",
        "out 0xf4, eax",
    )
}

fn machine(kvm: &Kvm, inputs: Box<dyn InputSource>) -> Machine {
    let config = MachineConfig { inputs, ..MachineConfig::live() };
    let mut machine = Machine::prepare(kvm, layout::anonymous_memory(MEMORY).expect("memory"), config).expect("made");
    let entry = flat::load(machine.memory(), &program(code()), &[]).expect("a guest");
    machine.enter(&entry).expect("a start");
    machine
}

/// Everything that must agree: the end, the history, memory, console.
#[derive(Debug, PartialEq)]
struct End {
    stop: Stop,
    console: String,
    digest: u32,
    exits: ExitNumber,
    memory: u32,
}

fn end(machine: &mut Machine) -> End {
    let (mut stop, mut console) = run_to_end(machine);
    // A takeover pauses once, when it has gone live.
    if stop == Stop::SourcePaused {
        let (end, more) = run_to_end(machine);
        (stop, console) = (end, console + &more);
    }
    let mut memory = vec![0; usize::try_from(MEMORY).expect("small")];
    machine.memory().read_slice(&mut memory, GuestAddress(0)).expect("all of it");
    let memory = crc32fast::hash(&memory);
    End { stop, console, digest: machine.history_digest(), exits: machine.exits(), memory }
}

fn recorded(kvm: &Kvm) -> (End, Vec<Entry<'static>>) {
    let log = Log::default();
    let recorder = Recorder::new(LiveInputs::default(), log.clone(), OutputsLogged::Yes);
    let mut machine = machine(kvm, Box::new(recorder));
    assert_eq!(machine.push_console_input(b"typed"), 5);
    (end(&mut machine), log.entries())
}

fn replayed(kvm: &Kvm, entries: &[Entry<'static>]) -> Result<End, Divergence> {
    let replayer = Replayer::new(Reader::of(entries), OutputsLogged::Yes);
    let mut machine = machine(kvm, Box::new(replayer));
    loop {
        match machine.run() {
            Ok(Stop::Exited(_)) => return Ok(end(&mut machine)),
            Ok(Stop::Output) => {}
            Ok(other) => panic!("{other:?}"),
            Err(MachineError::Input(InputError::Diverged(divergence))) => return Err(divergence),
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn a_recorded_guest_replays_to_the_same_end() {
    let Some(kvm) = kvm() else { return };
    let (original, entries) = recorded(&kvm);
    assert_eq!(original.console, "typed");
    let count = |kind: fn(&EntryBody<'_>) -> bool| entries.iter().filter(|entry| kind(&entry.body)).count();
    assert_eq!(count(|body| matches!(body, EntryBody::Clock(_))), 20);
    assert_eq!(count(|body| matches!(body, EntryBody::Entropy(_))), 20);
    assert_eq!(count(|body| matches!(body, EntryBody::Output { .. })), 5);
    for _ in 0..10 {
        assert_eq!(replayed(&kvm, &entries).as_ref(), Ok(&original));
    }
}

/// Each change shows at the exit after the one whose answer differs, or at the entry that does not fit any more.
#[test]
fn a_changed_log_is_a_divergence_with_its_exit() {
    let Some(kvm) = kvm() else { return };
    let (_, entries) = recorded(&kvm);
    let change = |at: usize, change: &dyn Fn(&mut Entry<'static>)| {
        let mut entries = entries.clone();
        change(&mut entries[at]);
        replayed(&kvm, &entries).expect_err("changed")
    };
    assert!(matches!(entries[0].body, EntryBody::Clock(_)));
    // The guest writes what it reads only to memory; the next entry's digest has the reading in it.
    let reading = change(0, &|entry| entry.body = EntryBody::Clock(1));
    assert_eq!(reading.exit, entries[1].at_exit);
    assert!(matches!(reading.kind, DivergenceKind::History { .. }), "{reading}");
    let early = change(2, &|entry| entry.at_exit -= 1);
    assert_eq!(early.exit, entries[2].at_exit - 1);
    let output = entries.iter().position(|entry| matches!(entry.body, EntryBody::Output { .. })).expect("echoed");
    let other = change(output, &|entry| entry.body = EntryBody::Output { position: 0, bytes: b"T".into() });
    assert_eq!(other.kind, DivergenceKind::Console { position: 0, expected: b'T', got: b't' });
    assert_eq!(other.exit, entries[output].at_exit);
}

/// Wherever a log ends, the guest goes on live from there, with its time never running backwards and every input of the
/// log given exactly once.
#[test]
fn a_takeover_replays_what_is_logged_and_goes_on_live() {
    let Some(kvm) = kvm() else { return };
    let (original, entries) = recorded(&kvm);
    for logged in 0..=entries.len() {
        let log = Log::default();
        let live = Recorder::new(LiveInputs::default(), log.clone(), OutputsLogged::Yes);
        let replayer = Replayer::new(Reader::of(&entries[..logged]), OutputsLogged::Yes);
        let inputs = ReplayThenLive::new(replayer, live);
        let meter = inputs.meter();
        let mut machine = machine(&kvm, Box::new(inputs));
        let end = end(&mut machine);
        assert!(meter.is_live(), "the log ends before the guest does");
        assert_eq!(meter.entries(), logged as u64);

        let whole: Vec<_> = entries[..logged].iter().cloned().chain(log.entries()).collect();
        assert!(whole.iter().is_sorted_by_key(|entry| entry.at_exit));
        let times: Vec<_> = whole
            .iter()
            .filter_map(|entry| match entry.body {
                EntryBody::Clock(ns) => Some(ns),
                _ => None,
            })
            .collect();
        assert_eq!(times.len(), 20);
        assert!(times.is_sorted(), "{times:?}");
        // What the two wrote down together is a history too: it replays to the same end.
        assert_eq!(replayed(&kvm, &whole).as_ref(), Ok(&end));
        if logged == entries.len() {
            assert_eq!(end, original);
        }
    }
}

#[test]
fn a_takeover_that_diverges_goes_on_live_and_says_why() {
    let Some(kvm) = kvm() else { return };
    let (_, mut entries) = recorded(&kvm);
    entries[10].digest ^= 1;
    let log = Log::default();
    let live = Recorder::new(LiveInputs::default(), log.clone(), OutputsLogged::Yes);
    let inputs =
        ReplayThenLive::new(Replayer::new(Reader::of(&entries), OutputsLogged::Yes), live).going_on_when_diverged();
    let meter = inputs.meter();
    let mut machine = machine(&kvm, Box::new(inputs));
    let end = end(&mut machine);
    assert!(matches!(end.stop, Stop::Exited(_)), "{end:?}");
    let line = meter.divergence().expect("it diverged");
    assert!(line.starts_with(&format!("exit {}: expected history", entries[10].at_exit)), "{line}");
    let whole: Vec<_> = entries[..10].iter().cloned().chain(log.entries()).collect();
    assert_eq!(replayed(&kvm, &whole), Ok(end), "what was replayed and what was live are one history");
}

/// Takes console input whenever devices are asked to; hands it out byte by byte, and prints what is written to it.
#[derive(Default)]
struct Postbox(VecDeque<u8>);

impl Device for Postbox {
    fn id(&self) -> DeviceId {
        DeviceId(100)
    }
    fn read(&mut self, _offset: u64, data: &mut [u8], _context: &mut Context<'_>) -> Result<(), InputError> {
        data[0] = self.0.pop_front().unwrap_or(0);
        Ok(())
    }
    fn write(&mut self, _offset: u64, data: &[u8], context: &mut Context<'_>) -> Result<(), InputError> {
        context.effects.console.extend_from_slice(data);
        Ok(())
    }
    fn poll(&mut self, context: &mut Context<'_>) -> Result<(), InputError> {
        self.0.extend(context.take_console_input(16)?);
        Ok(())
    }
    fn save(&self) -> Vec<u8> {
        self.0.iter().copied().collect()
    }
    fn restore(&mut self, saved: &[u8]) -> Result<(), DeviceStateError> {
        self.0 = saved.iter().copied().collect();
        Ok(())
    }
}

/// Prints what comes to the postbox, up to a q.
fn with_postbox(kvm: &Kvm, inputs: Box<dyn InputSource>) -> Machine {
    let code = guest_code!(
        "mov ebx, 0xd0001000",
        "xor ecx, ecx",
        "2:",
        "inc ecx",
        "mov al, [rbx]",
        "test al, al",
        "jz 2b",
        "mov [rbx], al",
        "cmp al, 0x71",
        "jne 2b",
        "mov eax, ecx",
        "out 0xf4, eax",
    );
    let start = layout::MMIO_START + 0x1000;
    let mmio_devices = vec![(start..start + 0x100, Box::new(Postbox::default()) as Box<dyn Device>)];
    let config = MachineConfig { inputs, mmio_devices, ..MachineConfig::live() };
    let mut machine = Machine::prepare(kvm, layout::anonymous_memory(MEMORY).expect("memory"), config).expect("made");
    let entry = flat::load(machine.memory(), &program(code), &[]).expect("a guest");
    machine.enter(&entry).expect("a start");
    machine
}

/// Where the record of a commit is damaged, the replay begins at an earlier one and comes by.
#[test]
fn what_came_behind_a_commit_at_an_output_is_given_there() {
    let Some(kvm) = kvm() else { return };
    let mut log = Log::default();
    let recorder = Recorder::new(LiveInputs::default(), log.clone(), OutputsLogged::Yes);
    let mut first = with_postbox(&kvm, Box::new(recorder));
    first.push_console_input(b"one");
    let mut epochs = (1..).map(Epoch::new);
    for texts in [&[&b"tw"[..], b"o"][..], &[b"s", b"i", b"x"], &[b"q"]] {
        for _ in 0..3 {
            assert_eq!(first.run().expect("runs"), Stop::Output);
        }
        first.complete_pending().expect("stands at its exit");
        // More than one commit at one exit, too.
        for text in texts {
            let epoch = epochs.next().expect("there are more");
            let point = CommitPoint { generation: Generation::new(1), epoch, kicked: false };
            let (at_exit, digest) = (first.exits().0, first.history_digest());
            log.append(&Entry { at_exit, digest, body: EntryBody::Commit(point) }).expect("taken");
            first.push_console_input(text);
            first.deliver().expect("given");
            assert_eq!(log.entries().last().map(|entry| entry.body.kind()), Some(EntryKind::ConsoleInput));
        }
    }
    let original = end(&mut first);
    assert_eq!(original.console, "onetwosixq");
    let replayer = Replayer::new(Reader::of(&log.entries()), OutputsLogged::Yes);
    assert_eq!(end(&mut with_postbox(&kvm, Box::new(replayer))), original);
}

/// Console input that waited at the commit is used up by the log, or comes after it.
#[test]
fn waiting_console_input_comes_once() {
    let Some(kvm) = kvm() else { return };
    let log = Log::default();
    let mut first = machine(&kvm, Box::new(Recorder::new(LiveInputs::default(), log.clone(), OutputsLogged::Yes)));
    first.push_console_input(b"typed");
    let state = MachineState::decode(&first.save().expect("saved").encode()).expect("a state");
    assert_eq!(first.run().expect("runs"), Stop::Output, "the first echo");
    for logged in [0, log.entries().len()] {
        let replayer = Replayer::new(Reader::of(&log.entries()[..logged]), OutputsLogged::Yes);
        let mut second = machine(&kvm, Box::new(ReplayThenLive::new(replayer, LiveInputs::default())));
        second.restore(&state).expect("restored");
        assert_eq!((second.console_input_end(), second.console_taken()), (5, 0));
        assert_eq!(second.push_console_input_at(0, b"typed!"), 1);
        assert_eq!(end(&mut second).console, "typed!", "{logged} entries");
        assert_eq!(second.console_taken(), 6, "what the log gave and what came live are one count");
    }
}

#[test]
fn a_replay_stops_where_it_is_told() {
    let Some(kvm) = kvm() else { return };
    let (_, entries) = recorded(&kvm);
    for exit in [1, 7, 20] {
        let replayer = Replayer::new(Reader::of(&entries), OutputsLogged::Yes).stopping_after(ExitNumber(exit));
        let mut machine = machine(&kvm, Box::new(replayer));
        let stop = loop {
            match machine.run().expect("the same history") {
                Stop::Output => {}
                stop => break stop,
            }
        };
        assert_eq!((stop, machine.exits()), (Stop::SourcePaused, ExitNumber(exit)));
    }
}

/// A sink that fails: what is not recorded, the guest does not see.
#[test]
fn the_guest_does_not_see_what_cannot_be_recorded() {
    struct Full;
    impl HistorySink for Full {
        fn append(&mut self, _entry: &Entry<'_>) -> Result<(), HistoryError> {
            Err("sealed".into())
        }
        fn has_room(&self) -> bool {
            true
        }
    }
    let Some(kvm) = kvm() else { return };
    let mut machine = machine(&kvm, Box::new(Recorder::new(LiveInputs::default(), Full, OutputsLogged::Yes)));
    let error = machine.run().expect_err("nothing can be recorded");
    assert!(
        matches!(error, MachineError::Input(InputError::Unrecorded { at: ExitNumber(1), .. })),
        "the clock is the first input: {error:?}"
    );
    assert_eq!(machine.exits(), ExitNumber(1));
    assert!(machine.guest_time() >= GuestTime(0));
}
