//! Makes sense of a run's events: takeovers step by step, how long protection was lost, blackouts.

mod faults;
mod takeover;
#[cfg(test)]
mod tests;

pub use takeover::{Fault, Takeover};

use crate::cluster::{ChildExit, HostName, HostSignal};
use crate::event::{Event, What};
use faults::Faults;
use ft_protocol::timeline::Happening;
use ft_protocol::{Epoch, Generation, HostId, Span, Time};
use std::collections::BTreeMap;

/// Exit code of a host that found itself deposed.
pub const FENCED_EXIT_CODE: i32 = 83;

/// A time without a secondary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectionLoss {
    /// When the fault was done that caused it, or else when the controller knew of it.
    pub since: Time,
    /// When a standby was ready again, if ever.
    pub until: Option<Time>,
}

/// All that is known of a run so far. Feed it every event, in order.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    hosts: BTreeMap<HostId, HostName>,
    /// Who reigned.
    primaries: BTreeMap<Generation, HostName>,
    /// Since when.
    reigns: BTreeMap<Generation, Time>,
    secondary: Option<HostName>,
    takeovers: Vec<Takeover>,
    losses: Vec<ProtectionLoss>,
    faults: Faults,
    console_tail: u64,
    /// When there was console output last.
    last_heard: Option<Time>,
    protected_since: Option<Time>,
    first_live: Option<Time>,
    first_protected: Option<Time>,
    stranded_at: Option<Epoch>,
    ended_at: Option<Time>,
    fenced: u64,
    last_epoch: Epoch,
    /// Where each generation ran.
    ran: BTreeMap<Generation, HostName>,
    /// The last generation that was sealed, and where it ended.
    ended: Option<(Generation, Epoch)>,
    /// What must never be, if it was.
    wrong: Option<(Time, String)>,
}

impl Timeline {
    /// Takes the next event.
    pub fn take(&mut self, event: &Event) {
        let at = event.at;
        match &event.what {
            What::Happened(happening) => self.happened(at, happening),
            What::Signalled { host, signal } => self.signalled(at, host, *signal),
            What::FaultBegan { fault, target } => {
                let fault = Fault { at, host: HostName::new(target), what: fault.clone() };
                self.faults.began(fault, self.last_heard);
            }
            What::FaultEnded { fault, target } => {
                self.faults.over(at, &HostName::new(target), |what| what.starts_with(fault.as_str()));
            }
            What::FailpointReached { process, failpoint } => {
                let what = format!("stand still at {failpoint}");
                self.faults.stopped(Fault { at, host: process.clone(), what }, self.last_heard);
            }
            What::HostExited { host, exit, .. } => {
                self.faults.over(at, host, |_| true);
                self.fenced += u64::from(*exit == ChildExit::Code(FENCED_EXIT_CODE));
            }
            What::ConsoleMoved { tail, .. } => self.console_moved(at, *tail),
            What::GuestEnded { console_end, .. } => {
                self.ended_at.get_or_insert(at);
                self.console_moved(at, *console_end);
            }
            What::ControllerRevived { .. }
            | What::ControllerGone
            | What::ControllerBack
            | What::HostStarted { .. }
            | What::OrderAnswered { .. }
            | What::OrderLost { .. }
            | What::WorkloadStarted { .. }
            | What::WorkloadEnded { .. }
            | What::WorkloadTold { .. }
            | What::Sampled { .. }
            | What::StepFired { .. } => {}
        }
    }

    fn signalled(&mut self, at: Time, host: &HostName, signal: HostSignal) {
        let fault = Fault { at, host: host.clone(), what: signal.to_string() };
        match signal {
            HostSignal::Kill => self.faults.killed(fault, self.last_heard),
            HostSignal::Stop => self.faults.stopped(fault, self.last_heard),
            HostSignal::Cont => self.faults.continued(at, host),
        }
    }

    fn happened(&mut self, at: Time, happening: &Happening) {
        match happening {
            Happening::HostJoined { host, name } => {
                self.hosts.insert(*host, HostName::new(name));
            }
            Happening::PrimaryGone { generation, reason, .. } => {
                let takeover = self.takeover_of(*generation, at);
                takeover.detected.get_or_insert((at, *reason));
                let since = takeover.hampered.map_or(at, |hampered| hampered.standing_since());
                self.protection_lost(since);
            }
            Happening::Sealed { generation, final_epoch, .. } => {
                self.check_end(at, *generation, *final_epoch);
                self.takeover_of(*generation, at).sealed.get_or_insert((at, *final_epoch));
                self.last_epoch = self.last_epoch.max(*final_epoch);
                self.protection_lost(at);
            }
            Happening::RecordRefused { generation, epoch, .. } => {
                // Sealed with it or not, the generation ends before it.
                let before = Epoch::new(epoch.get().saturating_sub(1));
                if let Some((_, end)) = self.ended.as_mut().filter(|(ended, _)| ended == generation) {
                    *end = before.min(*end);
                }
            }
            Happening::Drained { applied, .. } => {
                let tail = self.console_tail;
                if let Some(takeover) = self.takeovers.last_mut() {
                    takeover.drained.get_or_insert(at);
                    takeover.console_at_drain.get_or_insert(tail);
                }
                self.last_epoch = self.last_epoch.max(*applied);
            }
            Happening::Promoted { generation, host, .. } => {
                let host = self.host_name(*host);
                self.primaries.insert(*generation, host.clone());
                self.reigns.entry(*generation).or_insert(at);
                self.stranded_at = None;
                if self.secondary.as_ref() == Some(&host) {
                    self.secondary = None;
                }
                if let Some(takeover) = self.takeover_to(*generation, at) {
                    takeover.promoted.get_or_insert((at, host));
                }
            }
            Happening::Live { generation, report, host, .. } => {
                self.first_live.get_or_insert(report.live_at);
                let host = self.host_name(*host);
                self.check_reign(at, *generation, &host);
                self.primaries.insert(*generation, host.clone());
                self.reigns.entry(*generation).or_insert(report.live_at);
                if let Some(takeover) = self.takeover_to(*generation, at) {
                    takeover.live.get_or_insert((report.live_at, host));
                }
                // Told late, maybe: by a controller that had to come back first.
                if let Some(next) = self.takeovers.iter_mut().find(|takeover| takeover.ends == *generation) {
                    next.stood_since = None;
                }
            }
            Happening::Protected { host, .. } => self.protected(at, *host),
            Happening::Unprotected { host, .. } => {
                let host = self.host_name(*host);
                self.secondary = None;
                let cause = self.faults.cause(&host, self.protected_since, at);
                let since = cause.map_or(at, |cause| cause.standing_since);
                self.protection_lost(since);
            }
            Happening::Yielded { generation, .. } => {
                let takeover = self.takeover_of(*generation, at);
                takeover.planned = true;
                takeover.yielded.get_or_insert(at);
            }
            Happening::SwitchedOver { generation, blackout, .. } => {
                if let Some(takeover) = self.takeover_to(*generation, at) {
                    takeover.stood.get_or_insert(*blackout);
                }
            }
            Happening::Stranded { recoverable, .. } => {
                self.stranded_at = Some(*recoverable);
                self.last_epoch = self.last_epoch.max(*recoverable);
            }
            _ => {}
        }
    }

    /// A generation runs on one host only (I2), and none behind a later one (I3).
    fn check_reign(&mut self, at: Time, generation: Generation, host: &HostName) {
        let last = self.ran.last_key_value().map(|(last, _)| *last).filter(|last| *last > generation);
        let other = self.ran.get(&generation).filter(|other| *other != host);
        let number = generation.get();
        let wrong = match (last, other) {
            (_, Some(other)) => Some(format!("generation {number} ran on host {other} and on host {host}")),
            (Some(last), None) => Some(format!("generation {number} began to run behind generation {}", last.get())),
            (None, None) => None,
        };
        self.note_wrong(at, wrong);
        self.ran.insert(generation, host.clone());
    }

    /// No generation ends before the one that it went on from (I3).
    fn check_end(&mut self, at: Time, generation: Generation, epoch: Epoch) {
        let earlier = self.ended.filter(|(ended, _)| *ended < generation);
        let back = earlier.filter(|(_, end)| epoch < *end);
        let wrong = back.map(|(ended, end)| {
            let (ended, end) = (ended.get(), end.get());
            format!(
                "generation {} ends at epoch {}, generation {ended} before it at {end}",
                generation.get(),
                epoch.get()
            )
        });
        self.note_wrong(at, wrong);
        self.ended = Some((generation, epoch));
    }

    fn note_wrong(&mut self, at: Time, wrong: Option<String>) {
        if let Some(wrong) = wrong {
            self.wrong.get_or_insert((at, wrong));
        }
    }

    fn protected(&mut self, at: Time, host: HostId) {
        let host = self.host_name(host);
        self.secondary = Some(host.clone());
        self.protected_since = Some(at);
        self.first_protected.get_or_insert(at);
        if let Some(loss) = self.losses.last_mut() {
            loss.until.get_or_insert(at);
        }
        if let Some(takeover) = self.takeovers.last_mut()
            && takeover.live.is_some()
        {
            takeover.protected.get_or_insert((at, host));
        }
    }

    fn protection_lost(&mut self, since: Time) {
        if self.protected_since.take().is_some() {
            self.losses.push(ProtectionLoss { since, until: None });
        }
    }

    fn console_moved(&mut self, at: Time, tail: u64) {
        if tail > self.console_tail {
            self.last_heard = Some(at);
        }
        self.console_tail = self.console_tail.max(tail);
        // Bytes beyond what was drained can only be those of successors.
        let is_heard = |takeover: &Takeover| takeover.console_at_drain.is_some_and(|drained| tail > drained);
        let drained = self.takeovers.iter().rposition(|takeover| takeover.console_at_drain.is_some());
        let Some(speaker) = drained.filter(|last| is_heard(&self.takeovers[*last])) else { return };
        // Where a later one runs, and its beginnings are unknown, they may be that one's.
        if self.takeovers[speaker + 1..].iter().all(|later| later.live.is_none()) {
            self.takeovers[speaker].console.get_or_insert(at);
        }
        // Whoever was heard of before ended the silence of all before.
        let silent = self.takeovers[..=speaker].iter_mut().rev().take_while(|one| one.console_again.is_none());
        silent.for_each(|takeover| takeover.console_again = Some(at));
    }

    /// A workload had an answer from this VM to what it had asked then. What clients saw is known at the end, all at once and in any order: it is
    /// told behind everything else.
    pub fn answered(&mut self, asked: Option<Time>, at: Time) {
        self.takeovers.iter_mut().for_each(|takeover| takeover.heard_before(at));
        let ran = |takeover: &Takeover| takeover.live.as_ref().is_some_and(|(live, _)| *live <= at);
        let Some(last) = self.takeovers.iter().rposition(ran) else { return };
        for (index, takeover) in self.takeovers[..=last].iter_mut().enumerate() {
            takeover.heard(asked, at, index < last);
        }
    }

    /// The takeover that ends this generation, and of which something is known `at` the latest.
    fn takeover_of(&mut self, ends: Generation, at: Time) -> &mut Takeover {
        let known = self.takeovers.iter().rposition(|takeover| takeover.ends == ends);
        let index = known.unwrap_or_else(|| {
            let primary = self.primaries.get(&ends).cloned();
            let since = self.reigns.get(&ends).copied();
            let cause = primary.as_ref().and_then(|primary| self.faults.cause(primary, since, at));
            let last = self.takeovers.last().filter(|last| last.ends < ends && !last.ran());
            let stood_since = last.and_then(Takeover::start);
            let mut takeover = Takeover { stood_since, ..Takeover::new(ends, primary, cause) };
            if let Some(heard) = self.last_heard {
                takeover.heard_before(heard);
            }
            self.takeovers.push(takeover);
            self.takeovers.len() - 1
        });
        &mut self.takeovers[index]
    }

    /// The takeover that this generation began with. Its beginnings may be unknown: a controller that died has not told
    /// them. The first generation began with none.
    fn takeover_to(&mut self, begins: Generation, at: Time) -> Option<&mut Takeover> {
        let ended = Generation::new(begins.get().checked_sub(1).filter(|ended| *ended > 0)?);
        Some(self.takeover_of(ended, at))
    }

    /// The name of a host that the controller gave a number.
    #[must_use]
    pub fn host_name(&self, host: HostId) -> HostName {
        self.hosts.get(&host).cloned().unwrap_or_else(|| HostName::new(&host.to_string()))
    }

    /// All takeovers, in order; the last one may be under way.
    #[must_use]
    pub fn takeovers(&self) -> &[Takeover] {
        &self.takeovers
    }

    /// Unplanned takeovers whose successor ran.
    #[must_use]
    pub fn takeovers_done(&self) -> u64 {
        self.takeovers.iter().filter(|takeover| !takeover.planned && takeover.live.is_some()).count() as u64
    }

    /// Switchovers whose successor ran.
    #[must_use]
    pub fn switchovers_done(&self) -> u64 {
        self.takeovers.iter().filter(|takeover| takeover.planned && takeover.live.is_some()).count() as u64
    }

    /// When the VM first had a secondary.
    #[must_use]
    pub fn first_protected(&self) -> Option<Time> {
        self.first_protected
    }

    /// All times without a secondary after the first one.
    #[must_use]
    pub fn losses(&self) -> &[ProtectionLoss] {
        &self.losses
    }

    /// The longest blackout that can be told: from a fault to the first console byte or answer to a workload of a successor, or, where
    /// none ever had anything to say, until its guest ran; in a switchover, as long as the guest stood still.
    #[must_use]
    pub fn blackout_max(&self) -> Option<Span> {
        self.longest_blackout().map(|(_, length)| length)
    }

    /// The takeover with the longest blackout, and that one's length.
    #[must_use]
    pub fn longest_blackout(&self) -> Option<(&Takeover, Span)> {
        let until_live = |takeover: &Takeover| if takeover.planned { takeover.stood } else { takeover.until_live() };
        let blackout = |takeover: &Takeover| takeover.blackout().or_else(|| until_live(takeover));
        let told = self.takeovers.iter().filter_map(|takeover| Some((takeover, blackout(takeover)?)));
        told.max_by_key(|(_, length)| *length)
    }

    /// Hosts that ended because they found themselves deposed.
    #[must_use]
    pub fn fenced(&self) -> u64 {
        self.fenced
    }

    /// The generations that ran.
    #[must_use]
    pub fn generations_run(&self) -> usize {
        self.ran.len()
    }

    /// What must never be, and when it was first.
    #[must_use]
    pub fn wrong(&self) -> Option<(Time, &str)> {
        self.wrong.as_ref().map(|(at, wrong)| (*at, wrong.as_str()))
    }

    /// When the guest ran for the first time.
    #[must_use]
    pub fn first_live(&self) -> Option<Time> {
        self.first_live
    }

    /// When the guest's life was over.
    #[must_use]
    pub fn ended_at(&self) -> Option<Time> {
        self.ended_at
    }

    /// Whether a standby is ready.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        self.protected_since.is_some()
    }

    /// The host that was last told to run the guest.
    #[must_use]
    pub fn primary(&self) -> Option<&HostName> {
        self.primaries.last_key_value().map(|(_, host)| host)
    }

    /// The generation that reigns, as far as is known.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.primaries.last_key_value().map(|(generation, _)| *generation)
    }

    /// The host that stands ready.
    #[must_use]
    pub fn secondary(&self) -> Option<&HostName> {
        self.secondary.as_ref()
    }

    /// The epoch that the VM can be resumed from, when no host runs it.
    #[must_use]
    pub fn stranded_at(&self) -> Option<Epoch> {
        self.stranded_at
    }

    /// Bytes of console so far.
    #[must_use]
    pub fn console_tail(&self) -> u64 {
        self.console_tail
    }

    /// The youngest epoch that was mentioned.
    #[must_use]
    pub fn last_epoch(&self) -> Epoch {
        self.last_epoch
    }
}
