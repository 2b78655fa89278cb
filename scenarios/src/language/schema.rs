//! The JSON schema of scenario files, from the types that read them.

use super::raw::RawScenario;
use schemars::generate::SchemaSettings;

/// The JSON schema of scenario files, for editors.
///
/// # Panics
/// Never: a schema can be written as JSON.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<RawScenario>();
    schema.insert("title".to_owned(), "ftvm scenario".into());
    schema.to_value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    const REFERENCE: &str = include_str!("../../../docs/scenarios.md");
    const KEPT: &str = include_str!("../../../docs/scenario.schema.json");

    /// The keys of all tables, and the words of all choices.
    fn names(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                if let Some(Value::Object(properties)) = object.get("properties") {
                    found.extend(properties.keys().cloned());
                }
                for key in ["enum", "const"] {
                    let words = object.get(key).into_iter();
                    let words =
                        words.flat_map(|words| words.as_array().map_or(vec![words], |all| all.iter().collect()));
                    found.extend(words.filter_map(Value::as_str).map(ToOwned::to_owned));
                }
                object.values().for_each(|inner| names(inner, found));
            }
            Value::Array(values) => values.iter().for_each(|inner| names(inner, found)),
            _ => {}
        }
    }

    #[test]
    fn the_schema_that_is_kept_is_what_is_read() {
        let kept: Value = serde_json::from_str(KEPT).unwrap();
        assert_eq!(kept, json_schema(), "write it again: ftvm scenario schema > docs/scenario.schema.json");
    }

    #[test]
    fn the_reference_has_every_key_and_every_word() {
        let mut found = BTreeSet::new();
        names(&json_schema(), &mut found);
        assert!(found.len() > 80, "{found:?}");
        let missing: Vec<&String> = found.iter().filter(|name| !REFERENCE.contains(&format!("`{name}`"))).collect();
        assert_eq!(missing, Vec::<&String>::new(), "docs/scenarios.md does not mention these");
    }

    #[test]
    fn the_reference_has_no_key_that_is_not() {
        let mut found = BTreeSet::new();
        names(&json_schema(), &mut found);
        // The first column of the tables of keys, which begin with this line.
        let mut within = false;
        for line in REFERENCE.lines() {
            within = line.starts_with("| key |") || within && line.starts_with('|');
            let cell = line.split('|').nth(1).unwrap_or_default().trim();
            if within && cell.starts_with('`') {
                for key in cell.split('`').skip(1).step_by(2) {
                    assert!(found.contains(key), "docs/scenarios.md has the key `{key}`, which no scenario file has");
                }
            }
        }
    }
}
