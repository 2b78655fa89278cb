//! The demo's timeline, line by line, as things happen.

use crate::cluster::HostName;
use crate::event::{Event, What};
use crate::timeline::Timeline;
use crate::units::show_span;
use ft_protocol::timeline::Happening;
use ft_protocol::{Generation, Time};

/// Turns events into lines. Times stand behind a kill as milliseconds after it.
#[derive(Debug)]
pub(super) struct Narration {
    start: Time,
    /// The last kill.
    since: Time,
    /// Takeovers whose first console byte was told.
    told_blackouts: usize,
    /// Generations whose end was told.
    told_gone: Option<Generation>,
}

impl Narration {
    pub(super) fn new(start: Time) -> Self {
        Self { start, since: start, told_blackouts: 0, told_gone: None }
    }

    /// A kill is about to be done.
    pub(super) fn kill(&mut self, at: Time, number: usize, of: usize, host: &HostName, role: &str) -> String {
        self.since = at;
        format!("{:>9}  kill {number} of {of}: SIGKILL to host {host}, the {role}\n", show_span(at.since(self.start)))
    }

    /// Lines about these events; the timeline has them already.
    pub(super) fn tell(&mut self, events: &[Event], timeline: &Timeline) -> String {
        let mut text = String::new();
        for event in events {
            if let Some(line) = self.line(event, timeline) {
                text.push_str(&self.beside(event.at, &line));
            }
        }
        while let Some(takeover) = timeline.takeovers().get(self.told_blackouts) {
            let Some(console) = takeover.console else { break };
            self.told_blackouts += 1;
            let blackout = takeover.blackout().map(show_span).unwrap_or_default();
            text.push_str(&self.beside(console, &format!("first new console byte: blackout {blackout}")));
        }
        text
    }

    fn beside(&self, at: Time, line: &str) -> String {
        format!("{:>9}  {:>10}  {line}\n", "", format!("+{}", show_span(at.since(self.since))))
    }

    fn line(&mut self, event: &Event, timeline: &Timeline) -> Option<String> {
        let What::Happened(happening) = &event.what else { return None };
        let name = |host| timeline.host_name(host);
        Some(match happening {
            Happening::PrimaryGone { generation, reason, .. } if self.told_gone != Some(*generation) => {
                self.told_gone = Some(*generation);
                format!("detected: {reason}")
            }
            Happening::Sealed { generation, final_epoch, .. } => {
                format!("sealed: generation {} ends with epoch {}", generation.get(), final_epoch.get())
            }
            Happening::Live { generation, host, .. } if *generation > Generation::FIRST => {
                format!("live on {} as generation {}", name(*host), generation.get())
            }
            Happening::Live { host, .. } => format!("guest started on {}", name(*host)),
            Happening::Unprotected { host, .. } => format!("secondary {} is gone, the guest runs on", name(*host)),
            Happening::Protected { host, .. } => format!("protected: {} stands by", name(*host)),
            Happening::Stranded { recoverable, .. } => {
                format!("no host is there; epoch {} waits in the pool", recoverable.get())
            }
            Happening::Fenced { host, .. } => format!("{} found itself deposed", name(*host)),
            Happening::GaveUp { host, reason, .. } => format!("{} gave up: {reason}", name(*host)),
            _ => return None,
        })
    }
}
