use super::*;
use crate::cluster::{HostName, HostSignal};
use crate::event::HappeningKind;
use crate::guest::GuestSource;
use crate::units::ByteCount;

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
    let cluster = ClusterPart { hosts: 4, heartbeat_bound: Some(Span::from_ms(50)), ..ClusterPart::default() };
    assert_eq!(scenario.cluster, cluster);
    assert_eq!(scenario.vms[0].guest, GuestSource::Builtin("torture".to_owned()));
    assert_eq!(scenario.vms[0].memory, ByteCount::mib(16));
    let [death, start, stop] = &scenario.steps[..] else { panic!("{:?}", scenario.steps) };
    assert_eq!((death.name.as_str(), death.line, death.repeat), ("death", 17, 3));
    assert!(matches!(death.when, When::Event { kind: HappeningKind::Protected, count: 1, of_vm: false }));
    assert_eq!(death.delay, Delay { min: Span::from_ms(1), max: Span::from_ms(9) });
    let kill = |signal| Act::Signal { signal, targets: vec![Target::Primary(0)], undo_after: None };
    assert_eq!(death.acts, [kill(HostSignal::Kill)]);
    assert_eq!((start.name.as_str(), start.after), ("step 2", Some(0)));
    assert!(
        matches!(&start.when, When::Console(pattern) if pattern.matches(b"line 0007") && !pattern.matches(b"line 008"))
    );
    assert_eq!(start.acts[0].targets(), [Target::HitBy(0), Target::Host(HostName::new("d"))]);
    assert_eq!(stop.acts[0].targets(), [Target::Primary(0), Target::Secondary(0)]);
    assert!(matches!(stop.when, When::Running));
    assert_eq!(scenario.expect.vms[0].takeovers, Some(Count { min: 1, max: Some(3) }));
    assert_eq!((scenario.expect.line, scenario.expect.lines["takeovers"]), (36, 40));
    assert!(scenario.expect.pool_sound);
    assert_eq!(scenario.expect.fenced, Some(Count { min: 0, max: Some(0) }));
    assert_eq!(scenario.expect.vms[0].console_contains, ["checksum"]);
}

#[test]
fn paths_of_guests_are_relative_to_the_file() {
    let scenario = parse("[vm]\nguest = \"guests/x.elf\"\n[expect]\n").unwrap();
    assert_eq!(scenario.vms[0].guest, GuestSource::File(PathBuf::from("dir/guests/x.elf")));
    assert_eq!(scenario.vms[0].memory, ByteCount::mib(64));
    assert_eq!(scenario.cluster.hosts, 3);
}

#[test]
fn unknown_keys_are_refused_with_place_and_suggestion() {
    for (section, line, expected) in [
        ("cluster", "heartbaet = \"1s\"", "`host`; did you mean `heartbeat`?"),
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
        ("vm", "memory = 64", "in pages of 4096 bytes: not 64 bytes"),
        ("vm", "memory = 64.5", "expected a size like"),
        ("[step]", "repeat = 0", "1 to 10000 times"),
        ("[step]", "after = \"nobody\"", "no earlier step named `nobody`"),
        ("[step]", "console = \"x\"", "not several"),
        ("[step]", "delay = [\"9ms\", \"1ms\"]", "two in order"),
        ("expect", "end = \"los\"", "did you mean `lost`?"),
        ("expect", "takeovers = -1", "not negative"),
        ("expect", "takeovers = {}", "10:13: expected a `min`, a `max`, or both"),
        ("expect", "blackout-max = \"0s\"", "`blackout-max` is longer than no time at all"),
        ("expect", "console-lacks = \"\"", "10:1: `console-lacks` is empty: any line would do"),
        ("expect", "console-lacks = \"a\\nb\"", "10:1: `console-lacks` has a line break: no line does"),
        ("cluster", "host = 5", "expected a list"),
        ("cluster", "host = [5]", "2:9: invalid type: integer `5`, expected a table of keys"),
        ("cluster", "fence-timeout = \"1s\"", "this is for a `fence-agent`"),
        ("cluster", "host = [{ name = \"a\", labels = [\"a b\"] }]", "`a b` is no label"),
        ("vm", "mode = 5", "expected a word in quotes"),
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
fn slips_in_what_is_filled_in_are_told() {
    let command = |words: &str| {
        parse(&format!("[vm]\nguest = \"x\"\n[[workload]]\nname = \"w\"\ncommand = [{words}]\n[expect]\n"))
    };
    for (words, expected) in [
        ("\"a\", \"--seed={sed}\"", "5:11: `{sed}` is not filled in; did you mean `{seed}`?"),
        ("\"a\", \"x{seed}{histroy}\"", "`{histroy}` is not filled in; did you mean `{history}`?"),
        ("\"a\", \"{Segment}\"", "`{Segment}` is not filled in; did you mean `{segment}`?"),
    ] {
        let message = command(words).expect_err(words).to_string();
        assert!(message.contains(expected), "{message}");
    }
    command("\"sh\", \"-c\", \"awk '{print $1} {seed} {}' ${HOME} {s} { {\"").expect("braces are others' too");
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
        ("at = \"1ms\"\naction = \"kill\"", "say which `host`"),
        ("at = \"1ms\"", "a step needs an `action`"),
        ("at = \"1ms\"\naction = \"kill\"\nhost = \"a\"\ndo = [{ action = \"mark\" }]", "not both"),
        ("at = \"1ms\"\naction = \"kill\"\nhost = \"a\"\npercent = 5", "`percent` has no meaning"),
        ("at = \"1ms\"\naction = \"slow\"\nhost = \"a\"\npercent = 100", "1 to 99 percent"),
        ("at = \"1ms\"\naction = \"cut\"\nhost = \"a\"\nfrom = \"pool\"\nways = \"both\"", "the pool is cut whole"),
        ("at = \"1ms\"\naction = \"cut\"\nhost = \"controller\"\nfrom = \"pool\"", "not to the controller"),
        ("at = \"1ms\"\naction = \"fill\"", "with `pool-size`"),
        ("when = \"vm.epcoh > 1\"\naction = \"mark\"", "did you mean `epoch`?"),
        ("failpoint = \"host.commit.closd\"\non = \"a\"\naction = \"mark\"", "did you mean `host.commit.closed`?"),
        ("failpoint = \"host.commit.closed\"\naction = \"mark\"", "say `on` which host"),
        ("event = \"live\"\nhit = 3\naction = \"mark\"", "go with `failpoint`"),
        ("at = \"1s\"\nhit = 3\naction = \"mark\"", "5:7: `on` and `hit` go with `failpoint`"),
        ("at = \"1s\"\nname = \"\"\naction = \"mark\"", "5:8: the name of a step is a line of text"),
        (
            "at = \"1s\"\nrepeat = 2\naction = \"mark\"",
            "5:10: `at` is one moment, which does not come again; did you mean `every`?",
        ),
        ("every = \"1s\"\naction = \"mark\"", "`every` goes with `repeat`"),
        ("at = \"1s\"\naction = \"stop\"\nhost = \"a\"\nfor = \"0s\"", "7:7: `for` is longer than no time at all"),
        ("console = \"\"\naction = \"mark\"", "`console` is empty: any line would do"),
        ("console = \"a\\nb\"\naction = \"mark\"", "`console` has a line break: no line does"),
        ("at = \"1s\"\naction = \"switchover\"\nto = \"primary\"", "the VM is on its primary's host"),
        ("event = \"live\"\nvm = \"other\"\naction = \"mark\"", "no VM named `other`"),
        ("at = \"1ms\"\ndelay = \"1ms\"\naction = \"kill\"\nhost = \"a\"", "`at` counts from"),
        ("console-regex = \"(\"\naction = \"kill\"\nhost = \"a\"", "unclosed group"),
        ("event = \"protecte\"\naction = \"kill\"\nhost = \"a\"", "did you mean `protected`?"),
        ("at = \"1ms\"\naction = \"kill\"\nhost = \"@none\"", "no earlier step named `none`"),
    ] {
        let message = step(lines).expect_err(lines).to_string();
        assert!(message.contains(expected), "{message}");
    }
}

/// Found by an acceptance review: they pointed at `[[step]]`.
#[test]
fn errors_of_keys_point_at_the_keys() {
    let rest = "[expect]\n";
    for (step, place) in [
        ("at = \"1ms\"\naction = \"kill\"\nhost = \"a\"\npercent = 5", "7:11: `percent` has no"),
        ("at = \"1ms\"\naction = \"kill\"", "5:10: say which `host`"),
        ("at = \"1ms\"\naction = \"cut\"\nhost = \"a\"\nfrom = \"pool\"\nways = \"both\"", "8:8: `ways` are"),
        ("at = \"1ms\"\naction = \"cut\"\nhost = \"a\"\nfrom = \"both\"\nways = \"to-guest\"", "8:8: the ways"),
        ("at = \"1ms\"\naction = \"cut\"\nhost = \"controller\"\nfrom = \"pool\"", "6:8: this is done to"),
        ("at = \"1ms\"\naction = \"corrupt\"\nwhat = \"journal\"\nbits = 0", "7:8: 1 to 4096 bits"),
        ("at = \"1ms\"\naction = \"corrupt\"\nwhat = \"log\"", "6:8: in checkpoint mode"),
        ("at = \"1ms\"\naction = \"segment\"\nloss = 0", "6:8: say what is wrong"),
        ("at = \"1ms\"\naction = \"segment\"\nvm = \"guest\"\nloss = 1", "6:6: there is no such link"),
        ("at = \"1ms\"\naction = \"switchover\"\nto = \"primary\"", "6:6: the VM is on"),
        ("at = \"1ms\"\naction = \"fill\"", "5:10: `fill` takes all space"),
        ("at = \"1ms\"\naction = \"kill\"\nevent = \"live\"\nhost = \"a\"", "6:9: a step has one of"),
        ("at = \"1ms\"\naction = \"mark\"\ndo = [{ action = \"mark\" }]", "6:7: a step has an `action`"),
        ("at = \"1ms\"\ndo = [{ action = \"mark\",\n bits = 1 }]", "6:9: `bits` has no meaning"),
        ("at = \"1ms\"\nhost = \"a\"\ndo = [{ action = \"mark\" }]", "5:8: `host` goes with an `action`"),
    ] {
        let message = parse(&format!("[vm]\nguest = \"x\"\n[[step]]\n{step}\n{rest}")).expect_err(step).to_string();
        assert!(message.starts_with(&format!("dir/some.toml:{place}")), "{step}: {message}");
    }
    let kills = "[cluster]\nfence-agent = \"kill\"\n[vm]\nguest = \"x\"\n[[step]]\nat = \"1ms\"\naction = \"cut\"\nhost = \"a\"\n";
    let message = parse(&format!("{kills}from = \"both\"\n")).expect_err("a relay would die").to_string();
    assert!(message.contains(":9:8: hosts whose network is cut"), "{message}");
    let events = "[vm]\nguest = \"x\"\n[expect.events]\nlive = 1\nsealed = { min = 0 }\n";
    assert!(parse(events).expect_err("it holds always").to_string().contains(":5:10: `events` of at least 0"));
}

#[test]
fn what_is_no_toml_is_refused_with_its_place() {
    let message = parse("[vm\nguest = 1").unwrap_err().to_string();
    assert!(message.starts_with("dir/some.toml:1:"), "{message}");
    assert!(parse("").unwrap_err().to_string().contains("missing field `vm`"));
}

fn all(text: &str, axes: &[&str]) -> Result<Vec<Scenario>, ScenarioError> {
    let axes: Vec<Axis> = axes.iter().map(|axis| axis.parse().unwrap()).collect();
    Scenario::parse_all(Path::new("dir/some.toml"), text, &axes)
}

const MATRIX: &str = r#"
[matrix]
"vm.mode" = ["checkpoint", "replay"]
"step.hit.delay" = ["1ms", ["2ms", "3ms"]]
[vm]
guest = "builtin:idle"
[[step]]
name = "hit"
event = "protected"
action = "kill"
host = "primary"
[expect]
"#;

#[test]
fn a_matrix_is_a_scenario_for_each_combination() {
    let cells = all(MATRIX, &[]).unwrap();
    let names: Vec<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "some[vm.mode=checkpoint,step.hit.delay=1ms]",
            "some[vm.mode=checkpoint,step.hit.delay=2ms+3ms]",
            "some[vm.mode=replay,step.hit.delay=1ms]",
            "some[vm.mode=replay,step.hit.delay=2ms+3ms]",
        ]
    );
    assert_eq!(cells[3].vms[0].mode, ModePart::Replay);
    assert_eq!(cells[3].steps[0].delay, Delay { min: Span::from_ms(2), max: Span::from_ms(3) });
    let chosen = all(MATRIX, &["vm.mode=replay", "cluster.hosts=2,4"]).unwrap();
    assert_eq!((chosen[0].cluster.hosts, chosen[3].cluster.hosts), (2, 4), "a table that the file leaves out");
    let chosen = all(MATRIX, &["vm.mode=replay", "vm.memory=4MiB,8MiB"]).unwrap();
    assert_eq!(chosen.len(), 4);
    assert_eq!(chosen[3].vms[0].memory, ByteCount::mib(8));
}

#[test]
fn errors_in_a_matrix_point_at_its_values() {
    let message = all(&MATRIX.replace("\"replay\"", "\"repaly\""), &[]).unwrap_err().to_string();
    assert!(message.starts_with("dir/some.toml:3:28: ") && message.ends_with("did you mean `replay`?"), "{message}");
    for (from, to, expected) in [
        ("step.hit.delay", "step.miss.delay", "no `step` named `miss`"),
        ("step.hit.delay", "step.delay", "write `step.NAME.delay`"),
        ("[\"checkpoint\", \"replay\"]", "\"replay\"", "expected a list"),
        ("[\"checkpoint\", \"replay\"]", "[]", "there is no value"),
    ] {
        let message = all(&MATRIX.replace(from, to), &[]).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    assert!("vm.mode".parse::<Axis>().is_err());
}

const TWO: &str = r#"
[[vm]]
name = "one"
guest = "builtin:idle"
[[vm]]
name = "two"
guest = "builtin:burn"
mode = "replay"
[[step]]
event = "protected"
vm = "two"
repeat = { min = 2, max = 9 }
do = [{ action = "kill", host = "primary" }, { action = "stop", host = "primary:one", for = "5ms" }]
[expect]
takeovers = 0
[expect.vm.two]
takeovers = { min = 2 }
"#;

#[test]
fn several_vms_have_names_steps_and_expectations_of_their_own() {
    let scenario = all(TWO, &[]).unwrap().remove(0);
    let step = &scenario.steps[0];
    assert_eq!((step.vm, step.repeat, step.fires_min), (1, 9, 2));
    assert_eq!(step.acts[0].targets(), [Target::Primary(1)]);
    assert_eq!(step.acts[1].targets(), [Target::Primary(0)]);
    assert_eq!(scenario.expect.vms[0].takeovers, Some(Count { min: 0, max: Some(0) }));
    assert_eq!(scenario.expect.vms[1].takeovers, Some(Count { min: 2, max: None }));
    for (from, to, expected) in [
        ("name = \"two\"\n", "", "each needs a `name`"),
        ("name = \"two\"", "name = \"one\"", "another VM named `one`"),
        ("expect.vm.two", "expect.vm.tow", "no VM named `tow`"),
        ("primary:one", "primary:three", "no VM named `three`"),
        ("[expect.vm.two]\n", "[expect.vm.two]\nconsole-contains = \"\"\n", "17:1: `console-contains` is empty"),
    ] {
        let message = all(&TWO.replacen(from, to, 1), &[]).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_vm_that_is_to_be_refused_is_no_part_of_steps_and_expectations() {
    let vms = "[[vm]]\nname = \"one\"\nguest = \"builtin:idle\"\n[[vm]]\nname = \"two\"\nguest = \"builtin:idle\"\n";
    let step = |lines: &str| {
        let expect = "[expect]\nrefused = \"memory\"\n";
        parse(&format!("{vms}[[step]]\nevent = \"live\"\n{lines}\n{expect}"))
    };
    for (lines, place) in [
        ("action = \"kill\"\nhost = \"primary:two\"", "10:8"),
        ("action = \"switchover\"\nvm = \"two\"", "10:6"),
        ("action = \"switchover\"\nto = \"secondary:two\"", "10:6"),
        ("action = \"mark\"\nvm = \"two\"", "10:6"),
        ("do = [{ action = \"mode\", mode = \"replay\", vm = \"two\" }]", "9:48"),
        ("do = [{ action = \"delete\", vm = \"two\" }]", "9:33"),
        ("action = \"corrupt\"\nwhat = \"journal\"\nvm = \"two\"", "11:6"),
    ] {
        let message = step(lines).expect_err(lines).to_string();
        assert!(message.contains(&format!(":{place}: VM `two` never runs")), "{message}");
    }
    assert!(step("action = \"kill\"\nhost = \"primary:one\"").is_ok());
    let own = "[expect]\nrefused = \"memory\"\n[expect.vm.two]\ntakeovers = 0\n";
    let message = parse(&format!("{vms}{own}")).expect_err("nothing comes of it").to_string();
    assert!(message.contains("VM `two` is the one that is to be refused"), "{message}");
    let message = parse(&format!("{vms}[expect]\nrefused = \"\"\n")).expect_err("any refusal would do").to_string();
    assert!(message.contains(":8:1: `refused` is empty"), "{message}");
}

#[test]
fn steps_may_wait_for_several_passages_of_a_failpoint_but_not_for_the_same() {
    let step = |hit: u32| {
        format!("[[step]]\nfailpoint = \"host.commit.closed\"\non = \"a\"\nhit = {hit}\naction = \"mark\"\n")
    };
    let with = |other: u32| parse(&format!("[vm]\nguest = \"builtin:idle\"\n{}{}[expect]\n", step(1), step(other)));
    assert!(with(2).is_ok());
    let message = with(1).expect_err("who lets it go on?").to_string();
    assert!(message.contains(":9:13: `step 1` waits for this passage"), "{message}");
}

#[test]
fn what_the_command_line_gives_has_no_line_in_the_file() {
    let chosen = all(MATRIX, &["vm.guest=builtin:burn", "time-limit=5s", "expect.takeovers=1"]).unwrap().remove(0);
    assert_eq!((chosen.vms[0].guest_line, chosen.time_limit_line), (None, None));
    assert!(!chosen.expect.lines.contains_key("takeovers") && chosen.expect.line == 12, "{:?}", chosen.expect);
    assert_eq!(all(MATRIX, &[]).unwrap()[0].vms[0].guest_line, Some(6));
}

#[test]
fn what_would_fail_in_the_run_is_refused_with_its_place() {
    let segment = "event = \"live\"\naction = \"segment\"";
    let clock = "event = \"live\"\naction = \"clock\"\nhost = \"a\"";
    for (section, line, expected) in [
        ("cluster", "heartbeat = \"1ms\"", "2:13: `heartbeat` is 10.0 ms to 600.00 s"),
        ("cluster", "stall = \"307445734min\"", "is too long: a scenario asks for a week at most"),
        ("cluster", "pool-size = \"0\"", "`pool-size` is more than nothing"),
        ("cluster", "fence-agent = \"./nowhere\"", "there is no fence agent `./nowhere` beside this file"),
        ("cluster", "host = [{ name = \"a\" }, { name = \"a\" }]", "there is another table for host `a`"),
        ("vm", "memory = \"1MiB\"", "a VM has 2 MiB to 64 GiB of memory"),
        ("vm", "disk = \"1000\"", "a disk has blocks of 4096 bytes"),
        ("vm", "epoch = \"0ms\"", "`epoch` is longer than no time at all"),
        ("vm", "failback = \"1s\"", "`failback` goes with `prefer`"),
        ("[step]", "event = \"live\"\naction = \"switchover\"\nto = \"controller\"\n[[step]]", "a VM moves to a host"),
        ("[step]", "name = \"x\"\nafter = \"x\"\naction = \"mark\"\n[[step]]", "`x` is this step itself"),
        ("[step]", "after = \"step 2\"\naction = \"mark\"\n[[step]]", "`step 2` stands behind it, in line "),
        (
            "[step]",
            "name = \"step 2\"\nevent = \"live\"\naction = \"mark\"\n[[step]]",
            "there is another step named `step 2`",
        ),
        (
            "[step]",
            "event = \"live\"\naction = \"corrupt\"\nwhat = \"log\"\n[[step]]",
            "in checkpoint mode there is no log",
        ),
        ("[step]", &format!("{segment}\nloss = 1\n[[step]]"), "there is no such link"),
        ("[step]", &format!("{segment}\n[[step]]"), "say what is wrong with the segment"),
        ("[step]", &format!("{segment}\nloss = 1001\n[[step]]"), "a segment loses 0 to 1000 frames"),
        ("[step]", &format!("{segment}\nloss = 1\nways = \"to-guest\"\n[[step]]"), "say which `vm`"),
        ("[step]", &format!("{clock}\n[[step]]"), "say how far the clock steps"),
        ("[step]", &format!("{clock}\nby = \"0s\"\n[[step]]"), "a clock steps, and by a minute at most"),
        ("[step]", &format!("{clock}\nby = \"-61s\"\n[[step]]"), "a clock steps, and by a minute at most"),
        ("expect", "takeovers = { min = 3, max = 2 }", "expected a `min` that is not above the `max`"),
    ] {
        let error = line_of_error(section, line);
        assert!(error.contains(expected), "{section}: {line}: {error}");
    }
}

#[test]
fn a_bundled_guest_is_known_when_the_file_is_read() {
    let error = parse("[vm]\nguest = \"builtin:tortur\"\n[expect]\n").unwrap_err().to_string();
    assert!(error.contains("some.toml:2:9: there is no bundled guest `tortur`"), "{error}");
    assert!(error.ends_with("did you mean `torture`?"), "{error}");
}

#[test]
fn segments_and_clocks_are_understood() {
    let text = "[[vm]]\nname = \"s\"\nguest = \"builtin:kv\"\nnet = true\n[[step]]\nevent = \"live\"\n\
                do = [{ action = \"segment\", loss = 5 }, { action = \"segment\", vm = \"s\", ways = \"from-guest\", latency = \"2ms\" }, \
                { action = \"clock\", host = [\"primary\", \"controller\"], by = \"-1.5s\", for = \"1s\" }]\n[expect]\n";
    let scenario = parse(text).unwrap();
    let [all, link, clock] = &scenario.steps[0].acts[..] else { panic!("{:?}", scenario.steps) };
    assert!(matches!(all, Act::Segment { link: None, ways: WaysPart::Both, loss: 5, .. }), "{all:?}");
    assert!(matches!(link, Act::Segment { link: Some(0), ways: WaysPart::FromGuest, loss: 0, .. }), "{link:?}");
    assert!(matches!(clock, Act::Clock { by_ns: -1_500_000_000, during: Some(_), .. }), "{clock:?}");
    assert!(scenario.check_simulated().unwrap_err().to_string().contains("no devices"), "no segment there");
}

#[test]
fn what_is_no_text_is_told_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("latin.toml");
    std::fs::write(&path, b"seed = 1\ndescription = \"caf\xe9\"\n").unwrap();
    let error = Scenario::read(&path).unwrap_err().to_string();
    assert!(error.ends_with("latin.toml:2:19: this is no text (UTF-8)"), "{error}");
    std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(Scenario::read(&path).unwrap_err().to_string().contains("at most 1024 KiB"));
}

#[test]
fn what_the_command_line_says_wrong_is_told_as_such() {
    for (argument, expected) in [
        ("vm.mode=replay,repaly", "--matrix vm.mode=repaly: unknown variant"),
        ("vm.mdoe=replay", "--matrix vm.mdoe=replay: unknown field `mdoe`"),
        ("step.hot.delay=1ms", "--matrix step.hot.delay=1ms: matrix `step.hot.delay`: there is no `step` named `hot`"),
        ("expect.takeovers={ mim = 1 }", "--matrix expect.takeovers={ mim = 1 }: unknown field `mim`"),
    ] {
        let message = all(MATRIX, &["vm.epoch=1ms,2ms", argument]).unwrap_err().to_string();
        assert!(message.starts_with(expected) && message.ends_with("(for dir/some.toml)"), "{message}");
        assert!(!message.contains(":1:1"), "{message}");
    }
    let hint = all(MATRIX, &["step.hot.delay=1ms"]).unwrap_err().to_string();
    assert!(hint.contains("did you mean `hit`?"), "{hint}");
}

#[test]
fn a_file_that_expects_nothing_expects_that_guests_exit() {
    let scenario = parse("[vm]\nguest = \"builtin:idle\"\n").unwrap();
    assert_eq!((scenario.expect.vms[0].end, scenario.expect.pool_sound), (End::Ended, true));
    for (top, message) in [("cluster = 5\n", "1:11"), ("expect = \"x\"\n", "1:10")] {
        let message = format!("dir/some.toml:{message}: invalid type: ");
        let error = parse(&format!("{top}[vm]\nguest = \"builtin:idle\"\n")).unwrap_err().to_string();
        assert!(error.starts_with(&message) && error.ends_with("expected a table of keys"), "{error}");
    }
}

#[test]
fn roles_that_nobody_ever_has_are_refused() {
    let text = |hosts: u16, role: &str, rest: &str| {
        parse(&format!(
            "[cluster]\nhosts = {hosts}\n[vm]\nguest = \"builtin:idle\"\n[[step]]\nevent = \"live\"\naction = \"kill\"\nhost = \"{role}\"\n{rest}"
        ))
    };
    for (hosts, role) in [(1, "secondary"), (2, "spare")] {
        let error = text(hosts, role, "").unwrap_err().to_string();
        assert!(error.contains(&format!("8:8: nobody is ever {role} in a cluster of {hosts}")), "{error}");
        assert!(text(hosts, role, "optional = true\n").is_ok());
        assert!(text(hosts + 1, role, "").is_ok());
    }
}

#[test]
fn a_vm_that_is_deleted_does_not_end() {
    let text = |step: &str, expect: &str| {
        let vms =
            "[[vm]]\nname = \"one\"\nguest = \"builtin:idle\"\n[[vm]]\nname = \"two\"\nguest = \"builtin:idle\"\n";
        parse(&format!("{vms}[[step]]\nat = \"1ms\"\naction = \"delete\"\nvm = \"two\"\n{step}[expect]\n{expect}"))
    };
    let error = text("", "").unwrap_err().to_string();
    assert!(error.contains(":9:10: its VM is deleted and never ends"), "{error}");
    assert!(text("", "[expect.vm.one]\nend = \"deleted\"\n").is_err(), "that is another one");
    assert!(text("", "[expect.vm.two]\nend = \"deleted\"\n").is_ok());
    assert!(text("optional = true\n", "").is_ok());
}

#[test]
fn sizes_are_texts_or_numbers_of_bytes() {
    let memory = |size: &str| {
        parse(&format!("[vm]\nguest = \"builtin:idle\"\nmemory = {size}\n")).map(|scenario| scenario.vms[0].memory)
    };
    assert_eq!(memory("8388608").unwrap(), memory("\"8MiB\"").unwrap());
    for wrong in ["-4096", "true"] {
        assert!(memory(wrong).unwrap_err().to_string().contains(":3:"), "{wrong}");
    }
}
