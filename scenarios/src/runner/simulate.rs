//! Runs scenarios in the simulator: the same steps, the same verdicts, the same run folder; in virtual time, from one seed.

use super::{Manifest, Observed, ObservedVm, Report, RunDirectory, RunnerError, RunnerOptions, Verdict, judge};
use crate::event::EventLog;
use crate::golden::Golden;
use crate::language::Scenario;
use crate::report;
use crate::sim::{Interrupted, play};
use crate::summary::{Summary, ms};
use ft_protocol::{Span, Time};
use std::time::Duration;
use vmm::clock::monotonic;

/// When simulated clocks begin.
const START: Time = Time::from_ns(1_000_000_000);

/// Plays a scenario in the simulator.
///
/// # Errors
/// When the run's directory cannot be written, or `shall_end` says that the user wants to end; an expectation that does not hold is no
/// error.
pub fn simulate(
    scenario: &Scenario,
    options: &RunnerOptions,
    shall_end: &dyn Fn() -> bool,
) -> Result<Report, RunnerError> {
    let seed = options.seed.unwrap_or(scenario.seed);
    if let Err(not) = scenario.check_simulated() {
        return Ok(Report { again: again(scenario, seed), ..Report::skipped(scenario, seed, not.to_string()) });
    }
    let start = monotonic();
    let played = play(scenario, seed, shall_end).map_err(|Interrupted| RunnerError::Interrupted)?;
    let Some(played) = played else {
        let reason = "it has no part in the simulator".to_owned();
        return Ok(Report::skipped(scenario, seed, reason));
    };
    let directory = RunDirectory::create(&options.runs, &scenario.name)?;
    let manifest = Manifest { again: again(scenario, seed), ..Manifest::new(scenario, options, seed, START) };
    directory.write_json("manifest.json", &manifest)?;
    let path = directory.file("events.jsonl");
    let failed = |source| RunnerError::File { path: path.clone(), source };
    let mut log = EventLog::create(&path, START).map_err(failed)?;
    for event in &played.stage.events {
        log.append(event).map_err(failed)?;
    }
    for (index, part) in scenario.vms.iter().enumerate() {
        directory.write(&super::console_file(scenario, part, "console"), played.stage.schedule.console(index))?;
    }
    let now = START + Span::from_us(played.us);
    let stage = &played.stage;
    // Memory and machine state were held against an unbroken run with the same inputs all along.
    let golden = |console: &Vec<u8>| Golden {
        console: console.clone(),
        exit_code: 0,
        memory_crc: Some(0),
        disk_crc: None,
        duration: Duration::ZERO,
    };
    let goldens: Vec<Golden> = played.consoles.iter().map(golden).collect();
    let sound = played.violation.is_none();
    let vms = (0..scenario.vms.len()).map(|vm| ObservedVm {
        outcome: stage.outcomes[vm].as_ref(),
        timeline: &stage.timelines[vm],
        golden: Some(&goldens[vm]),
        memory_crc: Some(u32::from(!sound)),
        disk_crc: None,
    });
    let cut_short = stage.outcomes.iter().any(Option::is_none);
    let observed = Observed {
        vms: vms.collect(),
        schedule: &stage.schedule,
        refusal: None,
        refused: &stage.refused,
        lost: &[],
        now,
        cut_short,
    };
    let mut verdicts = judge(scenario, &observed);
    let expectation = "the checkers find nothing (I1 to I5, I7)".to_owned();
    let found = played.violation.as_ref().map_or_else(|| "they did not".to_owned(), ToString::to_string);
    let checked = Verdict::decided(expectation, sound, found, None);
    // What cut it short comes first.
    verdicts.insert(if sound { verdicts.len() } else { 0 }, checked);
    if sound && cut_short {
        verdicts.insert(0, super::verdict::time_ran_out(scenario, &observed, std::iter::empty()));
    }
    let summary = Summary::new(&stage.timelines[0], stage.outcomes[0].as_ref(), START, now, stage.facts[0].epoch);
    let mut report = Report {
        duration_ms: ms(monotonic().since(start)),
        summary: Some(summary),
        steps: stage.schedule.told(),
        again: again(scenario, seed),
        ..Report::new(scenario, seed, verdicts)
    };
    if report.holds && !options.keep {
        directory.remove();
        return Ok(report);
    }
    report.directory = Some(directory.path().to_owned());
    directory.write_json("report.json", &report)?;
    report::write_html(directory.path())?;
    Ok(report)
}

/// The line that plays a scenario again.
fn again(scenario: &Scenario, seed: u64) -> String {
    super::again(scenario, seed).replacen("ftvm scenario run", "ftvm scenario sim", 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn library() -> Vec<Scenario> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("library");
        let entries = std::fs::read_dir(directory).expect("the library is part of the crate");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        files.sort();
        files.iter().flat_map(|path| Scenario::read_all(path, &[]).expect("the library is sound")).collect()
    }

    fn options(runs: &Path, seed: u64, keep: bool) -> RunnerOptions {
        let (executable, commit) = (PathBuf::new(), "test".to_owned());
        RunnerOptions { executable, commit, pool_parent: PathBuf::new(), runs: runs.to_owned(), seed: Some(seed), keep }
    }

    #[test]
    fn the_library_holds_in_the_simulator() {
        let runs = tempfile::tempdir().expect("a directory can be made");
        let (mut played, mut failures) = (0, Vec::new());
        for scenario in library() {
            for seed in [scenario.seed, scenario.seed + 1] {
                let report =
                    simulate(&scenario, &options(runs.path(), seed, false), &|| false).expect("it can be played");
                if let Some(reason) = &report.skipped {
                    println!("{reason}");
                    break;
                }
                played += 1;
                let wrong = report.verdicts.iter().filter(|verdict| !verdict.holds);
                let wrong: Vec<String> = wrong.map(|verdict| format!("{}: {verdict:?}", report.again)).collect();
                if !wrong.is_empty() {
                    let events = report.directory.map(|path| std::fs::read_to_string(path.join("events.jsonl")));
                    println!("{}\n{}", report.again, events.and_then(Result::ok).unwrap_or_default());
                }
                failures.extend(wrong);
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(played >= 80, "only {played} runs were played");
    }

    /// Longer than the heartbeat bound: its takeover is no false alarm.
    #[test]
    fn a_host_that_is_held_at_a_failpoint_is_rightly_suspected() {
        let text = "[cluster]\nhosts = 4\n[vm]\nguest = \"builtin:torture\"\nmemory = \"16MiB\"\n[[step]]\nfailpoint = \
                    \"host.commit.published\"\non = \"a\"\ndelay = \"200ms\"\naction = \"kill\"\nhost = \"c\"\n[expect]\ntakeovers = 1\n";
        let runs = tempfile::tempdir().expect("a directory can be made");
        let scenario = Scenario::parse(Path::new("held.toml"), text).expect("a scenario");
        for seed in 1..6 {
            let report = simulate(&scenario, &options(runs.path(), seed, false), &|| false).expect("it can be played");
            assert!(report.holds, "{report:?}");
        }
    }

    #[test]
    fn the_example_for_other_repositories_holds() {
        let runs = tempfile::tempdir().expect("a directory can be made");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/ci/scenarios/primary-dies.toml");
        for scenario in Scenario::read_all(&path, &[]).expect("the example is sound") {
            let report = simulate(&scenario, &options(runs.path(), 1, false), &|| false).expect("it can be played");
            assert!(report.holds && report.skipped.is_none(), "{:?}", report.verdicts);
        }
    }

    #[test]
    fn a_seed_is_one_file_of_events_to_the_byte() {
        let runs = tempfile::tempdir().expect("a directory can be made");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("library/primary-killed.toml");
        let scenario = Scenario::read(&path).expect("the library is sound");
        let events = |seed| {
            let report = simulate(&scenario, &options(runs.path(), seed, true), &|| false).expect("it can be played");
            std::fs::read(report.directory.expect("it was kept").join("events.jsonl")).expect("it is there")
        };
        assert!(!events(7).is_empty());
        assert_eq!(events(7), events(7));
        assert_ne!(events(7), events(8));
    }

    #[test]
    fn what_means_nothing_there_is_told_with_its_place() {
        let text = "[vm]\nguest = \"builtin:torture\"\nnet = true\n[expect]\n";
        let scenario = Scenario::parse(Path::new("x.toml"), text).expect("it is a scenario");
        let not = scenario.check_simulated().expect_err("there is no network there");
        assert_eq!(not.to_string(), "x.toml:1: not in the simulator: the model guest has no devices");
        let vms: String = (1..=9).map(|vm| format!("[[vm]]\nname = \"v{vm}\"\nguest = \"builtin:idle\"\n")).collect();
        for (text, expected) in [
            (vms, "at most 8 VMs"),
            ("[cluster]\nhosts = 17\n[vm]\nguest = \"builtin:idle\"\n".to_owned(), "at most 16 hosts"),
        ] {
            let scenario = Scenario::parse(Path::new("x.toml"), &text).expect("it is a scenario");
            let not = scenario.check_simulated().expect_err("it would not fit").to_string();
            assert!(not.contains(expected), "{not}");
        }
        let step = "[[step]]\nat = \"1ms\"\naction = \"corrupt\"\nwhat = \"log\"\n";
        let text = format!("[vm]\nguest = \"builtin:torture\"\nmode = \"replay\"\n{step}[expect]\n");
        let scenario = Scenario::parse(Path::new("x.toml"), &text).expect("it is a scenario");
        assert_eq!(scenario.check_simulated().map_err(|not| not.line()), Err(4));
    }

    #[test]
    fn who_was_deposed_may_find_out_after_the_guests_have_ended() {
        let runs = tempfile::tempdir().expect("a directory can be made");
        let text = "[cluster]\nheartbeat = \"200ms\"\n[vm]\nguest = \"builtin:torture\"\n[[step]]\nevent = \"protected\"\naction = \"stop\"\n\
                    host = \"primary\"\nfor = \"4s\"\n[expect]\nfenced = 1\ntakeovers = 1\n";
        let scenario = Scenario::parse(Path::new("x.toml"), text).expect("it is a scenario");
        for seed in 1..=5 {
            let report = simulate(&scenario, &options(runs.path(), seed, true), &|| false).expect("it can be played");
            assert!(report.holds, "{seed}: {:?}", report.verdicts);
            let directory = report.directory.expect("it was kept");
            let events = std::fs::read_to_string(directory.join("events.jsonl")).expect("it is there");
            assert!(events.contains("\"signal\":\"cont\""), "what ends is told: {events}");
        }
    }

    #[test]
    fn a_vm_whose_hosts_all_come_back_is_not_lost() {
        let runs = tempfile::tempdir().expect("a directory can be made");
        let text = "[cluster]\nrespawn = true\n[vm]\nguest = \"builtin:torture\"\n[[step]]\nevent = \"protected\"\naction = \"kill\"\n\
                    host = [\"a\", \"b\", \"c\"]\n[expect]\nconsole = \"unprotected\"\n";
        let scenario = Scenario::parse(Path::new("x.toml"), text).expect("it is a scenario");
        for seed in 1..=3 {
            let report = simulate(&scenario, &options(runs.path(), seed, false), &|| false).expect("it can be played");
            assert!(report.holds, "{seed}: {:?}", report.verdicts);
        }
    }

    /// Each host's ends and beginnings: when it was away, in milliseconds.
    fn times_away(report: &Report) -> Vec<(String, u64)> {
        let events = crate::event::read_events(&report.directory.as_ref().expect("it was kept").join("events.jsonl"));
        let (mut gone, mut away) = (std::collections::BTreeMap::new(), Vec::new());
        for event in events.expect("they can be read") {
            match event.what {
                crate::event::What::Signalled { host, signal: crate::cluster::HostSignal::Kill } => {
                    gone.insert(host.to_string(), event.at);
                }
                crate::event::What::HostStarted { host, .. } => {
                    away.extend(gone.remove(host.as_str()).map(|at| (host.to_string(), event.at.since(at).ms())));
                }
                crate::event::What::ControllerRevived { .. } => {
                    let name = crate::cluster::CONTROLLER;
                    away.extend(gone.remove(name).map(|at| (name.to_owned(), event.at.since(at).ms())));
                }
                _ => {}
            }
        }
        away
    }

    #[test]
    fn who_is_restarted_is_away_for_as_long_as_the_step_says() {
        let runs = tempfile::tempdir().expect("a directory can be made");
        for (cluster, host) in [("", "controller"), ("respawn = true\n", "secondary"), ("", "primary")] {
            let text = format!(
                "[cluster]\n{cluster}[vm]\nguest = \"builtin:torture\"\n[[step]]\nevent = \"protected\"\naction = \"restart\"\n\
                 host = \"{host}\"\nfor = \"700ms\"\n[expect]\n"
            );
            let scenario = Scenario::parse(Path::new("x.toml"), &text).expect("it is a scenario");
            let report = simulate(&scenario, &options(runs.path(), 1, true), &|| false).expect("it can be played");
            assert!(report.holds, "{host}: {:?}", report.verdicts);
            let away = times_away(&report);
            assert_eq!(away.len(), 1, "{away:?}");
            assert!((700..750).contains(&away[0].1), "{away:?}");
        }
    }

    #[test]
    fn a_vm_is_not_lost_while_hosts_are_still_to_come() {
        let runs = tempfile::tempdir().expect("a directory can be made");
        let all = "host = [\"a\", \"b\", \"c\"]\n";
        let restart = format!("[[step]]\nevent = \"protected\"\naction = \"restart\"\n{all}for = \"300ms\"\n");
        let start = format!(
            "[[step]]\nname = \"k\"\nevent = \"protected\"\naction = \"kill\"\n{all}[[step]]\nafter = \"k\"\n\
             delay = \"2s\"\naction = \"start\"\n{all}"
        );
        for steps in [restart, start] {
            let text = format!("[vm]\nguest = \"builtin:torture\"\n{steps}[expect]\nconsole = \"unprotected\"\n");
            let scenario = Scenario::parse(Path::new("x.toml"), &text).expect("it is a scenario");
            for seed in 1..=3 {
                let report =
                    simulate(&scenario, &options(runs.path(), seed, false), &|| false).expect("it can be played");
                assert!(report.holds, "{seed}: {:?}", report.verdicts);
            }
        }
    }

    /// When something was told of a host, in milliseconds.
    fn times_of(report: &Report, is_meant: impl Fn(&crate::event::What) -> bool) -> Vec<u64> {
        let events = crate::event::read_events(&report.directory.as_ref().expect("it was kept").join("events.jsonl"));
        let meant = events.expect("they can be read").into_iter().filter(|event| is_meant(&event.what));
        meant.map(|event| event.at.since(START).ms()).collect()
    }

    #[test]
    fn faults_of_one_kind_that_overlap_are_over_once_when_the_last_one_is() {
        use crate::event::What::{FaultEnded, Signalled};
        let runs = tempfile::tempdir().expect("a directory can be made");
        let twice = |act: &str| {
            let step =
                |at: &str, during: &str| format!("[[step]]\nat = \"{at}\"\n{act}\nfor = \"{during}\"\nhost = \"c\"\n");
            let (first, second) = (step("100ms", "200ms"), step("200ms", "1s"));
            let text = format!(
                "[cluster]\nheartbeat = \"5s\"\n[vm]\nguest = \"builtin:torture\"\n{first}{second}[expect]\ntakeovers = 0\n"
            );
            let scenario = Scenario::parse(Path::new("x.toml"), &text).expect("it is a scenario");
            let report = simulate(&scenario, &options(runs.path(), 1, true), &|| false).expect("it can be played");
            assert!(report.holds, "{:?}", report.verdicts);
            report
        };
        let stopped = twice("action = \"stop\"");
        let ends = times_of(
            &stopped,
            |what| matches!(what, Signalled { host, signal: crate::cluster::HostSignal::Cont } if host.as_str() == "c"),
        );
        assert!(matches!(ends[..], [at] if (1_200..1_300).contains(&at)), "{ends:?}");
        for act in ["action = \"slow\"\npercent = 50", "action = \"cut\"\nfrom = \"network\""] {
            let ends = times_of(&twice(act), |what| matches!(what, FaultEnded { target, .. } if target == "c"));
            assert!(matches!(ends[..], [at] if (1_200..1_300).contains(&at)), "{act}: {ends:?}");
        }
    }

    fn scenario(text: &str) -> Scenario {
        Scenario::parse(Path::new("x.toml"), text).expect("it is a scenario")
    }

    #[test]
    fn what_the_model_guest_says_as_the_bundled_one_does_is_waited_for() {
        let runs = tempfile::tempdir().expect("a directory can be made");
        for (guest, trigger) in [
            ("torture", "console = \"progress 000500\""),
            ("counter", "console-regex = \"^line 00005[0-9]$\""),
            ("idle", "console = \"tick 001000\""),
            ("burn", "console = \"burn \""),
            ("idle", "when = \"vm.epoch >= 1000\""),
        ] {
            let text = format!(
                "[vm]\nguest = \"builtin:{guest}\"\n[[step]]\n{trigger}\naction = \"kill\"\nhost = \"primary\"\n[expect]\n\
                 console = \"unprotected\"\nconsole-lacks = \"panic!\"\ntakeovers = 1\n"
            );
            let report =
                simulate(&scenario(&text), &options(runs.path(), 1, false), &|| false).expect("it can be played");
            assert!(report.holds && report.skipped.is_none(), "{guest}, {trigger}: {report:?}");
        }
    }

    #[test]
    fn what_the_model_guest_does_not_say_is_not_played() {
        for (guest, step, expect, line) in [
            ("torture", "console = \"torture of\"", "", 3),
            ("torture", "console-regex = \"^progress [0-9]+$\"", "", 3),
            ("torture", "console = \"progress 009000\"", "", 3),
            ("counter", "console-regex = \"^line 3[0-9]{3}\"", "", 3),
            ("burn", "console = \"progress\"", "", 3),
            ("idle", "when = \"vm.epoch > 200000\"", "", 3),
            ("idle", "at = \"1ms\"", "console-contains = \"tock\"\n", 8),
            ("counter", "at = \"1ms\"", "console-lacks = [\"bad\", \"line 000101\"]\n", 8),
        ] {
            let text = format!(
                "[vm]\nguest = \"builtin:{guest}\"\n[[step]]\n{step}\naction = \"kill\"\nhost = \"primary\"\n[expect]\n{expect}"
            );
            let not = scenario(&text).check_simulated().expect_err("it would fail there for nothing");
            assert_eq!(not.line(), line, "{not}");
        }
        let two = "[[vm]]\nname = \"a\"\nguest = \"builtin:idle\"\n[[vm]]\nname = \"b\"\nguest = \"builtin:counter\"\n\
                   [[step]]\nvm = \"b\"\nconsole = \"line 000001\"\naction = \"mark\"\n";
        assert!(scenario(two).check_simulated().is_err(), "both print what the first one does");
    }

    #[test]
    fn guests_go_on_as_long_as_steps_are_to_fire() {
        let runs = tempfile::tempdir().expect("a directory can be made");
        let text = "[vm]\nguest = \"builtin:torture\"\n[[step]]\nat = \"20s\"\naction = \"kill\"\nhost = \"primary\"\n[expect]\n\
                    console = \"unprotected\"\ntakeovers = 1\nblackout-max = \"500ms\"\n";
        let report = simulate(&scenario(text), &options(runs.path(), 1, true), &|| false).expect("it can be played");
        assert!(report.holds, "{:?}", report.verdicts);
        let printed = times_of(&report, |what| matches!(what, crate::event::What::ConsoleMoved { .. }));
        for second in 1..20 {
            let here = printed.iter().filter(|at| **at / 1_000 == second).count();
            assert!(here >= 20, "in second {second} it printed {here} times");
        }
    }

    #[test]
    fn a_run_is_explained_in_the_words_of_a_real_one() {
        let runs = tempfile::tempdir().expect("a directory can be made");
        let text = "[vm]\nname = \"left\"\nguest = \"builtin:torture\"\n[[step]]\nevent = \"protected\"\naction = \"kill\"\n\
                    host = \"primary\"\n[expect]\n";
        let scenario = Scenario::parse(Path::new("x.toml"), text).expect("it is a scenario");
        let report = simulate(&scenario, &options(runs.path(), 1, true), &|| false).expect("it can be played");
        let folder = report::RunFolder::read(&report.directory.expect("it was kept")).expect("it can be read");
        let told = report::explain(&folder);
        assert!(told.contains("vm left: exited with 0") && !told.contains("v0"), "{told}");
    }

    #[test]
    fn times_of_hosts_and_of_the_controller_are_the_same_times() {
        let runs = tempfile::tempdir().expect("a directory can be made");
        let text = "[vm]\nguest = \"builtin:torture\"\n[expect]\nprotected-within = \"200ms\"\n";
        let scenario = Scenario::parse(Path::new("x.toml"), text).expect("it is a scenario");
        let report = simulate(&scenario, &options(runs.path(), 1, false), &|| false).expect("it can be played");
        assert!(report.holds, "it was told a second late: {:?}", report.verdicts);
    }

    #[test]
    fn clocks_step_forth_and_back_and_events_have_right_times() {
        let runs = tempfile::tempdir().expect("a directory can be made");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("library/clock-steps.toml");
        let scenario = Scenario::read(&path).expect("the library is sound");
        let report = simulate(&scenario, &options(runs.path(), 3, true), &|| false).expect("it can be played");
        assert!(report.holds, "{:?}", report.verdicts);
        let events = crate::event::read_events(&report.directory.expect("it was kept").join("events.jsonl"));
        let events = events.expect("they can be read");
        assert!(events.windows(2).all(|pair| pair[0].at <= pair[1].at), "one order");
        let lives = events.iter().filter_map(|event| match &event.what {
            crate::event::What::Happened(ft_protocol::timeline::Happening::Live { report, .. }) => {
                Some(event.at.ns().abs_diff(report.live_at.ns()))
            }
            _ => None,
        });
        let off: Vec<u64> = lives.collect();
        assert!(off.len() >= 2 && off.iter().all(|ns| *ns < 500_000_000), "{off:?}");
    }

    #[test]
    fn an_expectation_that_does_not_hold_fails_with_its_line() {
        let runs = tempfile::tempdir().expect("a directory can be made");
        let text = "[vm]\nguest = \"builtin:torture\"\n[expect]\ntakeovers = 3\n";
        let scenario = Scenario::parse(Path::new("x.toml"), text).expect("it is a scenario");
        let report = simulate(&scenario, &options(runs.path(), 1, false), &|| false).expect("it can be played");
        assert!(!report.holds && report.again == "ftvm scenario sim --seed 1 x.toml");
        let wrong: Vec<_> = report.verdicts.iter().filter(|verdict| !verdict.holds).collect();
        assert_eq!(wrong.iter().map(|verdict| verdict.line).collect::<Vec<_>>(), [Some(4)]);
    }
}
