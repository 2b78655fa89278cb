//! What takes long says so, on standard error, until it is done.

use std::io::{self, IsTerminal as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What takes longer says how far it is.
const SILENCE: Duration = Duration::from_secs(2);
/// Time between two lines of progress: on a terminal, elsewhere.
const INTERVALS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];

/// Does some work. While it takes long, `line` is shown now and then, given how long it has taken.
pub(crate) fn show<T>(line: impl Fn(Duration) -> String + Send, work: impl FnOnce() -> T) -> T {
    let (done, is_done) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || tell(line, &is_done));
        let result = work();
        drop(done);
        result
    })
}

fn tell(line: impl Fn(Duration) -> String, is_done: &Receiver<()>) {
    let (began, on_terminal) = (Instant::now(), io::stderr().is_terminal());
    let mut wait = SILENCE;
    let mut shown = false;
    while is_done.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        let line = line(began.elapsed());
        match on_terminal {
            true => eprint!("\r\x1b[K{line}"),
            false => eprintln!("ftvm: {line}"),
        }
        shown = true;
        wait = INTERVALS[usize::from(!on_terminal)];
    }
    if shown && on_terminal {
        eprint!("\r\x1b[K");
    }
}
