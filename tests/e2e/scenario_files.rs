//! Scenario files: the library holds, and what is wrong with a file or a run is said.

use crate::support::{Place, kvm, kvm_alone};
use std::path::{Path, PathBuf};

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/library")
}

#[test]
fn the_library_holds() {
    let Some(_machine) = kvm_alone() else { return };
    let place = Place::new();
    let ended = place.run(&["scenario", "run", "--jobs", "2", library().to_str().unwrap()]);
    let text = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.code, Some(0), "{text}{}", ended.stderr);
    assert!(text.lines().last().is_some_and(|line| line.ends_with("0 fail")), "{text}");
    assert!(!place.file("scenario-runs").exists(), "what went well is removed");
    assert_eq!(place.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn every_scenario_of_the_library_says_what_it_proves() {
    let place = Place::new();
    place.run(&["scenario", "check", library().to_str().unwrap()]).ok();
    for entry in std::fs::read_dir(library()).expect("the library is there").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a file");
        assert!(text.starts_with("# Proves"), "{}", entry.path().display());
    }
}

#[test]
fn files_that_are_no_scenarios_are_refused_with_their_line() {
    let place = Place::new();
    for (text, expected) in [
        ("[vm]\nguest = \"builtin:idle\"\nmemroy = \"16MiB\"\n[expect]\n", "bad.toml:3:1: unknown field `memroy`"),
        ("[vm]\nguest = \"builtin:idle\"\nmemroy = \"16MiB\"\n[expect]\n", "did you mean `memory`?"),
        ("[vm]\nguest = \"builtin:idle\"\n[expect]\ntakeovres = 1\n", "bad.toml:4:1: unknown field `takeovres`"),
        ("[vm\n", "bad.toml:1:"),
    ] {
        let file = place.write("bad.toml", text);
        for command in ["check", "run"] {
            let ended = place.run(&["scenario", command, file.to_str().unwrap()]);
            let line = ended.one_line(78);
            assert!(line.contains(expected), "{line}");
        }
    }
    let ended = place.run(&["scenario", "run", "missing.toml"]);
    assert!(ended.one_line(66).contains("missing.toml"), "{ended:?}");
    let empty = place.file("empty");
    std::fs::create_dir(&empty).unwrap();
    let ended = place.run(&["scenario", "run", empty.to_str().unwrap()]);
    assert!(ended.one_line(66).contains("no scenario files"), "{ended:?}");
}

const VM: &str = "[vm]\nguest = \"builtin:counter\"\nargs = [\"--lines\", \"20\"]\nmemory = \"4MiB\"\n";

fn fails(name: &str, text: &str, code: i32, expected: &str) {
    let place = Place::new();
    let file = place.write(&format!("{name}.toml"), text);
    let ended = place.run(&["scenario", "run", file.to_str().unwrap()]);
    let out = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.code, Some(code), "{out}{}", ended.stderr);
    assert!(out.contains(expected), "{out}");
    assert!(out.contains("0 scenarios hold, 1 fail: "), "{out}");
    let again = format!("again ftvm scenario run --seed 1 --pool-dir {} {}", place.pool().display(), file.display());
    assert!(out.contains(&again), "{out}");
    let kept = place.file("scenario-runs").join(format!("{name}-1"));
    for file in
        ["manifest.json", "report.html", "events.jsonl", "console", "report.json", "pool.1.stderr", "a.1.stderr"]
    {
        assert!(kept.join(file).exists(), "{file} is kept");
    }
    let told = place.run(&["scenario", "explain"]).ok();
    let told = String::from_utf8_lossy(&told.stdout);
    assert!(told.contains("it FAILED") && told.contains("what happened"), "the latest run is told: {told}");
    assert_eq!(place.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn a_scenario_without_what_it_is_about_fails() {
    let Some(_machine) = kvm() else { return };
    fails("no-takeover", &format!("{VM}[expect]\ntakeovers = 1\n"), 80, "FAIL  1 takeovers (line 6): 0 takeovers");
    let step = "[[step]]\nname = \"never\"\nconsole = \"line 99\"\naction = \"kill\"\nhost = \"a\"\n";
    fails("no-step", &format!("{VM}{step}[expect]\n"), 80, "FAIL  never fires 1 times (line 5): it fired 0 times");
    fails(
        "wrong-code",
        &format!("{VM}[expect]\nexit-code = 7\n"),
        80,
        "FAIL  the guest exits with 7 (line 6): it exited with 0",
    );
    fails("wrong-end", &format!("{VM}[expect]\nend = \"lost\"\n"), 80, "FAIL  the VM is lost (line 6)");
}

#[test]
fn a_scenario_that_takes_too_long_is_told_apart() {
    let Some(_machine) = kvm() else { return };
    let vm = VM.replace("counter", "idle").replace("lines", "ticks").replace("\"20\"", "\"1000000\"");
    fails("too-long", &format!("time-limit = \"15s\"\n{vm}[expect]\n"), 84, "time ran out");
}

#[test]
fn reports_are_for_programs_too() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let file = place.write("some.toml", format!("{VM}[expect]\nconsole = \"unprotected\"\n"));
    let ended = place.run(&["scenario", "run", "--json", "--keep", "--seed", "5", file.to_str().unwrap()]).ok();
    let reports: serde_json::Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    assert_eq!(reports[0]["scenario"], "some");
    assert_eq!(reports[0]["seed"], 5);
    assert_eq!(reports[0]["holds"], true);
    let directory = reports[0]["directory"].as_str().expect("it was kept");
    assert!(place.file(directory).join("console.unprotected").exists());
}

#[test]
fn reports_are_for_machines_that_build() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let file = place.write("some.toml", format!("{VM}[expect]\ntakeovers = 1\n"));
    let arguments = ["scenario", "run", "--github", "--junit", "junit.xml", file.to_str().unwrap()];
    let ended = place.run(&arguments);
    let out = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.code, Some(80), "{out}");
    assert!(out.contains("some.toml,line=6,title=some (seed 1)::1 takeovers: 0 takeovers%0Aagain: ftvm"), "{out}");
    let xml = std::fs::read_to_string(place.file("junit.xml")).expect("it was written");
    assert!(xml.contains("<failure message=\"1 takeovers: 0 takeovers\""), "{xml}");
}

#[test]
fn files_that_are_no_scenarios_are_all_told_to_machines_too() {
    let place = Place::new();
    let _good = place.write("good.toml", format!("{VM}[expect]\n"));
    let _misspelt = place.write("misspelt.toml", format!("{VM}[expect]\ntakovers = 1\n"));
    let _torn = place.write("torn.toml", "[vm\n");
    for world in ["run", "sim"] {
        let ended = place.run(&["scenario", world, "--github", "--junit", "junit.xml", "."]);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        for file in ["misspelt.toml", "torn.toml"] {
            assert_eq!(ended.stderr.lines().filter(|line| line.contains(file)).count(), 1, "{}", ended.stderr);
        }
        let out = String::from_utf8_lossy(&ended.stdout);
        assert_eq!(out.lines().filter(|line| line.starts_with("::error file=")).count(), 2, "{out}");
        let xml = std::fs::read_to_string(place.file("junit.xml")).expect("it was written");
        std::fs::remove_file(place.file("junit.xml")).expect("it is there");
        assert!(xml.contains("errors=\"2\"") && xml.contains("did you mean `takeovers`?"), "{xml}");
    }
}

#[test]
fn a_matrix_can_be_narrowed_and_widened() {
    let place = Place::new();
    let file =
        place.write("some.toml", format!("[matrix]\n\"vm.mode\" = [\"checkpoint\", \"replay\"]\n{VM}[expect]\n"));
    let lines = |arguments: &[&str]| {
        let ended = place.run(&[&["scenario", "list", file.to_str().unwrap()], arguments].concat()).ok();
        String::from_utf8_lossy(&ended.stdout).lines().count()
    };
    assert_eq!(lines(&[]), 2);
    assert_eq!(lines(&["--matrix", "vm.mode=replay"]), 1);
    assert_eq!(lines(&["--matrix", "vm.mode=replay", "--matrix", "vm.epoch=1ms,2ms,3ms"]), 3);
    let ended = place.run(&["scenario", "list", file.to_str().unwrap(), "--matrix", "vm.mode=repaly"]);
    assert!(ended.one_line(78).contains("did you mean `replay`?"));
}

/// Found by an acceptance review: two loads on a segment had one address, and the second one waited for a minute for what the first one was told.
#[test]
fn loads_on_one_segment_do_not_take_each_others_answers() {
    let Some(_machine) = kvm() else { return };
    let place = Place::new();
    let vm = |name: &str, ip: &str| {
        let args = format!("args = [\"--ip\", \"{ip}/24\"]");
        format!("[[vm]]\nname = \"{name}\"\nguest = \"builtin:kv\"\nmemory = \"4MiB\"\nnet = true\n{args}\n")
    };
    let load = |name: &str, to: &str| {
        let command = format!(
            "\"ftvm\", \"load\", \"kv\", \"{{segment}}\", \"--to\", \"{to}:7000\", \"--time\", \"1s\", \"--stop\""
        );
        format!("[[workload]]\nname = \"{name}\"\ncommand = [{command}]\n")
    };
    let two = [vm("one", "10.0.0.2"), vm("two", "10.0.0.3"), load("first", "10.0.0.2"), load("second", "10.0.0.3")];
    let file = place.write("two.toml", format!("time-limit = \"50s\"\n{}[expect]\nexit-code = 0\n", two.concat()));
    let ended = place.run(&["scenario", "run", file.to_str().expect("it is text")]);
    assert_eq!(ended.code, Some(0), "{}{}", String::from_utf8_lossy(&ended.stdout), ended.stderr);
    let same = [vm("one", "10.0.0.2"), load("first", "10.0.0.2"), load("second", "10.0.0.2")];
    let file = place.write("same.toml", format!("time-limit = \"50s\"\n{}[expect]\n", same.concat()));
    let ended = place.run(&["scenario", "run", file.to_str().expect("it is text")]);
    let out = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.code == Some(80) && out.contains("another load writes to 10.0.0.2:7000"), "{out}{}", ended.stderr);
}
