//! The events that a run has written.

use serde_json::Value;
use std::path::Path;

/// All events in a file of JSON lines; a line that is being written is left out.
pub(crate) fn read_events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect()
}

/// How often something of this kind happened.
pub(crate) fn count_of(events: &[Value], kind: &str) -> usize {
    events.iter().filter(|event| event.get("happened").is_some_and(|happening| happening.get(kind).is_some())).count()
}
