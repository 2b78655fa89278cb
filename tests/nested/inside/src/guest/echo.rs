//! An echo server: TCP, byte for byte, and UDP, datagram for datagram, on one port.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

pub(crate) fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("echod: listens on {port}");
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
                // Lost when it cannot be sent, as on any network.
                let _ = datagrams.send_to(&buffer[..length], from);
            }
        }
    });
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || echo(stream));
    }
    Ok(())
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
