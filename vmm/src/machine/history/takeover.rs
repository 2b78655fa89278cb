//! A successor's inputs: the log of the one before, and when that has ended, its own.

use super::replayer::{HistorySource, ReplayMeter, Replayer};
use crate::machine::inputs::{ExitNumber, InputError, InputSource, NicIndex, Produced, ResumePoint};
use crate::machine::time::GuestTime;
use std::sync::Arc;

/// Replays, then goes live: the first request that the log has no more entries for, inputs and marks of outputs, is
/// answered by the live source, and so are all after it. Guest time goes on from the last reading in the log.
#[derive(Debug)]
pub struct ReplayThenLive<H, S> {
    replay: Option<Replayer<H>>,
    live: S,
    digest: u32,
    /// The guest pauses once when it has gone live, for its host to take notice.
    pause_is_due: bool,
    meter: Arc<ReplayMeter>,
}

impl<H: HistorySource, S: InputSource> ReplayThenLive<H, S> {
    /// Replays, then takes inputs from `live`, which records them if there is to be a next takeover.
    #[must_use]
    pub fn new(replay: Replayer<H>, live: S) -> Self {
        let meter = replay.meter();
        Self { replay: Some(replay), live, digest: 0, pause_is_due: false, meter }
    }

    /// Gives a replay up that diverges or whose log is damaged, and goes live in its place; the meter says why. Otherwise
    /// that is an error.
    #[must_use]
    pub fn going_on_when_diverged(self) -> Self {
        self.meter.go_on_when_diverged();
        self
    }

    /// How far the replay is.
    #[must_use]
    pub fn meter(&self) -> Arc<ReplayMeter> {
        self.meter.clone()
    }

    /// Has the source of the moment do something.
    fn on_present<T>(
        &mut self,
        mut ask: impl FnMut(&mut dyn InputSource) -> Result<T, InputError>,
    ) -> Result<T, InputError> {
        self.change_over()?;
        let Some(replay) = &mut self.replay else { return ask(&mut self.live) };
        match ask(replay) {
            Err(error) => {
                self.give_up(error)?;
                ask(&mut self.live)
            }
            answered => answered,
        }
    }

    /// Goes live if nothing is left to be replayed.
    fn change_over(&mut self) -> Result<(), InputError> {
        match self.replay.as_mut().map(Replayer::is_exhausted) {
            Some(Ok(true)) => self.go_live(),
            Some(Ok(false)) | None => {}
            Some(Err(error)) => self.give_up(error)?,
        }
        Ok(())
    }

    fn give_up(&mut self, error: InputError) -> Result<(), InputError> {
        if !self.meter.goes_on() {
            return Err(error);
        }
        self.meter.give_up(&error);
        self.go_live();
        Ok(())
    }

    fn go_live(&mut self) {
        let Some(mut replay) = self.replay.take() else { return };
        self.live.resume(&replay.end(self.digest));
        let offered = replay.take_offered();
        let taken = self.live.offer_console(&offered);
        assert_eq!(taken, offered.len(), "the replay accepts no more than fits beside what waited");
        self.pause_is_due = true;
        self.meter.go_live();
    }
}

impl<H: HistorySource, S: InputSource> InputSource for ReplayThenLive<H, S> {
    fn begin_exit(&mut self, at: ExitNumber, digest: u32) -> Result<(), InputError> {
        // A log may have ended since the last exit, which the guest then left live.
        self.change_over()?;
        self.digest = digest;
        self.on_present(|source| source.begin_exit(at, digest))?;
        self.change_over()
    }

    fn begin_poll(&mut self) {
        match &mut self.replay {
            Some(replay) => replay.begin_poll(),
            None => self.live.begin_poll(),
        }
    }

    fn produced(&mut self, at: ExitNumber, output: &Produced<'_>) -> Result<(), InputError> {
        self.on_present(|source| source.produced(at, output))?;
        self.change_over()
    }

    fn clock(&mut self, at: ExitNumber) -> Result<GuestTime, InputError> {
        self.on_present(|source| source.clock(at))
    }

    fn entropy(&mut self, at: ExitNumber, bytes: &mut [u8]) -> Result<(), InputError> {
        self.on_present(|source| source.entropy(at, bytes))
    }

    fn packet(&mut self, at: ExitNumber, nic: NicIndex) -> Result<Option<Vec<u8>>, InputError> {
        self.on_present(|source| source.packet(at, nic))
    }

    fn console(&mut self, at: ExitNumber, room: usize) -> Result<Vec<u8>, InputError> {
        self.on_present(|source| source.console(at, room))
    }

    fn offer_console(&mut self, bytes: &[u8]) -> usize {
        match &mut self.replay {
            Some(replay) => replay.offer_console(bytes),
            None => self.live.offer_console(bytes),
        }
    }

    fn wakes(&self) -> bool {
        self.replay.as_ref().map_or_else(|| self.live.wakes(), InputSource::wakes)
    }

    fn wait_ends(&mut self) {
        match &mut self.replay {
            Some(replay) => replay.wait_ends(),
            None => self.live.wait_ends(),
        }
    }

    fn has_news(&self) -> bool {
        self.replay.as_ref().map_or_else(|| self.live.has_news(), InputSource::has_news)
    }

    fn must_pause(&mut self) -> bool {
        let _error_comes_again_at_the_next_exit = self.change_over();
        if std::mem::take(&mut self.pause_is_due) {
            return true;
        }
        match &mut self.replay {
            Some(replay) => replay.must_pause(),
            None => self.live.must_pause(),
        }
    }

    fn owes(&mut self) -> Option<u64> {
        self.replay.as_mut().map_or_else(|| self.live.owes(), InputSource::owes)
    }

    fn now(&self) -> GuestTime {
        self.replay.as_ref().map_or_else(|| self.live.now(), InputSource::now)
    }

    fn waiting_console(&self) -> Vec<u8> {
        self.replay.as_ref().map_or_else(|| self.live.waiting_console(), InputSource::waiting_console)
    }

    fn resume(&mut self, from: &ResumePoint<'_>) {
        self.digest = from.digest;
        match &mut self.replay {
            Some(replay) => replay.resume(from),
            None => self.live.resume(from),
        }
    }
}
