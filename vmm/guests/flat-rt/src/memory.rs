//! The memory functions that compiled code calls. There is no C library to have them from.

use core::arch::asm;

/// # Safety
/// As in C.
// SAFETY: the one definition of this name in a guest.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: by the caller's contract both ranges are valid and apart.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count => _,
            options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As in C.
// SAFETY: the one definition of this name in a guest.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: an ascending copy never overwrites what it has yet to read.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: the ranges overlap, so they are not empty, and their last bytes are inside them.
    unsafe {
        asm!("std", "rep movsb", "cld",
            inout("rdi") to.add(count).sub(1) => _, inout("rsi") from.add(count).sub(1) => _, inout("rcx") count => _,
            options(nostack));
    }
    to
}

/// # Safety
/// As in C.
// SAFETY: the one definition of this name in a guest.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    // SAFETY: by the caller's contract the range is valid.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, inout("rcx") count => _, in("al") byte as u8,
            options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As in C.
// SAFETY: the one definition of this name in a guest.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for index in 0..count {
        // SAFETY: inside the range that the caller vouches for.
        let (x, y) = unsafe { (a.add(index).read_volatile(), b.add(index).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// # Safety
/// As in C.
// SAFETY: the one definition of this name in a guest.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, count) }
}

/// # Safety
/// As in C.
// SAFETY: the one definition of this name in a guest.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: by the caller's contract there is a NUL byte, and reading stops there.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}
