//! Who is given up: primaries that commit nothing, standbys and promotions that are overdue, hosts that do not come back.

use super::*;
use crate::activity::{Activity, Doing};
use crate::ids::Epoch;

impl Cluster {
    /// Time goes by in steps of a sample: all hosts beat, the primary of the first VM says this. Up to `ms`, or until its
    /// primary is gone; says when that was.
    fn watch(&mut self, ms: u64, mut says: impl FnMut(u64) -> Option<Activity>) -> Option<u64> {
        for step in 1..=ms / 5 {
            self.now = self.now + Span::from_ms(5);
            for host in 0..3 {
                self.input(Input::Beat { host: HostId::new(host), count: Some(self.now.ns()) });
            }
            for (vm, generation, _) in self.core.running().collect::<Vec<_>>() {
                self.input(Input::Activity { vm, generation, said: says(step) });
            }
            self.input(Input::Tick);
            let stalled = |happening: &Happening| {
                matches!(happening, Happening::PrimaryGone { reason: TakeoverReason::CommitStalled(_), .. })
            };
            if self.happened.iter().any(stalled) {
                return Some(step * 5);
            }
        }
        None
    }
}

fn says(doing: Doing, count: u64) -> Option<Activity> {
    Some(Activity { doing, count })
}

#[test]
fn a_primary_that_owes_a_commit_and_makes_none_is_succeeded() {
    let mut cluster = Cluster::protected();
    cluster.commit(0, 1, 3);
    let found = cluster.watch(1_000, |_| says(Doing::Owes, 7)).expect("it is found");
    assert!((200..=210).contains(&found), "{found} ms");
    assert!(matches!(cluster.told.last(), Some((link, ToHost::PrimaryGone { .. })) if *link == LinkId::new(1)));
    let reason = TakeoverReason::CommitStalled(Span::from_ms(200));
    cluster.said(1, FromHost::AskTakeover { vm: VM, generation: Generation::new(1), reason });
    assert_eq!(cluster.promotions(1), [(2, 3)], "its heart beats, and that is no reason to refuse");
    cluster.live(1, 2);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h2"), "who hung is not trusted at once");
}

#[test]
fn a_count_that_moves_does_not_stand_for_a_commit_that_is_owed() {
    let mut cluster = Cluster::protected();
    assert!(cluster.watch(1_000, |step| says(Doing::Owes, step)).is_some());
}

#[test]
fn threads_that_hang_while_the_guest_waits_or_the_journal_is_full_are_found_too() {
    for doing in [Doing::Waits, Doing::Blocked, Doing::Writes] {
        assert!(Cluster::protected().watch(1_000, |_| says(doing, 9)).is_some(), "{doing:?}");
    }
}

#[test]
fn idle_guests_full_journals_a_full_pool_and_large_records_are_not_accused() {
    for doing in [Doing::Waits, Doing::Blocked, Doing::Writes] {
        assert_eq!(Cluster::protected().watch(60_000, |step| says(doing, step / 20)), None, "{doing:?}");
    }
    let mut commits = Cluster::protected();
    for epoch in 1..100 {
        commits.commit(0, 1, epoch);
        assert_eq!(commits.watch(150, |_| says(Doing::Owes, 0)), None, "slow is not stalled");
    }
    assert_eq!(Cluster::protected().watch(60_000, |_| None), None, "who says nothing cannot be judged");
}

#[test]
fn a_guest_whose_end_may_be_committed_but_not_applied_is_not_accused() {
    let mut cluster = Cluster::protected();
    cluster.hold_applies = true;
    cluster.commit(0, 1, 1);
    assert_eq!(cluster.watch(1_000, |_| says(Doing::Owes, 7)), None, "epoch 1 may be its last");
    let (vm, generation, epoch) = cluster.held.remove(0);
    cluster.apply(vm, generation, epoch);
    assert!(cluster.watch(1_000, |_| says(Doing::Owes, 7)).is_some(), "it was not");
}

#[test]
fn a_starved_controller_accuses_nobody_and_a_lone_primary_is_left_alone() {
    let mut starved = Cluster::protected();
    for _ in 0..10 {
        assert_eq!(starved.watch(20, |_| says(Doing::Owes, 0)), None);
        starved.now = starved.now + Span::from_ms(60_000);
        starved.commit(0, 1, starved.committed.get() + 1);
    }
    let mut lone = Cluster::new();
    lone.join(0, &[]);
    lone.create();
    lone.live(0, 1);
    assert_eq!(lone.watch(10_000, |_| says(Doing::Owes, 0)), None, "nobody could succeed it");
    lone.join(1, &[]);
    assert!(lone.watch(1_000, |_| says(Doing::Owes, 0)).is_some(), "now somebody can");
}

#[test]
fn what_is_said_under_an_older_generation_is_void() {
    let mut cluster = Cluster::protected();
    cluster.close(0);
    cluster.ask(1, 1);
    cluster.live(1, 2);
    for step in 0..1_000 {
        cluster.now = cluster.now + Span::from_ms(5);
        cluster.input(Input::Activity { vm: VM, generation: Generation::new(1), said: says(Doing::Owes, 0) });
        cluster.input(Input::Activity { vm: VM, generation: Generation::new(2), said: says(Doing::Waits, step) });
    }
    assert_eq!(cluster.status().generation, Generation::new(2));
    assert!(cluster.core.vms[&VM].suspected.is_none());
}

#[test]
fn a_standby_that_is_not_made_in_time_is_given_to_another_host() {
    let mut cluster = Cluster::new();
    for host in 0..3 {
        cluster.join(host, &[]);
    }
    cluster.create();
    cluster.live(0, 1);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h1"));
    cluster.now = cluster.now + Span::from_ms(10_001);
    cluster.input(Input::Tick);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h2"));
    cluster.ready(1, 1);
    assert!(cluster.status().unprotected.is_some(), "too late");
    cluster.ready(2, 1);
    assert_eq!(cluster.status().unprotected, None);
}

#[test]
fn a_host_that_was_promoted_in_vain_is_not_promoted_again_at_once() {
    let mut cluster = Cluster::new();
    for host in 0..2 {
        cluster.join(host, &[]);
    }
    cluster.create();
    assert_eq!(cluster.promotions(0), [(1, 0)]);
    cluster.now = cluster.now + BOOT_BOUND;
    cluster.input(Input::Tick);
    assert_eq!(cluster.promotions(1), [(2, 0)]);
}

#[test]
fn a_host_that_beats_but_never_comes_back_is_given_up() {
    let mut before = Cluster::protected();
    before.commit(0, 1, 5);
    let state = before.persisted.clone();
    let word = Some(Word { epoch: Epoch::new(5), sealed: false });
    let found = Recovered { vm: VM, word, applied: Epoch::new(5), console_end: 0, console_oldest: 0 };
    let mut after = Cluster { now: before.now, committed: Epoch::new(5), persisted: state.clone(), ..Cluster::new() };
    let mut actions = Vec::new();
    after.core = Controller::recover(CONFIG, state, &[found], after.now, &mut actions);
    after.execute(actions);
    for host in 1..3 {
        after.join(host, &[]);
    }
    assert_eq!(after.watch(9_900, |_| None), None);
    assert_eq!(after.status().generation, Generation::new(1), "it may come yet");
    after.watch(200, |_| None);
    assert_eq!(after.promotions(1), [(2, 5)]);
}
