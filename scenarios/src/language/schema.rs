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

    /// Whether a schema lets a value pass, as far as ours say anything.
    fn allows(root: &Value, schema: &Value, value: &Value) -> bool {
        let Value::Object(rules) = schema else { return schema != &Value::Bool(false) };
        let all = |rule: &Value, mut passes: Box<dyn FnMut(&Value) -> bool + '_>| {
            rule.as_array().is_some_and(|rules| rules.iter().all(&mut *passes))
        };
        let count = |rule: &Value| rule.as_u64().and_then(|count| usize::try_from(count).ok()).expect("a number");
        let properties = rules.get("properties").and_then(Value::as_object);
        rules.iter().all(|(key, rule)| match (key.as_str(), value) {
            ("$ref", _) => {
                let name = rule.as_str().and_then(|path| path.strip_prefix("#/definitions/")).expect("one of ours");
                allows(root, &root["definitions"][name], value)
            }
            ("anyOf" | "oneOf", _) => rule.as_array().expect("a list").iter().any(|one| allows(root, one, value)),
            ("allOf", _) => all(rule, Box::new(|one| allows(root, one, value))),
            ("const", _) => rule == value,
            ("enum", _) => rule.as_array().expect("a list").contains(value),
            ("type", _) => {
                let types = rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
                types.iter().any(|name| match name.as_str().expect("a name") {
                    "string" => value.is_string(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "boolean" => value.is_boolean(),
                    "array" => value.is_array(),
                    "object" => value.is_object(),
                    "null" => value.is_null(),
                    other => panic!("{other} is none of ours"),
                })
            }
            ("pattern", Value::String(text)) => {
                regex::Regex::new(rule.as_str().expect("a text")).expect("a pattern").is_match(text)
            }
            ("minimum", Value::Number(number)) => number.as_f64() >= rule.as_f64(),
            ("maximum", Value::Number(number)) => number.as_f64() <= rule.as_f64(),
            ("items", Value::Array(items)) => items.iter().all(|item| allows(root, rule, item)),
            ("minItems", Value::Array(items)) => items.len() >= count(rule),
            ("maxItems", Value::Array(items)) => items.len() <= count(rule),
            ("minProperties", Value::Object(object)) => object.len() >= count(rule),
            ("required", Value::Object(object)) => {
                all(rule, Box::new(|name| object.contains_key(name.as_str().expect("a name"))))
            }
            ("properties", Value::Object(object)) => {
                object.iter().all(|(name, inner)| rule.get(name).is_none_or(|schema| allows(root, schema, inner)))
            }
            ("additionalProperties", Value::Object(object)) => object.iter().all(|(name, inner)| {
                properties.is_some_and(|known| known.contains_key(name)) || allows(root, rule, inner)
            }),
            ("propertyNames", Value::Object(object)) => {
                object.keys().all(|name| allows(root, rule, &Value::String(name.clone())))
            }
            _ => true,
        })
    }

    fn is_allowed(text: &str) -> bool {
        let schema = json_schema();
        let value: toml::Value = toml::from_str(text).expect("it is TOML");
        allows(&schema, &schema, &serde_json::to_value(value).expect("it is JSON, too"))
    }

    /// What an editor does not complain of, the reader should not either.
    #[test]
    fn what_the_reader_refuses_of_these_keys_the_schema_does_too() {
        let file = |step: &str, expect: &str, cluster: &str| {
            format!(
                "[cluster]\n{cluster}\n[vm]\nguest = \"builtin:idle\"\n[[step]]\nname = \"s\"\n{step}\naction = \"slow\"\nhost = \"a\"\n\
                 [expect]\n{expect}\n"
            )
        };
        let both = |text: &str| {
            let read = crate::language::Scenario::parse(std::path::Path::new("x.toml"), text).is_ok();
            (read, is_allowed(text))
        };
        for step in ["at = \"10ms\"", "at = [\"10ms\", \"80ms\"]", "event = \"protected\"\ndelay = \"1s\""] {
            let text =
                file(&format!("{step}\npercent = 50"), "events = { diverged = 0, live = { min = 1 } }", "hosts = 3");
            assert_eq!(both(&text), (true, true), "{text}");
        }
        for (step, expect, cluster) in [
            ("at = \"soon\"\npercent = 50", "", ""),
            ("at = [\"10ms\", \"later\"]\npercent = 50", "", ""),
            ("event = \"protected\"\ndelay = \"10\"\npercent = 50", "", ""),
            ("event = \"protected\"\ndelay = []\npercent = 50", "", ""),
            ("every = \"1 hour\"\nrepeat = 2\npercent = 50", "", ""),
            ("at = \"1ms\"\npercent = 100", "", ""),
            ("at = \"1ms\"\npercent = 50", "events = { divergd = 0 }", ""),
            ("at = \"1ms\"\npercent = 50", "events = { live = {} }", ""),
            ("at = \"1ms\"\npercent = 50", "events = { live = -1 }", ""),
            ("at = \"1ms\"\npercent = 50", "console = \"protected\"", ""),
            ("at = \"1ms\"\npercent = 50", "pool = \"none\"", ""),
            ("at = \"1ms\"\npercent = 50", "", "hosts = 27"),
        ] {
            let text = file(step, expect, cluster);
            assert_eq!(both(&text), (false, false), "{text}");
        }
    }

    #[test]
    fn the_schema_lets_the_library_pass() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("library");
        let files = std::fs::read_dir(directory).expect("the library is part of the crate").flatten();
        let files = files.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "toml"));
        let refused: Vec<_> =
            files.filter(|path| !is_allowed(&std::fs::read_to_string(path).expect("a file"))).collect();
        assert_eq!(refused, Vec::<std::path::PathBuf>::new());
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
