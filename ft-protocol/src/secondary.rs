//! The secondary's core for one VM: when to ask for the takeover.
//!
//! ```text
//!  Preparing --- standby made ---> Watching --- primary gone or silent ---> Asking --- promoted (host core goes on)
//!      |                              ^                                        |
//!      +--- primary gone: asks as soon as the standby is made                  | refused: the primary lives
//!                                     +----------------------------------------+
//! ```

use crate::detector::{Detector, DetectorConfig, Verdict};
use crate::time::{Span, Time};
use crate::wire::{TakeoverReason, TakeoverRefusal};

/// What happens to a secondary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The standby VM is made: a takeover can begin at any time.
    Prepared,
    /// A sample of the heartbeat counter of the primary's host; `None` when the page cannot be read.
    Beat(Option<u64>),
    /// Somebody who can know says that the primary is gone.
    PrimaryGone(TakeoverReason),
    /// The controller refused the takeover.
    Refused(TakeoverRefusal),
    /// The connection to the controller is there again; what was asked over the old one may be lost.
    LinkUp,
}

/// What a secondary wants: to become primary, for this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask(pub TakeoverReason);

/// The core. One per VM and assignment as secondary.
#[derive(Debug)]
pub struct Secondary {
    detector: Detector,
    prepared: bool,
    suspicion: Option<TakeoverReason>,
    asked: bool,
}

impl Secondary {
    /// A secondary whose standby VM is still to be made.
    #[must_use]
    pub fn new(detector: DetectorConfig) -> Self {
        Self { detector: Detector::new(detector), prepared: false, suspicion: None, asked: false }
    }

    /// Takes an input; the answer is to be sent to the controller.
    pub fn handle(&mut self, now: Time, input: Input) -> Option<Ask> {
        match input {
            Input::Prepared => self.prepared = true,
            Input::Beat(count) => {
                if let Verdict::Silent(silence) = self.detector.sample(now, count) {
                    self.suspicion.get_or_insert(TakeoverReason::HeartbeatSilent(silence));
                }
            }
            Input::PrimaryGone(reason) => {
                // A closed connection is surer than silence: it replaces the weaker reason, and is worth a second try.
                if self.suspicion != Some(reason) {
                    self.suspicion = Some(reason);
                    self.asked = false;
                }
            }
            Input::Refused(TakeoverRefusal::PrimaryBeats) => {
                self.detector.forgive();
                self.suspicion = None;
                self.asked = false;
            }
            // Every other refusal means that somebody else leads now: the controller will say what becomes of us.
            Input::Refused(_) => {}
            Input::LinkUp => self.asked = false,
        }
        match self.suspicion {
            Some(reason) if self.prepared && !self.asked => {
                self.asked = true;
                Some(Ask(reason))
            }
            _ => None,
        }
    }

    /// Whether the standby VM is made.
    #[must_use]
    pub fn is_prepared(&self) -> bool {
        self.prepared
    }

    /// When the next sample of the heartbeat should be taken, from the last one on.
    #[must_use]
    pub fn sample_after(&self) -> Span {
        self.detector.sample_after()
    }

    /// How long the primary's host has been silent, by this host's own samples.
    #[must_use]
    pub fn silence(&self) -> Option<Span> {
        match self.detector.verdict() {
            Verdict::Silent(silence) => Some(silence),
            Verdict::Beating => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: DetectorConfig =
        DetectorConfig { bound: Span::from_ms(50), interval: Span::from_ms(5), suspicion: None };

    #[test]
    fn asks_once_and_only_when_prepared() {
        let mut core = Secondary::new(CONFIG);
        assert_eq!(core.handle(Time::ZERO, Input::PrimaryGone(TakeoverReason::LinkClosed)), None);
        assert_eq!(core.handle(Time::ZERO, Input::Prepared), Some(Ask(TakeoverReason::LinkClosed)));
        assert_eq!(core.handle(Time::ZERO, Input::Prepared), None);
        assert_eq!(core.handle(Time::ZERO, Input::LinkUp), Some(Ask(TakeoverReason::LinkClosed)), "may be lost");
    }

    #[test]
    fn asks_after_silence_and_again_after_a_false_alarm() {
        let mut core = Secondary::new(CONFIG);
        core.handle(Time::ZERO, Input::Prepared);
        let mut asked_at = Vec::new();
        for tick in 0..40_u64 {
            let now = Time::ZERO + Span::from_ms(5 * tick);
            if core.handle(now, Input::Beat(Some(7))).is_some() {
                asked_at.push(tick);
                core.handle(now, Input::Refused(TakeoverRefusal::PrimaryBeats));
            }
        }
        assert_eq!(asked_at, [10, 20, 30]);
    }
}
