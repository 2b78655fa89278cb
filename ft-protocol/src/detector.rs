//! Failure detection by heartbeat: when does a host's silence mean that a takeover should be tried?
//!
//! Safety never rests on the answer (the seal is the fence), so the detector only balances speed against false alarms.
//! Silence is added up from the observer's own samples, and a sample that comes late counts no more than
//! [`SAMPLE_CREDIT_MAX`] intervals: an observer that was itself starved or stopped must not accuse others.
//!
//! Two limits stand side by side: the bound, at which every silence is suspected, and the degree of suspicion ([`Phi`]),
//! which learns from the times between beats and can suspect earlier, never later.

use crate::phi::{Gaps, Phi};
use crate::time::{Span, Time};

/// How many sampling intervals of silence one sample may add at most, however late it comes.
pub const SAMPLE_CREDIT_MAX: u64 = 2;

/// The first sample behind a beat that was seen comes this part of the interval before the next beat is due: observers that
/// were in time stay so, whose clock ever is the faster one.
const EARLY_PART: u64 = 64;

/// While a beat is overdue, samples come this part of the interval apart: what is seen late is suspected late.
pub(crate) const OVERDUE_PART: u64 = 12;

/// Bounds of a [`Detector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectorConfig {
    /// Observed silence after which the host is suspected.
    pub bound: Span,
    /// Intended time between two beats; between two samples it may be shorter, see [`Detector::sample_after`].
    pub interval: Span,
    /// The degree of suspicion at which a host is suspected before the bound; `None`: never.
    pub suspicion: Option<Phi>,
}

/// Watches one host's heartbeat counter.
#[derive(Clone, Debug)]
pub struct Detector {
    config: DetectorConfig,
    last: Option<Sample>,
    silence: Span,
    gaps: Gaps,
    /// All samples since the last beat came in time: the silence is the time between two beats.
    punctual: bool,
    /// For how long the last beat may have been there before a sample saw it, if beats come in their interval.
    unseen: Span,
    /// When the next beat will have come is not known: others were not seen, or not counted.
    lost: bool,
    /// The silence at which the host is suspected.
    limit: Span,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Time,
    count: Option<u64>,
}

/// What the samples so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The counter moved in time.
    Beating,
    /// The counter stood still for the bound, or for longer than is plausible.
    Silent(Span),
}

impl Detector {
    /// A detector that has seen nothing yet.
    ///
    /// # Panics
    /// If the bound is not larger than what one sample may add: one late sample could then accuse a host.
    #[must_use]
    pub fn new(config: DetectorConfig) -> Self {
        assert!(config.interval > Span::ZERO, "a detector needs a sampling interval");
        assert!(config.bound > config.interval.times(SAMPLE_CREDIT_MAX), "heartbeat bound {} too short", config.bound);
        let (gaps, limit) = (Gaps::default(), config.bound);
        let unseen = config.interval;
        Self { config, last: None, silence: Span::ZERO, gaps, punctual: false, unseen, lost: true, limit }
    }

    /// Takes a sample of the counter; `None` when the page could not be read as a heartbeat.
    pub fn sample(&mut self, now: Time, count: Option<u64>) -> Verdict {
        let passed = self.last.map_or(Span::ZERO, |last| now.since(last.at));
        let credit = passed.min(self.config.interval.times(SAMPLE_CREDIT_MAX));
        let silence = Span::from_ns(self.silence.ns().saturating_add(credit.ns()));
        let late = credit < passed;
        match self.last {
            Some(last) if count.is_none() || last.count == count => {
                self.silence = silence;
                self.punctual &= !late;
                self.lost |= count.is_none();
            }
            last => {
                if self.punctual && !late && last.is_some_and(|last| last.count.is_some()) {
                    self.learn(silence);
                }
                // It came behind the sample before, and an interval behind the beat before.
                let early =
                    (self.unseen.ns() + self.silence.ns() + passed.ns()).saturating_sub(self.config.interval.ns());
                self.unseen = if self.lost { self.config.interval } else { passed.min(Span::from_ns(early)) };
                self.lost = count.is_none();
                self.silence = Span::ZERO;
                self.punctual = true;
            }
        }
        self.last = Some(Sample { at: now, count: count.or(self.last.and_then(|last| last.count)) });
        self.verdict()
    }

    fn learn(&mut self, gap: Span) {
        self.gaps.add(gap, self.config.bound);
        let plausible = self.config.suspicion.and_then(|phi| self.gaps.silence_of(phi, self.config.bound));
        // One late sample must never be enough.
        let least = Span::from_ns(self.config.interval.times(SAMPLE_CREDIT_MAX).ns() + 1);
        self.limit = plausible.map_or(self.config.bound, |limit| limit.clamp(least, self.config.bound));
    }

    /// What the samples so far say.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.silence >= self.limit { Verdict::Silent(self.silence) } else { Verdict::Beating }
    }

    /// When the next sample should be taken, from the last one on. One for each beat, soon behind it, as long as they come:
    /// each costs an idle machine a wake. More of them while one is overdue, until the silence is suspected, and until one is
    /// seen as it comes: a beat that was seen late lets its host seem to live for longer.
    #[must_use]
    pub fn sample_after(&self) -> Span {
        let interval = self.config.interval.ns();
        if self.verdict() != Verdict::Beating {
            return self.config.interval;
        }
        let fine = interval / OVERDUE_PART;
        // A fine step, and some time in which this observer may have been late.
        let unseen = if self.lost { interval } else { self.unseen.ns() };
        let seen_late = if unseen > fine + fine / 2 { unseen } else { 0 };
        let due = interval - interval / EARLY_PART;
        Span::from_ns(due.saturating_sub(seen_late + self.silence.ns()).max(fine))
    }

    /// The degree of suspicion of the present silence, once the beats are known well enough.
    #[must_use]
    pub fn phi(&self) -> Option<Phi> {
        self.gaps.phi_of(self.silence, self.config.bound)
    }

    /// How unevenly the beats come, once they are known well enough.
    #[must_use]
    pub fn jitter(&self) -> Option<Span> {
        self.gaps.jitter(self.config.bound)
    }

    /// Whether the counter was seen to move within half of what is suspected: good evidence of life.
    #[must_use]
    pub fn is_lively(&self) -> bool {
        self.last.is_some_and(|last| last.count.is_some()) && self.silence.times(2) < self.limit
    }

    /// Whether the last sample saw the counter move.
    #[must_use]
    pub fn has_just_beaten(&self) -> bool {
        self.silence == Span::ZERO
    }

    /// Whether the silence is what is suspected for somebody who saw the last beat up to an interval earlier.
    #[must_use]
    pub fn is_nearly_suspected(&self) -> bool {
        self.silence.ns().saturating_add(self.config.interval.ns()) >= self.limit.ns()
    }

    /// Forgets all silence, as after a suspicion that proved false.
    pub fn forgive(&mut self) {
        self.silence = Span::ZERO;
        (self.punctual, self.lost) = (false, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: DetectorConfig =
        DetectorConfig { bound: Span::from_ms(50), interval: Span::from_ms(5), suspicion: None };
    const SUSPICIOUS: DetectorConfig = DetectorConfig { suspicion: Some(Phi::from_thousandths(8_000)), ..CONFIG };

    /// Beats at these times (ms), sampled each 5 ms on time; says when silence was told first, up to `until`.
    fn first_alarm(config: DetectorConfig, beats: &[u64], until: u64) -> Option<u64> {
        let mut detector = Detector::new(config);
        (0..=until).step_by(5).find(|now| {
            let count = beats.iter().filter(|beat| **beat <= *now).count() as u64;
            detector.sample(at(*now), Some(count)) != Verdict::Beating
        })
    }

    fn at(ms: u64) -> Time {
        Time::from_ns(ms * 1_000_000)
    }

    #[test]
    fn silence_of_the_bound_is_suspected() {
        let mut detector = Detector::new(CONFIG);
        for tick in 0..=9 {
            assert_eq!(detector.sample(at(tick * 5), Some(1)), Verdict::Beating);
        }
        assert_eq!(detector.sample(at(50), Some(1)), Verdict::Silent(Span::from_ms(50)));
        assert_eq!(detector.sample(at(55), Some(2)), Verdict::Beating);
    }

    #[test]
    fn a_starved_observer_does_not_accuse() {
        let mut detector = Detector::new(CONFIG);
        detector.sample(at(0), Some(1));
        assert_eq!(detector.sample(at(10_000), Some(1)), Verdict::Beating);
        assert!(detector.is_lively());
    }

    #[test]
    fn an_unreadable_page_is_silence() {
        let mut detector = Detector::new(CONFIG);
        detector.sample(at(0), Some(1));
        for tick in 1..=9 {
            assert_eq!(detector.sample(at(tick * 5), None), Verdict::Beating);
        }
        assert!(matches!(detector.sample(at(50), None), Verdict::Silent(_)));
        assert!(!detector.is_lively());
    }

    #[test]
    fn even_beats_make_a_hang_known_long_before_the_bound() {
        let beats: Vec<u64> = (0..100).map(|beat| beat * 5).collect();
        assert_eq!(first_alarm(CONFIG, &beats, 1_000), Some(545));
        // Mean 5 ms, deviation at its floor of 3.1 ms: phi 8 is 5.6 deviations.
        assert_eq!(first_alarm(SUSPICIOUS, &beats, 1_000), Some(520));
    }

    #[test]
    fn uneven_beats_raise_no_alarm_that_even_ones_would() {
        let mut beats = Vec::new();
        let mut now = 0;
        for beat in 0..400 {
            now += if beat % 8 == 7 { 25 } else { 5 };
            beats.push(now);
        }
        assert_eq!(first_alarm(SUSPICIOUS, &beats, now), None);
        let alarm = first_alarm(SUSPICIOUS, &beats, now + 1_000).expect("the end of all beats is noticed");
        assert!(alarm - now > 25 && alarm - now <= 50, "the bound is the latest: {}", alarm - now);
    }

    /// Samples as [`Detector::sample_after`] asks for them, of a host that is to beat each `interval` us, and beats each `beat` us
    /// until it hangs at `hang` us: how many there were until then, and when its silence was suspected.
    fn sampled(interval: u64, beat: u64, hang: u64) -> (u64, u64) {
        let config = DetectorConfig { bound: Span::from_ms(100), interval: Span::from_us(interval), suspicion: None };
        let mut detector = Detector::new(config);
        // The first one anywhere between two beats.
        let (mut now, mut samples) = (Time::from_ns(7_300_000), 0);
        loop {
            let beats = now.ns().min(hang * 1_000) / (beat * 1_000);
            if detector.sample(now, Some(beats)) != Verdict::Beating {
                return (samples, now.ns() / 1_000);
            }
            samples += u64::from(now.ns() <= hang * 1_000);
            now = now + detector.sample_after();
        }
    }

    /// Whose clock is the faster one, and how late the beats come, does not matter.
    #[test]
    fn a_beat_costs_little_more_than_a_sample_and_is_seen_soon() {
        for interval in [25_000, 33_333] {
            for beat in [992, 1_000, 1_002, 1_016].map(|thousandths| interval * thousandths / 1_000) {
                // At once behind a beat: one of the first ones, too.
                for beats in 1..40 {
                    let silent = sampled(interval, beat, beat * beats).1 - beat * beats;
                    assert!((100_000..=105_500).contains(&silent), "{silent} us after beat {beats}, {beat} us apart");
                }
                let (samples, suspected) = sampled(interval, beat, beat * 400);
                // A dozen until the first one is seen as it comes.
                assert!((400..572).contains(&samples), "{samples} samples of 400 beats {beat} us apart");
                let silent = suspected - beat * 400;
                assert!((100_000..=105_500).contains(&silent), "{silent} us after the last of beats {beat} us apart");
            }
        }
    }

    /// Behind a false alarm, and behind a page that could not be read, nobody knows where between two samples beats come.
    #[test]
    fn a_hang_behind_what_was_missed_is_found_within_the_bound() {
        let config = DetectorConfig { bound: Span::from_ms(100), interval: Span::from_us(33_333), suspicion: None };
        let count_at = |now: Time| now.ns() / 33_333_000;
        for blind in [false, true] {
            for beats in 24..60 {
                let mut detector = Detector::new(config);
                let (mut now, hang) = (Time::ZERO, Time::from_ns(33_333_000 * beats));
                let mut missed = false;
                let silent_at = loop {
                    // From 640 to 745 ms: nothing is read, or the host is late.
                    let away = (640..745).contains(&(now.ns() / 1_000_000));
                    let count = count_at(now.min(hang));
                    let count = if away { (!blind).then_some(19) } else { Some(count) };
                    let suspected = detector.sample(now, count) != Verdict::Beating;
                    if suspected && now > hang {
                        break now;
                    }
                    if suspected && !missed {
                        missed = true;
                        detector.forgive();
                    }
                    now = now + detector.sample_after();
                };
                let silent = silent_at.since(hang).ns() / 1_000;
                assert!((90_000..=106_000).contains(&silent), "{silent} us after beat {beats}, blind: {blind}");
            }
        }
    }

    #[test]
    fn a_suspected_host_is_not_looked_at_more_often_than_a_beating_one() {
        let mut detector = Detector::new(CONFIG);
        let mut now = Time::ZERO;
        while detector.sample(now, Some(1)) == Verdict::Beating {
            assert!(detector.sample_after() <= CONFIG.interval);
            now = now + detector.sample_after();
        }
        assert_eq!(detector.sample_after(), CONFIG.interval);
    }

    #[test]
    fn a_starved_observer_learns_nothing() {
        let mut detector = Detector::new(SUSPICIOUS);
        for beat in 0..200 {
            detector.sample(at(beat * 40), Some(beat));
        }
        assert_eq!((detector.phi(), detector.jitter()), (None, None));
        assert!(detector.is_lively());
    }
}
