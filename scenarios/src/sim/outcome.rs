//! What a run came to.

use super::draw::mix;
use super::plan::{FaultProfile, Plan};
use super::violation::Violation;
use super::world::World;
use ft_protocol::ids::VmId;
use shared_mem::mem::PoolRead;
use shared_mem::numbers::Offset;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimConfig {
    /// All decisions follow from it.
    pub seed: u64,
    /// Hosts.
    pub hosts: u16,
    /// VMs.
    pub vms: u16,
    /// Kinds of fault.
    pub faults: FaultProfile,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What a checker found, if any did.
    pub violation: Option<Violation>,
    /// Events simulated.
    pub events: u64,
    /// Virtual time, in microseconds.
    pub us: u64,
    /// Faults that came due.
    pub faults: u32,
    /// Reigns over all VMs.
    pub generations: u64,
    /// Epochs committed over all VMs.
    pub epochs: u64,
    /// A hash over every event and the final content of the pool.
    pub hash: u64,
}

/// Runs a seed.
#[must_use]
pub fn run(config: &SimConfig) -> Outcome {
    run_plan(config, &Plan::draw(config.seed, config.hosts, config.vms, config.faults))
}

/// Runs a seed under a given plan, such as one from an event file.
#[must_use]
pub fn run_plan(config: &SimConfig, plan: &Plan) -> Outcome {
    let mut world = World::new(config.seed, config.hosts, config.vms, plan.clone());
    let result = quietly(|| world.run());
    if let Err(message) = result {
        world.violation = Some(Violation::Panic { message });
    }
    world.outcome()
}

/// Runs a seed under a given plan, and tells what happened, a line for each step that matters.
#[must_use]
pub fn tell_plan(config: &SimConfig, plan: &Plan) -> (Outcome, Vec<String>) {
    let mut world = World::new(config.seed, config.hosts, config.vms, plan.clone());
    world.story = Some(Vec::new());
    if let Err(message) = quietly(|| world.run()) {
        world.violation = Some(Violation::Panic { message });
    }
    let story = world.story.take().unwrap_or_default();
    (world.outcome(), story)
}

/// A scenario that was played.
pub(crate) struct Played {
    pub(crate) stage: Box<super::stage::Stage>,
    pub(crate) violation: Option<Violation>,
    /// The consoles of unbroken runs with the same inputs.
    pub(crate) consoles: Vec<Vec<u8>>,
    /// Checksums of the VMs' memories.
    pub(crate) memories: Vec<Memory>,
    pub(crate) us: u64,
}

/// The checksum of a VM's memory, as its last applied epoch left it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// In the pool, if it is there.
    pub(crate) in_pool: Option<u32>,
    /// Of an unbroken run with the same inputs.
    pub(crate) unbroken: u32,
}

/// Plays a scenario, unless somebody wants it to end.
pub(crate) fn play(
    scenario: &crate::language::Scenario,
    seed: u64,
    shall_end: &dyn Fn() -> bool,
) -> Result<Option<Played>, Interrupted> {
    let (mut world, mut ended) = (World::of_scenario(scenario, seed), false);
    if let Err(message) = quietly(|| ended = !world.run_until(shall_end)) {
        world.violation = Some(Violation::Panic { message });
    }
    let consoles = world.truths.iter().map(|truth| truth.console.clone()).collect();
    if ended {
        return Err(Interrupted);
    }
    let memories = world.vms().map(|vm| world.memory(vm)).collect();
    let Some(stage) = world.take_stage() else { return Ok(None) };
    Ok(Some(Played { stage, violation: world.violation, consoles, memories, us: world.now_ns / 1_000 }))
}

/// Somebody wanted a run to end before its end.
pub(crate) struct Interrupted;

thread_local! {
    /// The message of a panic on a thread that simulates; `None` on other threads.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs something whose panics are findings, not accidents: they are caught and told, not printed.
fn quietly(run: impl FnOnce()) -> Result<(), String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let simulating = CAUGHT.with_borrow_mut(|caught| {
                if let Some(caught) = caught {
                    *caught = info.to_string().replace('\n', " ");
                }
                caught.is_some()
            });
            if !simulating {
                others(info);
            }
        }));
    });
    CAUGHT.set(Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(run));
    let message = CAUGHT.take().unwrap_or_default();
    result.map_err(|_| message)
}

impl World {
    fn outcome(self) -> Outcome {
        let mut hash = mix(self.digest, self.events);
        let mut content = [0; 4096];
        for partition in self.pool.partitions.iter().flatten() {
            let image = partition.image.through(&self.checker.auditor);
            for page in 0..partition.limits.image_pages {
                if image.read(Offset::new(page * 4096), &mut content).is_ok() {
                    hash = mix(hash, u64::from(crc32fast::hash(&content)));
                }
            }
        }
        let epochs = self.checker.vms.iter().map(|facts| facts.last_committed().get()).sum();
        let generations = self.vms().map(|vm| self.generations(vm)).sum();
        Outcome {
            violation: self.violation,
            events: self.events,
            us: self.now_ns / 1_000,
            faults: self.injector.injected,
            generations,
            epochs,
            hash,
        }
    }

    fn memory(&self, vm: VmId) -> Memory {
        let facts = &self.checker.vms[usize::from(vm.get())];
        let pages = 0..self.plan.weather.pages_of(vm.get());
        let mut unbroken = crc32fast::Hasher::new();
        pages.clone().for_each(|page| unbroken.update(facts.oracle.page(page)));
        let in_pool = self.pool.partition(vm).and_then(|partition| {
            let image = partition.image.through(&self.checker.auditor);
            let mut hash = crc32fast::Hasher::new();
            for page in pages {
                let mut content = [0; 4096];
                image.read(Offset::new(page * 4096), &mut content).ok()?;
                hash.update(&content);
            }
            Some(hash.finalize())
        });
        Memory { in_pool, unbroken: unbroken.finalize() }
    }

    fn generations(&self, vm: VmId) -> u64 {
        let Some(partition) = self.pool.partition(vm) else { return 0 };
        let control = partition.control.through(&self.checker.auditor);
        let control = shared_mem::control::ControlBlock::open(control);
        control.and_then(|control| control.generation()).map_or(0, shared_mem::numbers::Generation::get)
    }
}
