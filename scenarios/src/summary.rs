//! A run in numbers, for programs.

use crate::protected::Outcome;
use crate::timeline::{Takeover, Timeline};
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::{Span, Time};
use serde::{Deserialize, Serialize};

/// A run in numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// `exited`, `crashed`, `lost`, `deleted` or `interrupted`.
    pub end: String,
    /// The guest's exit code.
    pub guest_exit_code: Option<u32>,
    /// How the guest crashed.
    pub crash: Option<String>,
    /// From the start of the run to its end.
    pub duration_ms: f64,
    /// Console bytes.
    pub console_bytes: u64,
    /// Epochs that were committed, as far as was told.
    pub epochs: u64,
    /// Takeovers after which the guest ran.
    pub takeovers: u64,
    /// The longest time from a fault to the successor's first output: see `blackout-max`.
    pub blackout_max_ms: Option<f64>,
    /// Hosts that found themselves deposed.
    pub fenced: u64,
    /// The epoch that the pool holds when no host is left.
    pub recoverable_epoch: Option<u64>,
    /// Every takeover, step by step.
    pub takeover_steps: Vec<TakeoverSteps>,
}

/// A takeover; all times in milliseconds after its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TakeoverSteps {
    /// The generation that it ended.
    pub ends_generation: u64,
    /// Who reigned it.
    pub from: Option<String>,
    /// Who reigns now.
    pub to: Option<String>,
    /// Whether the start is a known fault (else it is its detection).
    pub fault_known: bool,
    /// When it started, in milliseconds after the start of the run.
    pub start_ms: Option<f64>,
    /// How it was detected.
    pub reason: Option<String>,
    /// The controller knew.
    pub detected_ms: Option<f64>,
    /// The old generation was sealed.
    pub sealed_ms: Option<f64>,
    /// Everything committed was applied.
    pub drained_ms: Option<f64>,
    /// The successor's guest ran.
    pub live_ms: Option<f64>,
    /// Its first console byte was seen outside.
    pub console_ms: Option<f64>,
    /// A workload had its first answer behind that.
    #[serde(default)]
    pub answered_ms: Option<f64>,
    /// A new standby was ready.
    pub protected_ms: Option<f64>,
}

impl Summary {
    /// Of a run that started then and is over, or was left (`None`), now.
    #[must_use]
    pub fn new(timeline: &Timeline, outcome: Option<&Outcome>, start: Time, now: Time, epochs: u64) -> Self {
        let (end, guest_exit_code, crash) = match outcome {
            Some(Outcome::Ended(GuestEnd::Exited(code))) => ("exited", Some(*code), None),
            Some(Outcome::Ended(GuestEnd::Crashed(line))) => ("crashed", None, Some(line.clone())),
            Some(Outcome::Lost { .. }) => ("lost", None, None),
            Some(Outcome::Deleted) => ("deleted", None, None),
            None => ("interrupted", None, None),
        };
        let recoverable = match outcome {
            Some(Outcome::Lost { recoverable }) => recoverable.map(ft_protocol::Epoch::get),
            _ => None,
        };
        Self {
            end: end.to_owned(),
            guest_exit_code,
            crash,
            duration_ms: ms(now.since(start)),
            console_bytes: timeline.console_tail(),
            epochs: epochs.max(timeline.last_epoch().get()),
            takeovers: timeline.takeovers_done(),
            blackout_max_ms: timeline.blackout_max().map(ms),
            fenced: timeline.fenced(),
            recoverable_epoch: recoverable,
            takeover_steps: timeline.takeovers().iter().map(|takeover| steps(takeover, start)).collect(),
        }
    }
}

fn steps(takeover: &Takeover, run_start: Time) -> TakeoverSteps {
    let start = takeover.start();
    let after = |at: Option<Time>| Some(ms(at?.since(start?)));
    TakeoverSteps {
        ends_generation: takeover.ends.get(),
        from: takeover.old_primary.as_ref().map(ToString::to_string),
        to: takeover.live.as_ref().map(|(_, host)| host.to_string()),
        fault_known: takeover.cause().is_some(),
        start_ms: start.map(|start| ms(start.since(run_start))),
        reason: takeover.detected.map(|(_, reason)| reason.to_string()),
        detected_ms: after(takeover.detected.map(|(at, _)| at)),
        sealed_ms: after(takeover.sealed.map(|(at, _)| at)),
        drained_ms: after(takeover.drained),
        live_ms: after(takeover.live.as_ref().map(|(at, _)| *at)),
        console_ms: after(takeover.console),
        answered_ms: after(takeover.answered),
        protected_ms: after(takeover.protected.as_ref().map(|(at, _)| *at)),
    }
}

/// Milliseconds with microseconds behind the point.
#[must_use]
pub fn ms(span: Span) -> f64 {
    let us = u32::try_from(span.ns() / 1_000).unwrap_or(u32::MAX);
    f64::from(us) / 1_000.0
}
