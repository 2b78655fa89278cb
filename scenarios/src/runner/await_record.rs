//! A record to corrupt: one that is published, and that the controller has not read yet. It reads them within a blink, so it stands still until
//! there is one.

use super::corrupt::Corruption;
use super::perform::Performance;
use super::{Hamper, RunnerError};
use crate::cluster::{CONTROLLER, HostName, HostSignal};
use ft_protocol::{Span, Time};
use vmm::clock::monotonic;

/// Longer than a commit takes, beside the time between two of them.
const COMMIT_BOUND: Span = Span::from_ms(200);

/// The controller stands still for a record to be published.
#[derive(Debug)]
pub(super) struct AwaitedRecord {
    /// The record comes behind this epoch; `None`: the controller may not have come to a stop yet.
    behind: Option<u64>,
    /// A guest that commits nothing by then needs a controller more than we need a record.
    until: Time,
}

impl Performance<'_> {
    /// Whether a record waits to be corrupted; if not, the next one does.
    pub(super) fn record_waits(&mut self, corruption: &Corruption, epoch: Span) -> Result<bool, RunnerError> {
        let controller = HostName::new(CONTROLLER);
        let epochs = corruption.published_and_applied().filter(|_| self.run.has_controller());
        let Some((published, applied)) = epochs else {
            self.await_no_record()?;
            return Ok(false);
        };
        if self.hampers.has(&controller, Hamper::Stop) || self.standing.values().any(|process| *process == controller) {
            return Ok(published > applied);
        }
        let (now, patience) = (monotonic(), Span::from_ns(2 * epoch.ns() + COMMIT_BOUND.ns()));
        let stands = self.run.cluster().is_stopped(&controller);
        match &mut self.awaited_record {
            Some(AwaitedRecord { behind: Some(behind), .. }) if published > *behind => return Ok(true),
            Some(AwaitedRecord { until, .. }) if now >= *until => {
                self.await_no_record()?;
                self.next_await = now + patience;
            }
            Some(AwaitedRecord { behind: behind @ None, .. }) if stands => *behind = Some(published),
            Some(_) => {}
            None if now < self.next_await => {}
            None => {
                self.run.signal(&controller, HostSignal::Stop)?;
                self.awaited_record = Some(AwaitedRecord { behind: None, until: now + patience });
            }
        }
        Ok(false)
    }

    /// The controller goes on, unless something else stops it, too.
    pub(super) fn await_no_record(&mut self) -> Result<(), RunnerError> {
        let controller = HostName::new(CONTROLLER);
        if self.awaited_record.take().is_some() && !self.stands(&controller) && !self.dying.contains(&controller) {
            self.run.signal(&controller, HostSignal::Cont)?;
        }
        Ok(())
    }

    /// Whether a process stands still, whatever else becomes of it.
    pub(super) fn stands(&self, process: &HostName) -> bool {
        self.hampers.has(process, Hamper::Stop) || self.is_held(process)
    }

    /// The same, leaving out those that a step has stopped.
    pub(super) fn is_held(&self, process: &HostName) -> bool {
        self.standing.values().any(|standing| standing == process)
            || self.awaited_record.is_some() && process.as_str() == CONTROLLER
    }
}
