//! Text files that users hand over: scenarios, event files of the simulator, histories of a load.

use scenarios::language::Scenario;
use scenarios::sim::{EventFile, FaultProfile, Plan, SimConfig};
use std::path::Path;

pub(crate) fn scenario(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Err(error) = Scenario::parse(Path::new("fuzzed.toml"), &text) {
        assert!(!error.to_string().is_empty());
    }
}

pub(crate) fn scenario_seeds() -> Vec<Vec<u8>> {
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios/library");
    let files = std::fs::read_dir(library).into_iter().flatten().flatten();
    let mut paths: Vec<_> = files.map(|file| file.path()).filter(|path| path.extension().is_some()).collect();
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

pub(crate) fn event_file(data: &[u8]) {
    if let Ok(file) = EventFile::parse(Path::new("fuzzed.jsonl"), data) {
        let again = EventFile::parse(Path::new("again.jsonl"), file.to_lines().as_bytes());
        assert_eq!(again.expect("what was read can be written"), file);
    }
}

pub(crate) fn event_file_seeds() -> Vec<Vec<u8>> {
    let of = |seed| {
        let config = SimConfig { seed, hosts: 3, vms: 1, faults: FaultProfile::Swarm };
        EventFile {
            plan: Plan::draw(seed, config.hosts, config.vms, config.faults),
            config,
            commit: "0123456789ab".to_owned(),
            violation: Some("I5: a page differs".to_owned()),
            story: vec!["1.000 ms  h1 does Stop".to_owned()],
        }
        .to_lines()
        .into_bytes()
    };
    (1..=4).map(of).collect()
}

pub(crate) fn history(data: &[u8]) {
    let _ = scenarios::history::parse(data);
    let lines: Vec<_> = scenarios::history::lines(data).map_while(Result::ok).collect();
    assert!(scenarios::history::deeds(lines.iter()).len() <= lines.len());
}

pub(crate) fn history_seeds() -> Vec<Vec<u8>> {
    use ft_protocol::Time;
    use scenarios::history::{Answer, ClientId, Operation, Recorder};
    let mut text = Vec::new();
    let mut recorder = Recorder::new(&mut text);
    let put = Operation::Set("v".to_owned());
    for (client, operation) in [(1, put), (2, Operation::Get)] {
        let call =
            recorder.invoke(ClientId::new(client), "key", &operation, Time::from_ns(1)).expect("memory takes it");
        recorder.returned(call, Answer::Done, Time::from_ns(2)).expect("memory takes it");
    }
    vec![text]
}
