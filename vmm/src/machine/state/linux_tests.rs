use super::tests::example;
use super::{MachineState, PlatformState, StateError};
use crate::machine::cpu_state::CpuState;
use crate::machine::linux::chips::{CHIPS, ChipState};
use kvm_bindings::{kvm_irqchip, kvm_lapic_state, kvm_pit_state2};
use proptest::prelude::*;

/// A Linux guest's state as version 3 wrote it.
const GOLDEN: &[u8] = include_bytes!("golden-v3.bin");
const GOLDEN_V4: &[u8] = include_bytes!("golden-v4-linux.bin");
const HEADER_LENGTH: usize = 24;

/// The state in the golden file: two vCPUs.
fn linux_example() -> MachineState {
    let lapic = |id: i8| {
        let mut lapic = kvm_lapic_state { regs: [0; 1024] };
        lapic.regs[0x23] = id;
        Some(Box::new(lapic))
    };
    let mut state = example();
    let mut second = CpuState { mp_state: 3, clock_ns: None, lapic: lapic(1), ..state.cpu.clone() };
    second.regs.rip = 0xffff_ffff_8100_0000;
    state.cpu.lapic = lapic(0);
    let chips = CHIPS.map(|chip_id| kvm_irqchip { chip_id, ..Default::default() });
    let pit = kvm_pit_state2 { flags: 1, ..Default::default() };
    state.platform = Some(PlatformState {
        others: vec![second],
        chips: ChipState { chips, pit },
        tsc_khz: 2_400_000,
        real_time_ns: 1_800_000_000_000_000_000,
    });
    state
}

fn resealed(body: &[u8]) -> Vec<u8> {
    let mut bytes = linux_example().encode();
    bytes.truncate(HEADER_LENGTH);
    bytes[12..16].copy_from_slice(&u32::try_from(body.len()).expect("short").to_le_bytes());
    bytes[16..20].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let crc = crc32fast::hash(&bytes[..20]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn golden_state_of_a_linux_guest_is_read_and_written_alike() {
    assert!(MachineState::decode(GOLDEN) == Ok(linux_example()), "what version 3 wrote is read");
    assert!(linux_example().encode() == GOLDEN, "what is written is what version 3 wrote");
}

#[test]
fn golden_state_of_a_linux_guest_that_took_input_is_read_and_written_alike() {
    let state = MachineState { console_taken: 777, ..linux_example() };
    assert!(MachineState::decode(GOLDEN_V4) == Ok(state.clone()), "what version 4 wrote is read");
    assert!(state.encode() == GOLDEN_V4, "what is written is what version 4 wrote");
}

#[test]
fn machines_that_cannot_be_are_refused() {
    let changed = |change: &dyn Fn(&mut MachineState, &mut PlatformState)| {
        let mut state = linux_example();
        let mut platform = state.platform.take().expect("there");
        change(&mut state, &mut platform);
        state.platform = Some(platform);
        MachineState::decode(&state.encode()).expect_err("impossible")
    };
    let shape = |what, got| StateError::Shape { what, got };
    assert_eq!(changed(&|_, platform| platform.others = vec![platform.others[0].clone(); 4]), shape("vCPUs", 5));
    assert_eq!(changed(&|state, _| state.cpu.lapic = None), shape("local APICs", 1));
    assert_eq!(changed(&|_, platform| platform.chips.chips[1].chip_id = 2), shape("interrupt chips of one kind", 3));
    let many = |_: &mut MachineState, platform: &mut PlatformState| platform.others[0].msrs = vec![(1, 1); 257];
    assert_eq!(changed(&many), StateError::TooManyMsrs { count: 257, limit: 256 });
}

#[test]
fn clocks_go_on_where_they_would_be() {
    let state = linux_example();
    let later = state.cpu.later(2_000_000_000, 2_400_000);
    assert_eq!(later.clock_ns, Some(3_000_000_007));
    assert_eq!(later.msrs[0], (0x10, 123_456_789 + 4_800_000_000));
    assert_eq!(later.msrs[1], state.cpu.msrs[1], "other registers do not count time");
    assert_eq!(state.cpu.later(0, 2_400_000), state.cpu);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_bodies_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..10), cut in any::<prop::sample::Index>()) {
        let mut body = linux_example().encode()[HEADER_LENGTH..].to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let cut = cut.index(2 * body.len());
        body.truncate(cut.max(1));
        if let Ok(state) = MachineState::decode(&resealed(&body)) {
            prop_assert!(MachineState::decode(&state.encode()).is_ok(), "what was decoded can be encoded");
        }
    }
}
