//! How a written line gets from a processor's cache into the pool.
#![allow(unsafe_code, reason = "cache line write-back has no safe wrapper in the standard library")]

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{Ordering, fence};

use thiserror::Error;

use super::LINE_BYTES;

/// What makes a written line durable in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlushKind {
    /// Nothing: the backing is coherent memory of this machine (tmpfs, memfd, hugetlbfs).
    None,
    /// `clwb` + `sfence`: writes back and keeps the line cached.
    Clwb,
    /// `clflushopt` + `sfence`.
    ClflushOpt,
    /// `clflush` + `sfence`.
    Clflush,
}

/// CPUID leaf 7, EBX.
const HAS_CLWB: u32 = 1 << 24;
/// CPUID leaf 7, EBX.
const HAS_CLFLUSHOPT: u32 = 1 << 23;

/// What all mappings of this process do.
static FORCED: OnceLock<FlushKind> = OnceLock::new();

/// The processor lacks the instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this processor has no {kind}, the best that it has is {best}")]
pub struct UnsupportedFlushError {
    /// What was asked for.
    pub kind: FlushKind,
    /// What would do.
    pub best: FlushKind,
}

/// The text names no flush kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown flush kind {0:?}: expected none, clwb, clflushopt or clflush")]
pub struct ParseFlushKindError(pub String);

impl FromStr for FlushKind {
    type Err = ParseFlushKindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "clwb" => Ok(Self::Clwb),
            "clflushopt" => Ok(Self::ClflushOpt),
            "clflush" => Ok(Self::Clflush),
            other => Err(ParseFlushKindError(other.to_owned())),
        }
    }
}

impl fmt::Display for FlushKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Clwb => "clwb",
            Self::ClflushOpt => "clflushopt",
            Self::Clflush => "clflush",
        })
    }
}

impl FlushKind {
    /// The best instruction that this processor offers.
    #[must_use]
    pub fn best_of_processor() -> Self {
        Self::best_of(features())
    }

    fn best_of(features: u32) -> Self {
        if features & HAS_CLWB != 0 {
            Self::Clwb
        } else if features & HAS_CLFLUSHOPT != 0 {
            Self::ClflushOpt
        } else {
            Self::Clflush
        }
    }

    /// What the backing behind a descriptor needs: DAX, as device or file, needs write-back; all else is the
    /// machine's own coherent memory.
    #[must_use]
    pub fn detect(fd: BorrowedFd<'_>) -> Self {
        if is_dax(fd) { Self::best_of_processor() } else { Self::None }
    }

    /// Whether this processor can do it.
    #[must_use]
    pub fn is_supported(self) -> bool {
        self.check(features()).is_ok()
    }

    fn check(self, features: u32) -> Result<(), UnsupportedFlushError> {
        let is_there = match self {
            // Every x86-64 processor has clflush.
            Self::None | Self::Clflush => true,
            Self::Clwb => features & HAS_CLWB != 0,
            Self::ClflushOpt => features & HAS_CLFLUSHOPT != 0,
        };
        if is_there { Ok(()) } else { Err(UnsupportedFlushError { kind: self, best: Self::best_of(features) }) }
    }

    /// Has all mappings that this process makes from now on flush like this, whatever is detected. The first call counts:
    /// those of one process do not differ.
    ///
    /// # Errors
    /// When this processor cannot do it.
    pub fn force(self) -> Result<(), UnsupportedFlushError> {
        self.check(features())?;
        // A second call finds what the first one said.
        let _ = FORCED.set(self);
        Ok(())
    }

    /// What [`force`](Self::force) has said in this process.
    #[must_use]
    pub fn forced() -> Option<Self> {
        FORCED.get().copied()
    }

    /// How a new mapping of what is behind a descriptor flushes.
    #[must_use]
    pub fn for_mapping(fd: BorrowedFd<'_>) -> Self {
        Self::forced().unwrap_or_else(|| Self::detect(fd))
    }

    /// Writes back every line of a range.
    ///
    /// # Safety
    /// The range must be mapped memory.
    pub(super) unsafe fn flush_range(self, start: *const u8, len: usize) {
        if self == Self::None || len == 0 {
            return;
        }
        let line_bytes = usize::try_from(LINE_BYTES).unwrap_or(64);
        let lead = start.addr() % line_bytes;
        let mut done = 0;
        while done < lead + len {
            let line = start.wrapping_sub(lead).wrapping_add(done);
            // SAFETY: the line holds at least one byte of the caller's mapped range, and lines do not cross pages.
            unsafe { self.flush_line(line) };
            done += line_bytes;
        }
    }

    /// Writes back one line.
    ///
    /// # Safety
    /// `line` must point into mapped memory, and the processor must have the instruction.
    unsafe fn flush_line(self, line: *const u8) {
        match self {
            Self::None => {}
            // SAFETY: a write-back changes no byte; the caller vouches for mapping and instruction.
            Self::Clwb => unsafe {
                std::arch::asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags));
            },
            // SAFETY: as above.
            Self::ClflushOpt => unsafe {
                std::arch::asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags));
            },
            // SAFETY: as above; every x86-64 processor has clflush.
            Self::Clflush => unsafe { std::arch::x86_64::_mm_clflush(line) },
        }
    }

    /// Waits for the lines written back before.
    pub(super) fn fence(self) {
        if self == Self::None {
            // Coherent memory: only the compiler must not move stores past this point.
            fence(Ordering::Release);
        } else {
            // SAFETY: every x86-64 processor has sfence; it has no operands.
            unsafe { std::arch::x86_64::_mm_sfence() };
        }
    }
}

/// What CPUID says of this processor: leaf 7, EBX.
fn features() -> u32 {
    std::arch::x86_64::__cpuid_count(7, 0).ebx
}

/// Whether a descriptor is a DAX device, or a file that is mapped by DAX.
fn is_dax(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: statx is plain data, for which all zeros are valid.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open for the length of the borrow, the path is a C string, `stat` outlives the call.
    let result =
        unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_TYPE, &raw mut stat) };
    if result != 0 {
        return false;
    }
    let character_device = u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFCHR;
    let dax_attribute = u64::from(libc::STATX_ATTR_DAX.cast_unsigned());
    character_device || stat.stx_attributes & dax_attribute != 0
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_best_is_supported_and_a_forced_kind_counts_for_every_mapping() {
        assert!(FlushKind::best_of_processor().is_supported());
        assert!(FlushKind::None.is_supported() && FlushKind::Clflush.is_supported());
        let file = tempfile::tempfile().unwrap();
        assert_eq!(FlushKind::for_mapping(file.as_fd()), FlushKind::forced().unwrap_or(FlushKind::None));
        // For all tests of this process: what flushes more is as right as what flushes less.
        FlushKind::Clflush.force().unwrap();
        assert_eq!(FlushKind::forced(), Some(FlushKind::Clflush));
        assert_eq!(FlushKind::for_mapping(file.as_fd()), FlushKind::Clflush);
    }

    #[test]
    fn what_a_processor_lacks_is_refused_with_what_it_has() {
        use FlushKind::{Clflush, ClflushOpt, Clwb, None};
        for (features, lacks, best) in [
            (0, &[Clwb, ClflushOpt][..], Clflush),
            (HAS_CLFLUSHOPT, &[Clwb], ClflushOpt),
            (HAS_CLWB, &[ClflushOpt], Clwb),
            (HAS_CLWB | HAS_CLFLUSHOPT, &[], Clwb),
        ] {
            assert_eq!(FlushKind::best_of(features), best);
            for kind in [None, Clwb, ClflushOpt, Clflush] {
                let refused = if lacks.contains(&kind) { Err(UnsupportedFlushError { kind, best }) } else { Ok(()) };
                assert_eq!(kind.check(features), refused);
            }
        }
        let lacking = UnsupportedFlushError { kind: Clwb, best: Clflush };
        assert_eq!(lacking.to_string(), "this processor has no clwb, the best that it has is clflush");
    }

    #[test]
    fn ordinary_files_need_no_flush_and_names_round_trip() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(FlushKind::detect(file.as_fd()), FlushKind::None);
        for kind in [FlushKind::None, FlushKind::Clwb, FlushKind::ClflushOpt, FlushKind::Clflush] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("sync".parse::<FlushKind>().is_err());
    }
}
