//! What processors offer to guests, compared: a guest is shown only what every host that may run it has.
//!
//! The registers are CPUID's (Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E), as KVM_GET_SUPPORTED_CPUID gives
//! them. In feature leaves each bit is an ability; common is what all have, and of address widths the narrowest. KVM's own
//! features are such a leaf (Linux Documentation/virt/kvm/x86/cpuid.rst). The other leaves describe (names, caches, topology):
//! there the first host's are shown everywhere.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Most entries of a table: each VM's is kept in the cluster state. Processors of today have some sixty.
pub const LEAVES_MAX: usize = 128;

/// One entry of a CPUID table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuLeaf {
    /// Value of EAX that asks for it.
    pub function: u32,
    /// Value of ECX that asks for it.
    pub index: u32,
    /// KVM_CPUID_FLAG_*.
    pub flags: u32,
    /// EAX, EBX, ECX, EDX.
    pub registers: [u32; 4],
}

/// A CPUID table: what a host offers, or what a guest is shown. An empty one stands for a host that has not said, and fits
/// only an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuProfile {
    /// The entries.
    pub leaves: Vec<CpuLeaf>,
}

/// Why a host cannot run a guest that was shown more, or something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuMismatch {
    /// Another maker's processor.
    Vendor,
    /// Abilities that the guest was shown and the host lacks.
    Missing {
        /// CPUID function.
        function: u32,
        /// CPUID index.
        index: u32,
        /// Register, 0 to 3 for EAX to EDX.
        register: usize,
        /// The bits.
        bits: u32,
    },
    /// Addresses that are wider than the host's.
    Narrow {
        /// Bits of an address that the guest was shown.
        shown: u32,
        /// Bits that the host has.
        has: u32,
    },
}

impl fmt::Display for CpuMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vendor => f.write_str("its processor is another maker's"),
            Self::Missing { function, index, register, bits } => {
                let register = ["EAX", "EBX", "ECX", "EDX"][*register];
                write!(f, "its processor lacks CPUID {function:#x}.{index} {register} {bits:#010x}")
            }
            Self::Narrow { shown, has } => {
                write!(f, "its processor's addresses have {has} bits, the guest was shown {shown}")
            }
        }
    }
}

const LEAF_VENDOR: u32 = 0;

/// Its EAX has the widths of addresses in bits: physical ones in the lowest byte, linear ones in the next.
const LEAF_ADDRESSES: u32 = 0x8000_0008;
/// Where these are, as shifts.
const ADDRESS_WIDTHS: [u32; 2] = [0, 8];

/// Which registers of a leaf are abilities, a bit each.
const fn ability_registers(function: u32, index: u32) -> [bool; 4] {
    match (function, index) {
        (0x1 | 0x8000_0001, _) => [false, false, true, true],
        (0x7, 0) => [false, true, true, true],
        (0x7, _) | (0xd, 1) => [true, true, true, true],
        (0xd, 0) => [true, false, false, true],
        (0x8000_0007 | 0x8000_000a, _) => [false, false, false, true],
        (0x4000_0001, _) => [true, false, false, true],
        (0x8000_0021, _) => [true, false, false, false],
        (0x8000_0008, _) => [false, true, false, false],
        _ => [false; 4],
    }
}

const fn width(eax: u32, shift: u32) -> u32 {
    eax >> shift & 0xff
}

/// The widths of addresses that both have; what else is in the register describes, and is the first's.
fn narrowest(first: u32, other: u32) -> u32 {
    ADDRESS_WIDTHS.into_iter().fold(first, |eax, shift| {
        let narrow = width(first, shift).min(width(other, shift));
        eax & !(0xff << shift) | narrow << shift
    })
}

impl CpuProfile {
    fn find(&self, function: u32, index: u32) -> Option<&CpuLeaf> {
        self.leaves.iter().find(|leaf| leaf.function == function && leaf.index == index)
    }

    fn vendor(&self) -> Option<[u32; 3]> {
        self.find(LEAF_VENDOR, 0).map(|leaf| [leaf.registers[1], leaf.registers[2], leaf.registers[3]])
    }

    /// What all of the hosts offer, described as by the first; without hosts, nothing.
    #[must_use]
    pub fn common<'a>(hosts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut hosts = hosts.into_iter();
        let Some(first) = hosts.next() else { return Self::default() };
        hosts.fold(first.clone(), |mut common, host| {
            for leaf in &mut common.leaves {
                let abilities = ability_registers(leaf.function, leaf.index);
                let theirs = host.find(leaf.function, leaf.index).map_or([0; 4], |leaf| leaf.registers);
                for register in (0..4).filter(|register| abilities[*register]) {
                    leaf.registers[register] &= theirs[register];
                }
                if leaf.function == LEAF_ADDRESSES {
                    leaf.registers[0] = narrowest(leaf.registers[0], theirs[0]);
                }
            }
            common
        })
    }

    /// Whether a host with this profile can run a guest that was shown `shown`.
    pub fn can_run(&self, shown: &Self) -> Result<(), CpuMismatch> {
        if self.vendor() != shown.vendor() {
            return Err(CpuMismatch::Vendor);
        }
        for leaf in &shown.leaves {
            let (function, index) = (leaf.function, leaf.index);
            let abilities = ability_registers(function, index);
            let ours = self.find(function, index).map_or([0; 4], |leaf| leaf.registers);
            for register in (0..4).filter(|register| abilities[*register]) {
                let bits = leaf.registers[register] & !ours[register];
                if bits != 0 {
                    return Err(CpuMismatch::Missing { function, index, register, bits });
                }
            }
            if function == LEAF_ADDRESSES {
                let widths = ADDRESS_WIDTHS.map(|shift| (width(leaf.registers[0], shift), width(ours[0], shift)));
                if let Some(&(shown, has)) = widths.iter().find(|(shown, has)| shown > has) {
                    return Err(CpuMismatch::Narrow { shown, has });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(vendor: u32, features_ecx: u32) -> CpuProfile {
        let leaf = |function, registers| CpuLeaf { function, index: 0, flags: 0, registers };
        CpuProfile { leaves: vec![leaf(0, [13, vendor, vendor, vendor]), leaf(1, [0x111, 7, features_ecx, 3])] }
    }

    #[test]
    fn the_common_profile_runs_everywhere() {
        let (one, other) = (profile(5, 0b1101), profile(5, 0b0111));
        let common = CpuProfile::common([&one, &other]);
        assert_eq!(common, profile(5, 0b0101));
        assert_eq!(one.can_run(&common), Ok(()));
        assert_eq!(other.can_run(&common), Ok(()));
        let missing = CpuMismatch::Missing { function: 1, index: 0, register: 2, bits: 0b1000 };
        assert_eq!(other.can_run(&one), Err(missing));
        assert_eq!(missing.to_string(), "its processor lacks CPUID 0x1.0 ECX 0x00000008");
        assert_eq!(profile(6, 0b1111).can_run(&common), Err(CpuMismatch::Vendor));
    }

    #[test]
    fn addresses_are_as_wide_as_the_narrowest_host_s_and_features_of_kvm_are_abilities() {
        let host = |eax, kvm| {
            let mut host = profile(5, 1);
            let leaf = |function, eax| CpuLeaf { function, index: 0, flags: 0, registers: [eax, 0, 0, 0] };
            host.leaves.extend([leaf(0x8000_0008, eax), leaf(0x4000_0001, kvm)]);
            host
        };
        let (wide, narrow) = (host(0x77_3934, 0b11), host(0x99_302e, 0b10));
        let common = CpuProfile::common([&wide, &narrow]);
        assert_eq!(common, host(0x77_302e, 0b10), "the rest of the register is the first host's");
        assert_eq!((wide.can_run(&common), narrow.can_run(&common)), (Ok(()), Ok(())));
        let error = CpuMismatch::Narrow { shown: 0x34, has: 0x2e };
        assert_eq!(narrow.can_run(&host(0x77_3034, 0)), Err(error));
        assert_eq!(error.to_string(), "its processor's addresses have 46 bits, the guest was shown 52");
    }

    #[test]
    fn a_leaf_that_a_host_does_not_have_offers_nothing() {
        let mut bare = profile(5, 0);
        bare.leaves.truncate(1);
        assert_eq!(CpuProfile::common([&profile(5, 1), &bare]).leaves[1].registers, [0x111, 7, 0, 0]);
        assert!(bare.can_run(&profile(5, 1)).is_err());
    }
}
