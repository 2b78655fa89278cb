use super::{CpuState, MachineState, StateError};
use crate::machine::cpu_state::XSAVE_WORDS;
use crate::machine::device::DeviceId;
use crate::machine::inputs::ExitNumber;
use crate::machine::time::GuestTime;
use ft_protocol::record::{Access, HistoryDigest};
use kvm_bindings::{kvm_debugregs, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs};
use proptest::prelude::*;

/// A flat guest's state as each version wrote it. When the last is not written any more, the version has to change; all
/// must be read.
const GOLDEN: &[u8] = include_bytes!("golden-v2.bin");
const GOLDEN_V4: &[u8] = include_bytes!("golden-v4.bin");
const GOLDEN_V1: &[u8] = include_bytes!("golden-v1.bin");
const HEADER_LENGTH: usize = 24;

/// The state in the golden file.
pub(super) fn example() -> MachineState {
    let mut xsave = Box::new([0; XSAVE_WORDS]);
    xsave[6] = 0x1f80;
    MachineState {
        cpu: CpuState {
            regs: kvm_regs { rip: 0x20_0000, rsp: 0xf_fff8, rflags: 2, ..Default::default() },
            sregs: kvm_sregs { cr3: 0x1000, efer: 0x500, ..Default::default() },
            xsave,
            xcrs: Some(kvm_xcrs { nr_xcrs: 1, ..Default::default() }),
            events: Some(kvm_vcpu_events::default()),
            debug_regs: Some(kvm_debugregs { dr7: 0x400, ..Default::default() }),
            mp_state: 0,
            msrs: vec![(0x10, 123_456_789), (0xc000_0080, 0x500)],
            clock_ns: Some(1_000_000_007),
            lapic: None,
        },
        devices: vec![(DeviceId(1), vec![1, 2, 3]), (DeviceId(2), Vec::new())],
        guest_time: GuestTime(5_000_000_000),
        waiting_console: b"typed".to_vec(),
        wait_until: Some(GuestTime(6_000_000_000)),
        console_position: 4321,
        console_taken: 0,
        packet_position: 77,
        log_position: 88_888,
        exits: ExitNumber(98765),
        history: example_history(),
        exit_code: None,
        cpuid_digest: 0xdead_beef,
        platform: None,
    }
}

fn example_history() -> HistoryDigest {
    let mut history = HistoryDigest::default();
    history.ask(&Access { exit: 98765, is_port: true, is_write: true, width: 1, address: 0x3f8, data: b"x" });
    history
}

/// An envelope with right checksums around any body.
fn sealed(version: u32, length: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"FTVMSTAT".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(crc32fast::hash(body).to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend(body);
    bytes
}

fn reseal(body: &[u8]) -> Vec<u8> {
    sealed(2, u32::try_from(body.len()).expect("short"), body)
}

#[test]
fn golden_state_is_read_and_written_alike() {
    assert!(MachineState::decode(GOLDEN) == Ok(example()), "what version 2 wrote is read");
    assert!(example().encode() == GOLDEN, "what is written is what version 2 wrote");
    let before_logs =
        MachineState { packet_position: 0, log_position: 0, history: HistoryDigest::default(), ..example() };
    assert!(MachineState::decode(GOLDEN_V1) == Ok(before_logs), "what version 1 wrote is read");
}

/// The state in the golden file of version 4.
fn example_with_input() -> MachineState {
    MachineState { console_taken: 777, ..example() }
}

#[test]
fn golden_state_of_a_guest_that_took_input_is_read_and_written_alike() {
    assert!(MachineState::decode(GOLDEN_V4) == Ok(example_with_input()), "what version 4 wrote is read");
    assert!(example_with_input().encode() == GOLDEN_V4, "what is written is what version 4 wrote");
}

#[test]
fn header_is_as_documented() {
    let bytes = example().encode();
    let number = |offset: usize| u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"));
    assert_eq!(&bytes[..8], b"FTVMSTAT");
    assert_eq!(number(8), 2);
    assert_eq!(usize::try_from(number(12)).expect("short"), bytes.len() - HEADER_LENGTH);
    assert_eq!(number(16), crc32fast::hash(&bytes[HEADER_LENGTH..]));
    assert_eq!(number(20), crc32fast::hash(&bytes[..20]));
}

#[test]
fn every_defect_has_its_own_error() {
    let good = example().encode();
    let body = &good[HEADER_LENGTH..];
    let decode = |bytes: &[u8]| MachineState::decode(bytes).expect_err("damaged");
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        decode(&bytes)
    };
    assert_eq!(decode(&good[..23]), StateError::Truncated { got: 23 });
    assert_eq!(changed(0), StateError::Magic);
    assert!((8..24).all(|at| matches!(changed(at), StateError::HeaderCrc { .. })));
    assert!(matches!(changed(100), StateError::BodyCrc { .. }));
    assert_eq!(decode(&sealed(5, 0, &[])), StateError::Version { got: 5 });
    assert_eq!(decode(&good[..good.len() - 1]), StateError::Length { expected: body.len(), got: body.len() - 1 });
    let long = vec![0; (1 << 20) + 1];
    assert!(matches!(decode(&reseal(&long)), StateError::Length { .. }));
    assert!(matches!(decode(&reseal(&body[..50])), StateError::Body(_)));
    assert_eq!(decode(&reseal(&[body, &[0, 0]].concat())), StateError::Trailing(2));
    // The body starts with the length of the general registers, 144, and their bytes.
    assert_eq!(body[..2], [0x90, 1]);
    let short = [&[0x8f, 1], &body[2..145], &body[146..]].concat();
    assert_eq!(decode(&reseal(&short)), StateError::StructureLength { name: "regs", expected: 144, got: 143 });
    let mut many = example();
    many.cpu.msrs = vec![(1, 1); 257];
    assert_eq!(decode(&many.encode()), StateError::TooManyMsrs { count: 257, limit: 256 });
    let far = MachineState { exits: ExitNumber(u64::MAX), ..example() };
    assert_eq!(decode(&far.encode()), StateError::Count { name: "exits", count: u64::MAX });
    let far = MachineState { console_taken: (1 << 62) + 1, ..example() };
    assert!(matches!(decode(&far.encode()), StateError::Count { name: "console input taken", .. }));
    let far = MachineState { log_position: (1 << 62) + 1, ..example() };
    assert!(matches!(decode(&far.encode()), StateError::Count { name: "log position", .. }));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(MachineState::decode(&bytes).is_err());
        let _result = MachineState::decode(&reseal(&bytes));
    }

    /// Past the checksums, where a scribbling host could have made them right.
    #[test]
    fn hostile_bodies_never_panic(changes in prop::collection::vec((0usize..5000, any::<u8>()), 1..10), cut in 0usize..6000) {
        let mut body = example().encode()[HEADER_LENGTH..].to_vec();
        for (at, byte) in changes {
            let at = at % body.len();
            body[at] = byte;
        }
        body.truncate(cut.max(1));
        let _result = MachineState::decode(&reseal(&body));
    }

    #[test]
    fn what_is_decoded_is_what_was_encoded(rip in any::<u64>(), position in 0..=1_u64 << 62, code in any::<Option<u32>>(),
        taken in 0..=1_u64 << 62, console in prop::collection::vec(any::<u8>(), 0..50)) {
        let mut state = example();
        state.cpu.regs.rip = rip;
        state.console_position = position;
        state.console_taken = taken;
        state.exit_code = code;
        state.waiting_console = console;
        state.cpu.xcrs = None;
        prop_assert_eq!(MachineState::decode(&state.encode()), Ok(state));
    }
}
