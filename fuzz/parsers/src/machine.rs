//! Machine states, as a hostile primary may put them into a record.

use crate::checksum::put_crc;
use vmm::machine::MachineState;

const HEADER_BYTES: usize = 24;

pub(crate) fn state(data: &[u8]) {
    let _ = MachineState::decode(data);
    let mut sealed = data.to_vec();
    if let Some(body) = sealed.len().checked_sub(HEADER_BYTES) {
        sealed[12..16].copy_from_slice(&u32::try_from(body).unwrap_or(u32::MAX).to_le_bytes());
    }
    let end = sealed.len();
    put_crc(&mut sealed, HEADER_BYTES, end, 16);
    put_crc(&mut sealed, 0, 20, 20);
    if let Ok(state) = MachineState::decode(&sealed) {
        let again = MachineState::decode(&state.encode()).expect("what was decoded can be encoded");
        // Bytes rather than values: floating point numbers that are none do not equal themselves.
        assert_eq!(again.encode(), state.encode());
    }
}

pub(crate) fn state_seeds() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../../../vmm/src/machine/state/golden-v3.bin").to_vec(),
        include_bytes!("../../../vmm/src/machine/state/golden-v2.bin").to_vec(),
        include_bytes!("../../../vmm/src/machine/state/golden-v1.bin").to_vec(),
        include_bytes!("../../../vmm/src/machine/state/golden-v4-linux.bin").to_vec(),
        include_bytes!("../../../vmm/src/machine/state/golden-v4.bin").to_vec(),
    ]
}
