//! What the memory behind a file is made of: tmpfs and devices have the processor's pages, hugetlbfs has huge ones.
//!
//! A DAX device is mapped in whole units of its alignment only, so that a mapping there begins and ends outside of what is
//! wanted.
//!
//! In a pool on hugetlbfs each file is whole huge pages long, and each mapping too; what lies in them is where it is on
//! tmpfs. The kernel keeps huge pages for whoever has reserved them, so that what is left is asked of the mount if it has a
//! limit of its own, else of the machine.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::stat::{SFlag, fstat, major, minor};
use nix::sys::statfs::{HUGETLBFS_MAGIC, Statfs, fstatfs};

use crate::numbers::{PAGE_SIZE, round_up};

/// Size of the pages that a file is made of.
///
/// # Errors
/// When the file system does not say.
pub fn page_bytes(fd: impl AsFd) -> io::Result<u64> {
    Ok(huge_page_bytes(&fstatfs(fd)?).unwrap_or(PAGE_SIZE))
}

/// What the kernel says of a character device under this name; `None`: it is none.
fn device_number(fd: BorrowedFd<'_>, name: &str) -> io::Result<Option<u64>> {
    let stat = fstat(fd)?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFCHR {
        return Ok(None);
    }
    let path = format!("/sys/dev/char/{}:{}/{name}", major(stat.st_rdev), minor(stat.st_rdev));
    let text = fs::read_to_string(path)?;
    text.trim().parse().map(Some).map_err(io::Error::other)
}

/// Whether a descriptor is that of a DAX device, which has no private mappings.
///
/// # Errors
/// When the descriptor cannot be examined.
pub fn is_device(fd: impl AsFd) -> io::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR)
}

/// The length of a DAX device, or of a regular file that stands for one.
pub(crate) fn device_bytes(fd: BorrowedFd<'_>) -> io::Result<u64> {
    match device_number(fd, "size")? {
        Some(bytes) => Ok(bytes),
        None => u64::try_from(fstat(fd)?.st_size).map_err(io::Error::other),
    }
}

/// What must be mapped to have `len` bytes at `at`: where that begins, and how much it is.
///
/// # Errors
/// When the file system, or the device, does not say.
pub fn mapping_window(fd: impl AsFd, at: u64, len: u64) -> io::Result<(u64, u64)> {
    match device_number(fd.as_fd(), "align")? {
        Some(align) if align.is_power_of_two() && align > PAGE_SIZE => {
            let start = at / align * align;
            Ok((start, round_up(at + len - start, align)))
        }
        _ => Ok((at, mapping_bytes(fd, len)?)),
    }
}

/// How much must be mapped to have the first `len` bytes of a file.
///
/// # Errors
/// When the file system does not say.
pub fn mapping_bytes(fd: impl AsFd, len: u64) -> io::Result<u64> {
    let page_bytes = page_bytes(fd)?;
    // As everywhere else, the last page is mapped whole without being asked for.
    Ok(if page_bytes == PAGE_SIZE { len } else { round_up(len, page_bytes) })
}

fn huge_page_bytes(stat: &Statfs) -> Option<u64> {
    let bytes = u64::try_from(stat.block_size()).ok()?;
    (stat.filesystem_type() == HUGETLBFS_MAGIC && bytes.is_power_of_two() && bytes >= PAGE_SIZE).then_some(bytes)
}

/// What the file system behind an open file has left.
pub(crate) fn available_bytes(fd: impl AsFd) -> io::Result<u64> {
    let stat = fstatfs(fd)?;
    match huge_page_bytes(&stat) {
        // A mount without a limit says nothing.
        Some(page_bytes) if stat.blocks() == 0 => machine_has(page_bytes),
        _ => Ok(stat.blocks_available().saturating_mul(u64::try_from(stat.block_size()).unwrap_or(PAGE_SIZE))),
    }
}

/// Huge pages of the machine that nobody has or has reserved, in bytes.
fn machine_has(page_bytes: u64) -> io::Result<u64> {
    let count = |name: &str| {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/{name}", page_bytes >> 10);
        let text = fs::read_to_string(path)?;
        text.trim().parse::<u64>().map_err(io::Error::other)
    };
    let free = count("free_hugepages")?.saturating_sub(count("resv_hugepages")?);
    let surplus = count("nr_overcommit_hugepages")?.saturating_sub(count("surplus_hugepages")?);
    Ok((free + surplus).saturating_mul(page_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_files_have_ordinary_pages() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        assert_eq!(page_bytes(&file).unwrap(), PAGE_SIZE);
        assert_eq!(mapping_bytes(&file, 5000).unwrap(), 5000);
        assert!(available_bytes(&file).unwrap() > 0);
    }
}
