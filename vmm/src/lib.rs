//! The KVM machine, and the host and controller processes that drive the cores.
