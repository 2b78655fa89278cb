//! A guest, and what it says when nobody interferes.

use ft_protocol::Span;
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::spec::{Mode, VmSpec};
use scenarios::devices::DiskOption;
use scenarios::guest::{GuestImage, GuestSource};
use scenarios::protected::{GuestDisk, JournalOptions, UnreadConsole, VmOptions};
use scenarios::units::ByteCount;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use vmm::disk_file::DiskFile;
use vmm::unprotected::UnprotectedGuest;

/// Modes in which a guest can be protected.
pub(crate) const MODES: u64 = 3;
/// The disk of a guest that needs one.
const DISK_BYTES: u64 = 1 << 20;

/// A guest and what it says when nobody interferes.
#[derive(Clone, Debug)]
pub(crate) struct Golden {
    guest: String,
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
        let disk_bytes = if guest == "disk" { DISK_BYTES } else { 0 };
        let place = tempfile::tempdir().expect("a temporary directory can be made");
        let own_disk = || DiskFile::open(&place.path().join("unprotected"), Some(disk_bytes)).expect("a fresh disk");
        let unprotected = UnprotectedGuest {
            image: image.bytes(),
            memory_bytes: memory.get(),
            args: &args,
            nets: &[],
            disk: (disk_bytes > 0).then(own_disk),
            input: None,
        };
        let mut console = Vec::new();
        let end = vmm::unprotected::run(unprotected, &mut console).expect("the guest runs");
        let first_content =
            || DiskOption { path: place.path().join("protected"), size: Some(ByteCount::new(disk_bytes)) };
        let image = match disk_bytes {
            0 => image,
            _ => image.with_disk(Arc::new(GuestDisk::open(&first_content()).expect("a fresh disk"))),
        };
        let options = VmOptions {
            memory,
            args,
            mode: Mode::Checkpoint,
            epoch_interval: Some(Span::from_ms(5)),
            working_set: None,
            journal: JournalOptions::default(),
            nets: Vec::new(),
            disk_bytes,
            policy: ft_protocol::policy::Policy::default(),
        };
        Self { guest: guest.to_owned(), image, options, console, end }
    }

    /// The same guest with twice as much to do.
    fn twice_as_long(&self) -> Self {
        let mut args = self.options.args.clone();
        let length = args.iter().position(|arg| ["--steps", "--ticks"].contains(&arg.as_str()));
        let length = &mut args[length.expect("a guest whose length is known") + 1];
        *length = (2 * length.parse::<u64>().expect("a number")).to_string();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut longer = Self::of(&self.guest, self.options.memory.get() >> 20, &args);
        longer.options = VmOptions { args: longer.options.args, ..self.options.clone() };
        longer
    }

    /// The torture guest: its last line is a checksum of memory and registers.
    pub(crate) fn torture(steps: u64) -> Self {
        let progress = (steps / 200).to_string();
        Self::of("torture", 8, &["--steps", &steps.to_string(), "--progress", &progress])
    }

    /// The same guest, which commits so rarely that its records are large.
    pub(crate) fn seldom_committed(mut self) -> Self {
        self.options.epoch_interval = Some(Span::from_ms(1_000));
        self
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

    /// The same guest in the mode of this number: checkpoint, replay, lockstep, and so on.
    pub(crate) fn in_mode(self, number: u64) -> Self {
        match number % MODES {
            0 => self,
            1 => self.recorded(),
            _ => self.followed(),
        }
    }

    pub(crate) fn spec(&self, name: &str) -> VmSpec {
        self.options.spec(name, UnreadConsole::Waits)
    }

    /// The guest's file.
    pub(crate) fn image(&self) -> &[u8] {
        self.image.bytes()
    }

    pub(crate) fn upload(&self) -> (ft_protocol::wire::ExtentTag, shared_mem::Extent) {
        self.image.upload().expect("a memory file can be made")
    }

    /// The guest and the first content of its disk.
    pub(crate) fn uploads(&self) -> Vec<(ft_protocol::wire::ExtentTag, shared_mem::Extent)> {
        self.image.uploads().expect("a memory file can be made")
    }
}

/// A guest was over before it came to what a test is about.
#[derive(Debug)]
pub(crate) struct TooShort {
    /// What happened instead.
    pub(crate) report: String,
}

/// How often a guest may be too short, twice as long each time.
const TRIES_MAX: u32 = 4;

/// Tries with longer and longer guests, as slow machines need them: who waits for a host that hardly gets a processor beside the guest
/// must not be hurried by it.
pub(crate) fn long_enough<T>(golden: &Golden, mut attempt: impl FnMut(&Golden) -> Result<T, TooShort>) -> T {
    let mut golden = golden.clone();
    for tried in 1.. {
        match attempt(&golden) {
            Ok(done) => return done,
            Err(TooShort { report }) if tried == TRIES_MAX => panic!("every guest was too short: {report}"),
            Err(TooShort { .. }) => eprintln!("the guest was too short for this machine: once more with a longer one"),
        }
        golden = golden.twice_as_long();
    }
    unreachable!("somebody gives up, or is done");
}
