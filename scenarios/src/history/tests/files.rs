//! Histories as files.

use super::super::{Entry, HistoryError, Line, Recorder, deeds, lines, parse};
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
fn notes_stand_between_operations_and_are_none() {
    let (text, calls) = recorded();
    let mut bytes = Vec::new();
    Recorder::new(&mut bytes).note("the \"peer\" is gone".to_owned(), Time::from_ns(3)).unwrap();
    let note = String::from_utf8(bytes).unwrap();
    assert_eq!(note, "{\"at_ns\":3,\"note\":\"the \\\"peer\\\" is gone\"}\n");
    assert_eq!(parse(&format!("{note}{text}{note}")).unwrap(), calls);
    let read: Vec<Line> = lines(&format!("{text}{note}")).collect::<Result<_, _>>().unwrap();
    assert_eq!(read.len(), 6);
    assert!(matches!(&read[5], Line { id: None, at_ns: 3, entry: Entry::Note(text) } if text.contains("\"peer\"")));
}

#[test]
fn deeds_are_told_with_their_times_whatever_the_lines_say() {
    let (text, _) = recorded();
    let mut bytes = Vec::new();
    let mut recorder = Recorder::new(&mut bytes);
    let chunk = recorder.begin("chunk".to_owned(), Time::from_ns(6)).unwrap();
    let lost = recorder.begin("lost".to_owned(), Time::from_ns(7)).unwrap();
    recorder.end(chunk, "came back".to_owned(), Time::from_ns(8)).unwrap();
    recorder.end(lost, "early".to_owned(), Time::from_ns(2)).unwrap();
    // Each is numbered from 0: as two clients that know nothing of each other would.
    let never_begun = r#"{"id":77,"at_ns":9,"end":"why"}"#;
    let all = format!("{text}{}{never_begun}\n", String::from_utf8(bytes).unwrap());
    let lines: Vec<Line> = lines(&all).collect::<Result<_, _>>().unwrap();
    let told: Vec<(String, u64, Option<u64>)> =
        (deeds(lines.iter()).into_iter()).map(|deed| (deed.what, deed.began.ns(), deed.ended.map(Time::ns))).collect();
    let of = |what: &str, began, ended| (what.to_owned(), began, ended);
    let expected = [
        of("client 0: Set(\"a\") of `k`", 1, Some(4)),
        of("client 1: Cas { expected: \"a\", new: \"b\" } of `k`", 2, Some(3)),
        of("client 0: Get of `k`", 5, None),
        of("chunk", 6, Some(8)),
        of("lost", 7, Some(7)),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_recorder_that_was_killed_leaves_what_it_saw() {
    let (mut text, calls) = recorded();
    text.push_str("{\"at_ns\":9,\"note\":\"caf\u{e9}\"}\n");
    for cut in 0..text.len() {
        let read = parse(&text.as_bytes()[..cut]).expect("every beginning of a history is one");
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
    assert!(matches!(parse(&with(r#"{"at_ns":9,"return":"done"}"#)), Err(HistoryError::WithoutNumber { line: 6 })));
    for line in [r#"{"at_ns":9,"begin":"b"}"#, r#"{"at_ns":9,"end":"e"}"#] {
        assert!(matches!(parse(&with(line)), Err(HistoryError::WithoutNumber { line: 6 })), "{line}");
    }
    for line in [r#"{"id":4,"at_ns":7,"begin":"x","end":"y"}"#, r#"{"id":4,"at_ns":7,"begin":"x","why":1}"#, "[]", ""] {
        assert!(matches!(parse(&with(line)), Err(HistoryError::Malformed { line: 6, .. })), "{line}");
    }
    let early = r#"{"id":2,"at_ns":4,"return":"missing"}"#;
    assert!(matches!(parse(&with(early)), Err(HistoryError::BackInTime { line: 6, id: 2 })));
}
