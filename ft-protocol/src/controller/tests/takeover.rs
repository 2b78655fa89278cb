//! Takeovers.

use super::*;

#[test]
fn a_vm_is_led_and_protected_by_different_hosts() {
    let cluster = Cluster::protected();
    let status = cluster.status();
    assert_eq!((status.primary.as_deref(), status.secondary.as_deref()), (Some("h0"), Some("h1")));
    assert_eq!(cluster.promotions(0), [(1, 0)]);
}

#[test]
fn the_secondary_takes_over_what_was_committed_and_a_spare_protects() {
    let mut cluster = Cluster::protected();
    cluster.commit(0, 1, 7);
    cluster.close(0);
    assert!(matches!(cluster.told.last(), Some((link, ToHost::PrimaryGone { .. })) if *link == LinkId::new(1)));
    assert_eq!(cluster.promotions(1), [], "the secondary decides to ask");
    cluster.ask(1, 1);
    assert_eq!(cluster.promotions(1), [(2, 7)]);
    cluster.live(1, 2);
    assert_eq!(cluster.status().secondary.as_deref(), Some("h2"));
    cluster.ready(2, 2);
    assert_eq!(cluster.status().unprotected, None);
    assert_eq!(cluster.status().takeovers, 1);
}

#[test]
fn nobody_is_promoted_before_the_sealed_epochs_are_applied() {
    let mut cluster = Cluster::protected();
    cluster.hold_applies = true;
    cluster.committed = Epoch::new(2);
    cluster.close(0);
    cluster.ask(1, 1);
    assert_eq!(cluster.promotions(1), []);
    for epoch in 1..=2 {
        let (vm, generation, held) = cluster.held.remove(0);
        assert_eq!(held, Epoch::new(epoch));
        assert_eq!(cluster.promotions(1), []);
        cluster.apply(vm, generation, held);
    }
    assert_eq!(cluster.promotions(1), [(2, 2)]);
}

#[test]
fn the_second_asker_loses() {
    let mut cluster = Cluster::protected();
    cluster.close(0);
    cluster.ask(1, 1);
    cluster.ask(2, 1);
    cluster.ask(1, 1);
    let over = TakeoverRefusal::GenerationOver { asked: Generation::new(1), current: Generation::new(2) };
    for host in [2, 1] {
        let refused = cluster.told.iter().any(|(link, message)| {
            *link == LinkId::new(host) && matches!(message, ToHost::TakeoverRefused { refusal, .. } if *refusal == over)
        });
        assert!(refused, "h{host} was not refused");
    }
    assert_eq!(cluster.promotions(2), []);
}

#[test]
fn a_silent_heartbeat_is_not_believed_while_the_controller_hears_it() {
    let mut cluster = Cluster::protected();
    for count in 0..3 {
        cluster.input(Input::Beat { host: HostId::new(0), count: Some(count) });
    }
    let reason = TakeoverReason::HeartbeatSilent(Span::from_ms(50));
    cluster.said(1, FromHost::AskTakeover { vm: VM, generation: Generation::FIRST, reason });
    let refusal = TakeoverRefusal::PrimaryBeats;
    let refused = Happening::TakeoverRefused { vm: VM, host: HostId::new(1), refusal };
    assert!(!cluster.happened.contains(&refused), "before the next look");
    assert!(cluster.core.sample_after() < CONFIG.detector.interval, "it is to come soon");
    // What is seen first may have come before the ask.
    cluster.input(Input::Beat { host: HostId::new(0), count: Some(3) });
    assert!(!cluster.happened.contains(&refused));
    cluster.input(Input::Beat { host: HostId::new(0), count: Some(4) });
    assert!(cluster.happened.contains(&refused));
    assert_eq!(cluster.core.sample_after(), CONFIG.detector.interval);
    assert_eq!(cluster.promotions(1), []);
}

/// Swarm profile, 3 hosts, seed 9005503706 at d700cf1: the ask was refused for the beats of the host's new life, and nobody asked again.
#[test]
pub(super) fn beats_of_a_new_life_are_not_those_of_the_primary() {
    let mut cluster = Cluster::protected();
    for tick in 0..12 {
        cluster.now = Time::ZERO + Span::from_ms(5 * tick);
        cluster.input(Input::Beat { host: HostId::new(0), count: Some(1) });
    }
    cluster.close(0);
    cluster.join_as(0, 2, &[]);
    for count in 1..4 {
        cluster.now = cluster.now + Span::from_ms(5);
        cluster.input(Input::Beat { host: HostId::new(0), count: Some(count) });
    }
    let reason = TakeoverReason::HeartbeatSilent(Span::from_ms(50));
    cluster.said(1, FromHost::AskTakeover { vm: VM, generation: Generation::FIRST, reason });
    for count in 4..8 {
        cluster.now = cluster.now + Span::from_ms(5);
        cluster.input(Input::Beat { host: HostId::new(0), count: Some(count) });
    }
    assert!(!cluster.happened.iter().any(|happening| matches!(happening, Happening::TakeoverRefused { .. })));
    assert_eq!(cluster.promotions(1), [(2, 0)]);
}

/// The controller has seen the last beat an interval after it came, the secondary at once: the host may be lively for one of them when
/// the other finds it hung.
#[test]
fn a_secondary_that_finds_a_hang_first_is_granted_it_as_soon_as_the_controller_sees_it_too() {
    let mut cluster = Cluster::protected();
    let look = |cluster: &mut Cluster, ms: u64| {
        cluster.now = Time::ZERO + Span::from_ms(ms);
        cluster.input(Input::Beat { host: HostId::new(0), count: Some(1) });
    };
    (0..=20).step_by(5).for_each(|ms| look(&mut cluster, ms));
    let reason = TakeoverReason::HeartbeatSilent(Span::from_ms(50));
    cluster.said(1, FromHost::AskTakeover { vm: VM, generation: Generation::FIRST, reason });
    (25..=40).step_by(5).for_each(|ms| look(&mut cluster, ms));
    look(&mut cluster, 44);
    assert_eq!(cluster.promotions(1), [], "44 of 50 ms, and beats are 5 ms apart");
    look(&mut cluster, 45);
    assert_eq!(cluster.promotions(1), [(2, 0)]);
    assert!(!cluster.happened.iter().any(|happening| matches!(happening, Happening::TakeoverRefused { .. })));
}

#[test]
fn a_deposed_primary_is_told_even_when_it_is_only_silent() {
    let mut cluster = Cluster::protected();
    for tick in 0..12 {
        cluster.now = Time::ZERO + Span::from_ms(5 * tick);
        cluster.input(Input::Beat { host: HostId::new(0), count: Some(1) });
    }
    cluster.ask(1, 1);
    assert_eq!(cluster.fenced, [HostId::new(0)], "an agent may end it");
    let deposed = ToHost::Release { vm: VM, generation: Generation::FIRST, deposed: true };
    assert!(cluster.told.contains(&(LinkId::new(0), deposed)));
    assert_eq!(cluster.promotions(1), [(2, 0)]);
}

#[test]
fn both_dead_the_spare_takes_over_cold() {
    let mut cluster = Cluster::protected();
    cluster.committed = Epoch::new(3);
    cluster.close(0);
    cluster.close(1);
    assert_eq!(cluster.promotions(2), [(2, 3)]);
    let mut reverse = Cluster::protected();
    reverse.close(1);
    reverse.close(0);
    assert_eq!(reverse.promotions(2), [(2, 0)]);
}

#[test]
fn all_dead_the_vm_waits_in_the_pool_for_a_host() {
    let mut cluster = Cluster::protected();
    cluster.committed = Epoch::new(3);
    for host in [0, 1, 2] {
        cluster.close(host);
    }
    let stranded = Happening::Stranded { vm: VM, recoverable: Epoch::new(3) };
    assert_eq!(cluster.happened.iter().filter(|happening| **happening == stranded).count(), 1);
    assert_eq!(cluster.status().phase, "stranded");
    cluster.join_as(1, 99, &[]);
    assert_eq!(cluster.promotions(1).last().map(|promotion| promotion.1), Some(3));
}

#[test]
fn a_secondary_that_never_asks_is_not_waited_for_for_ever() {
    let mut cluster = Cluster::protected();
    cluster.close(0);
    cluster.now = Time::ZERO + Span::from_ms(1_001);
    cluster.input(Input::Tick);
    assert_eq!(cluster.promotions(1).len() + cluster.promotions(2).len(), 1);
}

#[test]
fn a_promotion_that_comes_to_nothing_is_followed_by_another() {
    let mut cluster = Cluster::protected();
    cluster.close(0);
    cluster.ask(1, 1);
    cluster.close(1);
    assert_eq!(cluster.promotions(2), [(3, 0)], "generation 2 was given away and may have published");
    cluster.now = Time::ZERO + Span::from_ms(10_001);
    cluster.input(Input::Tick);
    assert_eq!(cluster.promotions(2), [(3, 0)], "a guest that is booted has longer");
    cluster.now = Time::ZERO + BOOT_BOUND;
    cluster.input(Input::Tick);
    assert_eq!(cluster.promotions(2), [(3, 0), (4, 0)]);
}

/// What there is to be replayed may take longer than a promotion should: then nobody would ever run the guest.
#[test]
pub(super) fn a_promotion_has_twice_the_time_of_the_one_that_came_to_nothing() {
    let mut cluster = Cluster::protected();
    cluster.close(0);
    let (mut bounds, mut since, mut generation) = (Vec::new(), cluster.now, cluster.status().generation);
    while bounds.len() < 4 {
        cluster.now = cluster.now + Span::from_ms(1_000);
        for host in [1, 2] {
            let count = Some(cluster.now.ns());
            cluster.input(Input::Beat { host: HostId::new(host), count });
        }
        cluster.input(Input::Tick);
        if cluster.status().generation > generation {
            generation = cluster.status().generation;
            bounds.push(cluster.now.since(since).ms() / 1_000);
            since = cluster.now;
        }
    }
    // The first is that of the secondary, which was to ask.
    assert_eq!(bounds[1..], [11, 21, 41]);
}

#[test]
fn a_refused_record_ends_its_writers_reign_at_the_epoch_before() {
    let mut cluster = Cluster::protected();
    cluster.commit(0, 1, 2);
    cluster.hold_applies = true;
    cluster.commit(0, 1, 3);
    let (vm, generation, epoch) = cluster.held.remove(0);
    let refused = ApplyOutcome::Refused { epoch, reason: "body CRC".to_owned() };
    cluster.input(Input::Applied { vm, generation, outcome: refused });
    assert_eq!(cluster.promotions(1), [(2, 2)]);
    assert_eq!(cluster.applies, 3, "nothing after the refused record is tried");
}

#[test]
fn a_doorbell_that_rings_for_nothing_changes_nothing() {
    let mut cluster = Cluster::protected();
    cluster.committed = Epoch::new(1);
    let generation = Generation::FIRST;
    cluster.said(0, FromHost::Doorbell { vm: VM, generation, epoch: Epoch::new(u64::MAX >> 1) });
    assert_eq!(cluster.status().applied, Epoch::new(1));
    cluster.commit(0, 1, 2);
    assert_eq!(cluster.status().applied, Epoch::new(2));
}

/// A doorbell's apply is with the driver while the word is sealed beyond it: what the seal says must still be applied.
#[test]
fn a_record_published_just_before_the_seal_is_not_lost() {
    let mut cluster = Cluster::protected();
    cluster.hold_applies = true;
    let generation = Generation::FIRST;
    cluster.said(0, FromHost::Doorbell { vm: VM, generation, epoch: Epoch::new(1) });
    cluster.held.clear();
    cluster.committed = Epoch::new(1);
    cluster.close(0);
    cluster.ask(1, 1);
    // The driver had looked at the word before the publication.
    cluster.input(Input::Applied { vm: VM, generation, outcome: ApplyOutcome::NotCommitted });
    let (vm, generation, epoch) = cluster.held.remove(0);
    cluster.apply(vm, generation, epoch);
    assert_eq!(cluster.promotions(1), [(2, 1)]);
}

/// Found by the simulator (client profile, seed 1402): the reader was back, and had read everything, before the driver said
/// that the ring was full for the floor it had been given.
#[test]
fn room_that_a_reader_makes_while_the_ring_is_found_full_is_used() {
    room_made_meanwhile_is_used(Cluster::protected());
}

/// Found by the simulator (lockstep profile, seed 9010945076): the reader's word had the log moved to the ring while the record
/// was with the driver, and the log's floor was taken for the record's. The VM waited for a reader that had read everything.
#[test]
pub(super) fn room_that_a_reader_makes_is_used_where_a_log_is_moved_meanwhile() {
    let mut cluster = Cluster::protected();
    cluster.request(Request::SetMode { vm: VM, mode: Mode::Replay });
    cluster.said(0, FromHost::ModeIs { vm: VM, generation: Generation::FIRST, mode: Mode::Replay });
    room_made_meanwhile_is_used(cluster);
}

fn room_made_meanwhile_is_used(mut cluster: Cluster) {
    cluster.commit(0, 1, 1);
    let attach = FromClient { id: 2, request: Request::AttachConsole { vm: VM, from: 0 } };
    cluster.input(Input::FromClient { link: CLIENT, message: attach });
    cluster.hold_applies = true;
    cluster.commit(0, 1, 2);
    let (vm, generation, epoch) = cluster.held.remove(0);
    while cluster.core.vms[&VM].draining_log.is_some() {
        let outcome = DrainOutcome::Done { console_end: 0 };
        cluster.input(Input::LogDrained { vm, generation, outcome });
    }
    let consumed = FromClient { id: 3, request: Request::ConsoleConsumed { vm: VM, position: 10 } };
    cluster.input(Input::FromClient { link: CLIENT, message: consumed });
    cluster.input(Input::Applied { vm, generation, outcome: ApplyOutcome::ConsoleFull { epoch, console_end: 0 } });
    assert_eq!(cluster.held, [(vm, generation, epoch)], "tried again at once");
    cluster.input(Input::Applied { vm, generation, outcome: ApplyOutcome::ConsoleFull { epoch, console_end: 0 } });
    assert_eq!(cluster.held.len(), 1, "and then not before there is room");
}

#[test]
fn a_damaged_commit_word_ends_the_reign() {
    let mut cluster = Cluster::protected();
    cluster.commit(0, 1, 2);
    cluster.input(Input::WordDamaged { vm: VM, generation: Generation::FIRST });
    assert_eq!(cluster.promotions(1), [(2, 2)]);
    cluster.input(Input::WordDamaged { vm: VM, generation: Generation::FIRST });
    assert_eq!(cluster.promotions(1), [(2, 2)], "that generation is over");
}

#[test]
fn a_pool_that_refuses_a_generation_is_asked_again_later() {
    let mut cluster = Cluster::protected();
    cluster.pool_refuses = true;
    cluster.close(0);
    cluster.ask(1, 1);
    assert_eq!(cluster.promotions(1), []);
    cluster.pool_refuses = false;
    cluster.input(Input::Tick);
    assert_eq!(cluster.promotions(1), [], "not at once");
    cluster.now = Time::ZERO + CONFIG.hold_down;
    cluster.input(Input::Tick);
    assert_eq!(cluster.promotions(1), [(2, 0)], "the generation that nobody got is not wasted");
}

#[test]
fn the_guests_end_releases_everybody() {
    let mut cluster = Cluster::protected();
    cluster.hold_applies = true;
    cluster.commit(0, 1, 1);
    let (vm, generation, epoch) = cluster.held.remove(0);
    let ended = Some(crate::commit_meta::GuestEnd::Exited(5));
    cluster.input(Input::Applied { vm, generation, outcome: ApplyOutcome::Done { epoch, console_end: 9, ended } });
    for host in [0, 1] {
        let release = ToHost::Release { vm: VM, generation: Generation::FIRST, deposed: false };
        assert!(cluster.told.contains(&(LinkId::new(host), release)));
    }
    cluster.close(0);
    assert_eq!(cluster.status().phase, "ended");
}

/// Its place would be the next generation's, and the driver would move that one's output for this one's.
#[test]
pub(super) fn a_log_that_is_read_is_not_given_back() {
    let mut cluster = Cluster::protected();
    let generation = Generation::FIRST;
    cluster.said(0, FromHost::Logged { vm: VM, generation });
    cluster.close(0);
    cluster.ask(1, 1);
    cluster.live(1, 2);
    assert_eq!(cluster.closed, []);
    let outcome = DrainOutcome::Done { console_end: 0 };
    cluster.input(Input::LogDrained { vm: VM, generation, outcome });
    assert_eq!(cluster.closed, [generation]);
}
