//! Pools on a device: one regular file in its place.

use super::*;

/// A regular file in place of a device.
fn device(dir: &tempfile::TempDir, bytes: u64) -> std::path::PathBuf {
    let path = dir.path().join("device");
    fs::File::create(&path).unwrap().set_len(bytes).unwrap();
    path
}

#[test]
fn a_pool_on_a_device_is_a_pool() {
    let dir = on_tmpfs();
    let path = device(&dir, 256 << 20);
    assert!(!Pool::is_at(&path).unwrap());
    assert!(matches!(Pool::open(&path), Err(PoolError::NotAPool(_))));
    let (pool, view) = held_by_one(&path);
    assert!(view.file_names().unwrap().contains(&"heartbeat.2".to_owned()));
    pool.cluster().store(b"state").unwrap();
    let vm = pool.create_vm(&name("a"), &geometry()).unwrap();
    let image = vm.image(Access::ReadWrite).unwrap();
    assert_ne!(image.offset(), crate::numbers::Offset::ZERO, "it is a part of the device");
    let memory = Mapping::read_write(&image).unwrap();
    crate::mem::PoolWrite::write(&memory, crate::numbers::Offset::new(4096), &[7; 4096]).unwrap();
    vm.store_boot(b"kernel").unwrap();
    vm.create_journal(Generation::new(1), Epoch::new(5)).unwrap();
    vm.create_log(Generation::new(1), LogPosition::ZERO).unwrap();
    assert_eq!(vm.journal_generations().unwrap(), [Generation::new(1)]);
    drop((memory, vm, pool));
    assert!(!view.is_locked().unwrap());
    let pool = Pool::open(&path).unwrap();
    assert_eq!(pool.cluster().load(), Ok(Some(b"state".to_vec())));
    let vm = pool.open_vm(pool.find_vm(&name("a")).unwrap()).unwrap();
    let boot = Mapping::read_only(&vm.boot(Access::ReadOnly).unwrap()).unwrap();
    assert_eq!(boot_image::load(&boot), Ok(b"kernel".to_vec()));
    let before = pool.available_bytes().unwrap();
    pool.delete_vm(vm.slot()).unwrap();
    assert!(pool.available_bytes().unwrap() > before);
    // The next VM gets the same place, and none of what was there.
    let vm = pool.create_vm(&name("b"), &geometry()).unwrap();
    let memory = Mapping::read_only(&vm.image(Access::ReadOnly).unwrap()).unwrap();
    let mut page = [1; 4096];
    crate::mem::PoolRead::read(&memory, crate::numbers::Offset::new(4096), &mut page).unwrap();
    assert_eq!(page, [0; 4096]);
    pool.destroy().unwrap();
    assert!(!Pool::is_at(&path).unwrap());
    Pool::create(&path, &CONFIG).unwrap();
}

/// Head and table are there twice: whatever is damaged of one copy is mended from the other.
#[test]
fn a_damaged_head_or_table_of_a_device_is_mended() {
    const TABLE_AT: u64 = 4096;
    const COPY_BYTES: u64 = 64 + (512 << 10);
    let dir = on_tmpfs();
    let path = device(&dir, 64 << 20);
    let mut pool = Pool::create(&path, &CONFIG).unwrap();
    pool.create_vm(&name("a"), &geometry()).unwrap();
    assert_eq!(pool.look_after(None).unwrap(), Vec::<String>::new());
    let mut pool = Some(pool);
    let places = [10, 2048 + 20, TABLE_AT + 2, TABLE_AT + 64 + 70, TABLE_AT + 64 + COPY_BYTES + 70];
    for at in places {
        flip(&path, at);
        let view = Pool::inspect(&path).unwrap();
        let wrong = view.wrong_copies().unwrap();
        assert!(matches!(&wrong[..], [copy] if copy.file == "device"), "{at}: {wrong:?}");
        let mended = pool.as_mut().unwrap().look_after(None).unwrap();
        assert!(matches!(&mended[..], [line] if line.contains("device")), "{at}: {mended:?}");
        assert_eq!(view.wrong_copies().unwrap(), []);
    }
    pool = None;
    for at in places {
        flip(&path, at);
        assert!(Pool::is_at(&path).unwrap());
        let pool = Pool::open(&path).unwrap();
        assert!(matches!(pool.mended(), [line] if line.contains("device")), "{at}: {:?}", pool.mended());
        assert!(pool.find_vm(&name("a")).is_ok());
        assert_eq!(Pool::inspect(&path).unwrap().wrong_copies().unwrap(), []);
    }
    assert!(pool.is_none());
}

#[test]
fn a_device_that_is_in_use_or_too_small_is_refused() {
    let dir = on_tmpfs();
    let path = device(&dir, 8 << 20);
    fs::write(&path, b"somebody's").unwrap();
    assert!(Pool::create(&path, &CONFIG).is_err(), "it is too short");
    fs::write(&path, vec![b'x'; 8 << 20]).unwrap();
    assert!(matches!(Pool::create(&path, &CONFIG), Err(PoolError::NotEmpty(_))));
    let path = device(&dir, 64 << 20);
    let pool = Pool::create(&path, &CONFIG).unwrap();
    let large = VmGeometry { memory_bytes: 64 << 20, ..geometry() };
    assert!(pool.create_vm(&name("a"), &large).is_err());
    assert!(pool.create_vm(&name("a"), &geometry()).is_ok(), "the name is free again");
}
