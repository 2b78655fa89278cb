//! A key-value store over TCP. `docs/kv.md` is its protocol.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry point has a name that the linker looks for")]

extern crate alloc;

mod connection;
mod request;
mod store;

use alloc::vec::Vec;
use connection::Connection;
use flat_rt::{BootInfo, Options, println};
use flat_virtio::{Cidr, Network, init_heap};
use store::Store;

const ADDRESS: &str = "--ip";
const PORT: &str = "--port";

const PORT_DEFAULT: u16 = 7000;
const ADDRESS_DEFAULT: Cidr = Cidr::new([10, 0, 0, 2], 24);
/// Connections at a time.
const SOCKETS: usize = 32;

const EXIT_NO_NETWORK: u32 = 3;

flat_rt::entry!(main);

fn main(boot: &BootInfo) -> u32 {
    let options = Options::parse(boot, &[ADDRESS, PORT]);
    let address = options.get(ADDRESS, ADDRESS_DEFAULT);
    let port = options.get(PORT, PORT_DEFAULT);
    let heap_bytes = init_heap(boot);
    let Some(mut network) = Network::open(boot, address) else {
        println!("kv has no network: run it with one");
        return EXIT_NO_NETWORK;
    };
    // Half for values; maps and connections have the rest.
    let mut store = Store::new(heap_bytes / 2);
    let mut connections: Vec<Connection> = (0..SOCKETS).map(|_| Connection::listen(&mut network, port)).collect();
    println!("kv at {address} port {port}");
    let mut is_stopped = false;
    while !is_stopped {
        network.idle();
        network.poll();
        for connection in &mut connections {
            is_stopped |= connection.serve(&mut network, &mut store);
        }
        // What was put into sockets leaves at once.
        network.flush();
    }
    network.drain();
    println!("kv stopped with {} keys after {} writes", store.keys(), store.sequence());
    0
}
