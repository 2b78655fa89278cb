use super::*;
use proptest::prelude::*;

const fn at(have: Option<u64>, safe: u64) -> InputAt {
    InputAt { have, safe, room_to: safe + WINDOW_BYTES as u64 }
}

/// Sends the next message.
fn next(feed: &mut Feed) -> Option<(u64, Vec<u8>)> {
    let message = feed.next_message()?;
    assert_eq!(feed.next_message().as_ref(), Some(&message), "until it is sent it is the next one");
    feed.sent(message.1.len());
    Some(message)
}

#[test]
fn only_what_is_new_is_taken() {
    assert_eq!(input_beyond(10, 10, b"abc"), b"abc");
    assert_eq!(input_beyond(11, 10, b"abc"), b"bc");
    assert_eq!(input_beyond(13, 10, b"abc"), b"");
    assert_eq!(input_beyond(99, 10, b"abc"), b"");
    assert_eq!(input_beyond(9, 10, b"abc"), b"", "a gap");
    assert_eq!(input_beyond(u64::MAX, 0, b"abc"), b"");
}

#[test]
fn a_feed_sends_once_it_is_open_and_keeps_what_is_not_safe() {
    let mut feed = Feed::default();
    feed.push(b"hello");
    assert_eq!(next(&mut feed), None, "nobody knows where the guest is");
    assert_eq!(feed.told(at(Some(100), 90)), 0, "somebody else fed it before");
    assert_eq!(next(&mut feed), Some((100, b"hello".to_vec())));
    assert_eq!(next(&mut feed), None);
    assert_eq!(feed.told(at(None, 102)), 0);
    assert!(!feed.is_empty());
    // The next primary has less.
    assert_eq!(feed.told(at(Some(103), 102)), 0);
    assert_eq!(next(&mut feed), Some((103, b"lo".to_vec())));
    feed.told(at(None, 105));
    assert!(feed.is_empty() && feed.room() == WINDOW_BYTES);
}

#[test]
fn a_guest_that_reads_nothing_bounds_what_is_sent() {
    let mut feed = Feed::default();
    feed.told(at(Some(0), 0));
    feed.push(&vec![1; WINDOW_BYTES]);
    assert_eq!(feed.room(), 0);
    let lengths: Vec<usize> = std::iter::from_fn(|| next(&mut feed)).map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(lengths, [MESSAGE_INPUT_MAX; 4]);
    // It takes a little: there is room again for as much.
    feed.told(InputAt { have: None, safe: 10, room_to: 10 + WINDOW_BYTES as u64 });
    feed.push(&[2; 10]);
    assert_eq!(next(&mut feed), Some((WINDOW_BYTES as u64, vec![2; 10])));
}

#[test]
fn bytes_of_an_earlier_feeder_that_died_with_a_host_leave_no_gap() {
    let mut feed = Feed::default();
    feed.push(b"abc");
    feed.told(at(Some(200), 100));
    assert_eq!(next(&mut feed), Some((200, b"abc".to_vec())));
    assert_eq!(feed.told(at(Some(150), 100)), 50);
    assert_eq!(next(&mut feed), Some((150, b"abc".to_vec())), "ours come next");
    assert_eq!(feed.told(at(Some(150), 100)), 0, "said twice");
    assert_eq!(next(&mut feed), Some((150, b"abc".to_vec())));
}

#[test]
fn what_is_sent_again_may_be_there_before() {
    let mut feed = Feed::default();
    feed.told(at(Some(0), 0));
    feed.push(b"ab");
    assert_eq!(next(&mut feed), Some((0, b"ab".to_vec())));
    feed.push(b"cd");
    // The next primary had nothing, and then what was on its way to the one before; it says both before we can do anything.
    feed.told(at(Some(0), 0));
    feed.told(at(Some(2), 0));
    assert_eq!(next(&mut feed), Some((2, b"cd".to_vec())));
}

#[test]
fn somebody_else_fed_it_while_we_were_away() {
    let mut feed = Feed::default();
    feed.told(at(Some(0), 0));
    feed.push(b"ab");
    assert_eq!(next(&mut feed), Some((0, b"ab".to_vec())));
    feed.push(b"cd");
    feed.close();
    assert_eq!(next(&mut feed), None);
    feed.told(at(Some(50), 40));
    assert_eq!(next(&mut feed), Some((50, b"cd".to_vec())), "what was sent was taken");
}

#[test]
fn an_intake_tells_when_it_matters() {
    let mut intake = Intake::new(5);
    assert_eq!(intake.took(100_000, true), None, "nobody asks");
    let window = WINDOW_BYTES as u64;
    let open = intake.open(100_010);
    assert_eq!(open, InputAt { have: Some(100_010), safe: 100_000, room_to: 100_000 + window });
    assert_eq!(intake.took(100_001, true), None, "too little to tell of");
    assert_eq!(intake.took(110_000, true).map(|at| at.safe), Some(110_000));
    assert_eq!(intake.took(130_000, false), None, "only what is published is safe");
    intake.written(Epoch::new(3), 130_000);
    intake.took(131_000, false);
    intake.written(Epoch::new(4), 131_000);
    assert_eq!(intake.published(Epoch::new(3)), Some(InputAt { have: None, safe: 130_000, room_to: 131_000 + window }));
    assert_eq!(intake.published(Epoch::new(4)).map(|at| at.safe), Some(131_000));
    intake.written(Epoch::new(5), 131_000);
    assert_eq!(intake.published(Epoch::new(5)), None, "nothing has changed");
    let told = (0..MESSAGES_TOLD).filter_map(|_| intake.came()).count();
    assert_eq!(told, 1, "so that whoever sends knows that somebody reads");
}

/// A guest, its primary's host, and the pool, as far as they matter here. Bytes are numbered modulo 251, so that each
/// tells whether it is the next one.
struct Model {
    feed: Feed,
    read: u64,
    /// On their way to the primary, and from it.
    down: VecDeque<Option<(u64, Vec<u8>)>>,
    up: VecDeque<InputAt>,
    intake: Intake,
    waiting: VecDeque<u8>,
    taken: Vec<u8>,
    logged: bool,
    epoch: u64,
    /// What a successor begins with: how much was taken, and what waited; and a record that is not published yet.
    base: (usize, VecDeque<u8>),
    unpublished: Option<(usize, VecDeque<u8>)>,
}

fn byte(position: u64) -> u8 {
    u8::try_from(position % 251).unwrap()
}

impl Model {
    fn new(logged: bool) -> Self {
        let mut model = Self {
            feed: Feed::default(),
            read: 0,
            down: VecDeque::new(),
            up: VecDeque::new(),
            intake: Intake::new(0),
            waiting: VecDeque::new(),
            taken: Vec::new(),
            logged,
            epoch: 0,
            base: (0, VecDeque::new()),
            unpublished: None,
        };
        model.down.push_back(None);
        model
    }

    fn have(&self) -> u64 {
        (self.taken.len() + self.waiting.len()) as u64
    }

    fn step(&mut self, step: u8, amount: usize) {
        match step {
            0 => {
                let count = amount.min(self.feed.room());
                let bytes: Vec<u8> = (self.read..).take(count).map(byte).collect();
                self.feed.push(&bytes);
                self.read += count as u64;
            }
            1 => self.down.extend(next(&mut self.feed).map(Some)),
            2 => match self.down.pop_front() {
                Some(None) => self.up.push_back(self.intake.open(self.have())),
                Some(Some((position, bytes))) => {
                    let new = input_beyond(self.have(), position, &bytes);
                    let room = WINDOW_BYTES - self.waiting.len();
                    assert!(new.len() <= room, "nobody sends more than there is room for");
                    self.waiting.extend(new);
                    self.up.extend(self.intake.came());
                }
                None => {}
            },
            3 => {
                let count = amount.min(self.waiting.len());
                self.taken.extend(self.waiting.drain(..count));
                self.up.extend(self.intake.took(self.taken.len() as u64, self.logged));
            }
            4 if self.unpublished.is_none() => {
                self.epoch += 1;
                self.intake.written(Epoch::new(self.epoch), self.taken.len() as u64);
                self.unpublished = Some((self.taken.len(), self.waiting.clone()));
            }
            4 | 5 => {
                if let Some(record) = self.unpublished.take() {
                    self.base = record;
                    self.up.extend(self.intake.published(Epoch::new(self.epoch)));
                }
            }
            6 => self.up.pop_front().into_iter().for_each(|at| assert_eq!(self.feed.told(at), 0, "nothing is lost")),
            7 => self.take_over(amount),
            // The connection to the controller breaks: what was under way is lost.
            _ => {
                self.feed.close();
                self.up.clear();
                self.down = VecDeque::from([None]);
            }
        }
    }

    /// The primary dies, with what was on its way to it; another one goes on from what the pool holds. What it says comes
    /// behind what the old one said.
    fn take_over(&mut self, amount: usize) {
        let (taken, waiting) = self.base.clone();
        self.unpublished = None;
        if self.logged {
            // All that the guest took is replayed. Of what waited, a secondary that followed may have nothing.
            let replayed = self.taken.len() - taken;
            self.waiting = waiting.into_iter().skip(replayed).take(amount).collect();
        } else {
            self.taken.truncate(taken);
            self.waiting = waiting;
        }
        self.intake = Intake::new(if self.logged { self.taken.len() } else { taken } as u64);
        let lost = amount.min(self.down.len());
        self.down.drain(..lost);
        self.down.push_back(None);
    }
}

proptest! {
    #[test]
    fn whatever_is_told_harms_nobody(told in prop::collection::vec((any::<Option<u64>>(), any::<u64>(), any::<u64>()), 0..9)) {
        let mut feed = Feed::default();
        for (have, safe, room_to) in told {
            feed.push(&vec![0; feed.room().min(100)]);
            feed.told(InputAt { have, safe, room_to });
            while next(&mut feed).is_some() {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is lost on the way and whoever dies: the guest takes each byte once and in order, and in the end all.
    #[test]
    fn every_byte_comes_once_and_in_order(logged: bool, steps in prop::collection::vec((0u8..9, 0usize..40_000), 1..200)) {
        let mut model = Model::new(logged);
        for (step, amount) in steps {
            model.step(step, amount);
            prop_assert!(model.taken.iter().zip(0..).all(|(got, position)| *got == byte(position)));
            prop_assert!(model.feed.bytes.len() <= WINDOW_BYTES);
        }
        // From here on nothing fails any more.
        model.step(8, 0);
        let end = model.read;
        for _ in 0..100_000 {
            if model.taken.len() as u64 == end && model.feed.is_empty() {
                break;
            }
            for step in [1, 2, 3, 4, 5, 6] {
                model.step(step, WINDOW_BYTES);
            }
        }
        prop_assert_eq!(model.taken.len() as u64, end);
        prop_assert!(model.feed.is_empty(), "all of it is known to be safe");
    }
}
