//! What was seen of a run: made sense of, kept in a file, and handed on.

use super::RunError;
use crate::event::{Event, EventLog};
use crate::timeline::Timeline;
use ft_protocol::Time;
use std::path::{Path, PathBuf};

/// The events of a run.
#[derive(Debug)]
pub(crate) struct Chronicle {
    timeline: Timeline,
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
        Ok(Self { timeline: Timeline::default(), log, pending: Vec::new(), started_at })
    }

    pub(crate) fn note(&mut self, event: Event) -> Result<(), RunError> {
        self.timeline.take(&event);
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

    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    pub(crate) fn into_timeline(self) -> Timeline {
        self.timeline
    }

    pub(crate) fn started_at(&self) -> Time {
        self.started_at
    }
}
