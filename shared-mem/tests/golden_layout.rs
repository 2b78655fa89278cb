//! The layout does not change unnoticed: a pool of each version is kept, must keep opening, and must be what this
//! version of the crate writes.
//!
//! A golden pool is text: `= file length` begins a file, `offset hex` is a line of 32 bytes that are not all zero. To
//! make one for a new layout version: `cargo test -p shared-mem --test golden_layout -- --ignored`. A device is a file named
//! `device`; it has a version of its own.

mod whole_pool;

use std::fmt::Write;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use shared_mem::superblock::LAYOUT_VERSION;
use shared_mem::{Offset, PageIndex, PagePlace};
use whole_pool::{Survey, build, files, on_tmpfs, survey};

const ROW_BYTES: usize = 32;
/// Of the golden devices: up to the second one head and table are of version 1, from the third on of version 2; what lies behind
/// them is a pool of its time.
const DEVICE_VERSION: u32 = 4;
const DEVICE_BYTES: u64 = 4 << 20;

fn golden_path(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/pool-v{version}.txt"))
}

fn golden_device_path(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/device-v{version}.txt"))
}

/// A device in a directory, with the same pool on it.
fn build_on_device(dir: &Path) -> PathBuf {
    let device = dir.join("device");
    std::fs::File::create(&device).unwrap().set_len(DEVICE_BYTES).unwrap();
    build(&device).unwrap();
    device
}

fn dump(pool: &Path) -> String {
    let mut text = String::new();
    for (name, content) in files(pool).unwrap() {
        writeln!(text, "= {name} {}", content.len()).unwrap();
        for (row, bytes) in content.chunks(ROW_BYTES).enumerate() {
            if bytes.iter().any(|byte| *byte != 0) {
                write!(text, "{:06x} ", row * ROW_BYTES).unwrap();
                for byte in bytes {
                    write!(text, "{byte:02x}").unwrap();
                }
                text.push('\n');
            }
        }
    }
    text
}

/// Makes the files that a golden text describes.
fn restore(text: &str, pool: &Path) {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for line in text.lines() {
        if let Some(file) = line.strip_prefix("= ") {
            let (name, length) = file.rsplit_once(' ').unwrap();
            files.push((name.to_owned(), vec![0; length.parse().unwrap()]));
        } else {
            let (offset, hex) = line.split_once(' ').unwrap();
            let offset = usize::from_str_radix(offset, 16).unwrap();
            let content = &mut files.last_mut().unwrap().1;
            for (index, pair) in hex.as_bytes().chunks(2).enumerate() {
                let pair = std::str::from_utf8(pair).unwrap();
                content[offset + index] = u8::from_str_radix(pair, 16).unwrap();
            }
        }
    }
    for (name, content) in files {
        let path = pool.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

/// What a pool of an older layout, with all else the same, says of itself.
fn as_of(mut survey: Survey, layout: u32) -> Survey {
    survey.superblock.layout = layout;
    if layout < 3 {
        survey.kept = None;
    }
    if layout < 2 {
        let is_page = |(page, _): &(PageIndex, _)| matches!(page.place(), PagePlace::Image(_));
        survey.records.iter_mut().for_each(|(_, pages)| pages.retain(is_page));
    }
    survey
}

#[test]
fn golden_pools_of_all_versions_open() {
    let dir = on_tmpfs();
    let fresh = dir.path().join("fresh");
    build(&fresh).unwrap();
    for version in 1..=LAYOUT_VERSION {
        let path = golden_path(version);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let pool = dir.path().join(format!("v{version}"));
        restore(&text, &pool);
        let expected = || as_of(survey(&fresh).unwrap(), version);
        assert!(survey(&pool).unwrap() == expected(), "version {version} reads differently");
        drop(shared_mem::Pool::open(&pool).unwrap());
        let view = shared_mem::Pool::inspect(&pool).unwrap();
        assert_eq!(view.superblock().layout, LAYOUT_VERSION);
        view.open_vm(shared_mem::VmSlot::new(0)).unwrap().redo(shared_mem::Access::ReadOnly).unwrap();
        let raised = survey(&pool).unwrap();
        assert!(as_of(raised, version) == expected(), "version {version} reads differently once it was opened");
    }
}

#[test]
fn what_an_older_layout_has_sealed_stays_sealed() {
    use shared_mem::{Access, CommitWord, Generation, LogReader, Mapping, Pool, PoolWrite, VmSlot};
    const WORD_AT: Offset = Offset::new(64);
    const OLD_SEAL: u64 = 1 << 63;
    let dir = on_tmpfs();
    restore(&std::fs::read_to_string(golden_path(2)).unwrap(), dir.path());
    let view = Pool::inspect(dir.path()).unwrap();
    let parts = view.open_vm(VmSlot::new(0)).unwrap();
    let generation: Generation = *parts.journal_generations().unwrap().last().unwrap();
    let word = |parts: &shared_mem::VmPartition| {
        let journal = Mapping::read_only(&parts.journal(generation, Access::ReadOnly).unwrap()).unwrap();
        CommitWord::load(&journal, WORD_AT)
    };
    let committed = word(&parts).unwrap().epoch;
    for file in [format!("journal.{generation}"), format!("log.{generation}")] {
        let file = std::fs::File::options().read(true).write(true).open(dir.path().join("vm-0").join(file)).unwrap();
        let extent = shared_mem::Extent::new(file.into(), Offset::ZERO, 4096).unwrap();
        Mapping::read_write(&extent).unwrap().fetch_or_u64(WORD_AT, OLD_SEAL).unwrap();
    }
    assert!(word(&parts).is_err(), "alone it is no seal any more");
    let pool = Pool::open(dir.path()).unwrap();
    let parts = pool.open_vm(VmSlot::new(0)).unwrap();
    let sealed = word(&parts).unwrap();
    assert_eq!((sealed.sealed, sealed.epoch), (true, committed), "nothing that was committed is lost");
    let log = Mapping::read_only(&parts.log(generation, Access::ReadOnly).unwrap()).unwrap();
    assert!(LogReader::new(log, parts.geometry().log_bytes).unwrap().tail().unwrap().sealed);
}

#[test]
fn this_version_writes_what_its_golden_pool_holds() {
    let dir = on_tmpfs();
    let pool = dir.path().join("pool");
    build(&pool).unwrap();
    let golden = std::fs::read_to_string(golden_path(LAYOUT_VERSION)).unwrap();
    let now = dump(&pool);
    for (line, (golden, now)) in golden.lines().zip(now.lines()).enumerate() {
        assert_eq!(golden, now, "line {}: the layout changed without a new version", line + 1);
    }
    assert_eq!(golden.len(), now.len());
}

#[test]
fn the_golden_device_opens_and_is_what_this_version_writes() {
    let dir = on_tmpfs();
    let (new, plain) = (dir.path().join("new"), dir.path().join("plain"));
    std::fs::create_dir(&new).unwrap();
    build(&plain).unwrap();
    let mut devices = vec![build_on_device(&new)];
    let golden = |version| std::fs::read_to_string(golden_device_path(version)).unwrap();
    assert!(golden(DEVICE_VERSION) == dump(&new), "the layout of devices changed without a new version");
    for version in 1..=DEVICE_VERSION {
        let old = dir.path().join(format!("v{version}"));
        restore(&golden(version), &old);
        devices.push(old.join("device"));
        drop(shared_mem::Pool::open(&old.join("device")).unwrap());
    }
    for path in devices {
        let flipped = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        flipped.write_all_at(b"X", 0).unwrap();
        assert!(survey(&path).unwrap() == survey(&plain).unwrap(), "{} reads differently", path.display());
    }
}

#[test]
#[ignore = "writes the golden device of a new version; refuses to replace one"]
fn write_golden_device() {
    let dir = on_tmpfs();
    build_on_device(dir.path());
    let path = golden_device_path(DEVICE_VERSION);
    assert!(!path.exists(), "{} exists: raise the version instead", path.display());
    std::fs::write(path, dump(dir.path())).unwrap();
}

#[test]
#[ignore = "writes the golden pool of a new layout version; refuses to replace one"]
fn write_golden() {
    let dir = on_tmpfs();
    let pool = dir.path().join("pool");
    build(&pool).unwrap();
    let path = golden_path(LAYOUT_VERSION);
    assert!(!path.exists(), "{} exists: raise the version instead", path.display());
    std::fs::write(path, dump(&pool)).unwrap();
}
