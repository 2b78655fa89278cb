use super::*;

const WHOLE: &str = r#"
description = "a primary dies"
seed = 7
time-limit = "30s"

[cluster]
hosts = 4
heartbeat = "50ms"

[vm]
guest = "builtin:torture"
args = ["--steps", "1000"]
memory = "16MiB"
mode = "checkpoint"
epoch = "5ms"

[[step]]
name = "death"
event = "protected"
delay = ["1ms", "9ms"]
repeat = 3
action = "kill"
host = "primary"

[[step]]
after = "death"
console-regex = "line 0+7$"
action = "start"
host = ["@death", "d"]

[[step]]
at = "120ms"
action = "stop"
host = ["primary", "secondary"]

[expect]
exit-code = 0
console = "unprotected"
console-contains = "checksum"
takeovers = { min = 1, max = 3 }
fenced = 0
protected-again-within = "2s"
blackout-max = "500ms"
"#;

fn parse(text: &str) -> Result<Scenario, ScenarioError> {
    Scenario::parse(Path::new("dir/some.toml"), text)
}

/// A scenario that is right but for one line.
fn line_of_error(section: &str, line: &str) -> String {
    let mut text = String::new();
    for (name, lines) in [
        ("cluster", "hosts = 3\n"),
        ("vm", "guest = \"builtin:idle\"\n"),
        ("[step]", "event = \"live\"\naction = \"kill\"\nhost = \"a\"\n"),
        ("expect", ""),
    ] {
        text.push_str(&format!("[{name}]\n"));
        if section == name {
            text.push_str(&format!("{line}\n"));
        }
        text.push_str(lines);
    }
    parse(&text).expect_err(line).to_string()
}

#[test]
fn a_whole_scenario_is_understood() {
    let scenario = parse(WHOLE).unwrap();
    assert_eq!(scenario.name, "some");
    assert_eq!(scenario.seed, 7);
    assert_eq!(scenario.time_limit, Span::from_ms(30_000));
    assert_eq!(scenario.cluster, ClusterPart { hosts: 4, heartbeat_bound: Some(Span::from_ms(50)), respawn: false });
    assert_eq!(scenario.vm.guest, GuestSource::Builtin("torture".to_owned()));
    assert_eq!(scenario.vm.memory, ByteCount::mib(16));
    let [death, start, stop] = &scenario.steps[..] else { panic!("{:?}", scenario.steps) };
    assert_eq!((death.name.as_str(), death.line, death.repeat), ("death", 17, 3));
    assert!(matches!(death.when, When::Event(HappeningKind::Protected)));
    assert_eq!(death.delay, Delay { min: Span::from_ms(1), max: Span::from_ms(9) });
    assert_eq!(death.targets, [Target::Primary]);
    assert_eq!((start.name.as_str(), start.after), ("step 2", Some(0)));
    assert!(
        matches!(&start.when, When::Console(pattern) if pattern.matches(b"line 0007") && !pattern.matches(b"line 008"))
    );
    assert_eq!(start.targets, [Target::HitBy(0), Target::Host(HostName::new("d"))]);
    assert_eq!(stop.action, Action::Stop);
    assert!(matches!(stop.when, When::Running));
    assert_eq!(scenario.expect.takeovers, Some(Count { min: 1, max: Some(3) }));
    assert_eq!(scenario.expect.fenced, Some(Count { min: 0, max: Some(0) }));
    assert_eq!(scenario.expect.console_contains, ["checksum"]);
}

#[test]
fn paths_of_guests_are_relative_to_the_file() {
    let scenario = parse("[vm]\nguest = \"guests/x.elf\"\n[expect]\n").unwrap();
    assert_eq!(scenario.vm.guest, GuestSource::File(PathBuf::from("dir/guests/x.elf")));
    assert_eq!(scenario.vm.memory, ByteCount::mib(64));
    assert_eq!(scenario.cluster.hosts, 3);
}

#[test]
fn unknown_keys_are_refused_with_place_and_suggestion() {
    for (section, line, expected) in [
        (
            "cluster",
            "hots = 3",
            "dir/some.toml:2:1: unknown field `hots`, expected one of `hosts`, `heartbeat`, `respawn`; did you mean `hosts`?",
        ),
        ("expect", "takeover = 1", "did you mean `takeovers`?"),
        ("expect", "exit_code = 1", "did you mean `exit-code`?"),
        ("vm", "epoch-ms = 5", "did you mean `epoch`?"),
        ("[step]", "afer = \"x\"", "did you mean `after`?"),
    ] {
        let message = line_of_error(section, line);
        assert!(message.ends_with(expected), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn values_are_checked_where_they_stand() {
    for (section, line, expected) in [
        ("cluster", "heartbeat = \"5 parsecs\"", "dir/some.toml:2:13: `5 parsecs` is no length of time"),
        ("vm", "memory = \"64mib\"", "is no size"),
        ("vm", "mode = \"checkpiont\"", "did you mean `checkpoint`?"),
        ("vm", "memory = 64", "expected a string"),
        ("[step]", "repeat = 0", "1 to 10000 times"),
        ("[step]", "after = \"nobody\"", "no earlier step named `nobody`"),
        ("[step]", "console = \"x\"", "not several"),
        ("[step]", "delay = [\"9ms\", \"1ms\"]", "two in order"),
        ("expect", "end = \"los\"", "did you mean `lost`?"),
        ("expect", "takeovers = -1", "not negative"),
        ("expect", "takeovers = { mim = 1 }", "did you mean `min`?"),
        ("expect", "console = \"unprotectd\"", "did you mean `unprotected`?"),
        ("expect", "end = \"lost\"\nexit-code = 0", "an exit code needs"),
    ] {
        let message = line_of_error(section, line);
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn steps_must_say_when_and_to_whom() {
    let step = |lines: &str| parse(&format!("[vm]\nguest = \"x\"\n[[step]]\n{lines}\n[expect]\n"));
    for (lines, expected) in [
        ("action = \"kill\"\nhost = \"a\"", "a step needs `at`"),
        ("at = \"1ms\"\naction = \"kill\"\nhost = \"d\"", "there is no host `d`: known are a to c"),
        ("at = \"1ms\"\naction = \"kill\"\nhost = \"primry\"", "did you mean `primary`?"),
        ("at = \"1ms\"\naction = \"kill\"\nhost = []", "a step needs a host"),
        ("at = \"1ms\"\naction = \"kil\"\nhost = \"a\"", "did you mean `kill`?"),
        ("at = \"1ms\"\naction = \"kill\"", "missing field `host`"),
        ("at = \"1ms\"\ndelay = \"1ms\"\naction = \"kill\"\nhost = \"a\"", "`at` counts from"),
        ("console-regex = \"(\"\naction = \"kill\"\nhost = \"a\"", "unclosed group"),
        ("event = \"protecte\"\naction = \"kill\"\nhost = \"a\"", "did you mean `protected`?"),
        ("at = \"1ms\"\naction = \"kill\"\nhost = \"@none\"", "no earlier step named `none`"),
    ] {
        let message = step(lines).expect_err(lines).to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn what_is_no_toml_is_refused_with_its_place() {
    let message = parse("[vm\nguest = 1").unwrap_err().to_string();
    assert!(message.starts_with("dir/some.toml:1:"), "{message}");
    assert!(parse("").unwrap_err().to_string().contains("missing field `vm`"));
}
