//! No dirty page is ever missed, by whomever and whenever it was written.

use super::support::{MIB, bare, booted, kvm, run_to_end};
use crate::machine::layout::{HOLE_END, HOLE_START, PAGE_SIZE};
use crate::machine::{DirtyPages, Machine, PageIndex, Stop};
use vm_memory::{Bytes, GuestAddress};

fn harvest(machine: &mut Machine) -> DirtyPages {
    let mut dirty = DirtyPages::new(machine.ram_bytes());
    machine.harvest(&mut dirty).expect("harvested");
    dirty
}

#[test]
fn pages_that_devices_write_are_harvested_once() {
    let Some(kvm) = kvm() else { return };
    let mut machine = bare(&kvm, 16 * MIB);
    assert!(harvest(&mut machine).is_empty(), "making a machine writes nothing");
    machine.memory().write_slice(&[1; 100], GuestAddress(5 * PAGE_SIZE - 50)).expect("RAM");
    let pages: Vec<_> = harvest(&mut machine).iter().collect();
    assert_eq!(pages, [PageIndex(4), PageIndex(5)]);
    assert!(harvest(&mut machine).is_empty());
}

#[test]
fn pages_behind_the_hole_follow_on_in_the_image() {
    let Some(kvm) = kvm() else { return };
    let mut machine = bare(&kvm, HOLE_START + 2 * MIB);
    machine.memory().write_slice(&[1], GuestAddress(HOLE_END + PAGE_SIZE)).expect("RAM");
    let pages: Vec<_> = harvest(&mut machine).iter().collect();
    assert_eq!(pages, [PageIndex(HOLE_START / PAGE_SIZE + 1)]);
    assert_eq!(pages[0].guest_address(), GuestAddress(HOLE_END + PAGE_SIZE));
}

#[test]
fn a_page_written_again_after_a_harvest_is_dirty_again() {
    let Some(kvm) = kvm() else { return };
    // Prints between writes, so that there are moments to harvest at.
    let mut machine = booted(&kvm, 4 * MIB, "torture", &["--steps", "600000", "--progress", "1000"]);
    let mut copy = vec![0; 4 << 20];
    let mut again = 0;
    let mut last = DirtyPages::new(4 * MIB);
    loop {
        let stop = machine.run().expect("the machine runs");
        machine.complete_pending().expect("completed");
        let dirty = harvest(&mut machine);
        again += dirty.iter().filter(|page| last.contains(*page)).count();
        update(&machine, &dirty, &mut copy);
        last = dirty;
        if stop == Stop::Exited(0) {
            break;
        }
    }
    assert!(again > 1000, "pages were dirty in one harvest and in the next: {again}");
    let mut memory = vec![0; 4 << 20];
    machine.memory().read_slice(&mut memory, GuestAddress(0)).expect("RAM");
    assert!(copy == memory, "what was harvested adds up to the whole memory");
}

fn update(machine: &Machine, dirty: &DirtyPages, copy: &mut [u8]) {
    for page in dirty.iter() {
        let start = usize::try_from(page.image_offset()).expect("small");
        machine.memory().read_slice(&mut copy[start..start + 4096], page.guest_address()).expect("RAM");
    }
}

#[test]
fn harvests_add_up_until_they_are_cleared() {
    let Some(kvm) = kvm() else { return };
    let mut machine = booted(&kvm, 4 * MIB, "counter", &["--lines", "1"]);
    let mut dirty = DirtyPages::new(4 * MIB);
    machine.harvest(&mut dirty).expect("harvested");
    let loaded = dirty.len();
    assert!(loaded > 0, "loading wrote pages");
    assert_eq!(run_to_end(&mut machine).0, Stop::Exited(0));
    machine.harvest(&mut dirty).expect("harvested");
    assert!(dirty.len() >= loaded);
    assert_eq!(dirty.len(), dirty.iter().count());
    dirty.clear();
    assert!(dirty.is_empty());
}
