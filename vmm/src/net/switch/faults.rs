//! Faults of a segment, for tests: frames that are lost or late, on all of it or on the link of one device.

use super::PortId;
use crate::net::frame::MacAddress;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most frames that are on their way at a time; what comes beyond them is lost.
const LATE_FRAMES_MAX: usize = 4096;

/// What goes wrong with all frames, from the beginning to the end.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Faults {
    /// The share of frames that are lost, 0 to 1.
    pub loss: f64,
    /// How long each frame takes.
    pub delay: Duration,
    /// Which frames: the same seed loses the same ones of the same sequence.
    pub seed: u64,
}

/// Where else frames are lost or late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stretch {
    /// Everywhere, once for each frame.
    Segment,
    /// On the link of this device, on the way from it.
    From(MacAddress),
    /// On the link of this device, on the way to it.
    To(MacAddress),
}

/// What goes wrong there.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Trouble {
    /// The share of frames that are lost, 0 to 1.
    pub loss: f64,
    /// How much longer each frame takes.
    pub delay: Duration,
}

/// What goes wrong at the moment, as others say it.
#[derive(Debug, Default, Clone)]
pub(super) struct Troubles(Arc<Mutex<BTreeMap<Stretch, Trouble>>>);

impl Troubles {
    pub(super) fn set(&self, stretch: Stretch, trouble: Option<Trouble>) {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble {
            Some(trouble) => _ = troubles.insert(stretch, trouble),
            None => _ = troubles.remove(&stretch),
        }
    }

    fn at(&self, stretch: Stretch) -> Trouble {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&stretch).copied().unwrap_or_default()
    }

    /// The devices whose links have something wrong on the way to them.
    fn devices(&self) -> Vec<MacAddress> {
        let troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        troubles
            .keys()
            .filter_map(|stretch| if let Stretch::To(device) = stretch { Some(*device) } else { None })
            .collect()
    }
}

/// Where a frame is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leg {
    /// It came from this port.
    In(PortId),
    /// It goes to this port.
    Out(PortId),
}

/// The faults at work.
#[derive(Debug)]
pub(super) struct Weather {
    faults: Faults,
    troubles: Troubles,
    random: ChaCha8Rng,
    /// By when they are due, and by their order.
    late: BTreeMap<(Instant, u64), (Leg, Vec<u8>)>,
    frames_ever: u64,
    /// When the last frame of each leg is due: frames of one leg do not overtake each other.
    last: BTreeMap<Leg, Instant>,
}

impl Weather {
    pub(super) fn new(faults: Faults, troubles: Troubles) -> Self {
        let random = ChaCha8Rng::seed_from_u64(faults.seed);
        Self { faults, troubles, random, late: BTreeMap::new(), frames_ever: 0, last: BTreeMap::new() }
    }

    /// Takes a frame that came from a port; says whether it was not lost.
    pub(super) fn take(&mut self, from: PortId, frame: &[u8], now: Instant) -> bool {
        let sender = MacAddress::of_frame(frame).map(|(sender, _)| sender);
        let own = sender.map_or(Trouble::default(), |sender| self.troubles.at(Stretch::From(sender)));
        let all = self.troubles.at(Stretch::Segment);
        let lost = [self.faults.loss, all.loss, own.loss].into_iter().filter(|loss| self.loses(*loss)).count() > 0;
        !lost && self.put(Leg::In(from), frame, now, self.faults.delay + all.delay + own.delay)
    }

    /// Takes a frame that goes to the port of these devices: it goes on at once (`None`), later, or never; says which.
    pub(super) fn hand_out(
        &mut self,
        to: PortId,
        is_there: impl Fn(MacAddress) -> bool,
        frame: &[u8],
        now: Instant,
    ) -> Way {
        let devices = self.troubles.devices();
        let troubles: Vec<Trouble> = devices
            .into_iter()
            .filter(|device| is_there(*device))
            .map(|device| self.troubles.at(Stretch::To(device)))
            .collect();
        let waits = self.last.get(&Leg::Out(to)).is_some_and(|last| *last > now);
        if troubles.is_empty() && !waits {
            return Way::Now;
        }
        let lost = troubles.iter().filter(|trouble| self.loses(trouble.loss)).count() > 0;
        let delay = troubles.iter().map(|trouble| trouble.delay).sum();
        if !lost && self.put(Leg::Out(to), frame, now, delay) { Way::Later } else { Way::Lost }
    }

    /// Drawn only where it can be: what is not lost by a share of nothing does not change what else is.
    fn loses(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.random::<f64>() < share
    }

    fn put(&mut self, leg: Leg, frame: &[u8], now: Instant, delay: Duration) -> bool {
        if self.late.len() >= LATE_FRAMES_MAX {
            return false;
        }
        let last = self.last.entry(leg).or_insert(now);
        *last = (now + delay).max(*last);
        self.frames_ever += 1;
        self.late.insert((*last, self.frames_ever), (leg, frame.to_vec()));
        true
    }

    /// The next frame that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Leg, Vec<u8>)> {
        let first = self.late.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// How long until a frame is due.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.late.first_key_value().map(|((at, _), _)| at.saturating_duration_since(now))
    }

    /// A port is gone: nothing comes from there or goes there any more.
    pub(super) fn forget(&mut self, port: PortId) {
        self.last.retain(|leg, _| !matches!(leg, Leg::In(of) | Leg::Out(of) if *of == port));
    }
}

/// What becomes of a frame on its last leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It is sent.
    Now,
    /// It is due later.
    Later,
    /// Nothing.
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const B: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    fn weather(faults: Faults) -> (Weather, Troubles) {
        let troubles = Troubles::default();
        (Weather::new(faults, troubles.clone()), troubles)
    }

    fn frame(from: MacAddress, to: MacAddress, last: u8) -> Vec<u8> {
        [&to.0[..], &from.0[..], &[0x08, 0x00, last]].concat()
    }

    #[test]
    fn the_seed_says_which_frames_are_lost() {
        let lost = |seed| {
            let (mut weather, _) = weather(Faults { loss: 0.5, delay: Duration::ZERO, seed });
            (0..64).map(|_| !weather.take(PortId(1), &[1], Instant::now())).collect::<Vec<_>>()
        };
        assert_eq!(lost(1), lost(1));
        assert_ne!(lost(1), lost(2));
        assert!((16..48).contains(&lost(1).into_iter().filter(|lost| *lost).count()));
    }

    #[test]
    fn late_frames_come_in_order_and_not_before_their_time() {
        let (mut weather, _) = weather(Faults { delay: Duration::from_millis(5), ..Faults::default() });
        let now = Instant::now();
        assert!(weather.take(PortId(1), &[1], now) && weather.take(PortId(2), &[2], now));
        assert_eq!(weather.due(now), None);
        assert_eq!(weather.wait(now), Some(Duration::from_millis(5)));
        let later = now + Duration::from_millis(5);
        assert_eq!(weather.due(later), Some((Leg::In(PortId(1)), vec![1])));
        assert_eq!(weather.due(later), Some((Leg::In(PortId(2)), vec![2])));
        assert_eq!((weather.due(later), weather.wait(later)), (None, None));
    }

    #[test]
    fn trouble_on_a_link_is_one_way_and_ends() {
        let (mut weather, troubles) = weather(Faults::default());
        let now = Instant::now();
        troubles.set(Stretch::From(A), Some(Trouble { loss: 1.0, ..Trouble::default() }));
        assert!(!weather.take(PortId(1), &frame(A, B, 1), now), "from the device");
        assert!(weather.take(PortId(2), &frame(B, A, 2), now), "to it");
        troubles.set(Stretch::From(A), None);
        assert!(weather.take(PortId(1), &frame(A, B, 3), now));

        let delay = Duration::from_millis(7);
        troubles.set(Stretch::To(A), Some(Trouble { delay, ..Trouble::default() }));
        let at_a = |device| device == A;
        assert_eq!(weather.hand_out(PortId(1), at_a, &frame(B, A, 4), now), Way::Later);
        assert_eq!(weather.hand_out(PortId(2), |device| device == B, &frame(A, B, 5), now), Way::Now);
        troubles.set(Stretch::To(A), None);
        assert_eq!(weather.hand_out(PortId(1), at_a, &frame(B, A, 6), now), Way::Later, "it does not overtake");
        assert_eq!(weather.hand_out(PortId(1), at_a, &frame(B, A, 7), now + delay), Way::Now);
        let out: Vec<(Leg, u8)> =
            std::iter::from_fn(|| weather.due(now + delay)).map(|(leg, frame)| (leg, frame[14])).collect();
        let (one, two) = (Leg::In(PortId(1)), Leg::In(PortId(2)));
        assert_eq!(out, [(two, 2), (one, 3), (Leg::Out(PortId(1)), 4), (Leg::Out(PortId(1)), 6)]);
    }

    #[test]
    fn trouble_everywhere_counts_once() {
        let (mut weather, troubles) = weather(Faults { delay: Duration::from_millis(1), ..Faults::default() });
        let now = Instant::now();
        troubles.set(Stretch::Segment, Some(Trouble { loss: 0.0, delay: Duration::from_millis(2) }));
        assert!(weather.take(PortId(1), &frame(A, B, 1), now));
        assert_eq!(weather.wait(now), Some(Duration::from_millis(3)));
        assert_eq!(weather.hand_out(PortId(2), |_| true, &frame(A, B, 1), now), Way::Now);
    }
}
