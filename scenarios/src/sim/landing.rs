//! How a reign begins: the guest is put where the base epoch left it, and brought from there to the end of the record log.

use super::controller::pool_epoch;
use super::drive::{AGAIN_US, At};
use super::fault::Point;
use super::guest::{self, Packet, Registers};
use super::machine::{PrimaryMachine, Serving};
use super::planted::{PlantedBug, planted};
use super::queue::MachineStep;
use super::record::{Found, Recording};
use super::replay::{Entries, Replay, ReplayError, Went};
use super::violation::Violation;
use super::world::World;
use ft_protocol::Span;
use ft_protocol::host::Input as HostInput;
use ft_protocol::ids::Epoch;
use ft_protocol::primary::{Halt, Input, Primary, PrimaryConfig};
use ft_protocol::record::{Cursor, Landing, ReplayEnd};
use ft_protocol::spec::Mode;
use ft_protocol::wire::LiveReport;
use shared_mem::record_log::ReadLogError;
use shared_mem::state_area::StateError;
use shared_mem::{LogPosition, LogReader};

/// A primary that has not come to the end of its log yet.
pub(crate) struct Approach {
    replay: Replay,
    found: Found,
    /// Packets that may not have left.
    unsent: Vec<Packet>,
}

/// Why a beginning is no beginning.
enum NotBegun {
    Unreachable,
    Failed(String),
    Unreadable(u32),
}

impl From<ReplayError> for NotBegun {
    fn from(error: ReplayError) -> Self {
        if matches!(error, ReplayError::Unreachable) { Self::Unreachable } else { Self::Failed(error.to_string()) }
    }
}

impl From<StateError> for NotBegun {
    fn from(error: StateError) -> Self {
        if matches!(error, StateError::Access(_)) { Self::Unreachable } else { Self::Failed(error.to_string()) }
    }
}

impl From<ReadLogError> for NotBegun {
    fn from(error: ReadLogError) -> Self {
        if matches!(error, ReadLogError::Access(_)) { Self::Unreachable } else { Self::Failed(format!("{error:?}")) }
    }
}

impl World {
    /// Loads the machine state of the epoch to go on from, or goes on from where the machine has followed to.
    pub(crate) fn load(&mut self, at: At) {
        self.catch_up(at.vm);
        let history = self.truths[usize::from(at.vm.get())].history.clone();
        let Some(primary) = self.primary(at) else { return };
        let base = primary.order.base;
        let warm = match begin(primary, base, &history) {
            Ok(warm) => warm,
            Err(NotBegun::Unreachable) => return self.machine_after(at, AGAIN_US, MachineStep::Load),
            Err(NotBegun::Failed(why)) => return self.machine_failed(at, &why),
            Err(NotBegun::Unreadable(version)) => {
                let host = u16::try_from(at.host).unwrap_or(0);
                return self.violate(Violation::UnreadableState { vm: at.vm, host, version });
            }
        };
        if !warm {
            self.check_loaded(at, base);
        }
        self.reached(Point::StateLoaded);
        let weather = self.plan.weather;
        if weather.asks && weather.append_us.is_some() {
            // Its networks are open from here on.
            self.machine_after(at, weather.arrival_us, MachineStep::Arrive);
        }
        match self.primary(at).map(|primary| primary.approach.is_some()) {
            Some(true) => self.replay(at),
            Some(false) => self.go_live(at, None),
            None => {}
        }
    }

    /// Some steps of the way to the end of the log.
    pub(crate) fn replay(&mut self, at: At) {
        let weather = self.plan.weather;
        let steps = self.hosts[at.host].actor.between(weather.slice_steps);
        let Some(program) = self.program_of(at) else { return };
        let Some(primary) = self.primary(at) else { return };
        let Some(mut approach) = primary.approach.take() else { return };
        for _ in 0..steps {
            match approach.replay.step(&program, &mut primary.working) {
                Ok(Went::Step(shown)) => {
                    let released =
                        Cursor::was_released(approach.replay.registers.step, approach.found.log_end.extent());
                    approach.unsent.extend(shown.packet.filter(|_| !released));
                }
                Ok(Went::Delivered) => {}
                Ok(Went::LastStep(rest)) => return self.land_amid(at, *approach, rest),
                Ok(Went::LastDelivery(poll)) => return self.land_amid(at, *approach, Serving::Delivers(poll, false)),
                Ok(Went::Live) => {
                    let exit = approach.replay.exit();
                    let unsent = self.land(at, *approach);
                    return self.go_live(at, Some((unsent, exit)));
                }
                Err(ReplayError::Unreachable) => {
                    primary.approach = Some(approach);
                    return self.machine_after(at, AGAIN_US, MachineStep::Replay);
                }
                // Deposed: the image that it sees goes on with another host's guest.
                Err(_) if primary.log_is_closed() => {
                    let final_epoch = primary.order.base;
                    return self.halt(at, &Halt::Fenced { final_epoch });
                }
                Err(error) => {
                    let report = error.to_string();
                    return self.violate(Violation::Diverged { vm: at.vm, report });
                }
            }
        }
        primary.approach = Some(approach);
        self.machine_after(at, weather.step_us, MachineStep::Replay);
    }

    /// The log has ended in the middle of an exit: what is left of it is done first.
    fn land_amid(&mut self, at: At, approach: Approach, rest: Serving) {
        let exit = approach.replay.exit();
        let unsent = self.land(at, approach);
        if planted(PlantedBug::RestOfExitForgotten) {
            return self.go_live(at, Some((unsent, exit)));
        }
        let Some(primary) = self.primary(at) else { return };
        (primary.landing, primary.serving) = (Some(unsent), Some(rest));
        self.go_on(at, 0);
    }

    /// The log has ended: from here on the guest's inputs are this host's.
    fn land(&mut self, at: At, mut approach: Approach) -> Vec<Packet> {
        let Some(primary) = self.primary(at) else { return Vec::new() };
        let landing = Landing::of(primary.order.spec.mode, ReplayEnd::Complete);
        let log_end = approach.found.log_end;
        primary.registers = approach.replay.registers;
        // There may be more of what ended a wait, or came behind a commit.
        primary.wait_over = approach.replay.deliver;
        primary.trace = std::mem::take(&mut approach.replay.trace);
        let known = if planted(PlantedBug::SaidAgain) { 0 } else { log_end.console_end() };
        let (console_start, console) = approach.replay.take_console_behind(known);
        if landing.packets_leave && !planted(PlantedBug::SaidAgain) {
            primary.console_start = primary.registers.console;
        } else {
            // What the log has left already; the rest is for the next commit.
            primary.console_start = console_start;
            primary.console = console;
        }
        approach.unsent
    }

    /// The guest runs.
    pub(crate) fn go_live(&mut self, at: At, landed: Option<(Vec<Packet>, Option<u32>)>) {
        let now = self.host_clock(at);
        let now_ns = self.now_ns;
        let weather = self.plan.weather;
        let Some(primary) = self.primary(at) else { return };
        let (base, mode) = (primary.order.base, primary.order.spec.mode);
        let config = PrimaryConfig {
            epoch_pages_max: None,
            replayed: landed.is_some(),
            base,
            epoch_interval: primary.order.spec.epoch_interval,
            cut_spacing_min: Span::from_us(weather.cut_spacing_us),
            console_pending_max: weather.console_pending_max,
            console_batch: 0,
            slots: weather.slots,
            mode,
            event_patience: Span::from_us(weather.patience_us),
        };
        primary.core = Some(Primary::new(config, now));
        primary.recorded_since = mode.records().then_some(base);
        primary.show(false);
        let generation = primary.order.generation;
        let (ordered_ns, actor) = (primary.ordered_at_ns, &self.hosts[at.host].actor);
        let (ordered_at, live_at) = (actor.clock(ordered_ns), actor.clock(now_ns));
        let replayed_at = landed.is_some().then_some(now);
        let report = LiveReport { ordered_at, loaded_at: now, live_at, replayed_at, entries: 0 };
        self.check_live(at);
        let vm = at.vm;
        self.host_input(at.host, HostInput::Live { vm, generation, report });
        if mode.records() {
            self.host_input(at.host, HostInput::Recorded { vm, generation, since: base });
        }
        if let Some((unsent, exit)) = landed {
            self.reached(Point::LogReplayed);
            if mode.records() {
                // They may have left before, which networks can bear.
                self.check_released(at, &unsent);
            } else if let Some(primary) = self.primary(at) {
                let late = std::mem::take(&mut primary.packets);
                primary.packets = unsent.into_iter().chain(late).collect();
            }
            if let Some(code) = exit {
                return self.guest_ended(at, code);
            }
        }
        if weather.asks && weather.append_us.is_none() {
            self.machine_after(at, weather.arrival_us, MachineStep::Arrive);
        }
        if let Some(mode) = self.primary(at).and_then(|primary| primary.turning.take()) {
            self.turn(at, mode);
        }
        if self.primary(at).is_some_and(|primary| primary.yielding) {
            self.core_input(at, Input::Yield);
        }
        self.run_slice(at);
        self.schedule_tick(at);
        self.breathe(at);
    }

    /// The VM is to be protected in another mode.
    pub(crate) fn turn(&mut self, at: At, mode: Mode) {
        let Some(primary) = self.primary(at) else { return };
        let Some(core) = &primary.core else {
            primary.turning = Some(mode);
            return;
        };
        if core.mode() == mode {
            self.say_mode(at, mode);
        }
        self.core_input(at, Input::Turn(mode));
    }
}

/// Puts the machine where it goes on from; says whether that is where it has followed to.
fn begin(primary: &mut PrimaryMachine, base: Epoch, history: &[guest::Tick]) -> Result<bool, NotBegun> {
    let mut position = 0;
    let mut registers = Registers::default();
    if base > Epoch::ZERO {
        let bytes = primary.state.read(pool_epoch(base))?;
        registers = match Registers::decode(&bytes) {
            Some(_) if guest::state_version(&bytes) > primary.version => {
                return Err(NotBegun::Unreadable(guest::state_version(&bytes)));
            }
            Some(registers) => registers,
            None => return Err(NotBegun::Failed("the machine state does not decode".to_owned())),
        };
        position = guest::log_position(&bytes);
    }
    let ring_bytes = primary.order.spec.log_bytes;
    let reader = LogReader::new(primary.log_memory.clone(), ring_bytes).map_err(|_| NotBegun::Unreachable)?;
    let found = Found::look(&reader, LogPosition::new(position), registers.console)?;
    let mode = primary.order.spec.mode;
    let log = Recording::resume(primary.log_memory.clone(), ring_bytes, &found, mode);
    let sealed = |error: shared_mem::record_log::ResumeLogError| NotBegun::Failed(error.to_string());
    primary.log = Some(log.map_err(sealed)?);
    let ticks = usize::try_from(registers.ticks()).unwrap_or(usize::MAX).min(history.len());
    (primary.registers, primary.trace) = (registers, history[..ticks].to_vec());
    primary.console_start = registers.console;
    let warm =
        primary.warm.take().filter(|warm| warm.core.fits(base, warm.replay.entries.position.get(), found.end.get()));
    let is_warm = warm.is_some();
    let replay = match warm {
        Some(warm) => {
            let mut warm = *warm;
            warm.replay.cursor.stop_no_more();
            warm.replay.entries.ends(reader, &found);
            let behind_commit = warm.core.take_delivery();
            // What the log does not have cannot come here any more: behind a commit that was never published nobody would look
            // for it, who replays this once more.
            let more = planted(PlantedBug::DeliveredBehindEnd) || !warm.replay.is_over()?;
            warm.replay.deliver |= behind_commit && more;
            primary.working = warm.working;
            Some(warm.replay)
        }
        None if found.log_end.entries() > 0 => {
            let mut entries = Entries::new(reader, found.from, registers.step);
            entries.ends_at(&found);
            Some(Replay::new(registers, entries, primary.trace.clone(), |cursor| cursor))
        }
        None => None,
    };
    primary.approach = replay.map(|replay| Box::new(Approach { replay, found, unsent: Vec::new() }));
    Ok(is_warm)
}
