//! Console input from the command line: each line back once and in order, whoever dies meanwhile.

use crate::support::{
    ByHand, Place, Running, SOCKET, await_some, await_true, has_ended, is_alive, is_protected, kvm, signal,
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, tcgetattr};
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::process::{ChildStdin, Command, Stdio};

const HOSTS: [&str; 3] = ["a", "b", "c"];
const KILLS: usize = 3;
/// Lines that are on their way at one time: always some, so that whoever dies has some.
const LINES_AHEAD: usize = 300;

/// Types numbered lines.
struct Typing {
    to: ChildStdin,
    lines: usize,
}

fn line(number: usize) -> String {
    format!("line {number:07}\n")
}

fn lines_back(run: &Running) -> usize {
    run.stdout().len() / line(0).len()
}

impl Typing {
    fn new(run: &mut Running) -> Self {
        Self { to: run.stdin(), lines: 0 }
    }

    /// Types until so many lines are back, and the state is so.
    fn until(&mut self, run: &Running, what: &str, back: usize, mut is_so: impl FnMut() -> bool) {
        await_true(what, || {
            let seen = lines_back(run);
            while self.lines < seen + LINES_AHEAD {
                self.lines += 1;
                self.to.write_all(line(self.lines).as_bytes()).expect("the command reads it");
            }
            seen >= back && is_so()
        });
    }

    /// Ends the guest; says what it must have printed.
    fn end(mut self) -> String {
        self.to.write_all(b"end\n").expect("the command reads it");
        (1..=self.lines).map(line).collect::<String>() + "end\n"
    }
}

fn typed_to(cluster: &ByHand, command: &[&str], rest: &[&str]) -> (Running, Typing) {
    let mut typed = cluster.place.ftvm(&ByHand::arguments(command, rest));
    typed.stdin(Stdio::piped());
    let mut run = cluster.place.start_command(typed);
    let typing = Typing::new(&mut run);
    (run, typing)
}

fn same(run: Running, expected: &str) {
    let ended = run.end().ok();
    let said = String::from_utf8_lossy(&ended.stdout);
    let at = said.lines().zip(expected.lines()).position(|(said, expected)| said != expected);
    let around = at.map(|at| said.lines().skip(at.saturating_sub(2)).take(5).collect::<Vec<_>>());
    assert!(said == expected, "{} of {} bytes; line {at:?}: {around:?}", said.len(), expected.len());
}

fn primary(cluster: &ByHand) -> String {
    await_some("a primary", || cluster.vm("g")?["primary"].as_str().map(str::to_owned))
}

/// Lines are typed all the time, while primary after primary is killed, and the controller twice.
fn survives_kills(mode: &str) {
    let Some(_machine) = kvm() else { return };
    let mut cluster = ByHand::start(&HOSTS);
    let (run, mut typing) = typed_to(&cluster, &["run", "--name", "g", "--mode", mode], &["builtin:echo"]);
    let follows = |vm: &serde_json::Value| mode != "lockstep" || !vm["following"].is_null();
    for kill in 0..KILLS {
        let back = lines_back(&run) + 200;
        let ready = || cluster.vm("g").is_some_and(|vm| is_protected(&vm) && follows(&vm));
        typing.until(&run, "protection, and lines back", back, ready);
        let host = primary(&cluster);
        if kill % 2 == 1 {
            cluster.kill_pool();
            cluster.start_pool();
            typing.until(&run, "a primary that is known", 0, || {
                cluster.vm("g").is_some_and(|vm| vm["primary"] == host.as_str() && is_protected(&vm))
            });
        }
        cluster.kill_host(&host);
        cluster.start_host(&host);
    }
    typing.until(&run, "more lines back", lines_back(&run) + 500, || true);
    let expected = typing.end();
    same(run, &expected);
    let vm = cluster.vm("g").expect("an ended VM is kept");
    assert!(vm["takeovers"].as_u64().is_some_and(|takeovers| takeovers >= KILLS as u64), "{vm}");
    assert_eq!((&vm["diverged"], &vm["log_lost"]), (&serde_json::Value::Null, &serde_json::Value::Null), "{vm}");
}

#[test]
fn input_in_checkpoint_mode_survives_its_primaries() {
    survives_kills("checkpoint");
}

#[test]
fn input_in_replay_mode_survives_its_primaries() {
    survives_kills("replay");
}

#[test]
fn input_in_lockstep_survives_its_primaries() {
    survives_kills("lockstep");
}

#[test]
fn input_goes_on_while_the_guest_is_moved_and_its_mode_turns() {
    let Some(_machine) = kvm() else { return };
    let cluster = ByHand::start(&HOSTS);
    let (run, mut typing) = typed_to(&cluster, &["run", "--name", "g"], &["builtin:echo"]);
    for mode in ["replay", "lockstep", "checkpoint"] {
        let ready = || cluster.vm("g").is_some_and(|vm| is_protected(&vm));
        typing.until(&run, "protection, and lines back", lines_back(&run) + 100, ready);
        let moved = cluster.command(&["switchover", "g"], &[]).ok();
        let said = String::from_utf8_lossy(&moved.stdout).into_owned();
        let stood = cluster.vm("g").and_then(|vm| vm["switchover_blackout"].as_u64());
        assert!(
            said.contains(", its guest stood still for ") && stood.is_some_and(|stood| stood > 0),
            "{said} {stood:?}"
        );
        typing.until(&run, "protection, and lines back", lines_back(&run) + 100, ready);
        cluster.command(&["mode"], &["g", mode]).ok();
    }
    let expected = typing.end();
    same(run, &expected);
}

#[test]
fn one_command_feeds_a_guest_at_a_time() {
    let Some(_machine) = kvm() else { return };
    let cluster = ByHand::start(&["a", "b"]);
    let (mut run, mut typing) = typed_to(&cluster, &["run", "--name", "g"], &["builtin:echo"]);
    typing.until(&run, "lines back", 10, || true);
    let (second, mut other) = typed_to(&cluster, &["console", "--input", "g"], &[]);
    other.to.write_all(b"of the second\n").expect("the command reads it");
    await_true("the refusal", || second.stderr().contains("another command feeds the guest's console"));
    // It reads on all the same.
    let first = typing.lines;
    await_true("the console", || lines_back(&second) >= first);
    second.signal(Signal::SIGINT);
    assert_eq!(second.end().code, Some(130));

    // The first one's input ends, and the next command may; the first one shows on.
    drop(typing);
    let (third, mut next) = await_some("a feeder", || {
        let (third, mut next) = typed_to(&cluster, &["console", "--input", "g", "--from", "end"], &[]);
        next.to.write_all(b"next\n").expect("the command reads it");
        await_true("an answer", || third.stderr().contains("another command") || !third.stdout().is_empty());
        third.stderr().is_empty().then_some((third, next))
    });
    assert!(run.runs());
    next.to.write_all(b"end\n").expect("the command reads it");
    drop(next);
    assert_eq!(String::from_utf8_lossy(&third.end().ok().stdout), "next\nend\n");
    same(run, &((1..=first).map(line).collect::<String>() + "next\nend\n"));
}

/// A guest that reads nothing holds up whoever types, not the memory of the command.
#[test]
fn a_guest_that_reads_nothing_bounds_what_is_read() {
    /// What waits with the command, on its way to it, and in the pipe.
    const MOST: usize = (64 << 10) + 3 * 4096 + (64 << 10);
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    for mode in ["none", "checkpoint", "replay"] {
        let guest = ["run", "--mode", mode, "builtin:idle", "--", "--ticks", "100000", "--tick-ms", "5"];
        let mut command = place.ftvm(&guest);
        command.stdin(Stdio::piped());
        let mut run = place.start_command(command);
        let mut to = run.stdin();
        fcntl(&to, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a pipe can be asked not to block");
        let mut typed = 0;
        let mut type_on = || {
            loop {
                match to.write(&[b'x'; 4096]) {
                    Ok(count) => typed += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return typed,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        // In `none` the machine keeps as much as the command does elsewhere.
        let full = if mode == "none" { 64 << 10 } else { 60 << 10 };
        await_true("all that fits", || type_on() >= full + (60 << 10));
        for _ in 0..20 {
            let ticks = run.stdout().len();
            await_true("the guest's next ticks", || run.stdout().len() > ticks);
            assert!(type_on() <= MOST, "{mode}: {} bytes", type_on());
        }
        run.signal(Signal::SIGTERM);
        run.end();
    }
}

#[test]
fn a_recorded_guest_that_was_typed_to_replays_as_it_was() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    for mode in ["none", "replay", "lockstep"] {
        let file = place.file(&format!("recording-{mode}"));
        let file = file.to_str().expect("a plain path");
        let mut command = place.ftvm(&["run", "--mode", mode, "--record", file, "builtin:echo"]);
        command.stdin(Stdio::piped());
        let mut run = place.start_command(command);
        let mut typing = Typing::new(&mut run);
        typing.until(&run, "lines back", 300, || true);
        if mode != "none" {
            let host = run.host("a").expect("a host");
            signal(host, Signal::SIGKILL);
            await_true("its end", || !is_alive(host));
            typing.until(&run, "more lines back", lines_back(&run) + 600, || true);
        }
        let expected = typing.end();
        same(run, &expected);
        let replayed = place.run(&["replay", file, "--print-console"]).ok();
        assert!(String::from_utf8_lossy(&replayed.stdout) == expected, "{mode}: {}", replayed.stderr);
    }
}

#[test]
fn without_input_nothing_is_different() {
    let Some(_machine) = kvm() else { return };
    let cluster = ByHand::start(&["a", "b"]);
    let counter = ["builtin:counter", "--", "--lines", "50"];
    let golden = cluster.golden(&counter);
    for options in [&["--mode", "none"][..], &["--pool", SOCKET, "--rm"], &["--pool", SOCKET, "--rm", "--no-input"]] {
        let arguments = [&["run"], options, &counter].concat();
        let closed = ["-c", "exec \"$@\" <&-", "sh", env!("CARGO_BIN_EXE_ftvm")];
        let mut command = Command::new("sh");
        command.args(closed).args(&arguments);
        command.current_dir(cluster.place.file(".")).env("FTVM_POOL_DIR", cluster.place.pool());
        assert!(cluster.place.start_command(command).end().ok().stdout == golden, "{options:?}: a closed input");
        // What is typed to a guest that reads nothing does it no harm, nor that there is no more.
        let typed = cluster.place.write("typed", "nobody reads this\n");
        let mut command = cluster.place.ftvm(&arguments);
        command.stdin(File::open(&typed).expect("it was written"));
        assert!(cluster.place.start_command(command).end().ok().stdout == golden, "{options:?}: a file");
    }
    // Who detaches takes nothing with it.
    let mut command = cluster.place.ftvm(&ByHand::arguments(&["run", "--detach", "--name", "g"], &["builtin:echo"]));
    command.stdin(File::open(cluster.place.write("typed", "end\n")).expect("it was written"));
    cluster.place.start_command(command).end().ok();
    assert!(!has_ended(&cluster.vm("g").expect("it runs")));
    let mut command = cluster.place.ftvm(&ByHand::arguments(&["console", "--input", "g"], &[]));
    command.stdin(File::open(cluster.place.file("typed")).expect("it was written"));
    assert_eq!(cluster.place.start_command(command).end().ok().stdout, b"end\n");
}

/// A terminal: what is typed there reaches the guest in the foreground; a job in the background is not stopped by it.
#[test]
fn a_terminal_feeds_the_foreground_and_stops_nobody() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let program = env!("CARGO_BIN_EXE_ftvm");
    let on_terminal = |script: &str, typed: &[u8]| {
        let pty = openpty(None, None).expect("a terminal");
        let mut command = Command::new("setsid");
        command.args(["--ctty", "sh", "-c", script, "sh", program]).current_dir(place.file("."));
        command.env("FTVM_POOL_DIR", place.pool()).stdin(Stdio::from(pty.slave));
        let run = place.start_command(command);
        let mut master = File::from(pty.master);
        master.write_all(typed).expect("the terminal takes it");
        (run, master)
    };
    let (run, mut terminal) = on_terminal("\"$1\" run --mode none builtin:echo", b"hello\nend\n");
    let ended = run.end().ok();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "hello\nend\n");
    let mut echoed = [0; 7];
    terminal.read_exact(&mut echoed).expect("the terminal shows what is typed");
    assert_eq!(&echoed, b"hello\r\n", "it is as it ever was");

    // The job is in the background from its beginning to its end; the shell reads what is typed.
    let script = "set -m; \"$1\" run --mode none builtin:counter -- --lines 30 --every-us 20000 & \
                  read typed; wait $!; echo \"code $? typed $typed\"";
    let (run, _terminal) = on_terminal(script, b"to the shell\n");
    let ended = run.end();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(said.ends_with("line 000030\ncode 0 typed to the shell\n"), "{said} {}", ended.stderr);
}

/// A guest that edits its lines itself has the terminal raw; a shell could hardly be typed to if it stayed that way.
#[test]
fn every_signal_that_ends_a_command_gives_the_terminal_back() {
    let Some(_machine) = kvm() else { return };
    let cluster = ByHand::start(&["a"]);
    let arguments = ByHand::arguments(&["run", "--detach", "--name", "g", "--no-input"], &["builtin:echo"]);
    cluster.place.run(&arguments).ok();
    let codes = [(Signal::SIGINT, 130), (Signal::SIGQUIT, 131), (Signal::SIGTERM, 143), (Signal::SIGHUP, 143)];
    for (number, code) in codes {
        let pty = openpty(None, None).expect("a terminal");
        let terminal = pty.slave.try_clone().expect("a descriptor");
        let now = || tcgetattr(&terminal).expect("a terminal");
        let before = now();
        let mut command = cluster.place.ftvm(&ByHand::arguments(&["console", "--input", "--raw"], &["g"]));
        command.stdin(Stdio::from(pty.slave));
        let run = cluster.place.start_command(command);
        await_true("a raw terminal", || !now().local_flags.contains(LocalFlags::ICANON));
        run.signal(number);
        assert_eq!(run.end().code, Some(code), "{number}");
        assert_eq!(now(), before, "{number}");
    }
}
