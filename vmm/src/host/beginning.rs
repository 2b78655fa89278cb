//! How a reign begins: the machine is put where the base epoch left the guest, and brought from there to the end of the
//! record log.

use super::examine::{self, Scene};
use super::follow::Warm;
use super::kicks::Kicks;
use super::outbox::Outbox;
use super::parts::StandbyParts;
use super::record::{Found, Inherited, RecordLog};
use super::vm_thread::{Command, Promotion, Surroundings};
use crate::clock;
use crate::machine::history::{Recorder, ReplayMeter, ReplayThenLive, Replayer};
use crate::machine::{LiveInputs, Machine, MachineState, Stop};
use ft_protocol::record::{Cursor, Landing, OutputsLogged, Patience, ReplayEnd};
use ft_protocol::spec::Mode;
use ft_protocol::wire::Order;
use ft_protocol::{Epoch, Time};
use shared_mem::{Extent, LogPosition, LogReader, Mapping, boot_image};
use std::sync::Arc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Why a Linux guest's mode is another than it was to be.
pub(super) const CHECKPOINT_ONLY: &str =
    "Linux guests are not deterministic between exits, and can only be protected in checkpoint mode";

/// A machine that is ready to reign.
pub(super) struct Loaded {
    pub(super) log: RecordLog,
    pub(super) loaded_at: Time,
    pub(super) replayed_at: Option<Time>,
    pub(super) entries: u64,
    /// How much console input the guest had taken in what was loaded.
    pub(super) console_taken: u64,
    /// How the guest is protected from here on.
    pub(super) mode: Mode,
    /// Why the log was not replayed to its end, if it was not.
    pub(super) given_up: Option<GivenUp>,
    /// The host was told meanwhile to have no part in this any more.
    pub(super) discarded: bool,
    /// Orders that came meanwhile.
    pub(super) waiting: Vec<Command>,
}

/// Why a replay was given up, in one line.
pub(super) enum GivenUp {
    /// The guest did something that the log does not say.
    Diverged(String),
    /// The log could not be read.
    LogLost(String),
    /// The log was closed meanwhile: another host reigns, and the image that this guest saw goes on with that one's.
    Deposed,
}

/// What a reign begins with.
pub(super) struct Start<'a> {
    pub(super) order: &'a Order,
    pub(super) log: &'a Extent,
    pub(super) live: LiveInputs,
    /// The machine has followed: it is somewhere behind the base epoch already.
    pub(super) warm: Option<Warm>,
}

/// Whether a machine that has followed can go on from where it is: it must have come to just the base epoch by itself, and
/// have had no input that the log of the new generation does not have.
pub(super) fn fits(warm: &Warm, parts: &StandbyParts, promotion: &Promotion) -> bool {
    let order = &promotion.order;
    let inherited = || -> Result<Found, Failure> {
        let state = MachineState::decode(&parts.state.read(shared_mem::Epoch::new(order.base.get()))?)?;
        let reader = LogReader::new(Mapping::read_only(&promotion.parts.log)?, order.spec.log_bytes)?;
        Found::look(&reader, LogPosition::new(state.log_position()), state.console_position())
    };
    // What is wrong with state or log comes up again when they are used.
    inherited().is_ok_and(|found| warm.core.fits(order.base, warm.log.read_to().get(), found.end.get()))
}

/// Puts the guest where the base epoch left it; before the first epoch, boots it. Then replays the log, if it has
/// anything for the time after.
pub(super) fn load(
    machine: &mut Machine,
    parts: &StandbyParts,
    start: Start<'_>,
    outbox: &Outbox,
    around: &Surroundings,
) -> Result<Loaded, Failure> {
    let Start { order, log, live, warm } = start;
    let scene = Scene { around, order, parts, log };
    let state = match order.base {
        Epoch::ZERO => None,
        base => Some(MachineState::decode(&parts.state.read(shared_mem::Epoch::new(base.get()))?)?),
    };
    let from = LogPosition::new(state.as_ref().map_or(0, MachineState::log_position));
    let ring_bytes = order.spec.log_bytes;
    let reader = LogReader::new(Mapping::read_only(log)?, ring_bytes)?;
    let console_start = state.as_ref().map_or(0, MachineState::console_position);
    let found = Found::look(&reader, from, console_start)?;
    let log = RecordLog::open(Mapping::read_write(log)?, ring_bytes, &found)?;
    log.record(order.spec.mode.records());
    let live = Recorder::new(live, log.clone(), OutputsLogged::Yes);
    let unfit = machine.is_linux() && order.spec.mode.records();
    if unfit {
        log.record(false);
    }
    let loaded = |log| Loaded {
        log,
        loaded_at: clock::monotonic(),
        replayed_at: None,
        entries: found.entries(),
        console_taken: state.as_ref().map_or(0, MachineState::console_taken),
        mode: if unfit { Mode::Checkpoint } else { order.spec.mode },
        given_up: unfit.then(|| GivenUp::Diverged(CHECKPOINT_ONLY.to_owned())),
        discarded: false,
        waiting: Vec::new(),
    };
    if let Some(mut warm) = warm {
        warm.live.set(live);
        warm.log.ends(reader, found);
        warm.meter.go_on_when_diverged();
        warm.meter.pass_all_commits();
        // Commits are passed when the inputs are asked next, which must be before those behind a commit are; whether anything is
        // left behind them, they know when they are asked once more.
        machine.inputs().must_pause();
        machine.inputs().must_pause();
        let deliver = warm.core.take_delivery();
        return replay_all(machine, (&scene, &found, deliver), &warm.meter, outbox, loaded(log));
    }
    let replay = (found.entries() > 0).then(|| Replayer::new(Inherited::new(reader, found), OutputsLogged::Yes));
    let meter = replay.as_ref().map(Replayer::meter);
    machine.replace_inputs(match replay {
        Some(replay) => Box::new(ReplayThenLive::new(replay, live).going_on_when_diverged()),
        None => Box::new(live),
    });
    match &state {
        Some(state) => machine.restore(state)?,
        None => {
            let image = boot_image::load(&Mapping::read_only(&parts.boot)?)?;
            machine.boot(&image, &order.spec.args)?;
        }
    }
    match meter {
        Some(meter) => replay_all(machine, (&scene, &found, true), &meter, outbox, loaded(log)),
        None => Ok(loaded(log)),
    }
}

/// Runs the guest through what the log says, to the point where it goes on by itself.
fn replay_all(
    machine: &mut Machine,
    (scene, found, deliver): (&Scene<'_>, &Found, bool),
    meter: &Arc<ReplayMeter>,
    outbox: &Outbox,
    mut loaded: Loaded,
) -> Result<Loaded, Failure> {
    let Scene { order, around, .. } = *scene;
    let patience = Patience::with_takeover(order.spec.epoch_interval, clock::spent_by_this_thread());
    let _kicks = Kicks::start(machine.kicker());
    // Where a kick began the epoch, its first events came here. What the log does not have cannot come here any more: behind a
    // commit that was never published nobody would look for it, who replays this once more.
    if deliver && !meter.is_live() {
        machine.deliver()?;
    }
    let mut unsent = Vec::new();
    while !meter.is_live() && loaded.given_up.is_none() {
        match machine.run() {
            Ok(Stop::Exited(_) | Stop::Crashed(_)) => break,
            Ok(Stop::Kicked) => {
                loaded.waiting.extend(around.commands.try_iter());
                if loaded.waiting.iter().any(|command| matches!(command, Command::Discard)) {
                    loaded.discarded = true;
                    return Ok(loaded);
                }
                if let Some(bound) = patience.is_over(clock::spent_by_this_thread()) {
                    let (exit, last) = (machine.exits().0, found.last_exit());
                    let report =
                        format!("exit {exit}: expected to come to exit {last}, got {bound} of computing without");
                    loaded.given_up = Some(if is_closed(scene) { GivenUp::Deposed } else { GivenUp::Diverged(report) });
                }
            }
            Ok(Stop::Output | Stop::Flush | Stop::SourcePaused | Stop::Wait { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let exit = machine.exits().0;
        let packets = machine.take_packets();
        if !Cursor::was_released(exit, found.extent()) {
            unsent.extend(packets);
        }
        loaded.given_up = loaded.given_up.or_else(|| given_up(meter, scene, found));
    }
    loaded.replayed_at = Some(clock::monotonic());
    // What the log has left already; the rest is for the next commit, or is in the log by now.
    machine.drop_console_before(found.console_end());
    let end = match &loaded.given_up {
        None => ReplayEnd::Complete,
        Some(GivenUp::Deposed) => return Ok(loaded),
        Some(GivenUp::LogLost(_)) => ReplayEnd::LogDamaged,
        Some(GivenUp::Diverged(_)) => ReplayEnd::Diverged,
    };
    let landing = Landing::of(order.spec.mode, end);
    loaded.mode = landing.mode;
    loaded.log.record(landing.mode.records());
    if landing.packets_leave {
        machine.take_console();
        outbox.send(&unsent);
    } else {
        outbox.hold(order.base.next(), unsent);
    }
    Ok(loaded)
}

/// Whether the log was closed. One that cannot be asked is found out by the next entry or record.
fn is_closed(scene: &Scene<'_>) -> bool {
    let log = Mapping::read_only(scene.log).ok().and_then(|log| LogReader::new(log, scene.order.spec.log_bytes).ok());
    log.and_then(|log| log.tail().ok()).is_some_and(|tail| tail.sealed)
}

/// Why the replay was given up, if it was.
fn given_up(meter: &ReplayMeter, scene: &Scene<'_>, found: &Found) -> Option<GivenUp> {
    let line = meter.divergence()?;
    if is_closed(scene) {
        return Some(GivenUp::Deposed);
    }
    let Some(exit) = meter.diverged_at() else {
        let (generation, entry, all) = (scene.order.generation.get(), meter.entries(), found.entries());
        return Some(GivenUp::LogLost(format!(
            "the record log that generation {generation} began with is damaged behind entry {entry} of {all}: {line}; the \
             guest goes on from there in checkpoint mode"
        )));
    };
    Some(GivenUp::Diverged(format!("{line}; {}", examine::at_takeover(scene, found, exit))))
}
