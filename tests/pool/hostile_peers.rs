//! Peers that send garbage, claim what is not theirs, or take all that there is. The controller stays up, and the guest and
//! its hosts do not notice.

use crate::golden::Golden;
use crate::peer::{FakeHost, Peer, claim, half_open, hello, profile};
use crate::run::{Plan, Run};
use crate::support::{await_some, kvm};
use ft_protocol::spec::VmSpec;
use ft_protocol::wire::{
    Access, Envelope, ExtentTag, FromClient, FromHost, Grant, Hello, LiveReport, MESSAGE_BYTES_MAX, PROTOCOL_VERSION,
    Part, Request, RequestError, Role, TakeoverReason, ToClient, ToHost,
};
use ft_protocol::{Epoch, Generation, Span, VmId};
use serde::Serialize;
use shared_mem::{Extent, Offset};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;
use vmm::transport::{ConnectError, Connection};

const VM: VmId = VmId::new(0);

/// A guest that outlives the attacks, on two hosts.
fn victim(descriptors_max: Option<u32>) -> Run {
    victim_of(&Plan { controller_descriptors_max: descriptors_max, ..Plan::default() })
}

fn victim_of(plan: &Plan<'_>) -> Run {
    let golden = Golden::of("idle", 4, &["--ticks", "100", "--tick-ms", "20"]);
    let hosts = [("a", None), ("b", None)];
    Run::protected(&golden, &Plan { hosts: &hosts, ..*plan })
}

/// The guest, its hosts and the controller are none the worse.
fn unharmed(run: &mut Run, attack: &str) {
    run.step();
    let status = run.try_status().unwrap_or_else(|| panic!("{attack}: the controller does not answer"));
    for name in ["a", "b"] {
        let host = status.hosts.iter().find(|host| host.name == name).expect("a known host");
        assert_eq!(host.health, "up", "{attack}: host {name}: {}", run.everything());
    }
    let vm = &status.vms[0];
    assert_eq!((vm.takeovers, vm.generation.get()), (0, 1), "{attack}: {}", run.everything());
    assert!(vm.phase == "ended" || vm.unprotected.is_none(), "{attack}: {vm:?}");
    assert_eq!(run.deaths, 0, "{attack}");
}

fn enveloped(message: impl Serialize, tags: Vec<ExtentTag>) -> Vec<u8> {
    postcard::to_stdvec(&Envelope { message, extents: tags }).expect("it can be encoded")
}

fn upload_tag(offset: u64, len: u64) -> ExtentTag {
    ExtentTag { grant: Grant { part: Part::Upload, access: Access::ReadOnly }, offset, len }
}

fn client_hello() -> Hello {
    Hello::Client { protocol: PROTOCOL_VERSION }
}

/// A peer that the controller takes for a client.
fn client(run: &Run) -> Peer {
    let peer = Peer::connect(&run.socket());
    peer.send(client_hello());
    let welcome = peer.receive::<ToClient>().expect("an answer").message;
    assert_eq!(welcome, ToClient::Welcome);
    peer
}

/// Who is told nothing, even where the socket's permissions would let them in.
#[test]
fn another_user_is_not_answered() {
    const NOBODY: u32 = 65_534;
    let Some(_machine) = kvm() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED another_user_is_not_answered: only root can be another user for a while");
        return;
    }
    let mut run = victim(None);
    let socket = run.socket();
    let open = std::fs::Permissions::from_mode(0o777);
    for path in [socket.parent().expect("it lies in a directory"), &socket] {
        std::fs::set_permissions(path, open.clone()).expect("they are ours");
    }
    // The identity of this thread alone, which ends with it.
    let stranger = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(NOBODY);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may be anybody");
        // Our own programs know it, and say so.
        let refused = Connection::connect(&socket).expect_err("it serves others");
        assert!(matches!(refused, ConnectError::NotServed { user: NOBODY, .. }), "{refused}");
        let peer = Peer::connect(&socket);
        peer.send(client_hello());
        peer.receive::<ToClient>().is_none()
    });
    assert!(stranger.join().expect("the socket lets it in"), "the controller answered a stranger");
    let refused = format!("refused a connection of user {NOBODY}");
    await_some("a line in the controller's log", || run.everything().contains(&refused).then_some(()));
    client(&run);
    unharmed(&mut run, "another user");
}

#[test]
fn garbage_closes_the_connection_that_it_came_over() {
    let Some(_machine) = kvm() else { return };
    let mut run = victim(None);
    let noise: Vec<u8> = (0..MESSAGE_BYTES_MAX + 4096).map(|n| (n * 167 % 251).to_le_bytes()[0]).collect();
    let version = |protocol| enveloped(Hello::Client { protocol }, Vec::new());
    let huge_string = {
        // A host's hello whose name claims to be longer than memory.
        let mut bytes = vec![0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        bytes.extend([b'x'; 100]);
        bytes
    };
    let firsts: [(&str, &[u8]); 7] = [
        ("one byte", &noise[..1]),
        ("noise", &noise[1..300]),
        ("ones", &[0xff; 5000]),
        ("the longest noise", &noise[..MESSAGE_BYTES_MAX]),
        ("more than the longest", &noise),
        ("a string without end", &huge_string),
        ("an answer instead of a hello", &enveloped(ToClient::Welcome, vec![upload_tag(0, 1)])),
    ];
    for (what, bytes) in firsts {
        let peer = Peer::connect(&run.socket());
        peer.send_raw(bytes, &[]);
        peer.await_hang_up(what);
        let after = client(&run);
        after.send_raw(bytes, &[]);
        after.await_hang_up(what);
        unharmed(&mut run, what);
    }
    for protocol in [0, PROTOCOL_VERSION + 1, u32::MAX] {
        let peer = Peer::connect(&run.socket());
        peer.send_raw(&version(protocol), &[]);
        let answer = peer.receive::<ToClient>().expect("an answer").message;
        assert!(matches!(answer, ToClient::Rejected { .. }), "{answer:?}");
        peer.await_hang_up("another version");
    }
    let whole = enveloped(client_hello(), Vec::new());
    for cut in 0..whole.len() {
        let peer = Peer::connect(&run.socket());
        peer.send_raw(&whole[..cut], &[]);
        if cut > 0 {
            peer.await_hang_up("a hello that is cut off");
        }
    }
    unharmed(&mut run, "versions");
    run.finish();
}

#[test]
fn descriptors_that_are_not_what_they_seem_are_refused_and_none_is_kept() {
    let Some(_machine) = kvm() else { return };
    let mut run = victim(None);
    let before = run.controller().descriptors();
    let pipe = nix::unistd::pipe().expect("a pipe");
    let directory = File::open("/").expect("the root");
    let zero = File::open("/dev/zero").expect("zeroes");
    let null: Vec<BorrowedFd<'_>> = vec![zero.as_fd(); 200];
    let request = |id, name: &str| FromClient { id, request: Request::CreateVm(run.golden.spec(name)) };
    // Counts that do not match.
    let bad: [(&str, Vec<u8>, &[BorrowedFd<'_>]); 4] = [
        ("a tag without a descriptor", enveloped(request(1, "x"), vec![upload_tag(0, 10)]), &[]),
        ("a descriptor without a tag", enveloped(request(1, "x"), Vec::new()), &null[..1]),
        ("a crooked extent", enveloped(request(1, "x"), vec![upload_tag(7, 10)]), &null[..1]),
        ("more descriptors than a message may have", enveloped(request(1, "x"), Vec::new()), &null),
    ];
    for round in 0..20 {
        for (what, bytes, descriptors) in &bad {
            let peer = client(&run);
            peer.send_raw(bytes, descriptors);
            peer.await_hang_up(what);
            let first = Peer::connect(&run.socket());
            first.send_raw(bytes, descriptors);
            first.await_hang_up(what);
        }
        assert!(round > 0 || run.controller().pid() > 0);
    }
    // Files that no guest is in.
    let peer = client(&run);
    let files: [(&str, OwnedFd); 3] = [
        ("a pipe", pipe.0),
        ("a directory", directory.into()),
        ("a device", File::open("/dev/zero").expect("zeroes").into()),
    ];
    for (id, (what, fd)) in (10..).zip(files) {
        let extent = Extent::new(fd, Offset::ZERO, 1 << 40).expect("it begins at zero");
        peer.send_with(request(id, "other"), vec![(upload_tag(0, 1 << 40), extent)]);
        let answer = peer.receive::<ToClient>().expect("an answer").message;
        assert!(matches!(answer, ToClient::Answer { answer: Err(_), .. }), "{what}: {answer:?}");
    }
    // A descriptor where none belongs is dropped.
    for id in 30..60 {
        let extent = Extent::new(zero.try_clone().expect("a descriptor").into(), Offset::ZERO, 1).expect("an extent");
        peer.send_with(FromClient { id, request: Request::Status }, vec![(upload_tag(0, 1), extent)]);
        peer.receive::<ToClient>().expect("an answer");
    }
    drop(peer);
    await_some("the controller's descriptors", || (run.controller().descriptors() <= before).then_some(()));
    unharmed(&mut run, "descriptors");
    run.finish();
}

#[test]
fn half_open_connections_do_not_keep_others_out() {
    let Some(_machine) = kvm() else { return };
    let mut run = victim(Some(256));
    let mut idle = Vec::new();
    for _ in 0..400 {
        idle.extend(half_open(&run.socket()));
        run.step();
    }
    assert!(idle.len() > 256, "there was no flood: {}", idle.len());
    unharmed(&mut run, "half-open connections");
    for _ in 0..10 {
        drop(client(&run));
    }
    // A host can still join, and be given what it needs.
    run.start_host("late", None);
    run.step_until("a late host", |run| {
        run.try_status()
            .is_some_and(|status| status.hosts.iter().any(|host| host.name == "late" && host.health == "up"))
    });
    unharmed(&mut run, "a late host");
    drop(idle);
    run.finish();
}

#[test]
fn a_client_too_many_is_told_so() {
    let Some(_machine) = kvm() else { return };
    let mut run = victim(Some(256));
    let mut clients = Vec::new();
    let refused = loop {
        let peer = Peer::connect(&run.socket());
        peer.send(client_hello());
        match peer.receive::<ToClient>().expect("an answer").message {
            ToClient::Welcome => clients.push(peer),
            refused => break refused,
        }
        assert!(clients.len() < 256, "there are not descriptors for so many");
    };
    assert!(
        matches!(&refused, ToClient::Rejected { reason } if reason.contains("clients are connected")),
        "{refused:?}"
    );
    drop(clients);
    await_some("room for clients", || run.try_status());
    unharmed(&mut run, "clients");
    run.finish();
}

#[test]
fn peers_that_do_not_read_are_given_up_with_all_that_they_ask_for() {
    let Some(_machine) = kvm() else { return };
    let mut run = victim(Some(256));
    for (what, request) in
        [("requests", Request::Status), ("requests for descriptors", Request::AttachConsole { vm: VM, from: 0 })]
    {
        let greedy: Vec<Peer> = (0..3).map(|_| client(&run)).collect();
        // Until the controller hangs up, or enough was asked for.
        for id in 0..60_000 {
            let mut open = 0;
            for peer in &greedy {
                open += usize::from(peer.send_now(FromClient { id, request: request.clone() }).is_ok());
            }
            if open == 0 {
                run.step();
                if greedy.iter().all(Peer::is_hung_up) {
                    break;
                }
            }
        }
        unharmed(&mut run, what);
    }
    // Nor does a host that floods it with doorbells.
    let mut host = FakeHost::join(&run.socket(), hello(profile("flood", 0), Vec::new()));
    for epoch in 0..50_000 {
        let _ =
            host.peer.send_now(FromHost::Doorbell { vm: VM, generation: Generation::new(1), epoch: Epoch::new(epoch) });
        if epoch % 500 == 0 {
            host.beat();
            run.step();
        }
    }
    unharmed(&mut run, "doorbells");
    run.finish();
}

#[test]
fn a_host_that_lies_gets_nothing_and_harms_nobody() {
    let Some(_machine) = kvm() else { return };
    let mut run = victim(None);
    let roles = [
        Role::Primary { live: true },
        Role::Primary { live: false },
        Role::Secondary { prepared: true },
        Role::Secondary { prepared: false },
    ];
    let claims: Vec<_> = (0..4)
        .flat_map(|vm| (0..4).flat_map(move |generation| roles.map(|role| claim(vm, generation, role))))
        .chain([claim(u16::MAX, u64::MAX, roles[0])])
        .collect();
    // No memory: it is never given a role, so that all it can do is lie.
    let mut liar = FakeHost::join(&run.socket(), hello(profile("liar", 0), claims));
    unharmed(&mut run, "claimed roles");
    for vm in [VM, VmId::new(1), VmId::new(u16::MAX)] {
        for generation in [0, 1, 2, u64::MAX].map(Generation::new) {
            let reasons = [
                TakeoverReason::LinkClosed,
                TakeoverReason::HeartbeatSilent(Span::from_ms(u64::MAX / 2_000_000)),
                TakeoverReason::RecordRefused,
                TakeoverReason::PromotionFailed,
            ];
            for reason in reasons {
                liar.peer.send(FromHost::AskTakeover { vm, generation, reason });
            }
            for epoch in [0, 1, u64::MAX].map(Epoch::new) {
                liar.peer.send(FromHost::Doorbell { vm, generation, epoch });
            }
            liar.peer.send(FromHost::StandbyReady { vm, generation });
            liar.peer.send(FromHost::Live { vm, generation, report: LiveReport::default() });
            liar.peer.send(FromHost::Yielded { vm, generation });
            liar.peer.send(FromHost::Fenced { vm, generation });
            liar.peer.send(FromHost::GaveUp { vm, generation, reason: "x\ny".repeat(21_800) });
            liar.beat();
        }
        unharmed(&mut run, "lies");
    }
    // Nothing but refusals and releases came back, and no descriptor.
    while let Ok(Some(received)) = liar.peer.receive_within::<ToHost>(Duration::from_millis(20)) {
        let said = &received.message;
        assert!(received.extents.is_empty(), "{said:?} came with descriptors");
        assert!(matches!(said, ToHost::TakeoverRefused { .. } | ToHost::Release { .. }), "{said:?}");
        liar.beat();
    }
    for (name, why) in [("a", "a name that is taken"), ("", "no name"), ("../../etc", "a path"), ("A B", "blanks")] {
        let peer = Peer::connect(&run.socket());
        peer.send(hello(profile(name, 0), Vec::new()));
        let answer = peer.receive::<ToHost>().expect("an answer").message;
        assert!(matches!(answer, ToHost::Rejected { .. }), "{why}: {answer:?}");
        peer.await_hang_up(why);
    }
    unharmed(&mut run, "names");
    run.finish();
}

#[test]
fn a_host_that_cuts_its_heartbeat_page_off_harms_only_itself() {
    let Some(_machine) = kvm() else { return };
    // `pool check` finds the page until its host has come back.
    let mut run = victim_of(&Plan { unsound: true, ..Plan::default() });
    for _ in 0..3 {
        let host = FakeHost::join(&run.socket(), hello(profile("cutter", 0), Vec::new()));
        nix::unistd::ftruncate(&host.page, 0).expect("it is the host's to write");
        run.steps_for(Duration::from_millis(30));
        unharmed(&mut run, "a heartbeat page without a page");
    }
    run.finish();
}

/// Whoever speaks to the controller himself need not have looked at the guest first.
#[test]
fn what_is_no_guest_is_refused_and_bothers_no_host() {
    let Some(_machine) = kvm() else { return };
    let mut run = victim_of(&Plan::default());
    let peer = client(&run);
    let sound = run.golden.image();
    let (mut cut_off, mut other) = (sound.to_vec(), sound.to_vec());
    cut_off.truncate(sound.len() / 2);
    // Another machine's.
    other[18] ^= 0x40;
    let bundle = b"FTVMLNUX and nothing more".to_vec();
    for (id, guest) in (0..).zip([b"no guest at all".to_vec(), cut_off, other, bundle]) {
        let spec = run.golden.spec("none");
        peer.send_with(FromClient { id, request: Request::CreateVm(spec) }, vec![uploaded(&guest)]);
        let answer = peer.receive::<ToClient>().expect("an answer").message;
        let ToClient::Answer { answer: Err(RequestError::BadSpec(why)), .. } = &answer else { panic!("{answer:?}") };
        assert!(why.starts_with("its guest cannot be started: "), "{why}");
        unharmed(&mut run, why);
    }
    assert_eq!(run.try_status_patiently().vms.len(), 1, "nothing of them stays");
    run.finish();
}

fn uploaded(guest: &[u8]) -> (ExtentTag, Extent) {
    let mut file = tempfile::tempfile().expect("a temporary file can be made");
    file.write_all(guest).expect("it can be written");
    let len = guest.len() as u64;
    let tag = ExtentTag { grant: Grant { part: Part::Upload, access: Access::ReadWrite }, offset: 0, len };
    (tag, Extent::new(file.into(), Offset::ZERO, len).expect("an extent may begin at zero"))
}

#[test]
fn vms_that_nobody_can_keep_are_refused() {
    let Some(_machine) = kvm() else { return };
    // A check of all VMs that are taken would take longer than the rest.
    let mut run = victim_of(&Plan { unsound: true, ..Plan::default() });
    let peer = client(&run);
    let mut accepted = 0;
    for id in 0..40 {
        let mut spec = run.golden.spec(&format!("vm{id}"));
        // A number is as good as long; those that are taken should cost the victim's hosts little.
        spec.args = ["--ticks", "1", "--tick-ms", &format!("{:060000}", 60_000)].map(str::to_owned).to_vec();
        spec.epoch_interval = Span::from_ms(10_000);
        peer.send_with(FromClient { id, request: Request::CreateVm(spec) }, vec![run.golden.upload()]);
        let Some(received) = peer.receive::<ToClient>() else { panic!("the controller hung up") };
        accepted += u32::from(matches!(received.message, ToClient::Answer { answer: Ok(_), .. }));
    }
    eprintln!("{accepted} VMs with long arguments were accepted");
    assert!(accepted < 40, "the cluster state has no bound");
    type Change = fn(&mut VmSpec);
    let strange: [(&str, Change); 7] = [
        ("no memory", |spec| spec.memory_bytes = 0),
        ("half a page", |spec| spec.memory_bytes = 2048),
        ("all memory there is", |spec| spec.memory_bytes = u64::MAX - 4095),
        ("no slots", |spec| spec.journal.slots = 0),
        ("slots without end", |spec| spec.journal.slots = u32::MAX),
        ("endless slots", |spec| spec.journal.slot_bytes = u64::MAX),
        ("a name that is a path", |spec| spec.name = "../x".to_owned()),
    ];
    for (id, (what, change)) in (100..).zip(strange) {
        let mut spec = run.golden.spec("strange");
        change(&mut spec);
        peer.send_with(FromClient { id, request: Request::CreateVm(spec) }, vec![run.golden.upload()]);
        let answer = peer.receive::<ToClient>().expect("an answer").message;
        assert!(matches!(answer, ToClient::Answer { answer: Err(_), .. }), "{what}: {answer:?}");
        unharmed(&mut run, what);
    }
    run.finish();
}
