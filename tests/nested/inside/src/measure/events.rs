//! What `ftvm run --events` tells, as far as it is wanted here.

use serde_json::Value;
use std::collections::BTreeMap;

/// What has happened so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Happened {
    /// How often a guest went live.
    pub(crate) lives: usize,
    /// Whether what runs has a secondary that is ready.
    pub(crate) is_protected: bool,
    /// The process of the host on which it is live.
    pub(crate) primary: Option<u32>,
}

/// Reads the file; the last line may be half written.
pub(crate) fn read(text: &str) -> Happened {
    let mut happened = Happened::default();
    let (mut processes, mut names) = (BTreeMap::<String, u32>::new(), BTreeMap::<u64, String>::new());
    let mut live_on = None;
    for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let started = &event["host-started"];
        if let (Some(host), Some(pid)) = (started["host"].as_str(), started["pid"].as_u64()) {
            processes.insert(host.to_owned(), u32::try_from(pid).unwrap_or_default());
        }
        let told = &event["happened"];
        if let (Some(host), Some(name)) = (told["host-joined"]["host"].as_u64(), told["host-joined"]["name"].as_str()) {
            names.insert(host, name.to_owned());
        }
        if let Some(live) = told.get("live") {
            happened.lives += 1;
            happened.is_protected = false;
            live_on = live["host"].as_u64();
        }
        if told.get("protected").is_some() {
            happened.is_protected = true;
        }
        if told.get("unprotected").is_some() {
            happened.is_protected = false;
        }
    }
    happened.primary = live_on.and_then(|host| processes.get(names.get(&host)?).copied());
    happened
}

#[cfg(test)]
mod tests {
    use super::{Happened, read};

    const BEFORE: &str = r#"{"at":1,"host-started":{"host":"a","pid":11}}
{"at":1,"host-started":{"host":"b","pid":12}}
{"at":2,"happened":{"host-joined":{"host":0,"name":"b"}}}
{"at":2,"happened":{"host-joined":{"host":1,"name":"a"}}}
{"at":3,"happened":{"live":{"vm":0,"generation":1,"host":1,"report":{}}}}
{"at":4,"happened":{"protected":{"vm":0,"generation":1,"host":0}}}
"#;
    const AFTER: &str = r#"{"at":5,"happened":{"live":{"vm":0,"generation":2,"host":0,"report":{}}}}
{"at":6,"host-started":{"host":"a","pid":13}}
{"at":7,"happened":{"prot"#;

    #[test]
    fn the_primary_is_the_host_on_which_it_is_live() {
        assert_eq!(read(""), Happened::default());
        assert_eq!(read(BEFORE), Happened { lives: 1, is_protected: true, primary: Some(11) });
        let text = format!("{BEFORE}{AFTER}");
        assert_eq!(read(&text), Happened { lives: 2, is_protected: false, primary: Some(12) });
        let text = format!("{text}ected\":{{}}}}}}\n");
        assert!(read(&text).is_protected);
        let text = format!("{text}{{\"happened\":{{\"unprotected\":{{}}}}}}\n");
        assert!(!read(&text).is_protected);
    }
}
