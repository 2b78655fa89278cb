//! What takes long says so until it is done, where standard error is a terminal.

use std::io::{self, IsTerminal as _, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// When a line is shown on a terminal.
const PACE: Pace = Pace { silence: Duration::from_secs(2), interval: Duration::from_millis(500) };

/// Does some work. While it takes long, `line` is shown on a terminal, given how long it has taken; elsewhere nothing is.
pub(crate) fn show<T>(line: impl Fn(Duration) -> String + Send, work: impl FnOnce() -> T) -> T {
    match io::stderr().is_terminal() {
        true => show_on(io::stderr(), PACE, line, work),
        false => work(),
    }
}

/// How often a line is shown.
#[derive(Clone, Copy)]
struct Pace {
    /// What takes longer says how far it is.
    silence: Duration,
    /// Time between two of its lines.
    interval: Duration,
}

fn show_on<T>(
    to: impl Write + Send,
    pace: Pace,
    line: impl Fn(Duration) -> String + Send,
    work: impl FnOnce() -> T,
) -> T {
    let (done, is_done) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || tell(to, pace, line, &is_done));
        let result = work();
        drop(done);
        result
    })
}

fn tell(mut to: impl Write, pace: Pace, line: impl Fn(Duration) -> String, is_done: &Receiver<()>) {
    let began = Instant::now();
    let mut wait = pace.silence;
    let mut shown = false;
    while is_done.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        // Where progress cannot be shown, the work goes on without.
        let _ = write!(to, "\r\x1b[K{}", line(began.elapsed())).and_then(|()| to.flush());
        shown = true;
        wait = pace.interval;
    }
    if shown {
        let _ = write!(to, "\r\x1b[K").and_then(|()| to.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::Sender;

    /// Hands on each piece that is written.
    struct Pieces(Sender<String>);

    impl Write for Pieces {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Who does not look any more has seen enough.
            let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn work_that_takes_long_has_one_line_which_goes_in_the_end() {
        let (to, written) = channel();
        let pace = Pace { silence: Duration::from_millis(2), interval: Duration::from_millis(1) };
        let line = |taken: Duration| format!("<{}>", taken > Duration::ZERO);
        let mut seen = String::new();
        let result = show_on(Pieces(to), pace, line, || {
            while seen.matches("<true>").count() < 2 {
                seen.push_str(&written.recv_timeout(Duration::from_secs(60)).expect("a line is shown"));
            }
            7
        });
        assert_eq!(result, 7);
        seen.extend(written.try_iter());
        assert!(seen.starts_with("\r\x1b[K<true>\r\x1b[K<true>") && seen.ends_with("\r\x1b[K"), "{seen:?}");
        assert!(!seen.contains('\n'), "{seen:?}");
    }

    #[test]
    fn work_that_is_done_in_time_says_nothing() {
        let (to, written) = channel();
        let pace = Pace { silence: Duration::from_secs(3600), interval: Duration::ZERO };
        show_on(Pieces(to), pace, |_| "late".to_owned(), || ());
        assert_eq!(written.try_iter().count(), 0);
    }
}
