//! The bundled flat guests, as built by this crate's build script from `guests/`.

macro_rules! bundled {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!(env!("FTVM_GUESTS_DIR"), "/", $name)))),*]
    };
}

const BUNDLED: &[(&str, &[u8])] =
    bundled!["burn", "counter", "disk", "echo", "idle", "kv", "netecho", "rebel", "torture"];

/// The ELF file of a bundled guest.
#[must_use]
pub fn bundled(name: &str) -> Option<&'static [u8]> {
    BUNDLED.iter().find(|(known, _)| *known == name).map(|(_, elf)| *elf)
}

/// The names of the bundled guests, in alphabetical order.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUNDLED.iter().map(|(name, _)| *name)
}
