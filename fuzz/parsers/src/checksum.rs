//! Putting right CRCs into input, so that mutations get past them.

/// Puts the CRC of `bytes[from..to]` at `at`, as far as the input reaches.
pub(crate) fn put_crc(bytes: &mut [u8], from: usize, to: usize, at: usize) {
    let Some(covered) = bytes.get(from..to) else { return };
    let crc = crc32fast::hash(covered).to_le_bytes();
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&crc);
    }
}

/// Calls `parse` on the input as it is, and with the CRC of its header (of `length` bytes) put right.
pub(crate) fn raw_and_sealed(data: &[u8], length: usize, parse: impl Fn(&[u8])) {
    parse(data);
    let mut sealed = data.to_vec();
    put_crc(&mut sealed, 0, length - 4, length - 4);
    parse(&sealed);
}
