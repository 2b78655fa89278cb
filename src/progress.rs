//! What takes long says so, on standard error, until it is done.

use std::io::{self, IsTerminal as _, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What takes longer says how far it is.
const SILENCE: Duration = Duration::from_secs(2);
/// Time between two lines of progress: on a terminal, elsewhere.
const INTERVALS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];

/// Does some work. While it takes long, `line` is shown now and then, given how long it has taken.
pub(crate) fn show<T>(line: impl Fn(Duration) -> String + Send, work: impl FnOnce() -> T) -> T {
    let on_terminal = io::stderr().is_terminal();
    let pace = Pace { silence: SILENCE, interval: INTERVALS[usize::from(!on_terminal)], on_terminal };
    show_on(io::stderr(), pace, line, work)
}

/// How often a line is shown, and where.
#[derive(Clone, Copy)]
struct Pace {
    silence: Duration,
    interval: Duration,
    on_terminal: bool,
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
        let line = line(began.elapsed());
        // Where progress cannot be shown, the work goes on without.
        let _ = match pace.on_terminal {
            true => write!(to, "\r\x1b[K{line}").and_then(|()| to.flush()),
            false => writeln!(to, "ftvm: {line}"),
        };
        shown = true;
        wait = pace.interval;
    }
    if shown && pace.on_terminal {
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

    /// Work that takes until its line was shown twice; all that was written.
    fn shown_twice(on_terminal: bool) -> String {
        let (to, written) = channel();
        let (silence, interval) = (Duration::from_millis(2), Duration::from_millis(1));
        let line = |taken: Duration| format!("<{}>", taken > Duration::ZERO);
        let mut seen = String::new();
        let result = show_on(Pieces(to), Pace { silence, interval, on_terminal }, line, || {
            while seen.matches("<true>").count() < 2 {
                seen.push_str(&written.recv_timeout(Duration::from_secs(60)).expect("a line is shown"));
            }
            7
        });
        assert_eq!(result, 7);
        seen.extend(written.try_iter());
        seen
    }

    #[test]
    fn work_that_takes_long_says_so_line_by_line() {
        let seen = shown_twice(false);
        assert!(seen.starts_with("ftvm: <true>\nftvm: <true>\n") && !seen.contains('\x1b'), "{seen:?}");
    }

    #[test]
    fn on_a_terminal_there_is_one_line_which_goes_in_the_end() {
        let seen = shown_twice(true);
        assert!(seen.starts_with("\r\x1b[K<true>\r\x1b[K<true>") && seen.ends_with("\r\x1b[K"), "{seen:?}");
        assert!(!seen.contains('\n'), "{seen:?}");
    }

    #[test]
    fn work_that_is_done_in_time_says_nothing() {
        let (to, written) = channel();
        let pace = Pace { silence: Duration::from_secs(3600), interval: Duration::ZERO, on_terminal: false };
        show_on(Pieces(to), pace, |_| "late".to_owned(), || ());
        assert_eq!(written.try_iter().count(), 0);
    }
}
