//! Numbers that must not be mixed up. The words are design.md's vocabulary.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a raw number.
            #[must_use]
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }
            /// The raw number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number! {
    /// The span between two commits, counted from 1 over all generations of a VM; 0 means nothing committed yet.
    Epoch(u64), "e"
}
number! {
    /// The reign of one primary; grows by one at each takeover and switchover, starts at 1.
    Generation(u64), "g"
}
number! {
    /// A host, stable over restarts of its process (it is the index of its heartbeat page).
    HostId(u16), "host"
}
number! {
    /// A VM: the index of its entry in the pool's VM directory.
    VmId(u16), "vm"
}
number! {
    /// One life of a host process; a restarted host has a new one.
    Incarnation(u64), "i"
}
number! {
    /// One order of a controller's life to a secondary to follow; never used again in that life.
    FollowId(u64), "f"
}
number! {
    /// One order to follow that a host has got in its life; what its machine says belongs to one of them.
    FollowTurn(u64), "turn"
}
number! {
    /// One connection to the controller, named by its driver; never reused.
    LinkId(u64), "link"
}

impl Epoch {
    /// Nothing committed yet.
    pub const ZERO: Self = Self(0);

    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Generation {
    /// The generation of a VM's first primary.
    pub const FIRST: Self = Self(1);

    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
