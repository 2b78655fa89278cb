use super::reader::{Reader, Typist};
use super::terminal::Keys;
use super::{ConsoleInput, Fed, InputNews};
use crate::protected::RunError;
use crossbeam_channel::{Receiver, bounded};
use ft_protocol::console_input::InputAt;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, OutputFlags, tcgetattr};
use std::fs::File;
use std::io::{ErrorKind, Write as _, pipe};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn start(input: OwnedFd, keys: Keys) -> (Reader, Receiver<Vec<u8>>) {
    let (sender, pieces) = bounded(1);
    (Reader::start(Typist { input, keys }, sender, || ()).expect("a thread"), pieces)
}

/// What is typed, until so many bytes have come or there is no more.
fn read(pieces: &Receiver<Vec<u8>>, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        match pieces.recv_timeout(PATIENCE) {
            Ok(piece) => all.extend(piece),
            Err(error) if error.is_disconnected() => break,
            Err(_) => panic!("{} of {count} bytes came", all.len()),
        }
    }
    all
}

#[test]
fn a_pipe_is_read_to_its_end() {
    let (from, mut to) = pipe().expect("a pipe");
    let (_reader, pieces) = start(from.into(), Keys::Cooked);
    let typed: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
    let all = typed.clone();
    let writer = std::thread::spawn(move || to.write_all(&all).expect("it is read"));
    assert!(read(&pieces, usize::MAX) == typed);
    writer.join().expect("it has written");
}

/// A controller that takes input from one connection at a time.
#[derive(Default)]
struct Door {
    /// So many tries to feed the guest are refused: another connection feeds it.
    refusals: usize,
    opened: usize,
    closed: usize,
    /// What the guest has.
    taken: Vec<u8>,
    news: Vec<InputNews>,
}

impl Fed for Door {
    fn input_news(&mut self) -> Vec<InputNews> {
        std::mem::take(&mut self.news)
    }

    fn open_input(&mut self) -> Result<(), RunError> {
        self.opened += 1;
        self.news.push(if self.refusals > 0 {
            self.refusals -= 1;
            InputNews::NotNow { reason: "another command feeds the guest's console".to_owned() }
        } else {
            let have = self.taken.len() as u64;
            InputNews::At(InputAt { have: Some(have), safe: have, room_to: have + 100 })
        });
        Ok(())
    }

    fn send_input(&mut self, position: u64, bytes: Vec<u8>) -> Result<bool, RunError> {
        assert_eq!(position, self.taken.len() as u64);
        self.taken.extend(bytes);
        Ok(true)
    }

    fn close_input(&mut self) -> Result<(), RunError> {
        self.closed += 1;
        Ok(())
    }
}

impl Door {
    /// Turns until the guest has all of this.
    fn turn_until(&mut self, input: &mut ConsoleInput, taken: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        while self.taken != taken {
            assert!(Instant::now() < deadline, "{:?} has come", self.taken);
            input.turn(self).expect("the door answers");
            std::thread::yield_now();
        }
    }
}

/// A connection through TCP may be gone for ten seconds before the controller knows of it.
#[test]
fn a_feeder_whose_connection_broke_is_not_put_off_by_itself() {
    let (from, mut to) = pipe().expect("a pipe");
    let mut input = ConsoleInput::start(Typist { input: from.into(), keys: Keys::Cooked }).expect("a thread");
    let mut door = Door::default();
    to.write_all(b"ab").expect("it is read");
    door.turn_until(&mut input, b"ab");
    assert_eq!(door.opened, 1);
    door.refusals = 3;
    door.news.push(InputNews::Closed);
    door.open_input().expect("it answers");
    to.write_all(b"cd").expect("it is read");
    assert!(!input.turn(&mut door).expect("it answers"), "it is tried again without being rung for");
    door.turn_until(&mut input, b"abcd");
    assert_eq!((door.opened, door.refusals, door.closed), (5, 0, 0));
}

#[test]
fn whoever_comes_second_is_told_so_at_once() {
    let (from, mut to) = pipe().expect("a pipe");
    let mut input = ConsoleInput::start(Typist { input: from.into(), keys: Keys::Cooked }).expect("a thread");
    let mut door = Door { refusals: 1, ..Door::default() };
    to.write_all(b"ab").expect("it is read");
    let deadline = Instant::now() + PATIENCE;
    while door.closed == 0 {
        assert!(Instant::now() < deadline, "it goes on to try");
        assert!(input.turn(&mut door).expect("it answers"), "nothing is tried again");
        std::thread::yield_now();
    }
    assert_eq!((door.opened, door.taken.len()), (1, 0));
    assert!(input.descriptor().is_none(), "nothing more is read");
}

#[test]
fn a_reader_that_is_dropped_hands_nothing_over_any_more() {
    let (from, mut to) = pipe().expect("a pipe");
    let (reader, pieces) = start(from.into(), Keys::Cooked);
    // One piece waits to be taken, the other cannot be handed over.
    for _ in 0..2 {
        to.write_all(&[b'a'; super::PIECE_BYTES]).expect("it is read");
    }
    drop(reader);
    fcntl(&to, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a pipe");
    let deadline = Instant::now() + PATIENCE;
    while !to.write(b"b").is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        assert!(Instant::now() < deadline, "its thread goes on");
        std::thread::yield_now();
    }
    drop(pieces);
}

#[test]
fn a_reader_that_is_dropped_reads_no_more() {
    let (from, mut to) = pipe().expect("a pipe");
    let (reader, pieces) = start(from.into(), Keys::Cooked);
    to.write_all(b"a").expect("it is read");
    assert_eq!(read(&pieces, 1), b"a");
    drop(reader);
    assert_eq!(read(&pieces, 1), b"", "its thread has ended");
    to.write_all(b"b").expect_err("nobody has the other end");
}

/// Keys reach a guest that edits its lines itself one by one, and the terminal is given back as it was.
#[test]
fn a_raw_terminal_is_given_back_as_it_was() {
    let pty = openpty(None, None).expect("a terminal");
    let terminal = pty.slave.try_clone().expect("a descriptor");
    let is_raw = || {
        let now = tcgetattr(terminal.as_fd()).expect("a terminal");
        assert!(now.output_flags.contains(OutputFlags::OPOST), "lines begin at the left");
        !now.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    };
    let before = tcgetattr(terminal.as_fd()).expect("a terminal");
    let await_raw = || {
        let deadline = Instant::now() + PATIENCE;
        while !is_raw() {
            assert!(Instant::now() < deadline, "the terminal is not made raw");
            std::thread::yield_now();
        }
    };
    let (reader, pieces) = start(pty.slave, Keys::Raw);
    await_raw();
    let mut keys = File::from(pty.master);
    keys.write_all(b"\x03x").expect("it is read");
    assert_eq!(read(&pieces, 2), b"\x03x", "without a line, and Ctrl-C is the guest's");
    // Whoever stopped the command for a while has made it as it was.
    nix::sys::termios::tcsetattr(terminal.as_fd(), nix::sys::termios::SetArg::TCSANOW, &before).expect("a terminal");
    await_raw();
    let other = reader.restorer().expect("a descriptor");
    drop(other);
    assert_eq!(tcgetattr(terminal.as_fd()).expect("a terminal"), before);
    drop(reader);
    assert_eq!(read(&pieces, 1), b"", "its thread has ended");
    assert_eq!(tcgetattr(terminal.as_fd()).expect("a terminal"), before, "and has not made it raw again");
}

#[test]
fn a_cooked_terminal_is_left_alone() {
    let pty = openpty(None, None).expect("a terminal");
    let terminal = pty.slave.try_clone().expect("a descriptor");
    let before = tcgetattr(terminal.as_fd()).expect("a terminal");
    let (_reader, pieces) = start(pty.slave, Keys::Cooked);
    let mut keys = File::from(pty.master);
    keys.write_all(b"ab\x7fc\n").expect("it is read");
    assert_eq!(read(&pieces, 3), b"ac\n", "the terminal edits the line");
    assert_eq!(tcgetattr(terminal.as_fd()).expect("a terminal"), before);
    keys.write_all(b"\x04").expect("it is read");
    assert_eq!(read(&pieces, 1), b"", "its end of file is one");
}
