//! The numbers a run lives under: delays, bounds and sizes, drawn once per run and written into its event file.

use super::draw::{Draw, Range};
use super::guest::{PRINT_BYTES_MAX, Saying};
use ft_protocol::Span;
use ft_protocol::controller::ControllerConfig;
use ft_protocol::controller::STALL_EPOCHS;
use ft_protocol::detector::DetectorConfig;
use ft_protocol::phi::Phi;
use ft_protocol::spec::Mode;
use ft_protocol::wire::{ACTIVITY_SINCE, PROTOCOL_VERSION, PROTOCOLS};
use serde::{Deserialize, Serialize};

/// Page size of the stable image.
pub(crate) const PAGE_SIZE: u64 = 4096;

/// Bytes of a VM's console ring: the smallest there is, so that slow readers meet its end.
pub(crate) const CONSOLE_RING_BYTES: u64 = 4096;

/// The version of hosts that are not upgraded yet, of protocol and machine state.
pub(crate) const OLD_VERSION: u32 = 1;

/// The version of all others; they read what the old ones write.
pub(crate) const NEW_VERSION: u32 = PROTOCOL_VERSION;

const _: () = assert!(OLD_VERSION < NEW_VERSION && OLD_VERSION < ACTIVITY_SINCE && ACTIVITY_SINCE <= NEW_VERSION);

/// Longest time that an event file may name.
pub(crate) const MICROSECONDS_MAX: u64 = 1_000_000_000;

/// Sizes that guests of one run have.
const VM_SIZES: u64 = 3;

/// A flapping host is held down so many times as long as another, at most.
const FLAP_HOLDS_MAX: u64 = 32;

/// Hosts that a pool of the simulator has room for.
pub const HOSTS_MAX: u16 = 16;

/// VMs that a pool of the simulator has room for.
pub const VMS_MAX: u16 = 8;

/// A fence agent. Safety never rests on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FenceAgent {
    /// There is none.
    None,
    /// It answers that it could not.
    Fails,
    /// It kills the host's process.
    Works,
}

/// All that does not change during a run. Times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weather {
    /// How long faults happen.
    pub safety_us: u64,
    /// One step of a process's main loop.
    pub turn_us: Range,
    /// One step of a machine: stopping a vCPU, writing, checksumming or publishing a record.
    pub step_us: Range,
    /// One step of applying a record.
    pub apply_us: Range,
    /// A message's way.
    pub message_us: Range,
    /// Making or loading a VM.
    pub make_us: Range,
    /// The guest's time between two looks at its vCPU.
    pub slice_us: Range,
    /// The guest's steps in such a time.
    pub slice_steps: Range,
    /// How long a dead host or controller stays dead when the fault does not say.
    pub restart_us: Range,
    /// How long the client takes between two looks at a console.
    pub read_us: Range,
    /// Most bytes that the client reads at once.
    pub read_bytes: u64,
    /// Time between heartbeats.
    pub heartbeat_us: u64,
    /// Heartbeats that may be missing.
    pub heartbeats_missing: u64,
    /// The controller's hold-down.
    pub hold_down_us: u64,
    /// The controller's bound for a secondary that should ask.
    pub ask_us: u64,
    /// The controller's bound for a promotion.
    pub promotion_us: u64,
    /// Longest epoch.
    pub epoch_us: u64,
    /// Least time between two early cuts.
    pub cut_spacing_us: u64,
    /// Console bytes that force a cut.
    pub console_pending_max: u64,
    /// Journal slots.
    pub slots: u32,
    /// Pages of guest memory.
    pub guest_pages: u64,
    /// Steps of the guest's life.
    pub guest_steps: u64,
    /// Most console bytes of one step.
    pub print_bytes_max: u64,
    /// Hosts have life words, by which their deaths are noticed at once.
    pub deaths_seen: bool,
    /// What fence agent there is.
    pub fence_agent: FenceAgent,
    /// Answers of the driver go to the end of the controller's queue instead of its front.
    pub answers_wait: bool,
    /// The degree of suspicion at which hosts are suspected before the bound.
    pub suspicion: Option<Phi>,
    /// The controller's bound for a commit that is due.
    pub stall_us: u64,
    /// Bit n: host n runs the older of two versions, until it is upgraded.
    pub old_hosts: u64,
    /// Failure domains that the hosts are in by turns; zero: none is known.
    pub racks: u64,
    /// Hold time of the VMs' failback; zero: they stay where they are.
    pub failback_us: u64,
    /// The host that the VMs prefer.
    pub preferred: Option<u16>,
    /// The VMs are to have a spare, where there are hosts enough.
    pub require_spare: bool,
    /// How the VMs are protected at first.
    #[serde(default = "checkpoint")]
    pub mode: Mode,
    /// Guests ask for inputs.
    #[serde(default)]
    pub asks: bool,
    /// What their lines begin with.
    #[serde(default)]
    pub says: Option<Saying>,
    /// Bytes of a record log's ring.
    #[serde(default = "log_bytes")]
    pub log_bytes: u64,
    /// Time between two packets that come for a guest.
    #[serde(default = "arrival_us")]
    pub arrival_us: Range,
    /// How long a primary waits for an exit of its guest.
    #[serde(default = "patience_us")]
    pub patience_us: u64,
    /// Exits without an entry after which the log gets a mark.
    #[serde(default = "marks_every")]
    pub marks_every: u64,
    /// Time between two entries of a record log; without, all entries of an exit come at once.
    #[serde(default)]
    pub append_us: Option<Range>,
    /// Packets that come for a guest together, at most, and at times console input with them.
    #[serde(default = "burst")]
    pub burst: u64,
    /// Failures after which a host that comes back is trusted at once.
    #[serde(default = "flaps_free")]
    pub flaps_free: u32,
    /// Pages of guest memory that a host has room for; zero: as many as there are.
    #[serde(default)]
    pub host_pages: u64,
    /// Bit n: host n has room for `small_pages` only.
    #[serde(default)]
    pub small_hosts: u64,
    /// What small hosts have room for.
    #[serde(default)]
    pub small_pages: u64,
    /// So many pages more has each VM than the one before, three sizes by turns.
    #[serde(default)]
    pub more_pages: u64,
    /// Bit n: the processor of host n has an ability that the others' lack; `None`: hosts do not say what theirs can.
    #[serde(default)]
    pub rich_hosts: Option<u64>,
}

fn checkpoint() -> Mode {
    Mode::Checkpoint
}

fn log_bytes() -> u64 {
    PAGE_SIZE
}

fn arrival_us() -> Range {
    Range::new(1_000, 10_000)
}

fn patience_us() -> u64 {
    5_000
}

fn marks_every() -> u64 {
    64
}

fn burst() -> u64 {
    1
}

/// A run is shorter than the time after which a host's record is clean again.
fn flaps_free() -> u32 {
    u32::MAX
}

impl Weather {
    /// The weather of a seed.
    pub(crate) fn draw(draw: &mut Draw) -> Self {
        let up_to = |draw: &mut Draw, choices: &[u64]| {
            let most = draw.pick(choices);
            Range::new(1 + most / 10, most)
        };
        let mut between = |least, most| draw.between(Range::new(least, most));
        let heartbeat_us = between(3_000, 8_000);
        let heartbeats_missing = between(3, 8);
        let bound = heartbeat_us * heartbeats_missing;
        let (hold_down_us, ask_us) = (bound / 2 + between(1, 30_000), between(10_000, 40_000));
        let (safety_us, promotion_us) = (between(60_000, 260_000), between(30_000, 90_000));
        let (epoch_us, cut_spacing_us) = (between(2_000, 10_000), between(100, 1_500));
        let (guest_pages, guest_steps) = (between(2, 6), between(120, 320));
        Self {
            safety_us,
            turn_us: up_to(draw, &[5, 20, 100]),
            step_us: up_to(draw, &[20, 100, 500]),
            apply_us: up_to(draw, &[20, 100, 2_000]),
            message_us: up_to(draw, &[20, 200, 2_000]),
            make_us: up_to(draw, &[500, 5_000]),
            slice_us: up_to(draw, &[500, 1_500]),
            slice_steps: up_to(draw, &[1, 4, 8]),
            restart_us: Range::new(2_000, draw.pick(&[10_000, 60_000])),
            read_us: up_to(draw, &[200, 3_000]),
            read_bytes: draw.pick(&[64, 512, 4_096]),
            heartbeat_us,
            heartbeats_missing,
            hold_down_us,
            ask_us,
            promotion_us,
            epoch_us,
            cut_spacing_us,
            console_pending_max: draw.pick(&[40, 400, 2_000]),
            slots: u32::try_from(draw.pick(&[1, 2, 4])).unwrap_or(1),
            guest_pages,
            guest_steps,
            print_bytes_max: draw.pick(&[8, 8, 60, 96]),
            deaths_seen: draw.chance(50),
            fence_agent: draw.pick(&[FenceAgent::None, FenceAgent::Fails, FenceAgent::Works]),
            answers_wait: draw.chance(50),
            suspicion: draw.pick(&[None, Some(1_500), Some(8_000), Some(16_000)]).map(Phi::from_thousandths),
            stall_us: draw.between(Range::new(20_000, 80_000)),
            old_hosts: draw.pick(&[0, 0, u64::MAX, 0b1010_1010_1010_1010, 0b0110_0110_0110_0110]),
            racks: draw.pick(&[0, 0, 2, 3]),
            failback_us: draw.pick(&[0, 0, 10_000, 40_000]),
            preferred: draw.pick(&[None, Some(0), Some(1), Some(2)]),
            require_spare: draw.chance(25),
            mode: checkpoint(),
            asks: false,
            says: None,
            log_bytes: log_bytes(),
            arrival_us: arrival_us(),
            patience_us: patience_us(),
            marks_every: marks_every(),
            append_us: None,
            burst: burst(),
            flaps_free: flaps_free(),
            host_pages: 0,
            small_hosts: 0,
            small_pages: 0,
            more_pages: 0,
            rich_hosts: None,
        }
    }

    /// The same for VMs that are protected in a mode that records.
    pub(crate) fn recorded(self, draw: &mut Draw, mode: Mode) -> Self {
        let most = draw.pick(&[1_000, 4_000, 20_000]);
        let longest = draw.pick(&[10_000, 60_000]);
        let epoch_us = draw.between(Range::new(2_000, longest));
        Self {
            mode,
            asks: true,
            epoch_us,
            log_bytes: draw.pick(&[1, 1, 2, 4]) * PAGE_SIZE,
            arrival_us: Range::new(most / 10, most),
            patience_us: draw.pick(&[200, 1_000, 5_000]),
            marks_every: draw.pick(&[1, 4, 16, 64]),
            // Hosts that do not record or follow are met by upgrades enough.
            old_hosts: if draw.chance(75) { 0 } else { self.old_hosts },
            ..self
        }
    }

    /// The same where entries reach a log one by one, and several packets may end one wait; drawn from a stream of its own.
    pub(crate) fn one_by_one(self, draw: &mut Draw) -> Self {
        let most = draw.pick(&[0, 10, 100, 1_000]);
        // A guest whose host takes longer to note what comes than that takes to come gets no further.
        let bearable = (self.arrival_us.most / 40).min(self.patience_us / 8);
        let append_us = (most > 0).then(|| Range::new(1, most.min(bearable).max(2)));
        Self { append_us, burst: draw.pick(&[1, 2, 4]), ..self }
    }

    /// The same where hosts are not all alike, or are not trusted at once; drawn from a stream of its own.
    pub(crate) fn uneven(self, draw: &mut Draw, vms: u16) -> Self {
        let mut weather = self;
        if draw.chance(30) {
            weather.flaps_free = draw.pick(&[0, 1, 2, 3]);
        }
        let tight = draw.chance(20);
        let more_pages = draw.below(4);
        let sized = Self { more_pages: if vms > 1 { more_pages } else { 0 }, ..weather };
        let sizes = || (0..vms).map(|vm| sized.pages_of(vm));
        let largest = sizes().max().unwrap_or(1);
        let host_pages = draw.between(Range::new(largest, sizes().sum::<u64>().max(largest)));
        // The first host is never a small one.
        let (small_hosts, small_pages) = (draw.bits() & draw.bits() & !1, draw.between(Range::new(1, largest)));
        if tight {
            weather = Self { host_pages, small_hosts, small_pages, ..sized };
        }
        let rich_hosts = draw.bits();
        if draw.chance(20) {
            weather.rich_hosts = Some(rich_hosts);
        }
        weather
    }

    /// Pages of a VM's guest.
    pub(crate) fn pages_of(&self, vm: u16) -> u64 {
        self.guest_pages + u64::from(vm) % VM_SIZES * self.more_pages
    }

    /// Pages that a host has room for.
    pub(crate) fn room_of(&self, host: u16) -> u64 {
        match self.small_hosts >> host & 1 {
            _ if self.host_pages == 0 => u64::MAX,
            1 => self.small_pages,
            _ => self.host_pages,
        }
    }

    /// Whether a host's processor has what not all have.
    pub(crate) fn is_rich(&self, host: u16) -> bool {
        self.rich_hosts.is_some_and(|rich| rich >> host & 1 == 1)
    }

    /// Not every host can have every role.
    pub(crate) fn is_uneven(&self) -> bool {
        self.host_pages > 0 || self.rich_hosts.is_some()
    }

    /// The version that a host begins with.
    pub(crate) fn version_of(&self, host: u16) -> u32 {
        if self.old_hosts >> host & 1 == 1 { OLD_VERSION } else { NEW_VERSION }
    }

    /// The failure domain of a host.
    pub(crate) fn rack_of(&self, host: u16) -> Option<u64> {
        (self.racks > 0).then(|| u64::from(host) % self.racks)
    }

    /// Time between two signs of life of a primary's thread.
    pub(crate) fn breath_us(&self) -> u64 {
        self.stall_us / 4
    }

    /// Silence after which a VM's commits have stalled.
    pub(crate) fn stall_bound_us(&self) -> u64 {
        self.stall_us.max(self.epoch_us * STALL_EPOCHS)
    }

    /// The longest time between two commits that a VM can come to by changes of its mode: an interval that is a mode's own
    /// becomes that of the other.
    fn longest_epoch_us(&self) -> u64 {
        let modes = [Mode::Checkpoint, Mode::Replay, Mode::Lockstep];
        let is_own = modes.iter().any(|mode| mode.default_epoch_interval() == Span::from_us(self.epoch_us));
        let others =
            modes.iter().filter(|_| self.asks && is_own).map(|mode| mode.default_epoch_interval().ns() / 1_000);
        others.fold(self.epoch_us, u64::max)
    }

    /// Whether a run can be under these numbers; asked of what an event file says.
    pub(crate) fn is_sound(&self) -> bool {
        let ranges = [
            self.turn_us,
            self.step_us,
            self.apply_us,
            self.message_us,
            self.make_us,
            self.slice_us,
            self.slice_steps,
            self.restart_us,
            self.read_us,
            self.arrival_us,
            self.append_us.unwrap_or(self.arrival_us),
        ];
        let bounds = [
            self.safety_us,
            self.read_bytes,
            self.heartbeat_us,
            self.hold_down_us,
            self.ask_us,
            self.promotion_us,
            self.epoch_us,
            self.console_pending_max,
            self.stall_us / 4,
            self.patience_us,
            self.marks_every,
            self.burst,
        ];
        ranges.iter().all(|range| (1..=range.most).contains(&range.least) && range.most <= MICROSECONDS_MAX)
            && bounds.iter().all(|bound| (1..=MICROSECONDS_MAX).contains(bound))
            && self.cut_spacing_us <= MICROSECONDS_MAX
            && self.failback_us <= MICROSECONDS_MAX
            && (3..=1_000).contains(&self.heartbeats_missing)
            && (1..=64).contains(&self.slots)
            && self.log_bytes.is_multiple_of(PAGE_SIZE)
            && (1..=64).contains(&(self.log_bytes / PAGE_SIZE))
            && (1..=64).contains(&self.guest_pages)
            && self.more_pages <= 64
            && self.pages_of(u16::try_from(VM_SIZES - 1).unwrap_or(0)) <= 64
            && [self.host_pages, self.small_pages].iter().all(|pages| *pages <= 1 << 20)
            && (16..=100_000).contains(&self.guest_steps)
            && (1..=PRINT_BYTES_MAX as u64).contains(&self.print_bytes_max)
            && self.console_pending_max + PRINT_BYTES_MAX as u64 <= CONSOLE_RING_BYTES
    }

    /// How heartbeats are watched.
    pub(crate) fn detector(&self) -> DetectorConfig {
        let interval = Span::from_us(self.heartbeat_us);
        DetectorConfig { bound: interval.times(self.heartbeats_missing), interval, suspicion: self.suspicion }
    }

    /// The controller's bounds.
    pub(crate) fn controller(&self) -> ControllerConfig {
        ControllerConfig {
            states: None,
            detector: self.detector(),
            hold_down: Span::from_us(self.hold_down_us),
            flaps_free: self.flaps_free,
            ask_bound: Span::from_us(self.ask_us),
            promotion_bound: Span::from_us(self.promotion_us),
            stall_bound: Span::from_us(self.stall_us),
            protocols: PROTOCOLS,
            hosts_max: HOSTS_MAX,
            vms_max: VMS_MAX,
            state_bytes_max: u64::MAX,
            shutdown_allowed: false,
        }
    }

    /// Within what time after the last fault every VM must be protected (I6).
    pub(crate) fn protection_bound_us(&self) -> u64 {
        let detection = 2 * self.heartbeat_us * self.heartbeats_missing;
        let making = 4 * self.make_us.most + 40 * self.message_us.most + 200 * self.turn_us.most;
        let draining = u64::from(self.slots) * 10 * self.apply_us.most;
        let stall = self.stall_us.max(self.longest_epoch_us() * STALL_EPOCHS);
        let flapping = if self.flaps_free == u32::MAX { 0 } else { FLAP_HOLDS_MAX * self.hold_down_us };
        3 * (detection
            + stall
            + 3 * self.hold_down_us
            + flapping
            + self.ask_us
            + self.promotion_us
            + self.restart_us.most
            + making
            + draining)
    }
}
