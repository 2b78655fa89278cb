//! Stores past the caches.
//!
//! What a commit copies, its writer does not read again, and its reader is another processor: lines that are fetched to be
//! overwritten, and then kept, only cost. Non-temporal stores (Intel SDM vol. 1, 10.4.6.2) do neither. They are weakly
//! ordered, even on x86: [`drain`] puts them before whatever the same thread stores next.
#![allow(unsafe_code, reason = "non-temporal stores have no safe wrapper in the standard library")]

use std::arch::x86_64::{
    __m128i, __m512i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128, _mm512_loadu_si512, _mm512_stream_si512,
};

const LINE: usize = 64;

/// Copies whole lines past the caches; `false`: nothing was copied, because these are no whole lines.
///
/// # Safety
/// `to` must point to as many bytes of mapped memory as `from` has, reached by volatile copies only.
#[inline]
pub(super) unsafe fn copy(to: *mut u8, from: &[u8]) -> bool {
    // Miri knows no such stores.
    if cfg!(miri) || !to.addr().is_multiple_of(LINE) || !from.len().is_multiple_of(LINE) {
        return false;
    }
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instructions; the range is the caller's, and whole aligned lines.
        unsafe { lines_512(to, from) };
    } else {
        // SAFETY: as above; every x86-64 processor has these.
        unsafe { lines_128(to, from) };
    }
    true
}

/// What this thread has copied past the caches is ordered before all that it stores from now on.
pub(super) fn drain() {
    if !cfg!(miri) {
        // SAFETY: every x86-64 processor has sfence; it has no operands.
        unsafe { _mm_sfence() };
    }
}

/// # Safety
/// As for [`copy`], of aligned whole lines.
#[target_feature(enable = "avx512f")]
unsafe fn lines_512(to: *mut u8, from: &[u8]) {
    let lines = from.chunks_exact(LINE);
    for (number, line) in lines.enumerate() {
        // SAFETY: a line is as long as the vector, and loads need no alignment.
        let line = unsafe { _mm512_loadu_si512(line.as_ptr().cast::<__m512i>()) };
        // SAFETY: the line lies within the caller's range, which is aligned to lines.
        unsafe { _mm512_stream_si512(to.wrapping_add(number * LINE).cast::<__m512i>(), line) };
    }
}

/// # Safety
/// As for [`copy`], of aligned whole lines.
unsafe fn lines_128(to: *mut u8, from: &[u8]) {
    const STEP: usize = size_of::<__m128i>();
    for (number, part) in from.chunks_exact(STEP).enumerate() {
        // SAFETY: a part is as long as the vector, and loads need no alignment.
        let part = unsafe { _mm_loadu_si128(part.as_ptr().cast()) };
        // SAFETY: the part lies within the caller's range, which is aligned to lines.
        unsafe { _mm_stream_si128(to.wrapping_add(number * STEP).cast(), part) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(64))]
    struct Lines([u8; 4 * LINE]);

    #[test]
    fn whole_lines_are_copied_and_nothing_else() {
        let from: Vec<u8> = (0..3 * LINE).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for wide in [false, true] {
            let mut to = Lines([0xee; 4 * LINE]);
            let start = to.0.as_mut_ptr();
            if wide {
                // SAFETY: the array is longer than what is copied.
                assert!(unsafe { copy(start, &from) } || cfg!(miri));
            } else if !cfg!(miri) {
                // SAFETY: as above.
                unsafe { lines_128(start, &from) };
            }
            drain();
            if !cfg!(miri) {
                assert_eq!((&to.0[..3 * LINE], &to.0[3 * LINE..]), (&from[..], &[0xee; LINE][..]));
            }
        }
    }

    #[test]
    fn parts_of_lines_are_left_to_others() {
        let mut to = Lines([0xee; 4 * LINE]);
        // SAFETY: the array is longer than what would be copied.
        assert!(!unsafe { copy(to.0[8..].as_mut_ptr(), &[0; LINE]) });
        // SAFETY: as above.
        assert!(!unsafe { copy(to.0.as_mut_ptr(), &[0; LINE + 8]) });
        assert_eq!(to.0, [0xee; 4 * LINE]);
    }
}
