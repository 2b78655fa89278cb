//! What is wrong with processes for a while. Faults of one kind at one process may overlap: it is over when the last of them is.

use crate::cluster::HostName;
use crate::language::{CutFrom, WaysPart};
use ft_protocol::Time;
use std::collections::BTreeMap;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hamper {
    /// It stands still.
    Stop,
    /// It runs so many percent of the time.
    Slow(u32),
    /// What it stores does not reach the pool.
    CutFromPool,
    /// What the controller says does not reach it.
    CutToHost,
    /// What it says does not reach the controller.
    CutFromHost,
    /// The pool has no space.
    Full,
}

impl Hamper {
    const CUTS: [Self; 3] = [Self::CutFromPool, Self::CutToHost, Self::CutFromHost];

    /// Those of a cut.
    pub(crate) fn of_cut(from: CutFrom, ways: WaysPart) -> impl Iterator<Item = Self> {
        let is_meant = move |hamper: &Self| match hamper {
            Self::CutFromPool => from.pool(),
            Self::CutToHost => from.network() && ways != WaysPart::FromHost,
            _ => from.network() && ways != WaysPart::ToHost,
        };
        Self::CUTS.into_iter().filter(is_meant)
    }
}

/// All that is wrong, with when it is over; `None`: when a step says so.
#[derive(Debug, Default)]
pub(crate) struct Hampers(BTreeMap<(HostName, Hamper), Option<Time>>);

impl Hampers {
    /// It begins, or is longer now.
    pub(crate) fn begin(&mut self, process: &HostName, hamper: Hamper, until: Option<Time>) {
        let end = self.0.entry((process.clone(), hamper)).or_insert(until);
        *end = end.zip(until).map(|(one, other)| one.max(other));
    }

    /// It ends before its time; says whether it was there.
    pub(crate) fn end(&mut self, process: &HostName, hamper: Hamper) -> bool {
        self.0.remove(&(process.clone(), hamper)).is_some()
    }

    /// All cuts of a host end before their time; says whether there was one.
    pub(crate) fn end_cuts(&mut self, host: &HostName) -> bool {
        Hamper::CUTS.into_iter().filter(|cut| self.end(host, *cut)).count() > 0
    }

    /// All slowness of a process ends before its time; says whether there was any.
    pub(crate) fn end_slow(&mut self, process: &HostName) -> bool {
        let before = self.0.len();
        self.0.retain(|(name, hamper), _| name != process || !matches!(hamper, Hamper::Slow(_)));
        self.0.len() < before
    }

    /// A process has ended: with it what was wrong with just that process.
    pub(crate) fn died(&mut self, process: &HostName) {
        self.end(process, Hamper::Stop);
        self.end_slow(process);
    }

    /// The next one that is over by now; it is forgotten.
    pub(crate) fn next_over(&mut self, now: Time) -> Option<(HostName, Hamper)> {
        let over = self.0.iter().filter(|(_, end)| end.is_some_and(|end| end <= now));
        let (key, _) = over.min_by_key(|(_, end)| **end)?;
        let key = key.clone();
        self.0.remove(&key);
        Some(key)
    }

    /// When the next one is over.
    pub(crate) fn next_end(&self) -> Option<Time> {
        self.0.values().flatten().copied().min()
    }

    /// Whether it is there.
    pub(crate) fn has(&self, process: &HostName, hamper: Hamper) -> bool {
        self.0.contains_key(&(process.clone(), hamper))
    }

    /// Whether it is there, and not over by now.
    pub(crate) fn lasts(&self, process: &HostName, hamper: Hamper, now: Time) -> bool {
        self.0.get(&(process.clone(), hamper)).is_some_and(|end| end.is_none_or(|end| end > now))
    }

    /// So many percent of the time a process runs that is slow: of several the least.
    pub(crate) fn slowest(&self, process: &HostName) -> Option<u32> {
        let percents = self.0.keys().filter_map(|(name, hamper)| match hamper {
            Hamper::Slow(percent) if name == process => Some(*percent),
            _ => None,
        });
        percents.min()
    }

    /// Whether a process is slow, and not only until now.
    pub(crate) fn slow_lasts(&self, process: &HostName, now: Time) -> bool {
        let lasts = |end: &Option<Time>| end.is_none_or(|end| end > now);
        self.0.iter().any(|((name, hamper), end)| name == process && matches!(hamper, Hamper::Slow(_)) && lasts(end))
    }

    /// Whether the host is cut from anything.
    pub(crate) fn is_cut(&self, host: &HostName) -> bool {
        Hamper::CUTS.into_iter().any(|cut| self.has(host, cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Time {
        Time::from_ns(ms * 1_000_000)
    }

    #[test]
    fn of_faults_that_overlap_the_last_one_ends_it() {
        let (a, b) = (HostName::new("a"), HostName::new("b"));
        let mut hampers = Hampers::default();
        hampers.begin(&a, Hamper::Stop, Some(ms(300)));
        hampers.begin(&a, Hamper::Stop, Some(ms(1_200)));
        hampers.begin(&a, Hamper::Stop, Some(ms(500)));
        hampers.begin(&a, Hamper::Slow(50), Some(ms(400)));
        hampers.begin(&b, Hamper::Stop, Some(ms(350)));
        assert_eq!(hampers.next_end(), Some(ms(350)));
        assert_eq!(hampers.next_over(ms(1_199)), Some((b, Hamper::Stop)));
        assert_eq!(hampers.next_over(ms(1_199)), Some((a.clone(), Hamper::Slow(50))));
        assert_eq!(hampers.next_over(ms(1_199)), None);
        assert!(hampers.lasts(&a, Hamper::Stop, ms(1_199)) && !hampers.lasts(&a, Hamper::Stop, ms(1_200)));
        assert_eq!(hampers.next_over(ms(1_200)), Some((a, Hamper::Stop)));
        assert_eq!(hampers.next_end(), None);
    }

    #[test]
    fn who_is_slow_for_two_reasons_is_as_slow_as_the_worse_one_as_long_as_that_lasts() {
        let (a, b) = (HostName::new("a"), HostName::new("b"));
        let mut hampers = Hampers::default();
        hampers.begin(&a, Hamper::Slow(10), Some(ms(10_000)));
        hampers.begin(&a, Hamper::Slow(50), Some(ms(2_000)));
        hampers.begin(&a, Hamper::Stop, Some(ms(20_000)));
        assert_eq!((hampers.slowest(&a), hampers.slowest(&b)), (Some(10), None));
        assert_eq!(hampers.next_over(ms(2_000)), Some((a.clone(), Hamper::Slow(50))));
        assert_eq!(hampers.slowest(&a), Some(10), "the milder one that is over changes nothing");
        hampers.begin(&a, Hamper::Slow(5), Some(ms(4_000)));
        assert_eq!(hampers.slowest(&a), Some(5));
        assert_eq!(hampers.next_over(ms(4_000)), Some((a.clone(), Hamper::Slow(5))));
        assert_eq!(hampers.slowest(&a), Some(10));
        hampers.died(&a);
        assert_eq!((hampers.slowest(&a), hampers.next_end()), (None, None), "another life is another process");
    }

    #[test]
    fn what_has_no_end_is_ended_by_a_step() {
        let a = HostName::new("a");
        let mut hampers = Hampers::default();
        Hamper::of_cut(CutFrom::Both, WaysPart::ToHost).for_each(|cut| hampers.begin(&a, cut, Some(ms(1))));
        hampers.begin(&a, Hamper::CutToHost, None);
        assert_eq!(hampers.next_over(ms(9)), Some((a.clone(), Hamper::CutFromPool)));
        assert_eq!(hampers.next_over(ms(9)), None);
        assert!(hampers.is_cut(&a));
        assert!(hampers.end_cuts(&a) && !hampers.end_cuts(&a) && !hampers.is_cut(&a));
    }
}
