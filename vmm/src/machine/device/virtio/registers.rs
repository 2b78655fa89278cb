//! The registers of the virtio-mmio transport (virtio 1.2, 4.2.2), version 2.

/// `virt`, as a little-endian number.
pub(super) const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"virt");
/// The version of the transport that is not the legacy one.
pub(super) const TRANSPORT_VERSION: u32 = 2;
/// `FTVM`, as a little-endian number.
pub(super) const VENDOR: u32 = u32::from_le_bytes(*b"FTVM");
/// Where the device's own configuration starts.
pub(super) const CONFIG_START: u64 = 0x100;

pub(super) const MAGIC: u64 = 0x000;
pub(super) const VERSION: u64 = 0x004;
pub(super) const DEVICE_ID: u64 = 0x008;
pub(super) const VENDOR_ID: u64 = 0x00c;
pub(super) const DEVICE_FEATURES: u64 = 0x010;
pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
pub(super) const DRIVER_FEATURES: u64 = 0x020;
pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
pub(super) const QUEUE_SEL: u64 = 0x030;
pub(super) const QUEUE_NUM_MAX: u64 = 0x034;
pub(super) const QUEUE_NUM: u64 = 0x038;
pub(super) const QUEUE_READY: u64 = 0x044;
pub(super) const QUEUE_NOTIFY: u64 = 0x050;
pub(super) const INTERRUPT_STATUS: u64 = 0x060;
pub(super) const INTERRUPT_ACK: u64 = 0x064;
pub(super) const STATUS: u64 = 0x070;
pub(super) const QUEUE_DESC_LOW: u64 = 0x080;
pub(super) const QUEUE_DESC_HIGH: u64 = 0x084;
pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
pub(super) const SHARED_MEMORY: std::ops::Range<u64> = 0x0b0..0x0c0;
pub(super) const CONFIG_GENERATION: u64 = 0x0fc;

/// Bits of the status register.
pub(super) mod status {
    pub(in super::super) const DRIVER_OK: u32 = 4;
    pub(in super::super) const FEATURES_OK: u32 = 8;
    pub(in super::super) const NEEDS_RESET: u32 = 64;
    /// What a driver may set: acknowledge, driver, the two above, failed.
    pub(in super::super) const DRIVER_BITS: u32 = 1 | 2 | DRIVER_OK | FEATURES_OK | 128;
}

/// Bits of the interrupt status register.
pub(super) mod interrupt {
    /// A buffer was given back.
    pub(in super::super) const USED: u32 = 1;
    /// The status changed by itself.
    pub(in super::super) const CONFIGURATION: u32 = 2;
    pub(in super::super) const ALL: u32 = USED | CONFIGURATION;
}
