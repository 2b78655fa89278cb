//! Console input, from the client that feeds a VM to its primary and back.

use super::*;
use crate::console_input::{InputAt, MESSAGE_INPUT_MAX, MESSAGES_UNTOLD_MAX};
use crate::wire::INPUT_SINCE;

const OTHER: LinkId = LinkId::new(1001);
const AT: InputAt = InputAt { have: Some(5), safe: 3, room_to: 100 };

fn say(cluster: &mut Cluster, link: LinkId, request: Request) {
    cluster.input(Input::FromClient { link, message: FromClient { id: 9, request } });
}

fn fed(position: u64) -> Request {
    Request::Input { vm: VM, position, bytes: b"typed".to_vec() }
}

/// What a host was told of input, in order: of each message its generation and position, none for a request to open.
fn told(cluster: &Cluster, host: u64) -> Vec<(u64, Option<u64>)> {
    let of_input = |message: &ToHost| match message {
        ToHost::OpenInput { generation, .. } => Some((generation.get(), None)),
        ToHost::Input { generation, position, .. } => Some((generation.get(), Some(*position))),
        _ => None,
    };
    let of_host = cluster.told.iter().filter(|(link, _)| *link == LinkId::new(host));
    of_host.filter_map(|(_, message)| of_input(message)).collect()
}

fn feeding() -> Cluster {
    let mut cluster = Cluster::protected();
    cluster.input(Input::ClientHello { link: OTHER, protocol: PROTOCOL_VERSION });
    say(&mut cluster, CLIENT, Request::OpenInput(VM));
    assert_eq!(cluster.answered.last(), Some(&Ok(Answer::Done)));
    cluster
}

fn say_at(cluster: &mut Cluster, host: u64, generation: u64) {
    cluster.said(host, FromHost::InputAt { vm: VM, generation: Generation::new(generation), at: AT });
}

#[test]
fn input_goes_to_the_primary_and_its_word_comes_back() {
    let mut cluster = feeding();
    say(&mut cluster, CLIENT, fed(5));
    assert_eq!(told(&cluster, 0), [(1, None), (1, Some(5))]);
    say_at(&mut cluster, 0, 1);
    assert_eq!(cluster.input, [(CLIENT, ToClient::InputAt { vm: VM, at: AT })]);
    // Of nobody else is anything believed.
    say_at(&mut cluster, 1, 1);
    say_at(&mut cluster, 0, 2);
    assert_eq!(cluster.input.len(), 1);
    let bytes = vec![0; MESSAGE_INPUT_MAX + 1];
    say(&mut cluster, CLIENT, Request::Input { vm: VM, position: 10, bytes });
    assert_eq!(told(&cluster, 0).len(), 2, "no message is too long to be passed on");
}

#[test]
fn one_client_feeds_a_vm_until_it_is_gone_or_says_so() {
    let mut cluster = feeding();
    let refusal = "another command feeds the guest's console";
    for leaves in [Input::LinkClosed { link: CLIENT }, close(OTHER)] {
        let (who, next) = if leaves == close(OTHER) { (OTHER, CLIENT) } else { (CLIENT, OTHER) };
        if next == CLIENT {
            cluster.input(Input::ClientHello { link: CLIENT, protocol: PROTOCOL_VERSION });
        }
        say(&mut cluster, next, Request::OpenInput(VM));
        assert_eq!(cluster.answered.last(), Some(&Err(RequestError::NotNow(refusal.to_owned()))));
        let before = told(&cluster, 0).len();
        say(&mut cluster, next, fed(5));
        say(&mut cluster, next, Request::CloseInput(VM));
        assert_eq!(told(&cluster, 0).len(), before);
        say(&mut cluster, who, Request::OpenInput(VM));
        assert_eq!(cluster.answered.last(), Some(&Ok(Answer::Done)), "it does already");
        cluster.input(leaves);
        say(&mut cluster, next, Request::OpenInput(VM));
        assert_eq!(cluster.answered.last(), Some(&Ok(Answer::Done)));
    }
    say(&mut cluster, CLIENT, Request::OpenInput(VmId::new(3)));
    assert_eq!(cluster.answered.last(), Some(&Err(RequestError::UnknownVm(VmId::new(3)))));
}

fn close(link: LinkId) -> Input {
    Input::FromClient { link, message: FromClient { id: 9, request: Request::CloseInput(VM) } }
}

#[test]
fn the_next_primary_is_asked_and_nothing_is_sent_before_it_runs() {
    let mut cluster = feeding();
    cluster.close(0);
    say(&mut cluster, CLIENT, fed(5));
    cluster.ask(1, 1);
    say(&mut cluster, CLIENT, fed(10));
    assert_eq!(told(&cluster, 1), []);
    cluster.live(1, 2);
    say(&mut cluster, CLIENT, fed(5));
    assert_eq!(told(&cluster, 1), [(2, None), (2, Some(5))]);
}

#[test]
fn a_primary_that_lost_its_connection_is_asked_again() {
    let word = Word { epoch: Epoch::ZERO, sealed: false };
    let mut next = super::restart::restart(&feeding(), &super::restart::recovered(Some(word), 0));
    next.input(Input::ClientHello { link: CLIENT, protocol: PROTOCOL_VERSION });
    // The client may be faster than the host.
    say(&mut next, CLIENT, Request::OpenInput(VM));
    assert_eq!(told(&next, 0), []);
    let role = HeldRole { vm: VM, generation: Generation::FIRST, role: Role::Primary { live: true } };
    next.join(0, &[role]);
    assert_eq!(told(&next, 0), [(1, None)]);
}

#[test]
fn a_host_of_an_older_version_is_given_none() {
    let mut cluster = Cluster::new();
    let older = VersionRange { min: 1, max: INPUT_SINCE - 1 };
    cluster.hello(0, older, Cluster::profile(0), &[]);
    cluster.hello(1, PROTOCOLS, Cluster::profile(1), &[]);
    cluster.create();
    let primary = if cluster.promotions(0).is_empty() { 1 } else { 0 };
    cluster.live(primary, 1);
    let refusal = "host `h0` speaks protocol 6, console input takes 7: use a newer ftvm there";
    say(&mut cluster, CLIENT, Request::OpenInput(VM));
    if primary == 0 {
        assert_eq!(cluster.answered.last(), Some(&Err(RequestError::NotNow(refusal.to_owned()))));
        cluster.ready(1, 1);
        cluster.close(0);
        cluster.ask(1, 1);
        cluster.live(1, 2);
        say(&mut cluster, CLIENT, Request::OpenInput(VM));
        cluster.hello(0, older, Cluster::profile(0), &[]);
        cluster.ready(0, 2);
        cluster.close(1);
        cluster.ask(0, 2);
        cluster.live(0, 3);
    } else {
        cluster.ready(0, 1);
        cluster.close(1);
        cluster.ask(0, 1);
        cluster.live(0, 2);
    }
    assert_eq!(cluster.input, [(CLIENT, ToClient::InputEnded { vm: VM, reason: refusal.to_owned() })]);
    assert_eq!(told(&cluster, 0), []);
}

#[test]
fn a_primary_that_says_nothing_is_not_buried_in_messages() {
    let mut cluster = feeding();
    let most = usize::try_from(MESSAGES_UNTOLD_MAX).unwrap();
    for position in 0..1_000 {
        say(&mut cluster, CLIENT, fed(position));
        if position % 3 == 0 {
            say(&mut cluster, CLIENT, Request::OpenInput(VM));
        }
    }
    assert_eq!(told(&cluster, 0).len(), most, "what it is asked counts as well");
    say_at(&mut cluster, 0, 1);
    assert_eq!(told(&cluster, 0).last(), Some(&(1, None)), "what was not passed on is found out, and sent again");
    say(&mut cluster, CLIENT, fed(7));
    assert_eq!(told(&cluster, 0).last(), Some(&(1, Some(7))));
}

#[test]
fn a_guest_that_has_ended_is_fed_no_more() {
    let mut cluster = feeding();
    let end = crate::commit_meta::GuestEnd::Exited(0);
    cluster.committed = Epoch::new(1);
    let outcome = ApplyOutcome::Done { epoch: Epoch::new(1), console_end: 0, ended: Some(end) };
    cluster.hold_applies = true;
    cluster.commit(0, 1, 1);
    cluster.input(Input::Applied { vm: VM, generation: Generation::FIRST, outcome });
    say(&mut cluster, CLIENT, fed(5));
    assert_eq!(told(&cluster, 0), [(1, None)]);
    say(&mut cluster, CLIENT, Request::OpenInput(VM));
    assert!(matches!(cluster.answered.last(), Some(Err(RequestError::NotNow(why))) if why == "the guest has ended"));
}
