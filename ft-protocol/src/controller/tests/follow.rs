//! Lockstep: application waits for the secondary that follows, and for nothing else for ever.

use super::*;
use crate::ids::FollowId;
use crate::wire::{FOLLOW_SINCE, FollowStep};

const GENERATION: Generation = Generation::FIRST;

/// Protected in lockstep mode, epoch 1 applied, host 1 told to follow.
fn following() -> Cluster {
    let mut cluster = Cluster::protected();
    set_mode(&mut cluster, Mode::Lockstep);
    cluster.commit(0, 1, 1);
    recorded(&mut cluster, 1);
    assert_eq!(told_to_follow(&cluster), [(LinkId::new(1), Epoch::new(1))]);
    cluster
}

fn set_mode(cluster: &mut Cluster, mode: Mode) {
    let message = FromClient { id: 2, request: Request::SetMode { vm: VM, mode } };
    cluster.input(Input::FromClient { link: CLIENT, message });
}

/// The primary is in lockstep mode, and all inputs since an epoch are in its log.
fn recorded(cluster: &mut Cluster, since: u64) {
    cluster.said(0, FromHost::ModeIs { vm: VM, generation: GENERATION, mode: Mode::Lockstep });
    cluster.said(0, FromHost::Recorded { vm: VM, generation: GENERATION, since: Epoch::new(since) });
}

fn told_to_follow(cluster: &Cluster) -> Vec<(LinkId, Epoch)> {
    let follow = |(link, message): &(LinkId, ToHost)| match message {
        ToHost::FollowAs { base, .. } => Some((*link, *base)),
        _ => None,
    };
    cluster.told.iter().filter_map(follow).collect()
}

fn told_not_to(cluster: &Cluster) -> bool {
    cluster.told.iter().any(|(_, message)| matches!(message, ToHost::Unfollow { .. }))
}

/// The number of the order to follow that was given last.
fn follow(cluster: &Cluster) -> FollowId {
    let follow = |(_, message): &(LinkId, ToHost)| match message {
        ToHost::FollowAs { follow, .. } => Some(*follow),
        _ => None,
    };
    cluster.told.iter().rev().find_map(follow).expect("nobody was told to follow")
}

fn followed(cluster: &mut Cluster, host: u64, epoch: u64) {
    let follow = follow(cluster);
    followed_by(cluster, follow, host, epoch);
}

fn followed_by(cluster: &mut Cluster, follow: FollowId, host: u64, epoch: u64) {
    let (generation, epoch, step) = (cluster.core.vms[&VM].generation, Epoch::new(epoch), FollowStep::Compared);
    cluster.said(host, FromHost::FollowedAs { follow, vm: VM, generation, epoch, step });
}

fn applied(cluster: &Cluster) -> u64 {
    cluster.core.vms[&VM].applied.get()
}

#[test]
fn nobody_follows_before_all_inputs_are_in_the_log() {
    let mut cluster = Cluster::protected();
    set_mode(&mut cluster, Mode::Lockstep);
    cluster.commit(0, 1, 3);
    assert_eq!(told_to_follow(&cluster), []);
    recorded(&mut cluster, 4);
    assert_eq!(told_to_follow(&cluster), [], "the image is still of the time before");
    cluster.commit(0, 1, 4);
    assert_eq!(told_to_follow(&cluster), [(LinkId::new(1), Epoch::new(4))]);
}

#[test]
fn the_image_goes_on_when_the_secondary_has_come_there() {
    let mut cluster = following();
    cluster.commit(0, 1, 3);
    assert_eq!(applied(&cluster), 1);
    followed(&mut cluster, 1, 2);
    assert_eq!(applied(&cluster), 2);
    followed(&mut cluster, 1, 3);
    followed(&mut cluster, 1, 4);
    assert_eq!(applied(&cluster), 3, "what is not committed is not applied, whatever a secondary says");
    cluster.commit(0, 1, 4);
    assert_eq!(applied(&cluster), 4);
}

#[test]
fn a_takeover_waits_for_the_tail_and_goes_on_from_it() {
    let mut cluster = following();
    cluster.commit(0, 1, 2);
    cluster.close(0);
    cluster.ask(1, 1);
    assert_eq!(applied(&cluster), 1);
    assert!(
        !cluster
            .told
            .iter()
            .any(|(_, message)| matches!(message, ToHost::Promote(order) if order.generation.get() == 2))
    );
    followed(&mut cluster, 1, 2);
    assert_eq!(applied(&cluster), 2);
    let promoted = |(link, message): &(LinkId, ToHost)| {
        matches!(message, ToHost::Promote(order) if order.base == Epoch::new(2)) && *link == LinkId::new(1)
    };
    assert!(cluster.told.iter().any(promoted));
    assert!(!told_not_to(&cluster));
}

#[test]
fn a_secondary_that_dies_or_hangs_holds_nothing_up() {
    let mut cluster = following();
    cluster.commit(0, 1, 2);
    cluster.close(1);
    assert_eq!(applied(&cluster), 2, "its view is gone");

    let mut cluster = following();
    cluster.commit(0, 1, 2);
    cluster.now = cluster.now + CONFIG.promotion_bound;
    cluster.input(Input::Tick);
    assert_eq!(applied(&cluster), 1);
    cluster.now = cluster.now + Span::from_ms(1);
    cluster.input(Input::Tick);
    assert_eq!(applied(&cluster), 2);
    assert!(told_not_to(&cluster));
    followed(&mut cluster, 1, 3);
    cluster.commit(0, 1, 3);
    assert_eq!(applied(&cluster), 3, "it is not asked any more");
}

#[test]
fn an_idle_guest_is_no_hanging_secondary() {
    let mut cluster = following();
    cluster.now = cluster.now + CONFIG.promotion_bound + CONFIG.promotion_bound;
    cluster.commit(0, 1, 2);
    cluster.input(Input::Tick);
    assert_eq!(applied(&cluster), 1);
    followed(&mut cluster, 1, 2);
    assert_eq!(applied(&cluster), 2);
}

#[test]
fn steps_that_cannot_be_are_not_believed() {
    let mut cluster = following();
    cluster.commit(0, 1, 5);
    followed(&mut cluster, 2, 2);
    assert_eq!(applied(&cluster), 1, "another host's word");
    followed(&mut cluster, 1, 4);
    assert!(told_not_to(&cluster));
    assert_eq!(applied(&cluster), 5);
}

#[test]
fn a_divergence_ends_lockstep_and_the_guest_goes_on() {
    let mut cluster = following();
    cluster.commit(0, 1, 2);
    let follow = follow(&cluster);
    let diverged =
        |report: &str| FromHost::DivergedAs { follow, vm: VM, generation: GENERATION, report: report.to_owned() };
    cluster.said(1, diverged("exit 9: expected a, got b"));
    assert_eq!(cluster.core.vms[&VM].spec.mode, Mode::Checkpoint);
    assert_eq!(applied(&cluster), 2);
    assert!(told_not_to(&cluster));
    let to_checkpoint = |message: &ToHost| matches!(message, ToHost::SetMode { mode: Mode::Checkpoint, .. });
    assert!(cluster.told.iter().any(|(link, message)| *link == LinkId::new(0) && to_checkpoint(message)));
    // Said again by one that does not follow any more: it may have seen the future.
    cluster.happened.clear();
    cluster.said(1, diverged("exit 10"));
    assert_eq!(cluster.happened, []);
}

/// Between two times in lockstep mode, inputs were not in the log; what the primary says of the first may come in the second.
#[test]
fn what_a_primary_says_of_its_log_is_of_the_mode_it_is_in() {
    let mut cluster = following();
    let earlier = told_to_follow(&cluster).len();
    cluster.commit(0, 1, 2);
    let orders = |cluster: &Cluster| {
        let order = |(_, message): &(LinkId, ToHost)| match message {
            ToHost::SetMode { mode, .. } => Some(*mode),
            _ => None,
        };
        cluster.told.iter().filter_map(order).collect::<Vec<_>>()
    };
    set_mode(&mut cluster, Mode::Checkpoint);
    set_mode(&mut cluster, Mode::Lockstep);
    assert_eq!(orders(&cluster), [Mode::Lockstep, Mode::Checkpoint], "the last order waits for the answer to this one");
    cluster.now = cluster.now + CONFIG.hold_down;
    recorded(&mut cluster, 1);
    cluster.input(Input::Tick);
    assert_eq!(told_to_follow(&cluster).len(), earlier, "this was of the time before");
    let before = cluster.answered.len();
    cluster.said(0, FromHost::ModeIs { vm: VM, generation: GENERATION, mode: Mode::Checkpoint });
    assert_eq!(orders(&cluster).last(), Some(&Mode::Lockstep));
    assert_eq!((orders(&cluster).len(), cluster.answered.len()), (3, before), "nobody waits for this mode any more");
    cluster.input(Input::Tick);
    assert_eq!(told_to_follow(&cluster).len(), earlier);
    recorded(&mut cluster, 2);
    assert_eq!(cluster.answered.last(), Some(&Ok(Answer::Done)));
    assert_eq!(told_to_follow(&cluster).last(), Some(&(LinkId::new(1), Epoch::new(2))));
}

/// The same with the bug: the secondary is told to follow from where inputs are missing.
#[cfg(feature = "planted-bugs")]
#[test]
fn orders_of_modes_that_overlap_are_found_out() {
    crate::planted::plant(Some(crate::planted::PlantedBug::ModeOrdersOverlap));
    let mut cluster = following();
    let earlier = told_to_follow(&cluster).len();
    cluster.commit(0, 1, 2);
    set_mode(&mut cluster, Mode::Checkpoint);
    set_mode(&mut cluster, Mode::Lockstep);
    cluster.now = cluster.now + CONFIG.hold_down;
    recorded(&mut cluster, 1);
    cluster.input(Input::Tick);
    crate::planted::plant(None);
    assert_eq!(told_to_follow(&cluster).len(), earlier + 1, "the planted bug does nothing");
}

/// A primary that is not connected does not hear its orders: no answer to them is waited for when it comes.
#[test]
fn a_primary_that_comes_back_is_told_its_mode() {
    let word = Word { epoch: Epoch::new(0), sealed: false };
    let mut next = super::restart::restart(&Cluster::protected(), &super::restart::recovered(Some(word), 0));
    next.input(Input::ClientHello { link: CLIENT, protocol: PROTOCOL_VERSION });
    set_mode(&mut next, Mode::Replay);
    set_mode(&mut next, Mode::Lockstep);
    next.join(0, &[HeldRole { vm: VM, generation: GENERATION, role: Role::Primary { live: true } }]);
    let told = next.told.iter().filter_map(|(_, message)| match message {
        ToHost::SetMode { mode, .. } => Some(*mode),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [Mode::Lockstep]);
    let answered = next.answered.len();
    next.said(0, FromHost::ModeIs { vm: VM, generation: GENERATION, mode: Mode::Lockstep });
    assert_eq!((next.answered.len(), next.answered.last()), (answered + 1, Some(&Ok(Answer::Done))));
}

/// What was said of an order that is over may come when the same host follows by another one already.
#[test]
pub(super) fn what_is_said_of_an_earlier_order_is_not_believed() {
    let mut cluster = following();
    let earlier = follow(&cluster);
    cluster.commit(0, 1, 2);
    set_mode(&mut cluster, Mode::Replay);
    assert_eq!(applied(&cluster), 2);
    set_mode(&mut cluster, Mode::Lockstep);
    cluster.said(0, FromHost::ModeIs { vm: VM, generation: GENERATION, mode: Mode::Replay });
    recorded(&mut cluster, 1);
    cluster.now = cluster.now + CONFIG.hold_down;
    cluster.input(Input::Tick);
    assert_eq!(told_to_follow(&cluster).last(), Some(&(LinkId::new(1), Epoch::new(2))));
    assert_ne!(follow(&cluster), earlier);
    cluster.commit(0, 1, 3);
    followed_by(&mut cluster, earlier, 1, 3);
    assert_eq!(applied(&cluster), 2, "it has not come there by its present order");
    let report = "exit 9: expected a, got b".to_owned();
    cluster.said(1, FromHost::DivergedAs { follow: earlier, vm: VM, generation: GENERATION, report });
    assert_eq!(cluster.core.vms[&VM].spec.mode, Mode::Lockstep, "what it saw then is not of now");
    followed(&mut cluster, 1, 3);
    assert_eq!(applied(&cluster), 3);
}

#[test]
fn a_secondary_that_could_not_say_of_which_order_it_speaks_does_not_follow() {
    let mut cluster = Cluster::new();
    cluster.join(0, &[]);
    cluster.hello(1, VersionRange { min: 1, max: FOLLOW_SINCE - 1 }, Cluster::profile(1), &[]);
    cluster.create();
    cluster.live(0, 1);
    cluster.said(1, FromHost::StandbyReady { vm: VM, generation: GENERATION });
    set_mode(&mut cluster, Mode::Lockstep);
    cluster.commit(0, 1, 1);
    cluster.said(0, FromHost::Recorded { vm: VM, generation: GENERATION, since: Epoch::new(1) });
    assert_eq!(told_to_follow(&cluster), []);
    cluster.commit(0, 1, 2);
    assert_eq!(applied(&cluster), 2);
    let why = cluster.status().not_following.expect("it is said why");
    assert!(why.contains("`h1` speaks protocol 4") && why.contains("which takes 5"), "{why}");
    // One that could is the better choice.
    cluster.join(2, &[]);
    cluster.close(1);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h2"));
}

#[test]
fn of_two_hosts_the_one_that_can_follow_stands_by() {
    let mut cluster = Cluster::new();
    cluster.join(0, &[]);
    cluster.create();
    set_mode(&mut cluster, Mode::Lockstep);
    cluster.hello(1, VersionRange { min: 1, max: FOLLOW_SINCE - 1 }, Cluster::profile(1), &[]);
    cluster.join(2, &[]);
    cluster.live(0, 1);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h2"));
}

#[test]
fn why_nobody_follows_is_said() {
    let mut cluster = Cluster::protected();
    assert_eq!(cluster.status().not_following, None, "nobody is to");
    set_mode(&mut cluster, Mode::Lockstep);
    cluster.commit(0, 1, 1);
    assert!(cluster.status().not_following.is_some_and(|why| why.contains("yet to turn to lockstep")));
    cluster.said(0, FromHost::ModeIs { vm: VM, generation: GENERATION, mode: Mode::Lockstep });
    assert!(cluster.status().not_following.is_some_and(|why| why.contains("yet to commit")));
    cluster.said(0, FromHost::Recorded { vm: VM, generation: GENERATION, since: Epoch::new(1) });
    assert_eq!(cluster.status().not_following, None, "it does");
    let (follow, reason) = (follow(&cluster), "the log is\nburnt".to_owned());
    let failed = |follow| FromHost::FollowFailed { follow, vm: VM, generation: GENERATION, reason: reason.clone() };
    cluster.said(1, failed(FollowId::new(follow.get() + 1)));
    assert_eq!(cluster.status().not_following, None, "of another order");
    cluster.commit(0, 1, 2);
    cluster.said(1, failed(follow));
    assert!(told_not_to(&cluster));
    assert_eq!(applied(&cluster), 2, "it is not waited for any more");
    let why = cluster.status().not_following.expect("it is said why");
    assert!(why.contains("the log is burnt"), "{why}");
}

#[test]
fn a_damaged_log_is_told_as_what_it_is() {
    let mut cluster = following();
    let lost = || Input::LogLost { vm: VM, generation: GENERATION, report: "damaged behind entry 7".to_owned() };
    cluster.input(lost());
    cluster.input(lost());
    let told = |cluster: &Cluster| {
        cluster.happened.iter().filter(|happening| matches!(happening, Happening::LogLost { .. })).count()
    };
    assert_eq!(told(&cluster), 1, "the same once");
    assert_eq!(cluster.core.vms[&VM].spec.mode, Mode::Lockstep, "the guest is what it was");
    let report = "damaged behind entry 9".to_owned();
    cluster.said(1, FromHost::LogLost { vm: VM, generation: GENERATION, report: report.clone() });
    assert_eq!(told(&cluster), 1, "not the primary");
    cluster.said(0, FromHost::LogLost { vm: VM, generation: GENERATION, report });
    let status = cluster.status();
    assert_eq!((status.mode, status.diverged), (Mode::Checkpoint, None));
    assert_eq!(status.log_lost.as_deref(), Some("damaged behind entry 9"));
    assert!(told_not_to(&cluster));
}

#[test]
fn turning_to_another_mode_ends_it() {
    let mut cluster = following();
    cluster.commit(0, 1, 2);
    set_mode(&mut cluster, Mode::Replay);
    assert!(told_not_to(&cluster));
    assert_eq!(applied(&cluster), 2);
    assert_eq!(cluster.core.vms[&VM].spec.epoch_interval, Mode::Replay.default_epoch_interval());
}

/// Found by an acceptance test: the lag of a secondary that was stopped stayed what it had been before.
#[test]
fn a_secondary_that_stands_still_falls_behind_and_holds_its_primary_back() {
    let mut cluster = following();
    let later = |cluster: &mut Cluster, ms| {
        cluster.now = cluster.now + Span::from_ms(ms);
        cluster.input(Input::Tick);
    };
    let lags = |cluster: &Cluster| {
        let status = cluster.status().following.expect("it follows");
        (status.lag, status.lag_max)
    };
    let ms = |lag, lag_max| (Span::from_ms(lag), Span::from_ms(lag_max));
    cluster.commit(0, 1, 2);
    later(&mut cluster, 3);
    followed(&mut cluster, 1, 2);
    later(&mut cluster, 500);
    assert_eq!(lags(&cluster), ms(3, 3), "there is nothing more to follow");
    cluster.commit(0, 1, 3);
    later(&mut cluster, 2);
    assert_eq!(lags(&cluster), ms(3, 3));
    later(&mut cluster, 700);
    assert_eq!((lags(&cluster), cluster.status().waits), (ms(702, 702), None));
    cluster.commit(0, 1, 4);
    let waits = "its journal is full until its secondary, which follows, has come to epoch 3";
    assert_eq!(cluster.status().waits.as_deref(), Some(waits), "both slots are taken");
    followed(&mut cluster, 1, 3);
    assert_eq!((lags(&cluster), cluster.status().waits), (ms(702, 702), None));
    followed(&mut cluster, 1, 4);
    assert_eq!(lags(&cluster), ms(0, 702));
}
