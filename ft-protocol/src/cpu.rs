//! What processors offer to guests, compared: a guest is shown only what every host that may run it has.
//!
//! The registers are CPUID's (Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E), as KVM_GET_SUPPORTED_CPUID gives
//! them. In feature leaves each bit is an ability; common is what all have, and of address widths the narrowest. KVM's own
//! features are such a leaf (Linux Documentation/virt/kvm/x86/cpuid.rst). The other leaves describe (names, caches, topology):
//! there the first host's are shown everywhere.
//!
//! Behind them a host says in leaves of ftvm's own what else a guest's state needs there: which model-specific registers its KVM
//! takes, and how fast its time-stamp counter is. They are no guest's to see.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Most entries of a table: each VM's is kept in the cluster state. Processors of today have some sixty.
pub const LEAVES_MAX: usize = 128;

/// Registers that a host's KVM can read and write: bit by bit, 128 in a leaf, whose index is their number divided by that.
const LEAF_MSRS: u32 = 0x4674_0000;
const MSRS_IN_LEAF: u32 = 128;
/// The time-stamp counter: EAX 1 if KVM can make it another's, EBX its kHz.
const LEAF_TSC: u32 = 0x4674_0001;
const TSC_SCALES: u32 = 1;

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
            Self::Missing { function: LEAF_MSRS, index, register, bits } => {
                let place = u32::try_from(*register).unwrap_or(0) * u32::BITS + bits.trailing_zeros();
                // The number is the host's, and may be any.
                let msr = index.wrapping_mul(MSRS_IN_LEAF).wrapping_add(place);
                write!(f, "its KVM does not take the model-specific register {msr:#x}: use a newer kernel there")
            }
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
        (0x7, _) | (0xd, 1) | (LEAF_MSRS, _) => [true, true, true, true],
        (0xd, 0) => [true, false, false, true],
        (0x8000_0007 | 0x8000_000a, _) => [false, false, false, true],
        (0x4000_0001, _) => [true, false, false, true],
        (0x8000_0021, _) => [true, false, false, false],
        (0x8000_0008, _) => [false, true, false, false],
        _ => [false; 4],
    }
}

const fn own(function: u32, index: u32, registers: [u32; 4]) -> CpuLeaf {
    CpuLeaf { function, index, flags: 0, registers }
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
    /// The same, with the registers that this host's KVM takes, as far as there is room for them.
    #[must_use]
    pub fn with_msrs(mut self, msrs: impl IntoIterator<Item = u32>) -> Self {
        let mut blocks = BTreeMap::<u32, [u32; 4]>::new();
        for msr in msrs {
            let place = msr % MSRS_IN_LEAF;
            let register = usize::try_from(place / u32::BITS).expect("below four");
            blocks.entry(msr / MSRS_IN_LEAF).or_default()[register] |= 1 << (place % u32::BITS);
        }
        // Half a word is worse than none: what is left out would be lost in a move. Without any, all that there is is moved.
        if self.leaves.len() + blocks.len() < LEAVES_MAX {
            self.leaves.extend(blocks.into_iter().map(|(index, registers)| own(LEAF_MSRS, index, registers)));
        }
        self
    }

    /// The same, with the rate of this host's time-stamp counter, and whether its KVM can give guests another.
    #[must_use]
    pub fn with_tsc(mut self, khz: u32, scales: bool) -> Self {
        if self.leaves.len() < LEAVES_MAX {
            self.leaves.push(own(LEAF_TSC, 0, [if scales { TSC_SCALES } else { 0 }, khz, 0, 0]));
        }
        self
    }

    /// What a processor shows: without what only hosts say of themselves.
    #[must_use]
    pub fn of_processor(&self) -> Self {
        let is_own = |leaf: &CpuLeaf| [LEAF_MSRS, LEAF_TSC].contains(&leaf.function);
        Self { leaves: self.leaves.iter().filter(|leaf| !is_own(leaf)).copied().collect() }
    }

    /// Whether this model-specific register is one of those that all hosts take; where a host has not said, any is.
    #[must_use]
    pub fn moves_msr(&self, msr: u32) -> bool {
        let place = msr % MSRS_IN_LEAF;
        let register = usize::try_from(place / u32::BITS).expect("below four");
        let leaf = self.find(LEAF_MSRS, msr / MSRS_IN_LEAF);
        !self.says(LEAF_MSRS) || leaf.is_some_and(|leaf| leaf.registers[register] >> (place % u32::BITS) & 1 == 1)
    }

    /// The rate of the guest's time-stamp counter, if hosts have said.
    #[must_use]
    pub fn tsc_khz(&self) -> Option<u32> {
        self.find(LEAF_TSC, 0).map(|leaf| leaf.registers[1])
    }

    fn says(&self, function: u32) -> bool {
        self.leaves.iter().any(|leaf| leaf.function == function)
    }

    /// Takes in what another host says in leaves of ftvm's own.
    fn agree(&mut self, host: &Self) {
        for function in [LEAF_MSRS, LEAF_TSC] {
            if !host.says(function) {
                self.leaves.retain(|leaf| leaf.function != function);
            }
        }
        // A rate that cannot be changed is everybody's.
        let theirs = host.find(LEAF_TSC, 0).copied();
        let ours = self.leaves.iter_mut().find(|leaf| leaf.function == LEAF_TSC);
        if let (Some(ours), Some(theirs)) = (ours, theirs)
            && ours.registers[0] & TSC_SCALES != 0
            && theirs.registers[0] & TSC_SCALES == 0
        {
            ours.registers = theirs.registers;
        }
    }

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
            common.agree(host);
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
        for (at, leaf) in shown.leaves.iter().enumerate() {
            let (function, index) = (leaf.function, leaf.index);
            let abilities = ability_registers(function, index);
            // What was shown was made of such profiles: mostly it is at the same place.
            let same_place = self.leaves.get(at).filter(|ours| (ours.function, ours.index) == (function, index));
            let ours = same_place.or_else(|| self.find(function, index)).map_or([0; 4], |leaf| leaf.registers);
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

    #[test]
    fn registers_that_not_all_take_are_not_moved_and_hosts_that_come_later_must_take_them() {
        let old = profile(5, 1).with_msrs([0x10, 0x174, 0xc000_0081]);
        let new = profile(5, 1).with_msrs([0x10, 0x174, 0x200, 0xc000_0081]);
        let common = CpuProfile::common([&new, &old]);
        assert_eq!([0x10, 0x174, 0x200, 0xc000_0081].map(|msr| common.moves_msr(msr)), [true, true, false, true]);
        assert_eq!((old.can_run(&common), new.can_run(&common)), (Ok(()), Ok(())));
        let refused = old.can_run(&new).expect_err("it lacks one").to_string();
        assert!(refused.contains("register 0x200:"), "{refused}");
        assert_eq!(new.of_processor(), profile(5, 1));
        let silent = CpuProfile::common([&new, &profile(5, 1)]);
        assert_eq!(silent, profile(5, 1), "of a host that does not say nothing is known");
        assert!(silent.moves_msr(0x200), "as before hosts said it");
        assert!(profile(5, 1).can_run(&common).is_err(), "it may not take them");
    }

    #[test]
    fn the_counter_s_rate_is_that_of_the_host_that_cannot_change_it() {
        let host = |khz, scales| profile(5, 1).with_tsc(khz, scales);
        let common = CpuProfile::common([&host(3000, true), &host(2000, false), &host(1000, true)]);
        assert_eq!(common.tsc_khz(), Some(2000));
        assert_eq!(CpuProfile::common([&host(3000, true), &host(1000, true)]).tsc_khz(), Some(3000), "the first's");
        assert_eq!(host(3000, true).can_run(&common), Ok(()), "whether it fits is the host's to say");
        assert_eq!(CpuProfile::common([&common, &profile(5, 1)]).tsc_khz(), None);
    }
}
