use super::{
    Ahead, Answer, CommitPoint, Cursor, CursorError, Divergence, DivergenceKind, Entry, EntryBody, EntryKind,
    EntrySource, Extent, OutputsLogged, Request, frame_digest, sent_digest,
};
use crate::ids::{Epoch, Generation};
use std::collections::VecDeque;
use std::convert::Infallible;

/// The digest of an exit, in these tests.
fn digest(exit: u64) -> u32 {
    u32::try_from(exit).expect("small") * 1000
}

struct Log {
    entries: VecDeque<Entry<'static>>,
    extent: Extent,
}

impl EntrySource for Log {
    type Error = Infallible;

    fn next_entry(&mut self) -> Result<Option<Entry<'static>>, Infallible> {
        Ok(self.entries.pop_front())
    }

    fn extent(&self) -> Extent {
        self.extent
    }

    fn knows_all_of(&self, exit: u64) -> bool {
        let mut ahead = Ahead::new(0);
        self.entries.iter().for_each(|entry| ahead.push(entry.clone()));
        match self.extent {
            Extent::Growing { complete_to } if complete_to <= exit => ahead.has_commit_at(exit),
            _ => true,
        }
    }
}

fn entry(at_exit: u64, body: EntryBody<'static>) -> Entry<'static> {
    Entry { at_exit, digest: digest(at_exit), body }
}

fn log<const N: usize>(entries: [(u64, EntryBody<'static>); N]) -> Log {
    let entries: VecDeque<_> = entries.into_iter().map(|(at, body)| entry(at, body)).collect();
    let last_exit = entries.back().map(|entry| entry.at_exit);
    Log { entries, extent: Extent::Ended { last_exit } }
}

fn typed(text: &'static [u8]) -> EntryBody<'static> {
    EntryBody::ConsoleInput(text.into())
}

fn packet(nic: u8) -> EntryBody<'static> {
    EntryBody::Packet { nic, frame: b"frame".into() }
}

fn said(position: u64, bytes: &'static [u8]) -> EntryBody<'static> {
    EntryBody::Output { position, bytes: bytes.into() }
}

struct Replay {
    cursor: Cursor,
    log: Log,
}

impl Replay {
    fn of<const N: usize>(entries: [(u64, EntryBody<'static>); N]) -> Self {
        Self::of_log(log(entries))
    }

    fn of_log(log: Log) -> Self {
        Self { cursor: Cursor::new(0, 0, 0, 0, OutputsLogged::Yes), log }
    }

    fn exit(&mut self, at: u64) -> Result<(), Divergence> {
        self.exit_with(at, digest(at))
    }

    fn exit_with(&mut self, at: u64, digest: u32) -> Result<(), Divergence> {
        diverged(self.cursor.begin_exit(at, digest, &mut self.log))
    }

    fn ask(&mut self, asked: Request) -> Result<Answer, Divergence> {
        diverged(self.cursor.request(asked, &mut self.log))
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), Divergence> {
        diverged(self.cursor.produced(bytes, [], &mut self.log))
    }
}

fn diverged<T>(result: Result<T, CursorError<Infallible>>) -> Result<T, Divergence> {
    result.map_err(|error| match error {
        CursorError::Diverged(divergence) => divergence,
        other => panic!("{other}"),
    })
}

const CONSOLE: Request = Request::ConsoleInput { room: 64 };
const PACKET: Request = Request::Packet { nic: 0 };

fn input(at: u64, body: EntryBody<'static>) -> Result<Answer, Divergence> {
    Ok(Answer::Input(entry(at, body)))
}

#[test]
fn inputs_come_at_their_exit_and_at_no_other() {
    let mut replay = Replay::of([(2, typed(b"a")), (3, typed(b"b")), (3, packet(1)), (5, EntryBody::Clock(50))]);
    replay.exit(1).expect("nothing yet");
    assert_eq!(replay.ask(CONSOLE), Ok(Answer::Nothing), "one exit early");
    replay.exit(2).expect("in time");
    assert_eq!(replay.ask(CONSOLE), input(2, typed(b"a")));
    assert_eq!(replay.ask(CONSOLE), Ok(Answer::Nothing), "the next is for the next exit");
    replay.exit(3).expect("in time");
    assert_eq!(replay.ask(Request::Packet { nic: 1 }), Ok(Answer::Nothing), "not its turn");
    assert_eq!(replay.ask(CONSOLE), input(3, typed(b"b")));
    assert_eq!(replay.ask(Request::Packet { nic: 0 }), Ok(Answer::Nothing), "another device");
    assert_eq!(replay.ask(Request::Packet { nic: 1 }), input(3, packet(1)));
    replay.exit(4).expect("in time");
    let early = DivergenceKind::Request { expected: EntryKind::Clock, expected_at: 5, got: Request::Clock };
    assert_eq!(replay.ask(Request::Clock), Err(Divergence { exit: 4, kind: early }));
    replay.exit(5).expect("in time");
    assert_eq!(replay.ask(Request::Clock), input(5, EntryBody::Clock(50)));
    assert_eq!(replay.ask(Request::Clock), Ok(Answer::Beyond));
    assert_eq!(replay.cursor.taken(), 4);
}

/// What the next test finds when the bug is planted, so that it is known to look.
#[cfg(feature = "planted-bugs")]
#[test]
fn an_input_one_exit_early_is_an_early_input() {
    crate::planted::plant(Some(crate::planted::PlantedBug::InputEarly));
    let mut replay = Replay::of([(2, typed(b"a"))]);
    replay.exit(1).expect("nothing yet");
    let early = replay.ask(CONSOLE);
    crate::planted::plant(None);
    assert_eq!(early, input(2, typed(b"a")));
}

#[test]
fn an_input_that_nobody_asks_for_is_a_divergence_at_the_next_exit() {
    let mut replay = Replay::of([(2, typed(b"a"))]);
    replay.exit(2).expect("in time");
    let kind = DivergenceKind::Passed { expected: EntryKind::ConsoleInput, expected_at: 2 };
    assert_eq!(replay.exit(3), Err(Divergence { exit: 3, kind }));
}

#[test]
fn a_request_for_something_else_is_a_divergence() {
    let mut replay = Replay::of([(2, EntryBody::Clock(1))]);
    replay.exit(2).expect("in time");
    let got = Request::Entropy { length: 4 };
    let kind = DivergenceKind::Request { expected: EntryKind::Clock, expected_at: 2, got };
    assert_eq!(replay.ask(got), Err(Divergence { exit: 2, kind }));
}

#[test]
fn another_history_is_noticed_at_the_next_entry() {
    for body in [EntryBody::Clock(1), said(0, b"x"), EntryBody::Mark] {
        let mut replay = Replay::of([(2, body)]);
        assert_eq!(replay.exit_with(1, 77), Ok(()), "nothing to compare with");
        let kind = DivergenceKind::History { expected: 2000, got: 78 };
        assert_eq!(replay.exit_with(2, 78), Err(Divergence { exit: 2, kind }));
    }
}

#[test]
fn amounts_must_agree() {
    let mut replay = Replay::of([(1, EntryBody::Entropy(b"four".into()))]);
    replay.exit(1).expect("in time");
    let kind = DivergenceKind::Length { asked: EntryKind::Entropy, expected: 4, got: 8 };
    assert_eq!(replay.ask(Request::Entropy { length: 8 }), Err(Divergence { exit: 1, kind }));
    let mut replay = Replay::of([(1, typed(b"three"))]);
    replay.exit(1).expect("in time");
    let kind = DivergenceKind::Length { asked: EntryKind::ConsoleInput, expected: 5, got: 4 };
    assert_eq!(replay.ask(Request::ConsoleInput { room: 4 }), Err(Divergence { exit: 1, kind }));
}

#[test]
fn packets_that_came_in_a_wait_come_behind_those_of_the_exit() {
    // At exit 1 device 1 got one packet, and in the wait that began there device 0, then 1.
    let mut replay = Replay::of([(1, packet(1)), (1, packet(0)), (1, packet(1))]);
    replay.exit(1).expect("in time");
    let (zero, one) = (Request::Packet { nic: 0 }, Request::Packet { nic: 1 });
    assert_eq!(replay.ask(zero), Ok(Answer::Nothing));
    assert_eq!(replay.ask(one), input(1, packet(1)));
    assert_eq!(replay.ask(one), Ok(Answer::Nothing));
    // The wait ends.
    assert_eq!(replay.ask(zero), input(1, packet(0)));
    assert_eq!(replay.ask(zero), Ok(Answer::Nothing));
    assert_eq!(replay.ask(one), input(1, packet(1)));
}

#[test]
fn console_output_is_held_against_its_marks() {
    let marks = || Replay::of([(2, said(0, b"ab")), (2, typed(b"x")), (4, said(2, b"cd"))]);
    let mut replay = marks();
    replay.exit(1).and_then(|()| replay.say(b"a")).expect("not marked yet");
    assert_eq!(replay.cursor.console_marked_to(), 0);
    replay.exit(2).expect("in time");
    assert_eq!(replay.ask(CONSOLE), Ok(Answer::Nothing), "behind the mark");
    replay.say(b"bc").expect("the same");
    assert_eq!(replay.cursor.console_marked_to(), 2);
    assert_eq!(replay.ask(CONSOLE), input(2, typed(b"x")));
    replay.exit(4).expect("in time");
    let kind = DivergenceKind::Console { position: 3, expected: b'd', got: b'D' };
    assert_eq!(replay.say(b"D"), Err(Divergence { exit: 4, kind }));

    let mut replay = marks();
    replay.exit(2).and_then(|()| replay.say(b"a")).expect("a part");
    let kind = DivergenceKind::Passed { expected: EntryKind::Output, expected_at: 2 };
    assert_eq!(replay.exit(3), Err(Divergence { exit: 3, kind }));
}

#[test]
fn a_replay_from_the_middle_of_an_output_compares_what_it_knows() {
    let mut log = log([(6, said(8, b"old, new")), (7, EntryBody::Mark)]);
    let mut cursor = Cursor::new(5, digest(5), 13, 0, OutputsLogged::Yes);
    diverged(cursor.begin_exit(6, digest(6), &mut log)).expect("in time");
    diverged(cursor.produced(b"new", [], &mut log)).expect("the same");
    assert_eq!(cursor.console_marked_to(), 16);
    diverged(cursor.begin_exit(7, digest(7), &mut log)).expect("settled");
    assert!(diverged(cursor.is_exhausted(&mut log)).expect("at the end"));
}

#[test]
fn packets_sent_are_held_against_their_marks() {
    let frames = [frame_digest(0, b"one"), frame_digest(1, b"two"), frame_digest(0, b"three")];
    let mark = EntryBody::Sent { position: 1, count: 2, digest: sent_digest([frames[1], frames[2]]) };
    for (last, agrees) in [(frames[2], true), (frames[0], false)] {
        let mut log = log([(3, mark.clone())]);
        let mut cursor = Cursor::new(0, 0, 0, 0, OutputsLogged::Yes);
        diverged(cursor.begin_exit(2, digest(2), &mut log)).expect("in time");
        diverged(cursor.produced(b"", [frames[0], frames[1]], &mut log)).expect("not marked yet");
        diverged(cursor.begin_exit(3, digest(3), &mut log)).expect("in time");
        assert_eq!(diverged(cursor.produced(b"", [last], &mut log)).is_ok(), agrees);
    }
}

#[test]
fn packets_before_the_last_exit_have_left_and_later_ones_leave() {
    let ended = Extent::Ended { last_exit: Some(10) };
    assert_eq!([9, 10, 11].map(|exit| Cursor::was_released(exit, ended)), [true, false, false]);
    assert!(!Cursor::was_released(1, Extent::Ended { last_exit: None }));
    assert!(Cursor::was_released(99, Extent::Growing { complete_to: 1 }), "the primary sends them");
}

#[cfg(feature = "planted-bugs")]
#[test]
fn a_packet_of_the_last_exit_is_swallowed_if_that_bug_is_planted() {
    crate::planted::plant(Some(crate::planted::PlantedBug::PacketSwallowed));
    let swallowed = Cursor::was_released(10, Extent::Ended { last_exit: Some(10) });
    crate::planted::plant(None);
    assert!(swallowed);
}

#[test]
fn a_growing_log_decides_only_what_it_covers() {
    let mut log = log([]);
    log.extent = Extent::Growing { complete_to: 3 };
    let mut replay = Replay::of_log(log);
    for (at, may_run) in [(1, true), (2, true), (3, false)] {
        replay.exit(at).expect("covered");
        assert_eq!(replay.ask(CONSOLE), Ok(Answer::Nothing));
        assert_eq!(replay.cursor.may_run(replay.log.extent), may_run);
    }
    let kind = DivergenceKind::Request { expected: EntryKind::Mark, expected_at: 3, got: Request::Clock };
    assert_eq!(replay.ask(Request::Clock), Err(Divergence { exit: 3, kind }));
    replay.exit(4).expect("the caller did not look");
    assert_eq!(replay.ask(CONSOLE), Ok(Answer::Pending));
    replay.log.entries.push_back(entry(4, typed(b"late")));
    assert_eq!(replay.ask(CONSOLE), input(4, typed(b"late")));
    assert!(!diverged(replay.cursor.is_exhausted(&mut replay.log)).expect("readable"));
    replay.log.extent = Extent::Ended { last_exit: Some(4) };
    assert!(diverged(replay.cursor.is_exhausted(&mut replay.log)).expect("readable"));
    assert_eq!(replay.ask(CONSOLE), Ok(Answer::Beyond));
}

#[test]
fn marks_only_check_and_a_guest_that_ends_early_diverges() {
    let mut replay = Replay::of([(1, EntryBody::Mark), (2, EntryBody::Mark), (4, EntryBody::Mark)]);
    (1..=3).for_each(|at| replay.exit(at).expect("the same history"));
    let kind = DivergenceKind::Ended { expected: 4 };
    assert_eq!(diverged(replay.cursor.ended(&mut replay.log)), Err(Divergence { exit: 3, kind }));
    replay.exit(4).expect("the same history");
    assert_eq!(diverged(replay.cursor.ended(&mut replay.log)), Ok(()));
}

/// The guest waits at an exit, which is marked; two packets end the wait, of which one is in the log yet.
#[test]
fn what_ends_a_wait_is_given_when_all_of_it_is_known() {
    let growing = |complete_to| Extent::Growing { complete_to };
    let mut replay = Replay::of([(2, EntryBody::Mark), (2, packet(0))]);
    replay.log.extent = growing(2);
    (1..=2).for_each(|at| replay.exit(at).expect("the same history"));
    assert_eq!(replay.ask(PACKET), Ok(Answer::Nothing), "as the exit itself brought nothing");
    assert!(!replay.cursor.may_run(replay.log.extent));
    replay.log.entries.extend([entry(2, packet(0)), entry(3, EntryBody::Clock(1))]);
    replay.log.extent = growing(3);
    assert!(replay.cursor.may_run(replay.log.extent));
    assert_eq!([replay.ask(PACKET), replay.ask(PACKET)], [input(2, packet(0)), input(2, packet(0))]);
    assert_eq!(replay.ask(PACKET), Ok(Answer::Nothing));
    replay.exit(3).expect("nothing was passed by");
}

/// As above, with a commit behind it: until then all is known.
#[test]
fn what_ends_a_wait_before_a_commit_is_given_when_the_commit_is_known() {
    let point = CommitPoint { generation: Generation::FIRST, epoch: Epoch::new(2), kicked: false };
    let mut replay = Replay::of([(2, EntryBody::Mark), (2, packet(0))]);
    replay.cursor = replay.cursor.stopping_at_commits_of(Generation::FIRST);
    replay.log.extent = Extent::Growing { complete_to: 2 };
    (1..=2).for_each(|at| replay.exit(at).expect("the same history"));
    assert_eq!(replay.ask(PACKET), Ok(Answer::Nothing));
    replay.log.entries.push_back(entry(2, EntryBody::Commit(point)));
    assert_eq!(replay.ask(PACKET), input(2, packet(0)));
    assert_eq!((replay.ask(PACKET), replay.cursor.commit()), (Ok(Answer::Nothing), Some(point)));
}

#[test]
fn a_guest_may_end_at_an_exit_that_is_marked() {
    let mut replay = Replay::of([(1, EntryBody::Mark)]);
    replay.log.extent = Extent::Growing { complete_to: 1 };
    replay.exit(1).expect("the same history");
    assert_eq!(diverged(replay.cursor.ended(&mut replay.log)), Ok(()));
}

#[test]
fn entries_out_of_order_are_refused() {
    let mut replay = Replay::of([(3, typed(b"a")), (2, typed(b"b"))]);
    replay.exit(3).expect("in time");
    assert_eq!(replay.ask(CONSOLE), input(3, typed(b"a")));
    let error = replay.cursor.request(CONSOLE, &mut replay.log).expect_err("damaged");
    assert!(matches!(error, CursorError::Order { after: 3, got: 2 }), "{error}");
}
