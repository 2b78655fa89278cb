use super::*;
use Input::{Applied, Ended, Output, Published, Resumed, Sealed, StillWaits, Stopped, Tick, Woke, Written};

const CONFIG: PrimaryConfig = PrimaryConfig {
    base: Epoch::new(4),
    epoch_interval: Span::from_ms(10),
    epoch_pages_max: None,
    replayed: false,
    cut_spacing_min: Span::from_ms(1),
    console_pending_max: 1000,
    console_batch: 0,
    slots: 2,
    mode: Mode::Checkpoint,
    event_patience: Span::from_ms(5),
};

struct Bench {
    core: Primary,
    now: Time,
}

impl Bench {
    fn new() -> Self {
        Self { core: Primary::new(CONFIG, Time::ZERO), now: Time::ZERO }
    }
    fn recording() -> Self {
        let config = PrimaryConfig { mode: Mode::Replay, epoch_interval: Span::from_ms(100), ..CONFIG };
        Self { core: Primary::new(config, Time::ZERO), now: Time::ZERO }
    }
    fn at(&mut self, us: u64, input: Input) -> Vec<Action> {
        self.now = Time::ZERO + Span::from_us(us);
        let mut actions = Vec::new();
        self.core.handle(self.now, input, &mut actions);
        actions
    }
    /// A whole cut at `us`: stopped, written, resumed, not yet published.
    fn cut(&mut self, us: u64, epoch: u64) {
        self.cut_for(us, epoch, 40);
    }
    /// The same, with a guest that stands still for `pause_us`.
    fn cut_for(&mut self, us: u64, epoch: u64, pause_us: u64) {
        let epoch = Epoch::new(epoch);
        if self.core.mode().records() {
            assert_eq!(self.at(us, Tick), [Action::PauseAtExit]);
            assert_eq!(self.at(us + 5, Input::AtExit), [Action::Stop]);
        } else {
            assert_eq!(self.at(us, Tick), [Action::Stop]);
        }
        assert_eq!(self.at(us + 10, Stopped), [Action::Write { epoch, ended: None }]);
        let from = Epoch::new(epoch.get() - 1);
        let go_on = [Action::Deliver, Action::Resume, Action::Publish { from, to: epoch }];
        let go_on = if self.core.mode().records() { &go_on[1..] } else { &go_on[..] };
        assert_eq!(self.at(us + 10 + pause_us, Written(epoch)), go_on);
        self.resumed(us + 10 + pause_us, pause_us);
    }
    fn resumed(&mut self, us: u64, pause_us: u64) {
        assert_eq!(self.at(us, Resumed { pause: Span::from_us(pause_us) }), []);
    }
}

/// The rate of the last epoch says when the next one has dirtied as much as it should; what it does not say is found out in
/// small steps.
#[test]
fn an_epoch_is_as_long_as_its_pages_allow() {
    for mode in [Mode::Checkpoint, Mode::Replay] {
        let epoch_interval = Span::from_ms(1_000);
        let config = PrimaryConfig { mode, epoch_interval, epoch_pages_max: Some(100), ..CONFIG };
        let mut bench = Bench { core: Primary::new(config, Time::ZERO), now: Time::ZERO };
        let (mut us, mut lengths) = (0, Vec::new());
        // Pages that the guest dirties each millisecond, epoch by epoch.
        for (epoch, rate) in (5..).zip([100, 100, 10, 10, 10, 0, 0, 0, 0, 0, 50]) {
            let due = bench.core.cut_deadline().expect("the guest runs").ns() / 1_000;
            let ms = (due - us) / 1_000;
            lengths.push(ms);
            let go_on = if mode.records() { bench.at(due, Tick).len() } else { 0 };
            assert_eq!(go_on, usize::from(mode.records()));
            assert_eq!(bench.at(due, if mode.records() { Input::AtExit } else { Tick }), [Action::Stop]);
            bench.at(due, Stopped);
            assert_eq!(bench.at(due, Input::Dirtied { pages: ms * rate }), []);
            bench.at(due, Written(Epoch::new(epoch)));
            bench.resumed(due, 0);
            bench.at(due, Published(Epoch::new(epoch)));
            bench.at(due, Applied(Epoch::new(epoch)));
            us = due;
        }
        assert_eq!(lengths, [10, 1, 1, 2, 4, 8, 16, 32, 64, 100, 100], "{mode}");
        assert_eq!(bench.core.cut_deadline(), Some(Time::ZERO + Span::from_us(us + 2_000)));
    }
}

/// Hosts that die faster than epochs pass would make the log longer and longer, and each takeover with it.
#[test]
fn the_first_cut_behind_a_replay_comes_soon() {
    for (interval_ms, first_us) in [(100, 10_000), (5, 5_000)] {
        let epoch_interval = Span::from_ms(interval_ms);
        let config = PrimaryConfig { mode: Mode::Replay, epoch_interval, replayed: true, ..CONFIG };
        let mut bench = Bench { core: Primary::new(config, Time::ZERO), now: Time::ZERO };
        assert_eq!(bench.core.cut_deadline(), Some(Time::ZERO + Span::from_us(first_us)));
        assert_eq!(bench.at(first_us, Tick), [Action::PauseAtExit]);
        assert_eq!(bench.at(first_us, Input::AtExit), [Action::Stop]);
        bench.at(first_us, Stopped);
        bench.at(first_us, Written(Epoch::new(5)));
        bench.resumed(first_us, 0);
        bench.at(first_us, Published(Epoch::new(5)));
        let next = Time::ZERO + Span::from_us(first_us) + epoch_interval;
        assert_eq!(bench.core.cut_deadline(), Some(next), "only the first");
    }
}

#[test]
fn an_epoch_is_cut_at_its_interval_and_released_after_publication() {
    let mut bench = Bench::new();
    assert_eq!(bench.at(9_999, Tick), []);
    bench.cut(10_000, 5);
    assert_eq!(bench.core.deadline(), None, "no cut while a record is in flight");
    assert_eq!(bench.at(30_000, Tick), []);
    let epoch = Epoch::new(5);
    assert_eq!(
        bench.at(30_001, Published(epoch)),
        [Action::Release(epoch), Action::Doorbell(epoch), Action::Stop],
        "the next cut is overdue"
    );
}

#[test]
fn a_guest_keeps_three_quarters_of_its_time() {
    let next_cut_after = |pause_us: u64, output: bool| {
        let mut bench = Bench::new();
        bench.cut_for(10_000, 5, pause_us);
        let resumed_us = 10_010 + pause_us;
        bench.at(resumed_us + 20, Published(Epoch::new(5)));
        if output {
            bench.at(resumed_us + 30, Output { console: 1, packets: 1 });
        }
        let due = bench.core.deadline().unwrap();
        assert_eq!(bench.at(due.ns() / 1000 - 1, Tick), []);
        assert_eq!(bench.at(due.ns() / 1000, Tick), [Action::Stop]);
        due.since(Time::ZERO + Span::from_us(resumed_us)).ns() / 1000
    };
    assert_eq!(next_cut_after(3_000, false), 10_000, "an interval is longer");
    assert_eq!(next_cut_after(9_000, false), 27_000);
    assert_eq!(next_cut_after(30_000, false), 90_000);
    assert_eq!(next_cut_after(3_000_000, false), 100_000, "but not for ever");
    // An output waits as long as the pause, or an interval, and less behind a short one.
    assert_eq!(next_cut_after(100, true), 1_000);
    assert_eq!(next_cut_after(3_000, true), 6_020);
    assert_eq!(next_cut_after(30_000, true), 30_000);
    assert_eq!(next_cut_after(3_000_000, true), 100_000);
}

#[test]
fn a_guest_is_not_cut_before_it_goes_on() {
    let mut bench = Bench::new();
    let epoch = Epoch::new(5);
    bench.at(10_000, Tick);
    bench.at(10_010, Stopped);
    bench.at(10_020, Written(epoch));
    bench.at(10_030, Published(epoch));
    assert_eq!(bench.core.deadline(), None);
    assert_eq!(bench.at(90_000, Tick), []);
    bench.resumed(90_000, 79_990);
    assert_eq!(bench.core.deadline(), Some(Time::ZERO + Span::from_us(190_000)), "ten intervals");
}

#[test]
fn what_a_commit_waited_for_others_does_not_count() {
    let mut bench = Bench::new();
    for (us, epoch) in [(10_000, 5), (20_100, 6)] {
        bench.cut(us, epoch);
        bench.at(us + 60, Published(Epoch::new(epoch)));
    }
    bench.at(31_000, Tick);
    // A second for a slot, another for space.
    bench.at(31_000, Stopped);
    let epoch = Epoch::new(7);
    assert_eq!(bench.at(1_031_000, Applied(Epoch::new(5))), [Action::Write { epoch, ended: None }]);
    for us in [1_031_000, 1_500_000] {
        bench.at(us, Input::OutOfSpace);
    }
    bench.at(2_031_000, Written(epoch));
    bench.resumed(2_051_000, 2_020_000);
    bench.at(2_051_010, Published(epoch));
    assert_eq!(bench.core.deadline(), Some(Time::ZERO + Span::from_us(2_111_000)), "20 ms of its own, three times");
}

#[test]
fn a_waiting_output_cuts_early_but_not_at_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.at(500, Output { console: 1, packets: 0 }), []);
    assert_eq!(bench.at(1_000, Tick), [Action::Stop]);
    assert_eq!(bench.core.counts(), PrimaryCounts { cuts: 1, early_cuts: 1, stalls: 0 });
}

#[test]
fn too_much_waiting_output_cuts_at_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.at(1, Output { console: 1000, packets: 0 }), [Action::Stop]);
}

#[test]
fn an_idle_guest_is_not_cut() {
    let mut bench = Bench::new();
    bench.cut(10_000, 5);
    assert_eq!(bench.at(10_060, StillWaits), []);
    bench.at(10_070, Published(Epoch::new(5)));
    assert_eq!(bench.core.deadline(), None);
    assert_eq!(bench.at(900_000, Tick), []);
    assert_eq!(bench.at(900_000, Woke), [Action::Stop], "the interval is long over");
}

#[test]
fn a_full_journal_stalls_until_a_slot_is_free() {
    let mut bench = Bench::new();
    bench.cut(10_000, 5);
    bench.at(10_060, Published(Epoch::new(5)));
    bench.cut(20_100, 6);
    bench.at(20_160, Published(Epoch::new(6)));
    assert_eq!(bench.at(31_000, Tick), [Action::Stop]);
    assert_eq!(bench.at(31_001, Stopped), []);
    assert!(bench.core.is_stalled());
    assert_eq!(bench.at(32_000, Applied(Epoch::new(4))), []);
    assert_eq!(bench.at(33_000, Applied(Epoch::new(5))), [Action::Write { epoch: Epoch::new(7), ended: None }]);
}

#[test]
fn a_seal_ends_everything_and_releases_nothing() {
    let mut bench = Bench::new();
    bench.cut(10_000, 5);
    let final_epoch = Epoch::new(4);
    assert_eq!(bench.at(11_000, Sealed { final_epoch }), [Action::Halt(Halt::Fenced { final_epoch })]);
    assert_eq!(bench.at(12_000, Tick), []);
    assert_eq!(bench.at(12_000, Output { console: 5000, packets: 0 }), []);
    assert_eq!(bench.core.deadline(), None);
}

#[test]
fn the_end_of_a_guest_is_committed_before_it_is_told() {
    let mut bench = Bench::new();
    let end = GuestEnd::Exited(3);
    let epoch = Epoch::new(5);
    assert_eq!(bench.at(100, Ended(end.clone())), [Action::Write { epoch, ended: Some(end.clone()) }]);
    assert_eq!(bench.at(200, Written(epoch)), [Action::Publish { from: Epoch::new(4), to: epoch }]);
    assert_eq!(
        bench.at(300, Published(epoch)),
        [Action::Release(epoch), Action::Doorbell(epoch), Action::Halt(Halt::Ended(end))]
    );
}

#[test]
fn the_end_of_a_guest_waits_for_the_record_in_flight() {
    let mut bench = Bench::new();
    bench.cut(10_000, 5);
    let end = GuestEnd::Crashed("triple fault".to_owned());
    assert_eq!(bench.at(10_100, Ended(end.clone())), []);
    let (five, six) = (Epoch::new(5), Epoch::new(6));
    assert_eq!(
        bench.at(10_200, Published(five)),
        [Action::Release(five), Action::Doorbell(five), Action::Write { epoch: six, ended: Some(end.clone()) }]
    );
    assert_eq!(bench.at(10_300, Written(six)), [Action::Publish { from: five, to: six }]);
    assert!(bench.at(10_400, Published(six)).contains(&Action::Halt(Halt::Ended(end))));
}

#[test]
fn a_yielding_primary_commits_and_rests() {
    let mut bench = Bench::new();
    assert_eq!(bench.at(100, Input::Yield), [Action::Stop], "at once, whatever the interval");
    let (four, five) = (Epoch::new(4), Epoch::new(5));
    assert_eq!(bench.at(110, Stopped), [Action::Write { epoch: five, ended: None }]);
    assert_eq!(bench.at(120, Written(five)), [Action::Publish { from: four, to: five }], "not resumed");
    assert_eq!(
        bench.at(130, Published(five)),
        [Action::Release(five), Action::Doorbell(five), Action::Halt(Halt::Yielded)]
    );
}

#[test]
fn a_yield_while_a_record_is_in_flight_makes_one_more() {
    let mut bench = Bench::new();
    bench.cut(10_000, 5);
    assert_eq!(bench.at(10_060, Input::Yield), []);
    assert_eq!(bench.at(10_070, Published(Epoch::new(5))).last(), Some(&Action::Stop));
}

#[test]
fn an_idle_guest_yields_too() {
    let mut bench = Bench::new();
    bench.cut(10_000, 5);
    bench.at(10_060, StillWaits);
    bench.at(10_070, Published(Epoch::new(5)));
    assert_eq!(bench.at(50_000, Input::Yield), [Action::Stop]);
}

#[test]
#[should_panic(expected = "published what was not in flight")]
fn a_publication_out_of_nowhere_is_the_drivers_bug() {
    Bench::new().at(1, Published(Epoch::new(5)));
}

#[test]
fn output_that_is_logged_asks_for_no_cut() {
    let mut bench = Bench::recording();
    assert_eq!(bench.at(500, Output { console: 1, packets: 0 }), []);
    assert_eq!(bench.at(99_999, Input::Flush), []);
    bench.cut(100_000, 5);
}

#[test]
fn a_log_that_runs_low_is_cut_at_once() {
    let mut bench = Bench::recording();
    assert_eq!(bench.at(500, Input::LogLow), [Action::PauseAtExit]);
    assert_eq!(bench.at(500, Input::AtExit), [Action::Stop]);
    bench.at(510, Stopped);
    bench.at(520, Written(Epoch::new(5)));
    bench.resumed(520, 10);
    bench.at(530, Published(Epoch::new(5)));
    assert_eq!(bench.core.deadline(), Some(Time::ZERO + Span::from_us(100_520)), "once");
}

#[test]
fn a_cut_waits_for_an_exit_but_not_for_ever() {
    let mut bench = Bench::recording();
    assert_eq!(bench.at(99_000, Input::AtExit), [], "nobody asked");
    assert_eq!(bench.at(100_000, Tick), [Action::PauseAtExit]);
    assert_eq!(bench.at(104_999, Tick), []);
    assert_eq!(bench.core.deadline(), Some(Time::ZERO + Span::from_us(105_000)));
    assert_eq!(bench.at(105_000, Tick), [Action::Stop]);
    assert_eq!(bench.at(105_001, Input::AtExit), [], "too late");
    let epoch = Epoch::new(5);
    assert_eq!(bench.at(105_010, Stopped), [Action::Write { epoch, ended: None }]);
    bench.at(105_020, Written(epoch));
    bench.resumed(105_020, 15);
    bench.at(105_030, Published(epoch));
    assert_eq!(bench.at(205_020, Tick), [Action::PauseAtExit]);
    assert_eq!(bench.at(205_021, Input::EventWaits), []);
    assert_eq!(bench.at(205_022, Input::Yield), [], "one pause is asked for at a time");
    assert_eq!(bench.at(205_023, Input::AtExit), [Action::Stop]);
}

/// Found by an acceptance test: on a machine with much else to do most commits were made wherever the guest stood, and a replay
/// had to take them as they were recorded.
#[test]
fn patience_counts_what_the_guest_ran() {
    let mut bench = Bench::recording();
    let at = |us| Time::ZERO + Span::from_us(us);
    let ran = |bench: &mut Bench, us, ran_us| bench.core.ran(at(us), Span::from_us(ran_us));
    assert!(!bench.core.asks_what_ran(at(99_999), &Tick) && bench.core.asks_what_ran(at(100_000), &Tick));
    ran(&mut bench, 100_000, 70_000);
    assert_eq!(bench.at(100_000, Tick), [Action::PauseAtExit]);
    assert_eq!(bench.core.deadline(), Some(at(105_000)), "if it runs all the time");
    // It had two milliseconds of the five.
    assert!(!bench.core.asks_what_ran(at(104_999), &Tick) && bench.core.asks_what_ran(at(105_000), &Tick));
    ran(&mut bench, 105_000, 72_000);
    assert_eq!(bench.at(105_000, Tick), []);
    assert_eq!(bench.core.deadline(), Some(at(108_000)));
    ran(&mut bench, 108_000, 75_000);
    assert_eq!(bench.at(108_000, Tick), [Action::Stop]);
}

#[test]
fn an_event_waits_for_a_guest_that_does_not_run_but_not_for_ever() {
    let config = PrimaryConfig { mode: Mode::Replay, epoch_interval: Span::from_ms(1_000), ..CONFIG };
    let mut bench = Bench { core: Primary::new(config, Time::ZERO), now: Time::ZERO };
    let at = |us| Time::ZERO + Span::from_us(us);
    assert!(bench.core.asks_what_ran(at(1_000), &Input::EventWaits));
    bench.core.ran(at(1_000), Span::from_us(500));
    bench.at(1_000, Input::EventWaits);
    assert!(!bench.core.asks_what_ran(at(1_500), &Input::EventWaits), "the first one counts");
    let mut now = 1_000;
    for _ in 0..20 {
        assert_eq!(bench.core.deadline(), Some(at(now + 5_000)));
        now += 5_000;
        bench.core.ran(at(now), Span::from_us(500));
        let stops = bench.at(now, Tick) == [Action::Stop];
        assert_eq!(stops, now == 101_000, "at {now} us");
    }
}

#[test]
fn the_interval_turns_with_the_mode_unless_it_was_chosen() {
    let [checkpoint, lockstep] = [Mode::Checkpoint, Mode::Lockstep].map(Mode::default_epoch_interval);
    assert_eq!(Mode::Checkpoint.interval_in(Mode::Lockstep, checkpoint), lockstep);
    assert_eq!(Mode::Lockstep.interval_in(Mode::Checkpoint, lockstep), checkpoint);
    assert_eq!(Mode::Checkpoint.interval_in(Mode::Replay, Span::from_ms(7)), Span::from_ms(7));
}

#[test]
fn an_event_that_no_exit_takes_is_delivered_at_a_published_cut() {
    let mut bench = Bench::recording();
    assert_eq!(bench.at(1_000, Input::EventWaits), []);
    assert_eq!(bench.at(3_000, Input::EventWaits), []);
    assert_eq!(bench.core.deadline(), Some(Time::ZERO + Span::from_us(6_000)), "patience counts from the first");
    assert_eq!(bench.at(6_000, Tick), [Action::Stop]);
    let (from, epoch) = (Epoch::new(4), Epoch::new(5));
    assert_eq!(bench.at(6_010, Stopped), [Action::Write { epoch, ended: None }]);
    assert_eq!(bench.at(6_020, Written(epoch)), [Action::Publish { from, to: epoch }], "the guest stands still");
    let after = [Action::Release(epoch), Action::Doorbell(epoch), Action::Deliver, Action::Resume];
    assert_eq!(bench.at(6_030, Published(epoch)), after);
    bench.resumed(6_040, 40);
    assert_eq!(bench.core.deadline(), Some(Time::ZERO + Span::from_us(106_020)));
}

/// Found by the simulator (lockstep, 5 hosts, 3 VMs, seed 3000469088): a guest that was sent packets had a twentieth of its time.
#[test]
fn a_guest_that_stood_for_long_is_not_stopped_for_the_next_event_at_once() {
    let config = PrimaryConfig { mode: Mode::Lockstep, epoch_interval: Span::from_ms(100), slots: 1, ..CONFIG };
    let mut bench =
        Bench { core: Primary::new(PrimaryConfig { base: Epoch::ZERO, ..config }, Time::ZERO), now: Time::ZERO };
    bench.cut(1_000, 1);
    bench.at(1_100, Published(Epoch::new(1)));
    let mut now = 1_100;
    let mut epoch = 1;
    // How long it stands for want of a slot, and for how long it runs then, if only events want to stop it.
    for (waits, runs) in [(10_000, 30_000), (20_000, 60_000), (200_000, 99_960)] {
        bench.at(now, Input::EventWaits);
        let stop = bench.core.deadline().expect("an event waits").since(Time::ZERO).ns() / 1_000;
        if bench.at(stop, Tick) == [Action::PauseAtExit] {
            bench.at(stop, Input::AtExit);
        }
        bench.at(stop + 10, Stopped);
        assert!(bench.core.is_stalled());
        now = stop + waits;
        bench.at(now, Applied(Epoch::new(epoch)));
        epoch += 1;
        bench.at(now + 10, Written(Epoch::new(epoch)));
        bench.at(now + 20, Published(Epoch::new(epoch)));
        now += 50;
        bench.resumed(now, waits);
        bench.at(now, Input::EventWaits);
        assert_eq!(bench.core.deadline(), Some(Time::ZERO + Span::from_us(now + runs)), "{waits}");
    }
}

#[test]
fn an_event_that_an_exit_took_in_time_is_not_cut_for() {
    let mut bench = Bench::recording();
    bench.at(1_000, Input::EventWaits);
    bench.at(2_000, Input::EventsTaken);
    assert_eq!(bench.at(6_000, Tick), []);
    bench.at(7_000, Input::EventWaits);
    assert_eq!(bench.at(12_000, Tick), [Action::Stop]);
    bench.at(12_010, Input::EventsTaken);
    assert_eq!(bench.at(12_010, Stopped), [Action::Resume], "taken on the way");
    assert_eq!(bench.core.counts(), PrimaryCounts::default());
}

/// Lockstep profile of the simulator, seed 316: it was counted down below zero.
#[test]
fn a_regular_cut_that_a_clock_set_back_makes_too_early_is_given_up() {
    let mut bench = Bench::recording();
    assert_eq!(bench.at(100_000, Tick), [Action::PauseAtExit]);
    assert_eq!(bench.at(100_005, Input::AtExit), [Action::Stop]);
    assert_eq!(bench.at(50_000, Stopped), [Action::Resume]);
    assert_eq!(bench.core.counts(), PrimaryCounts::default());
}

#[test]
fn the_mode_changes_when_the_last_record_of_the_old_one_is_published() {
    let mut bench = Bench::new();
    assert_eq!(bench.at(500, Input::Turn(Mode::Replay)), [Action::Stop], "at once");
    let (from, epoch) = (Epoch::new(4), Epoch::new(5));
    bench.at(510, Stopped);
    assert_eq!(bench.at(520, Written(epoch)), [Action::Publish { from, to: epoch }]);
    assert_eq!(bench.core.mode(), Mode::Checkpoint);
    let after = [
        Action::Release(epoch),
        Action::Doorbell(epoch),
        Action::SetMode(Mode::Replay),
        Action::Deliver,
        Action::Resume,
    ];
    assert_eq!(bench.at(530, Published(epoch)), after);
    assert_eq!(bench.core.mode(), Mode::Replay);
    assert_eq!(bench.at(600, Input::Turn(Mode::Replay)), [], "it is so already");
}

#[test]
fn output_in_the_log_rings_at_once_and_then_in_bunches() {
    let mut bench = Bench::recording();
    assert_eq!(bench.at(10, Input::Logged), [Action::LogDoorbell]);
    assert_eq!(bench.at(20, Input::Logged), []);
    assert_eq!(bench.at(30, Input::Logged), []);
    assert_eq!(bench.core.deadline(), Some(Time::ZERO + Span::from_us(1_010)));
    assert_eq!(bench.at(1_010, Tick), [Action::LogDoorbell]);
    assert_eq!(bench.at(5_000, Input::Logged), [Action::LogDoorbell]);
    assert_eq!(bench.core.deadline(), Some(Time::ZERO + Span::from_us(100_000)));
}

#[test]
fn a_guest_that_is_to_be_followed_is_committed_at_once_whatever_its_interval() {
    let first_cut = |mode, base| {
        let epoch_interval = Span::from_ms(60_000);
        let config = PrimaryConfig { mode, base: Epoch::new(base), epoch_interval, ..CONFIG };
        Primary::new(config, Time::ZERO).cut_deadline()
    };
    let regular = Some(Time::ZERO + Span::from_ms(60_000));
    assert_eq!(first_cut(Mode::Lockstep, 0), Some(Time::ZERO));
    assert_eq!(first_cut(Mode::Lockstep, 1), regular, "what is loaded is committed");
    assert_eq!(first_cut(Mode::Replay, 0), regular);
    let config = PrimaryConfig { mode: Mode::Lockstep, base: Epoch::ZERO, ..CONFIG };
    let mut bench = Bench { core: Primary::new(config, Time::ZERO), now: Time::ZERO };
    bench.cut(0, 1);
    assert_eq!(
        bench.at(60, Published(Epoch::new(1))),
        [Action::Release(Epoch::new(1)), Action::Doorbell(Epoch::new(1))]
    );
    assert_eq!(bench.core.cut_deadline(), Some(Time::ZERO + Span::from_us(50) + CONFIG.epoch_interval));
}

#[test]
fn bytes_below_a_batch_wait_for_more_and_packets_do_not() {
    let mut bench =
        Bench { core: Primary::new(PrimaryConfig { console_batch: 100, ..CONFIG }, Time::ZERO), now: Time::ZERO };
    assert_eq!(bench.at(1_500, Output { console: 99, packets: 0 }), []);
    assert_eq!(bench.core.deadline(), Some(Time::ZERO + CONFIG.epoch_interval));
    let at_once = |output: Input| {
        let config = PrimaryConfig { console_batch: 100, ..CONFIG };
        Bench { core: Primary::new(config, Time::ZERO), now: Time::ZERO }.at(1_500, output)
    };
    assert_eq!(at_once(Output { console: 100, packets: 0 }), [Action::Stop]);
    assert_eq!(at_once(Output { console: 99, packets: 1 }), [Action::Stop]);
}
