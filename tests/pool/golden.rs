//! A guest, and what it says when nobody interferes.

use ft_protocol::Span;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::spec::{Mode, VmSpec};
use scenarios::guest::{GuestImage, GuestSource};
use scenarios::protected::{UnreadConsole, VmOptions};
use scenarios::units::ByteCount;
use std::collections::BTreeMap;
use std::sync::Mutex;
use vmm::unprotected::UnprotectedGuest;

/// A guest and what it says when nobody interferes.
#[derive(Clone, Debug)]
pub(crate) struct Golden {
    image: GuestImage,
    options: VmOptions,
    pub(crate) console: Vec<u8>,
    pub(crate) end: GuestEnd,
}

impl Golden {
    /// What a bundled guest says unprotected; it is run once for all tests.
    pub(crate) fn of(guest: &str, memory_mib: u64, args: &[&str]) -> Self {
        static KNOWN: Mutex<BTreeMap<String, Golden>> = Mutex::new(BTreeMap::new());
        let mut known = KNOWN.lock().expect("a guest that cannot run fails every test");
        let key = format!("{guest} {memory_mib} {args:?}");
        known.entry(key).or_insert_with(|| Self::run(guest, memory_mib, args)).clone()
    }

    fn run(guest: &str, memory_mib: u64, args: &[&str]) -> Self {
        let Ok(source) = format!("builtin:{guest}").parse::<GuestSource>();
        let image = source.read().expect("a bundled guest");
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let memory = ByteCount::mib(memory_mib);
        let mut console = Vec::new();
        let guest =
            UnprotectedGuest { elf: image.bytes(), memory_bytes: memory.get(), args: &args, nets: &[], disk: None };
        let end = vmm::unprotected::run(guest, &mut console).expect("the guest runs");
        let options = VmOptions {
            memory,
            args,
            mode: Mode::Checkpoint,
            epoch_interval: Some(Span::from_ms(5)),
            working_set: None,
            nets: Vec::new(),
            disk_bytes: 0,
            policy: ft_protocol::policy::Policy::default(),
        };
        Self { image, options, console, end }
    }

    /// The torture guest: its last line is a checksum of memory and registers.
    pub(crate) fn torture(steps: u64) -> Self {
        let progress = (steps / 200).to_string();
        Self::of("torture", 8, &["--steps", &steps.to_string(), "--progress", &progress])
    }

    /// The same guest in replay mode: its inputs are recorded, it commits rarely.
    pub(crate) fn recorded(mut self) -> Self {
        self.options.mode = Mode::Replay;
        self.options.epoch_interval = Some(Span::from_ms(100));
        self
    }

    /// The same guest in lockstep mode: its secondary follows.
    pub(crate) fn followed(self) -> Self {
        let mut followed = self.recorded();
        followed.options.mode = Mode::Lockstep;
        followed
    }

    pub(crate) fn spec(&self, name: &str) -> VmSpec {
        self.options.spec(name, UnreadConsole::Waits)
    }

    pub(crate) fn upload(&self) -> (ft_protocol::wire::ExtentTag, shared_mem::Extent) {
        self.image.upload().expect("a memory file can be made")
    }
}
