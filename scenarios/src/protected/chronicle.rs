//! What was seen of a run: made sense of, kept in a file, and handed on.

use super::RunError;
use crate::event::{Event, EventLog};
use crate::timeline::Timeline;
use ft_protocol::{Time, VmId};
use std::path::{Path, PathBuf};

/// The events of a run.
#[derive(Debug)]
pub(crate) struct Chronicle {
    /// What is known before there is a VM.
    base: Timeline,
    /// For each VM that is followed, what is known of it; the first one stands for the run.
    timelines: Vec<(VmId, Timeline)>,
    log: Option<(PathBuf, EventLog)>,
    /// Seen, and not handed on yet.
    pending: Vec<Event>,
    started_at: Time,
}

impl Chronicle {
    /// Of a run that starts now; the events are also written to a file if one is given.
    pub(crate) fn begin(file: Option<&Path>, started_at: Time) -> Result<Self, RunError> {
        let open = |path: &Path| match EventLog::create(path, started_at) {
            Ok(log) => Ok((path.to_owned(), log)),
            Err(source) => Err(RunError::EventLog { path: path.to_owned(), source }),
        };
        let log = file.map(open).transpose()?;
        Ok(Self { base: Timeline::default(), timelines: Vec::new(), log, pending: Vec::new(), started_at })
    }

    /// This VM is followed from now on.
    pub(crate) fn follow(&mut self, vm: VmId) {
        self.timelines.push((vm, self.base.clone()));
    }

    pub(crate) fn note(&mut self, event: Event) -> Result<(), RunError> {
        let about = event.what.vm();
        if about.is_none() {
            self.base.take(&event);
        }
        for (vm, timeline) in &mut self.timelines {
            if about.is_none_or(|about| about == *vm) {
                timeline.take(&event);
            }
        }
        if let Some((path, log)) = &mut self.log {
            log.append(&event).map_err(|source| RunError::EventLog { path: path.clone(), source })?;
        }
        self.pending.push(event);
        Ok(())
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(crate) fn take_news(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.pending)
    }

    /// That of the first VM.
    pub(crate) fn timeline(&self) -> &Timeline {
        self.timeline_of(0)
    }

    /// That of a VM, in the order in which they are followed.
    pub(crate) fn timeline_of(&self, index: usize) -> &Timeline {
        self.timelines.get(index).map_or(&self.base, |(_, timeline)| timeline)
    }

    /// Those of all VMs.
    pub(crate) fn into_timelines(self) -> Vec<Timeline> {
        self.timelines.into_iter().map(|(_, timeline)| timeline).collect()
    }

    pub(crate) fn started_at(&self) -> Time {
        self.started_at
    }
}
