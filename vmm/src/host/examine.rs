//! What is behind a divergence. The guest is executed again, twice, on machines of its own, from the last epoch at which
//! all agreed, with the inputs of the log, to the exit at which it showed. Where the two come there with other registers or
//! pages, the guest is not deterministic between its exits, and they say what it did with what no log has. Where they
//! are the same, it is the other host, or its log, that had something else.
//!
//! The stable image stands still meanwhile: a new reign has committed nothing yet, and for a secondary that follows the
//! controller waits.

use super::followed_log::{FollowedLog, SharedLog};
use super::kicks::Kicks;
use super::parts::StandbyParts;
use super::primary::SharedDisk;
use super::record::{Found, Inherited};
use super::vm_thread::{Surroundings, make_machine};
use crate::clock;
use crate::machine::history::{HistorySource, Replayer};
use crate::machine::{
    DirtyPages, ExitNumber, InputError, Kicker, Machine, MachineError, MachineState, PageIndex, Stop,
};
use ft_protocol::record::OutputsLogged;
use ft_protocol::wire::Order;
use ft_protocol::{Epoch, Span};
use shared_mem::{Extent, LogReader, Mapping, PAGE_BYTES, WorkingMemory, boot_image};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The processor time that all executions may take together: a takeover, or the application of records, waits for them.
const SPAN_MAX: Span = Span::from_ms(600);
/// Executions that are tried, of which each may leave the log at an earlier exit than the one before.
const EXECUTIONS_MAX: u32 = 5;
/// Registers and pages that are named.
const REGISTERS_NAMED: usize = 8;
const PAGES_NAMED: usize = 4;

/// Where it is to be executed again.
pub(super) struct Scene<'a> {
    pub(super) around: &'a Surroundings,
    pub(super) order: &'a Order,
    pub(super) parts: &'a StandbyParts,
    pub(super) log: &'a Extent,
}

/// Of a successor's guest, which left at this exit the log that its reign began with.
pub(super) fn at_takeover(scene: &Scene<'_>, found: &Found, exit: u64) -> String {
    let source = |_: Option<&MachineState>| -> Result<Inherited, Failure> {
        let reader = LogReader::new(Mapping::read_only(scene.log)?, scene.order.spec.log_bytes)?;
        Ok(Inherited::new(reader, *found))
    };
    told(examine(scene, scene.order.base, source, exit))
}

/// Of a guest that follows and left at this exit the log of the primary that it follows; the stable image is of `base`.
pub(super) fn while_following(scene: &Scene<'_>, base: Epoch, exit: u64) -> String {
    let source = |state: Option<&MachineState>| -> Result<SharedLog, Failure> {
        let state = state.ok_or("nothing is followed before the first epoch")?;
        Ok(SharedLog::new(FollowedLog::new(scene.log.try_clone()?, scene.order.spec.log_bytes, state)?))
    };
    told(examine(scene, base, source, exit))
}

fn told(examined: Result<String, Failure>) -> String {
    examined.unwrap_or_else(|error| format!("it could not be executed again: {}", crate::chain(&*error)))
}

/// What an execution came to.
enum Came {
    There(Box<Execution>),
    /// It left the log at this exit already.
    Elsewhere(u64),
    /// Something else is more urgent.
    Late,
}

fn examine<S: HistorySource + 'static>(
    scene: &Scene<'_>,
    base: Epoch,
    source: impl Fn(Option<&MachineState>) -> Result<S, Failure>,
    showed: u64,
) -> Result<String, Failure> {
    let began = clock::spent_by_this_thread();
    let state = match base {
        Epoch::ZERO => None,
        base => Some(MachineState::decode(&scene.parts.state.read(shared_mem::Epoch::new(base.get()))?)?),
    };
    let (mut exit, mut first) = (showed, None::<Box<Execution>>);
    for _ in 0..EXECUTIONS_MAX {
        if is_late(began) {
            break;
        }
        match execute(scene, state.as_ref(), source(state.as_ref())?, exit, began)? {
            Came::There(execution) => match &first {
                None => first = Some(execution),
                Some(first) => return compared(first, &execution, base.get()),
            },
            Came::Elsewhere(at) => (exit, first) = (at, None),
            Came::Late => break,
        }
    }
    Ok(match is_late(began) || exit == showed {
        true => "it was not executed again: that takes too long".to_owned(),
        false => {
            format!("executed again from epoch {}, it left the log at an earlier exit: {NOT_DETERMINISTIC}", base.get())
        }
    })
}

fn is_late(began: Span) -> bool {
    clock::spent_by_this_thread().ns() - began.ns() > SPAN_MAX.ns()
}

const NOT_DETERMINISTIC: &str = "it is not deterministic between its exits";

/// A guest that was executed again.
struct Execution {
    // The machine goes before its memory.
    _machine: Machine,
    memory: WorkingMemory,
    _disk: Option<SharedDisk>,
    state: MachineState,
    dirty: DirtyPages,
}

fn execute<S: HistorySource + 'static>(
    scene: &Scene<'_>,
    base: Option<&MachineState>,
    source: S,
    exit: u64,
    began: Span,
) -> Result<Came, Failure> {
    let (mut machine, memory, disk) = make_machine(&scene.around.kvm, scene.order, scene.parts)?;
    memory.refresh()?;
    let replay = Replayer::new(source, OutputsLogged::Yes).ending_at(ExitNumber(exit));
    machine.replace_inputs(Box::new(replay));
    match base {
        Some(state) => machine.restore(state)?,
        None => {
            let image = boot_image::load(&Mapping::read_only(&scene.parts.boot)?)?;
            machine.boot(&image, &scene.order.spec.args)?;
        }
    }
    let kicker = machine.kicker();
    let _heard = Heard::instead(scene.around, kicker.clone());
    let _kicks = Kicks::start(kicker);
    machine.deliver()?;
    loop {
        match machine.run() {
            Ok(Stop::Exited(_) | Stop::Crashed(_)) => break,
            Ok(Stop::SourcePaused) if machine.exits().0 >= exit => break,
            Ok(Stop::SourcePaused) => return Err("the log does not reach as far any more".into()),
            Ok(Stop::Kicked) => {
                if is_late(began) || !scene.around.commands.is_empty() {
                    return Ok(Came::Late);
                }
            }
            Ok(Stop::Output | Stop::Flush | Stop::Wait { .. }) => {
                machine.take_console();
                machine.take_packets();
            }
            Err(MachineError::Input(InputError::Diverged(divergence))) => {
                return Ok(Came::Elsewhere(divergence.exit));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let state = machine.save()?;
    let mut dirty = DirtyPages::new(scene.order.spec.memory_bytes);
    machine.harvest(&mut dirty)?;
    Ok(Came::There(Box::new(Execution { _machine: machine, memory, _disk: disk, state, dirty })))
}

fn compared(first: &Execution, second: &Execution, base: u64) -> Result<String, Failure> {
    let registers: Vec<String> = first
        .state
        .differences(&second.state)
        .iter()
        .map(|difference| format!("{}: {}, then {}", difference.what, difference.expected, difference.got))
        .collect();
    let mut pages = Vec::new();
    let (mut one, mut other) = (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]);
    let written: std::collections::BTreeSet<u64> =
        first.dirty.iter().chain(second.dirty.iter()).map(|PageIndex(page)| page).collect();
    for page in written {
        copy_page(&first.memory, page, &mut one)?;
        copy_page(&second.memory, page, &mut other)?;
        if let Some(at) = one.iter().zip(&other).position(|(one, other)| one != other) {
            pages.push(format!("byte {at:#x} of page {page:#x}: {:#04x}, then {:#04x}", one[at], other[at]));
        }
    }
    let exit = second.state.exits().0;
    let others: Vec<String> =
        [("registers", listed(&registers, REGISTERS_NAMED)), ("pages", listed(&pages, PAGES_NAMED))]
            .into_iter()
            .filter_map(|(what, listed)| Some(format!("other {what} ({})", listed?)))
            .collect();
    Ok(match others.is_empty() {
        true => format!(
            "executed twice more from epoch {base}, it came to exit {exit} with the same registers and pages: the host that \
             wrote the log had something else, or what the guest does is not another each time"
        ),
        false => format!(
            "executed twice more from epoch {base}, it came to exit {exit} with {}: {NOT_DETERMINISTIC}",
            others.join(" and ")
        ),
    })
}

fn copy_page(memory: &WorkingMemory, page: u64, into: &mut [u8]) -> Result<(), Failure> {
    memory.page(shared_mem::PageIndex::new(page)).ok_or("a page beyond the guest's memory")?.copy_to(into);
    Ok(())
}

/// The first of them, and how many more there are; `None`: there are none.
pub(super) fn listed(items: &[String], named: usize) -> Option<String> {
    let shown = items[..items.len().min(named)].join("; ");
    match items.len().saturating_sub(named) {
        0 => (!items.is_empty()).then_some(shown),
        more => Some(format!("{shown}; and {more} more")),
    }
}

/// Who has something to say to the VM's thread kicks this machine meanwhile.
struct Heard<'a> {
    around: &'a Surroundings,
    before: Option<Kicker>,
}

impl<'a> Heard<'a> {
    fn instead(around: &'a Surroundings, kicker: Kicker) -> Self {
        let before = around.kicker.lock().expect("nothing panics under this lock").replace(kicker);
        Self { around, before }
    }
}

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        *self.around.kicker.lock().expect("nothing panics under this lock") = self.before.take();
    }
}
