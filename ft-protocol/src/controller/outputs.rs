//! How long the outputs of guests waited, as primaries have measured it.

use super::{Controller, Generation, Turn, VmId};
use crate::latency::OutputLatency;
use crate::timeline::Happening;

/// The outputs of a VM.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    generation: Option<Generation>,
    /// Those of that generation, as said last.
    latest: OutputLatency,
    /// Of those, what watchers know.
    told: OutputLatency,
    /// Those of the generations before.
    before: OutputLatency,
    /// An earlier controller saw a part of that generation, and may have told of it.
    shared: bool,
}

impl Outputs {
    /// All of them.
    pub(super) fn all(&self) -> OutputLatency {
        let mut all = self.before.clone();
        all.add(&self.latest);
        all
    }
}

impl Controller {
    /// A primary says how long all outputs of its generation waited.
    pub(super) fn outputs_measured(&mut self, vm: VmId, generation: Generation, latency: OutputLatency) {
        let Some(entry) = self.vms.get_mut(&vm).filter(|entry| entry.generation == generation) else { return };
        if !latency.is_plausible() {
            return;
        }
        let outputs = &mut entry.outputs;
        let first = outputs.generation.replace(generation);
        if first != Some(generation) {
            outputs.shared = first.is_none() && entry.recovered == Some(generation);
            let before = std::mem::take(&mut outputs.latest);
            outputs.before.add(&before);
            outputs.told = OutputLatency::default();
        }
        outputs.latest = latency;
    }

    /// The generation, its mode, or all of the VM is over: watchers hear how long the outputs waited that they have not heard
    /// of, as far as the primary could still say.
    pub(super) fn tell_outputs(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let (generation, mode) = (entry.generation, entry.mode_told);
        let outputs = &mut entry.outputs;
        if outputs.generation != Some(generation) {
            return;
        }
        let latency = outputs.latest.since(&outputs.told);
        if let Some(summary) = latency.summary() {
            outputs.told = outputs.latest.clone();
            // The modes of a time that this controller has not seen are not known to it.
            let mode = (!std::mem::take(&mut outputs.shared)).then_some(mode);
            self.tell(turn, Happening::OutputsMeasured { vm, generation, mode, summary, latency });
        }
    }
}
