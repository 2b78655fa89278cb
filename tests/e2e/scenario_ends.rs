//! Scenarios end: at their time limit and at a signal, whatever stands still meanwhile.

use crate::support::{Place, Running, await_some, await_true, is_alive, is_stopped, kvm, signal};
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::process::Command;

/// A guest that does not end by itself.
const VM: &str = "[vm]\nguest = \"builtin:idle\"\nargs = [\"--ticks\", \"100000000\"]\nmemory = \"4MiB\"\n";

fn command(place: &Place, text: &str) -> Command {
    let file = place.write("endless.toml", text);
    place.ftvm(&["scenario", "run", file.to_str().expect("it is text")])
}

fn start(place: &Place, text: &str) -> Running {
    place.start_command(command(place, text))
}

/// Asks it to end, and expects that it does so and leaves nothing.
fn ends_at(signal: Signal, code: i32, running: Running, place: &Place) {
    running.signal(signal);
    let ended = running.end();
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    assert_eq!(place.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn a_controller_that_stands_still_does_not_outlast_the_time_limit() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    // Slow and cut off, too: whoever is to end must hear of it.
    let steps = "[[step]]\nevent = \"protected\"\ndo = [{ action = \"slow\", host = \"primary\", percent = 50 }, \
                 { action = \"cut\", host = \"secondary\", from = \"both\" }, { action = \"stop\", host = \"primary\" }, \
                 { action = \"stop\", host = \"controller\" }]\n[[step]]\nat = \"500ms\"\naction = \"delete\"\noptional = true\n";
    let ended = start(&place, &format!("time-limit = \"15s\"\n{VM}{steps}[expect]\n")).end();
    let out = String::from_utf8_lossy(&ended.stdout);
    // Whoever waits for the controller's answer is told after a minute that none came, and that is another code.
    assert_eq!(ended.code, Some(84), "{out}{}", ended.stderr);
    let events = std::fs::read_to_string(place.file("scenario-runs/endless-1/events.jsonl")).expect("they are kept");
    let stopped = |line: &str| line.contains("\"signal\":\"stop\"") && line.contains("\"host\":\"controller\"");
    assert!(events.lines().any(stopped), "the controller stood still: {events}");
    assert_eq!(place.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn a_signal_ends_a_run_whose_controller_was_stopped_by_somebody() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    // The step makes the runner ask again and again. The controller stops itself with such a question in its hands.
    let step = "[[step]]\nwhen = \"vm.epoch >= 100000000\"\naction = \"mark\"\n";
    let mut asking = command(&place, &format!("time-limit = \"600s\"\n{VM}{step}[expect]\n"));
    asking.env("FTVM_FAILPOINTS", "controller.client.asked=stop@12");
    let running = place.start_command(asking);
    await_true("the controller stands still", || running.controller().is_some_and(is_stopped));
    assert!(place.file("scenario-runs/endless-1/events.jsonl").exists(), "the guest runs");
    ends_at(Signal::SIGTERM, 143, running, &place);
}

#[test]
fn a_signal_ends_a_run_whose_cluster_does_not_start() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let running = place.start(&["run", "builtin:idle", "--", "--ticks", "100000000"]);
    let controller = await_some("its controller", || running.controller());
    signal(controller, Signal::SIGSTOP);
    ends_at(Signal::SIGTERM, 143, running, &place);
}

#[test]
fn descriptions_steer_no_terminal_and_reports_that_cannot_be_written_hide_nothing() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let guest = "[vm]\nguest = \"builtin:counter\"\nargs = [\"--lines\", \"20\"]\nmemory = \"4MiB\"\n";
    let file = place.write("odd.toml", format!("description = \"red \\u001b[31m\"\n{guest}[expect]\ntakeovers = 1\n"));
    let ended = place.run(&["scenario", "run", "--junit", "missing/junit.xml", file.to_str().expect("it is text")]);
    assert!(ended.one_line(74).contains("missing/junit.xml"), "{ended:?}");
    let out = String::from_utf8_lossy(&ended.stdout);
    assert!(out.contains("0 scenarios hold, 1 fail: odd"), "{out}");
    let told = place.run(&["scenario", "explain"]).ok().stdout;
    assert!(!told.contains(&0x1b) && String::from_utf8_lossy(&told).contains("red "), "{told:?}");
}

#[test]
fn a_signal_ends_the_unprotected_run() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let running = start(&place, &format!("time-limit = \"600s\"\n{VM}[expect]\nconsole = \"unprotected\"\n"));
    let console = place.file("scenario-runs/endless-1/console.unprotected");
    await_some("the unprotected run begins", || std::fs::metadata(&console).ok());
    ends_at(Signal::SIGINT, 130, running, &place);
    let told = place.run(&["scenario", "explain"]).ok();
    assert!(String::from_utf8_lossy(&told.stdout).contains("endless"), "{told:?}");
}

#[test]
fn a_runner_that_is_killed_before_its_cluster_starts_leaves_a_run_that_can_be_explained() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let running = start(&place, &format!("time-limit = \"600s\"\n{VM}[expect]\nconsole = \"unprotected\"\n"));
    let console = place.file("scenario-runs/endless-1/console.unprotected");
    await_some("the unprotected run begins", || std::fs::metadata(&console).ok());
    running.signal(Signal::SIGKILL);
    assert_eq!(running.end().code, None);
    let told = place.run(&["scenario", "explain", "scenario-runs/endless-1"]).ok();
    let told = String::from_utf8_lossy(&told.stdout);
    assert!(told.starts_with("endless (seed 1, commit ") && told.contains("it did not come to its end"), "{told}");
    assert!(told.contains("again: ftvm scenario run --seed 1 "), "{told}");
}

/// Found by an acceptance review: it ran on for ever.
#[test]
fn a_workload_does_not_outlive_a_runner_that_is_killed() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let deaf = "trap '' TERM HUP; echo $$; while :; do sleep 0.1; done";
    let workload = format!("[[workload]]\nname = \"deaf\"\ncommand = [\"sh\", \"-c\", \"{deaf}\"]\n");
    let running = start(&place, &format!("time-limit = \"600s\"\n{VM}{workload}[expect]\n"));
    let out = place.file("scenario-runs/endless-1/deaf.out");
    let said = || std::fs::read_to_string(&out).ok()?.trim().parse::<u32>().ok();
    let pid = await_some("the workload runs", said);
    assert!(is_alive(pid));
    running.signal(Signal::SIGKILL);
    assert_eq!(running.end().code, None);
    await_true("the workload has ended, too", || !is_alive(pid));
}

#[test]
fn what_time_cut_short_is_told_after_the_cause_and_fails_nothing_else() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let rest = "[[workload]]\nname = \"a.1\"\ncommand = [\"sh\", \"-c\", \"echo working >&2; sleep 1000\"]\n\
                [[step]]\nname = \"never\"\nconsole = \"no such line\"\naction = \"mark\"\n[expect]\nconsole-contains = \"none\"\ntakeovers = 1\n";
    let ended = start(&place, &format!("time-limit = \"15s\"\n{VM}{rest}")).end();
    let out = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.code, Some(84), "{out}{}", ended.stderr);
    let marks: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert_eq!(marks, ["FAIL", "open", "open", "open", "open", "open", "step", "see", "again"], "{out}");
    assert!(out.contains("  step  never (line 9) did not fire\n"), "{out}");
    let cause = "FAIL  the run ends within 15.00 s (line 1): time ran out: VM guest still ran, workload a.1 still ran, never had not fired";
    assert!(out.contains(cause), "{out}");
    // Its name is that of a process's file, too.
    let said = |file: &str| std::fs::read_to_string(place.file("scenario-runs/endless-1").join(file)).expect(file);
    assert_eq!(said("a.1.err"), "working\n");
    assert!(!said("a.1.stderr").contains("working"));
}

#[test]
fn an_unprotected_run_that_runs_out_of_time_is_told_with_its_line() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let ended = start(&place, &format!("time-limit = \"300ms\"\n{VM}[expect]\nconsole = \"unprotected\"\n")).end();
    let out = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.code, Some(84), "{out}{}", ended.stderr);
    assert!(out.contains("FAIL  the unprotected run ends within 300.0 ms (line 1): it had not ended after "), "{out}");
    assert!(!out.contains("(seed 1, 0.0 s)"), "it took its time: {out}");
}

#[test]
fn what_the_processes_said_is_kept_when_the_cluster_does_not_come_up() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let file = place.write("tight.toml", format!("[cluster]\npool-size = \"1MiB\"\n{VM}[expect]\n"));
    let ended = place.run(&["scenario", "run", file.to_str().expect("it is text")]);
    let out = String::from_utf8_lossy(&ended.stdout);
    if out.starts_with("skip") {
        return crate::support::skipped("a tmpfs cannot be mounted here");
    }
    assert_eq!(ended.code, Some(80), "{out}{}", ended.stderr);
    let said = std::fs::read_to_string(place.file("scenario-runs/tight-1/pool.1.stderr")).expect("it is kept");
    assert!(said.contains("--pool-dir"), "{said}");
}

#[test]
fn fills_that_overlap_and_are_healed_end_once() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let steps = "[[step]]\nname = \"full\"\nevent = \"protected\"\naction = \"fill\"\nfor = \"1s\"\n\
                 [[step]]\nname = \"fuller\"\nafter = \"full\"\naction = \"fill\"\nfor = \"2s\"\n\
                 [[step]]\nname = \"healed\"\nafter = \"fuller\"\ndelay = \"500ms\"\naction = \"heal\"\n\
                 [[step]]\nname = \"late\"\nafter = \"healed\"\ndelay = \"3s\"\naction = \"delete\"\n";
    let file = place.write(
        "fills.toml",
        format!("[cluster]\npool-size = \"128MiB\"\n{VM}{steps}[expect]\nend = \"deleted\"\npool = \"any\"\n"),
    );
    let ended = place.run(&["scenario", "run", "--keep", file.to_str().expect("it is text")]);
    let out = String::from_utf8_lossy(&ended.stdout);
    if out.starts_with("skip") {
        return crate::support::skipped("a tmpfs cannot be mounted here");
    }
    assert_eq!(ended.code, Some(0), "{out}{}", ended.stderr);
    let events = std::fs::read_to_string(place.file("scenario-runs/fills-1/events.jsonl")).expect("they are kept");
    let count = |word: &str| events.lines().filter(|line| line.contains(word) && line.contains("pool full")).count();
    assert_eq!((count("fault-began"), count("fault-ended")), (2, 1), "{events}");
}

#[test]
fn a_process_stands_still_at_each_passage_that_a_step_waits_for() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let at = |hit: u32| {
        let when =
            format!("[[step]]\nname = \"hit {hit}\"\nfailpoint = \"host.commit.closed\"\non = \"a\"\nhit = {hit}\n");
        format!("{when}action = \"mark\"\n")
    };
    let end = "[[step]]\nname = \"end\"\nafter = \"hit 3\"\naction = \"delete\"\n";
    let file = place.write("hits.toml", format!("{VM}{}{}{end}[expect]\nend = \"deleted\"\n", at(1), at(3)));
    let ended = place.run(&["scenario", "run", "--keep", file.to_str().expect("it is text")]);
    assert_eq!(ended.code, Some(0), "{}{}", String::from_utf8_lossy(&ended.stdout), ended.stderr);
    let said = std::fs::read_to_string(place.file("scenario-runs/hits-1/a.1.stderr")).expect("it is kept");
    let stops: Vec<&str> = said.lines().filter(|line| line.starts_with("failpoint ")).collect();
    assert_eq!(stops, ["failpoint host.commit.closed@1: SIGSTOP", "failpoint host.commit.closed@3: SIGSTOP"]);
}

#[test]
fn an_order_that_no_controller_was_there_to_hear_reaches_the_next_one() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let steps = "[[step]]\nname = \"away\"\nevent = \"protected\"\n\
                 do = [{ action = \"restart\", host = \"controller\", for = \"1s\" }, { action = \"mode\", mode = \"replay\" }]\n\
                 [[step]]\nname = \"gone\"\nafter = \"away\"\ndelay = \"2s\"\naction = \"delete\"\n";
    let file = place.write("order.toml", format!("{VM}{steps}[expect]\nend = \"deleted\"\n"));
    let ended = place.run(&["scenario", "run", "--keep", file.to_str().expect("it is text")]);
    assert_eq!(ended.code, Some(0), "{}{}", String::from_utf8_lossy(&ended.stdout), ended.stderr);
    let events = std::fs::read_to_string(place.file("scenario-runs/order-1/events.jsonl")).expect("they are kept");
    assert!(events.lines().any(|line| line.contains("order-answered") && line.contains("away")), "{events}");
}

#[test]
fn a_guest_that_is_missing_fails_its_own_scenario_only() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let files = place.file("files");
    std::fs::create_dir(&files).expect("a directory can be made");
    place.write("files/1-missing.toml", "[vm]\nmemory = \"4MiB\"\nguest = \"gest.elf\"\n[expect]\n");
    place.write("files/guest.elf", "no guest");
    let good = "[vm]\nguest = \"builtin:counter\"\nargs = [\"--lines\", \"20\"]\nmemory = \"4MiB\"\n[expect]\n";
    place.write("files/2-good.toml", good);
    let files = files.to_str().expect("it is text");
    let ended = place.run(&["scenario", "run", "--junit", "junit.xml", files]);
    let out = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.code, Some(80), "{out}{}", ended.stderr);
    assert!(out.contains("1 scenarios hold, 1 fail: 1-missing"), "{out}");
    assert!(out.contains("(line 3): the guest cannot be used: there is no guest file"), "{out}");
    let xml = std::fs::read_to_string(place.file("junit.xml")).expect("it was written");
    assert!(xml.contains("tests=\"2\"") && xml.contains("errors=\"1\"") && xml.contains("<error message="), "{xml}");
    let checked = place.run(&["scenario", "check", files]);
    let line = checked.one_line(66);
    assert!(line.contains("1-missing.toml:3: there is no guest file"), "{line}");
    assert!(line.ends_with("did you mean `guest.elf`?"), "{line}");
    assert!(String::from_utf8_lossy(&checked.stdout).contains("2-good.toml"), "the others are told");
}

/// A controller that is started again tells whoever follows its VMs how they are, those that have ended too.
#[test]
fn the_end_of_a_guest_is_told_once_however_many_controllers_there_are() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let vm = |name: &str, guest: &str| format!("[[vm]]\nname = \"{name}\"\nmemory = \"4MiB\"\nguest = {guest}\n");
    let short = vm("short", "\"builtin:counter\"\nargs = [\"--lines\", \"3\"]");
    let long = vm("long", "\"builtin:idle\"\nargs = [\"--ticks\", \"30\", \"--tick-ms\", \"100\"]");
    let step = "[[step]]\nevent = \"ended\"\ndelay = \"100ms\"\naction = \"kill\"\nhost = \"controller\"\n";
    let mut run = command(&place, &format!("{short}{long}{step}[expect]\nexit-code = 0\n"));
    run.arg("--keep");
    let ended = place.start_command(run).end();
    assert_eq!(ended.code, Some(0), "{}{}", String::from_utf8_lossy(&ended.stdout), ended.stderr);
    let events = std::fs::read_to_string(place.file("scenario-runs/endless-1/events.jsonl")).expect("they are kept");
    let count = |kind: &str| events.lines().filter(|line| line.contains(&format!("\"{kind}\""))).count();
    assert_eq!((count("controller-revived"), count("guest-ended")), (1, 2), "{events}");
}
