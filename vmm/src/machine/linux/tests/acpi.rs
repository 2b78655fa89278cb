use crate::machine::linux::VcpuCount;
use crate::machine::linux::acpi::{VirtioPlace, tables};

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn has(table: &[u8], part: &[u8]) -> bool {
    table.windows(part.len()).any(|window| window == part)
}

#[test]
fn the_tables_lead_to_one_another_and_add_up() {
    let devices = [VirtioPlace { slot: 4, address: 0xd000_4000, gsi: 20 }];
    let tables = tables(VcpuCount::MAX, &devices);
    let at = |address: u64| &tables.iter().find(|(start, _)| *start == address).expect("a table lies there").1;
    let (start, rsdp) = &tables[0];
    assert_eq!((*start, &rsdp[..8]), (0xe_0000, b"RSD PTR ".as_slice()));
    assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
    for (_, table) in &tables[1..] {
        assert_eq!(sum(table), 0);
        let length = u32::from_le_bytes(table[4..8].try_into().expect("four bytes"));
        assert_eq!(usize::try_from(length).expect("small"), table.len());
    }
    let xsdt = at(long(rsdp, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let (fadt, madt) = (at(long(xsdt, 36)), at(long(xsdt, 44)));
    assert_eq!((&fadt[..4], &madt[..4]), (b"FACP".as_slice(), b"APIC".as_slice()));
    let dsdt = at(long(fadt, 140));
    assert_eq!(&dsdt[..4], b"DSDT");
    // Four processors of eight bytes, and an I/O APIC of twelve.
    assert_eq!(madt.len(), 44 + 4 * 8 + 12);
    assert!(has(dsdt, b"LNRO0005") && has(dsdt, &0xd000_4000u32.to_le_bytes()) && has(dsdt, b"_S5_"));
}

#[test]
fn all_devices_have_room() {
    let devices: Vec<_> = (0..7).map(|slot| VirtioPlace { slot, address: 0xd000_0000, gsi: 16 }).collect();
    let tables = tables(VcpuCount::MAX, &devices);
    let end = tables.iter().map(|(start, table)| start + table.len() as u64).max();
    assert!(end.is_some_and(|end| end <= 1 << 20));
    let dsdt = &tables.iter().find(|(_, table)| table.starts_with(b"DSDT")).expect("there").1;
    assert_eq!(dsdt.windows(8).filter(|window| window == b"LNRO0005").count(), 7);
}
