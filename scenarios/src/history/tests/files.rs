//! Histories as files.

use super::super::{HistoryError, Recorder, parse};
use super::*;

fn recorded() -> (String, Vec<Call>) {
    let mut bytes = Vec::new();
    let mut recorder = Recorder::new(&mut bytes);
    let (first, second) = (ClientId::new(0), ClientId::new(1));
    let write = recorder.invoke(first, "k", &set("a"), Time::from_ns(1)).unwrap();
    let swap = recorder.invoke(second, "k", &cas("a", "b"), Time::from_ns(2)).unwrap();
    recorder.returned(swap, Answer::Mismatch, Time::from_ns(3)).unwrap();
    recorder.returned(write, Answer::Done, Time::from_ns(4)).unwrap();
    let _never = recorder.invoke(first, "k", &Operation::Get, Time::from_ns(5)).unwrap();
    let calls = vec![
        call(0, set("a"), 1, Some((4, Answer::Done))),
        call(1, cas("a", "b"), 2, Some((3, Answer::Mismatch))),
        call(0, Operation::Get, 5, None),
    ];
    (String::from_utf8(bytes).unwrap(), calls)
}

#[test]
fn what_was_recorded_is_read() {
    let (text, calls) = recorded();
    assert_eq!(parse(&text).unwrap(), calls);
    let first = r#"{"id":0,"at_ns":1,"invoke":{"client":0,"key":"k","operation":{"set":"a"}}}"#;
    assert_eq!(text.lines().next(), Some(first), "files of earlier versions are read");
}

#[test]
fn a_recorder_that_was_killed_leaves_what_it_saw() {
    let (text, calls) = recorded();
    for cut in 0..text.len() {
        let read = parse(&text[..cut]).expect("every beginning of a history is one");
        assert!(read.len() <= calls.len());
        for (read, call) in read.iter().zip(&calls) {
            assert_eq!(read.operation, call.operation);
            assert!(read.returned.is_none() || read.returned == call.returned);
        }
    }
}

#[test]
fn what_is_no_history_is_refused_with_its_line() {
    let (text, _) = recorded();
    let with = |line: &str| format!("{text}{line}\n");
    assert!(matches!(parse(&with("{}")), Err(HistoryError::Malformed { line: 6, .. })));
    let again = text.lines().next().unwrap();
    assert!(matches!(parse(&with(again)), Err(HistoryError::InvokedTwice { line: 6, id: 0 })));
    for id in [0, 77] {
        let returned = format!(r#"{{"id":{id},"at_ns":9,"return":"done"}}"#);
        assert!(matches!(parse(&with(&returned)), Err(HistoryError::NotUnderWay { line: 6, .. })));
    }
    let early = r#"{"id":2,"at_ns":4,"return":"missing"}"#;
    assert!(matches!(parse(&with(early)), Err(HistoryError::BackInTime { line: 6, id: 2 })));
}
