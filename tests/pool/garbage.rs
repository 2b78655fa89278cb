//! Messages as no program of ftvm makes them, at random: noise, and sound messages with a few bits flipped.

use crate::chance::Chance;
use crate::peer::{Peer, claim, hello, profile};
use ft_protocol::wire::{
    Envelope, FromClient, FromHost, Hello, LiveReport, PROTOCOL_VERSION, Request, Role, TakeoverReason,
};
use ft_protocol::{Epoch, Generation, VmId};
use serde::Serialize;
use std::path::Path;

const VM: VmId = VmId::new(0);

fn enveloped(message: impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(&Envelope { message, extents: Vec::new() }).expect("it can be encoded")
}

/// Whether a client may say so, and means the end of the cluster or of its VM: that is no garbage, and is done.
fn is_an_order(bytes: &[u8]) -> bool {
    let read = postcard::take_from_bytes::<Envelope<FromClient>>(bytes);
    read.is_ok_and(|(envelope, _)| matches!(envelope.message.request, Request::Shutdown | Request::DeleteVm(_)))
}

/// Sound bytes of some message.
fn sound(chance: &mut Chance) -> Vec<u8> {
    let generation = Generation::new(chance.below(6));
    let epoch = Epoch::new(chance.below(2_000));
    match chance.below(9) {
        0 => enveloped(hello(profile("nobody", 0), vec![claim(0, generation.get(), Role::Primary { live: true })])),
        1 => enveloped(Hello::Client { protocol: PROTOCOL_VERSION }),
        2 => enveloped(FromClient { id: chance.next(), request: Request::Status }),
        3 => enveloped(FromClient { id: 1, request: Request::AttachConsole { vm: VM, from: chance.next() } }),
        4 => enveloped(FromClient { id: 1, request: Request::ConsoleConsumed { vm: VM, position: chance.next() } }),
        5 => enveloped(FromHost::Doorbell { vm: VM, generation, epoch }),
        6 => enveloped(FromHost::AskTakeover { vm: VM, generation, reason: TakeoverReason::LinkClosed }),
        7 => enveloped(FromHost::Live { vm: VM, generation, report: LiveReport::default() }),
        _ => enveloped(FromHost::GaveUp { vm: VM, generation, reason: "no reason".to_owned() }),
    }
}

fn garbled(chance: &mut Chance) -> Vec<u8> {
    if chance.below(4) == 0 {
        return (0..chance.below(600)).map(|_| chance.next().to_le_bytes()[0]).collect();
    }
    let mut bytes = sound(chance);
    for _ in 0..chance.below(4) {
        let at = usize::try_from(chance.below(bytes.len() as u64)).expect("an index");
        bytes[at] ^= 1 << chance.below(8);
    }
    if chance.below(4) == 0 {
        bytes.truncate(usize::try_from(chance.below(bytes.len() as u64)).expect("a length"));
    }
    bytes
}

/// Connects, as a host, a client or nobody, and sends some of it. A controller that is away is not there to be hurt.
pub(crate) fn send(socket: &Path, chance: &mut Chance) {
    let Some(peer) = Peer::try_connect(socket) else { return };
    match chance.below(3) {
        // Without memory it is never given a role.
        0 => peer.send(hello(profile(&format!("garbage{}", chance.below(8)), 0), Vec::new())),
        1 => peer.send(Hello::Client { protocol: PROTOCOL_VERSION }),
        _ => {}
    }
    for _ in 0..=chance.below(6) {
        let bytes = garbled(chance);
        if !is_an_order(&bytes) {
            peer.send_raw(&bytes, &[]);
        }
    }
}
