//! Sends back what comes, by UDP and TCP.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry point has a name that the linker looks for")]

extern crate alloc;

mod echo;

use alloc::vec::Vec;
use echo::{Connection, Datagrams};
use flat_rt::{BootInfo, Options, println};
use flat_virtio::{Cidr, Network, init_heap};

const ADDRESS: &str = "--ip";
const PORT: &str = "--port";
const CONNECTIONS: &str = "--connections";

/// RFC 862.
const PORT_DEFAULT: u16 = 7;
const ADDRESS_DEFAULT: Cidr = Cidr::new([10, 0, 0, 2], 24);
/// Connections at a time.
const SOCKETS: usize = 16;

const EXIT_NO_NETWORK: u32 = 3;

flat_rt::entry!(main);

fn main(boot: &BootInfo) -> u32 {
    let options = Options::parse(boot, &[ADDRESS, PORT, CONNECTIONS]);
    let address = options.get(ADDRESS, ADDRESS_DEFAULT);
    let port = options.get(PORT, PORT_DEFAULT);
    // None: for ever.
    let connections_max = options.get(CONNECTIONS, 0u64);

    init_heap(boot);
    let Some(mut network) = Network::open(boot, address) else {
        println!("netecho has no network: run it with one");
        return EXIT_NO_NETWORK;
    };
    let datagrams = Datagrams::open(&mut network, port);
    let mut connections: Vec<Connection> = (0..SOCKETS).map(|_| Connection::listen(&mut network, port)).collect();
    println!("netecho at {address} port {port}");

    let (mut ended, mut bytes) = (0u64, 0u64);
    while connections_max == 0 || ended < connections_max {
        network.idle();
        network.poll();
        datagrams.serve(&mut network);
        for connection in &mut connections {
            if let Some(echoed) = connection.serve(&mut network) {
                ended += 1;
                bytes += echoed;
                println!("connection {ended} ended after {echoed} bytes");
            }
        }
        // What was put into sockets leaves at once.
        network.flush();
    }
    network.drain();
    println!("netecho served {ended} connections, {bytes} bytes");
    0
}
