//! A small key-value server. Lines: `set KEY VALUE` (answers `ok`), `get KEY` (`= VALUE` or `none`), `count` (`= N`),
//! `sum` (`= CHECKSUM` over all keys and values, in order).

use crate::noise::{CHECKSUM_START, checksum};
use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Longest line: whoever sends a longer one is no client.
const LINE_BYTES_MAX: u64 = 64 << 10;

type Store = Arc<Mutex<BTreeMap<String, String>>>;

pub(crate) fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("kvd: listens on {port}");
    let store = Store::default();
    for stream in listener.incoming() {
        let (stream, store) = (stream?, store.clone());
        thread::spawn(move || {
            // A client that goes away is no error of the server.
            let _ = attend(&stream, &store);
        });
    }
    Ok(())
}

fn attend(stream: &TcpStream, store: &Store) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if io::Read::take(&mut reader, LINE_BYTES_MAX).read_line(&mut line)? == 0 || !line.ends_with('\n') {
            return Ok(());
        }
        let answer = answer(line.trim_end(), store);
        (&mut &*stream).write_all(format!("{answer}\n").as_bytes())?;
    }
}

fn answer(line: &str, store: &Store) -> String {
    let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
    let mut words = line.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some("set"), Some(key), Some(value)) => {
            store.insert(key.to_owned(), value.to_owned());
            "ok".to_owned()
        }
        (Some("get"), Some(key), None) => {
            store.get(key).map_or_else(|| "none".to_owned(), |value| format!("= {value}"))
        }
        (Some("count"), None, None) => format!("= {}", store.len()),
        (Some("sum"), None, None) => {
            let sum = store
                .iter()
                .fold(CHECKSUM_START, |sum, (key, value)| checksum(checksum(sum, key.as_bytes()), value.as_bytes()));
            format!("= {sum:016x}")
        }
        _ => "what?".to_owned(),
    }
}
