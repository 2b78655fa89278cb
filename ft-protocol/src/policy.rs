//! Where a VM should run, as its creator wishes it.

use crate::time::Span;
use serde::{Deserialize, Serialize};

/// Most labels of a host, and groups of a VM.
pub const LABELS_MAX: usize = 16;

/// Longest label of a host or name of a group, in bytes.
pub const LABEL_BYTES_MAX: usize = 64;

/// Wishes about a VM's places. The default wishes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Groups of VMs whose primaries should be on different hosts: two VMs that have one in common keep apart.
    pub anti_affinity: Vec<String>,
    /// Refuse the VM unless a third host has its memory, and keep that memory free for it from then on.
    pub require_spare: bool,
    /// The host on which it would best run.
    pub preferred: Option<String>,
    /// Move it back when its old place is better again; `None`: it stays where it is.
    pub failback: Option<Failback>,
}

/// When a VM goes back to its old place: the preferred host, or without one the host that it was driven from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failback {
    /// How long the old place must have been healthy, and how far apart two failbacks of the VM are at least.
    pub hold: Span,
}

/// Whether a label of a host (`rack=r1`) or the name of a group can be one: 1 to 64 bytes of `[A-Za-z0-9._=/-]`.
#[must_use]
pub fn label_is_valid(label: &str) -> bool {
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'=' | b'/'))
}

/// Labels that two hosts have in common: failure domains that would take both down.
#[must_use]
pub fn shared_domains(one: &[String], other: &[String]) -> usize {
    one.iter().filter(|label| other.contains(label)).count()
}

impl Policy {
    /// Why the wishes make no sense, in one line.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.anti_affinity.len() > LABELS_MAX || !self.anti_affinity.iter().all(|group| label_is_valid(group)) {
            return Err("its anti-affinity groups must be at most 16 names of 1 to 64 of A-Z a-z 0-9 . _ = / -");
        }
        if self.failback.is_some_and(|failback| failback.hold == Span::ZERO) {
            return Err("its failback must have a hold time");
        }
        Ok(())
    }

    /// Whether the primaries of VMs with these wishes should be on different hosts.
    #[must_use]
    pub fn keeps_apart_from(&self, other: &Self) -> bool {
        self.anti_affinity.iter().any(|group| other.anti_affinity.contains(group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_groups() {
        assert!(label_is_valid("rack=r1") && label_is_valid("zone=eu/1"));
        for bad in ["", "a b", "rack=\n", &"x".repeat(65)] {
            assert!(!label_is_valid(bad), "{bad}");
        }
        let labels = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(shared_domains(&labels("zone=a rack=1"), &labels("rack=1 zone=b")), 1);
        assert_eq!(shared_domains(&labels("zone=a"), &[]), 0);
        let of = |groups: &str| Policy { anti_affinity: labels(groups), ..Policy::default() };
        assert!(of("db web").keeps_apart_from(&of("web")) && !of("db").keeps_apart_from(&of("web")));
        assert!(of("not valid").check().is_ok() && of("bad\tname").check().is_err());
        assert!(Policy { failback: Some(Failback { hold: Span::ZERO }), ..Policy::default() }.check().is_err());
    }
}
