//! What steps do to processes that die, live again, or hold something meanwhile.

use crate::support::{Place, kvm};

/// A guest that does not end by itself.
const VM: &str = "[vm]\nguest = \"builtin:idle\"\nargs = [\"--ticks\", \"100000000\"]\nmemory = \"4MiB\"\n";

/// The events of a run that holds, a line each.
fn events_of(text: &str) -> Vec<String> {
    let place = Place::new();
    let file = place.write("faults.toml", text);
    let ended = place.run(&["scenario", "run", "--keep", file.to_str().expect("it is text")]);
    assert_eq!(ended.code, Some(0), "{}{}", String::from_utf8_lossy(&ended.stdout), ended.stderr);
    let events = std::fs::read_to_string(place.file("scenario-runs/faults-1/events.jsonl")).expect("they are kept");
    events.lines().map(str::to_owned).collect()
}

/// The VM was lost in the moment of the restart, which had its hosts come back.
#[test]
fn hosts_that_are_dead_and_restarted_bring_their_vm_back() {
    let Some(_machine) = kvm() else { return };
    let all = "host = [\"a\", \"b\", \"c\"]\n";
    let steps = format!(
        "[[step]]\nname = \"dead\"\nevent = \"protected\"\naction = \"kill\"\n{all}\
         [[step]]\nname = \"again\"\nafter = \"dead\"\ndelay = \"2s\"\naction = \"restart\"\n{all}for = \"300ms\"\n\
         [[step]]\nafter = \"again\"\nevent = \"protected\"\naction = \"delete\"\n"
    );
    let events =
        events_of(&format!("{VM}{steps}[expect]\nend = \"deleted\"\nevents = {{ stranded = {{ min = 1 }} }}\n"));
    let count = |kind: &str| events.iter().filter(|line| line.contains(kind)).count();
    assert_eq!((count("\"host-exited\""), count("\"host-started\"")), (3, 6), "{events:?}");
}

/// Found by an acceptance review: each step that meant the dead one told of a kill.
#[test]
fn a_controller_that_is_dead_is_not_killed_again() {
    let Some(_machine) = kvm() else { return };
    let strike = |name: &str, when: &str, action: &str| {
        format!("[[step]]\nname = \"{name}\"\n{when}action = \"{action}\"\nhost = \"controller\"\n")
    };
    let steps = [
        strike("dead", "event = \"protected\"\n", "kill"),
        strike("away", "after = \"dead\"\n", "restart") + "for = \"2s\"\n",
        strike("still", "after = \"away\"\ndelay = \"300ms\"\n", "restart") + "for = \"300ms\"\n",
        strike("twice", "after = \"still\"\n", "kill"),
        strike("stopped", "after = \"twice\"\n", "stop") + "for = \"100ms\"\n",
        "[[step]]\nafter = \"stopped\"\ndelay = \"3s\"\naction = \"delete\"\n".to_owned(),
    ];
    let events = events_of(&format!("{VM}{}[expect]\nend = \"deleted\"\n", steps.concat()));
    let count = |kind: &str| events.iter().filter(|line| line.contains(kind)).count();
    assert_eq!((count("\"signalled\""), count("\"controller-revived\"")), (1, 1), "{events:?}");
}

/// It stood still until the step of a failpoint had fired at which its former life had stood.
#[test]
fn the_next_life_of_a_process_that_dies_at_a_failpoint_is_let_go_on() {
    let Some(_machine) = kvm() else { return };
    let steps = "[[step]]\nname = \"held\"\nfailpoint = \"host.commit.published\"\non = \"a\"\nhit = 20\ndelay = \"10s\"\naction = \"mark\"\noptional = true\n\
                 [[step]]\nname = \"killed\"\nevent = \"protected\"\ndelay = \"1s\"\naction = \"kill\"\nhost = \"a\"\n\
                 [[step]]\nname = \"again\"\nafter = \"killed\"\ndelay = \"500ms\"\naction = \"start\"\nhost = \"a\"\n\
                 [[step]]\nname = \"stopped\"\nafter = \"again\"\ndelay = \"500ms\"\naction = \"stop\"\nhost = \"a\"\nfor = \"50ms\"\n\
                 [[step]]\nafter = \"stopped\"\ndelay = \"500ms\"\naction = \"delete\"\n";
    let cluster = "[cluster]\nhosts = 4\nheartbeat = \"5s\"\n";
    let events = events_of(&format!("{cluster}{VM}{steps}[expect]\nend = \"deleted\"\n"));
    assert!(events.iter().any(|line| line.contains("failpoint-reached")), "it stood there: {events:?}");
    let of_a = |line: &&String| line.contains("\"signalled\"") && line.contains("\"host\":\"a\"");
    let signals: Vec<&str> = events
        .iter()
        .filter(of_a)
        .filter_map(|line| {
            ["kill", "stop", "cont"].into_iter().find(|word| line.contains(&format!("\"signal\":\"{word}\"")))
        })
        .collect();
    assert_eq!(signals, ["kill", "stop", "cont"], "{events:?}");
}

/// It flipped bits that nobody would read any more, and nothing came of it.
#[test]
fn a_journal_is_corrupted_when_something_waits_in_it() {
    let Some(_machine) = kvm() else { return };
    let step = "[[step]]\nname = \"flip\"\nevent = \"protected\"\ndelay = [\"20ms\", \"100ms\"]\naction = \"corrupt\"\nwhat = \"journal\"\n\
                [[step]]\nafter = \"flip\"\nevent = \"live\"\naction = \"delete\"\n";
    let expect = "[expect]\nend = \"deleted\"\ntakeovers = 1\nevents = { record-refused = { min = 1 } }\n";
    let events = events_of(&format!("[cluster]\nheartbeat = \"5s\"\nstall = \"20s\"\n{VM}{step}{expect}"));
    let signalled = |word: &str| {
        let meant =
            |line: &&String| line.contains("\"controller\"") && line.contains(&format!("\"signal\":\"{word}\""));
        events.iter().filter(meant).count()
    };
    assert!(signalled("stop") >= 1 && signalled("stop") == signalled("cont"), "the controller goes on: {events:?}");
}
