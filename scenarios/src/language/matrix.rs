//! The matrix of a file: axes with values, each cell of which is a scenario of its own.
//!
//! A cell is made by putting its values into the table that was read, before anything makes sense of it: so values keep
//! the places where they stand in the file, and errors point there.

use super::ScenarioError;
use super::error::{Source, nearest};
use std::borrow::Cow;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// More cells make no scenario clearer.
const CELLS_MAX: usize = 512;
/// The key of the matrix in a file.
const MATRIX: &str = "matrix";

/// An axis as the command line gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// The path of the key, such as `vm.mode`, or `step.NAME.delay`.
    pub key: String,
    /// Its values, as TOML or plain text.
    pub values: Vec<String>,
}

/// Text that names no axis.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no axis: write KEY=VALUE or KEY=VALUE,VALUE, as in vm.mode=checkpoint,replay")]
pub struct AxisError(String);

impl std::str::FromStr for Axis {
    type Err = AxisError;

    fn from_str(text: &str) -> Result<Self, AxisError> {
        let bad = || AxisError(text.chars().take(80).collect());
        let (key, values) = text.split_once('=').ok_or_else(bad)?;
        let values = parted(values);
        if key.trim().is_empty() || values.iter().any(String::is_empty) {
            return Err(bad());
        }
        Ok(Self { key: key.trim().to_owned(), values })
    }
}

/// Parts values at commas, but not within brackets, braces and quotes.
fn parted(text: &str) -> Vec<String> {
    let (mut values, mut depth, mut quote) = (vec![String::new()], 0_usize, None);
    let mut escaped = false;
    for c in text.chars() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if c == open && !escaped => quote = None,
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                values.push(String::new());
                continue;
            }
            _ => {}
        }
        escaped = quote == Some('"') && c == '\\' && !escaped;
        values.last_mut().expect("there is one from the beginning").push(c);
    }
    values.into_iter().map(|value| value.trim().to_owned()).collect()
}

/// A cell: its coordinates, how the command line gives them, and what is written in it.
pub(super) struct Cell<'a> {
    pub(super) at: Vec<(String, String)>,
    pub(super) given: Vec<(String, String)>,
    pub(super) table: Spanned<DeTable<'a>>,
}

type AxisValues<'a> = (String, Range<usize>, Vec<Spanned<DeValue<'a>>>);

/// What the command line gives, as it is written there: a value each, in the order of [`expand`].
pub(super) fn arguments(given: &[Axis]) -> Vec<String> {
    given.iter().flat_map(|axis| axis.values.iter().map(|value| format!("{}={value}", axis.key))).collect()
}

/// All cells, in the order of the axes, the last one fastest.
pub(super) fn expand<'a>(source: &Source<'a>, given: &'a [Axis]) -> Result<Vec<Cell<'a>>, ScenarioError> {
    let mut table = DeTable::parse(source.text).map_err(|error| source.toml(&error))?;
    let mut axes = written(source, &mut table)?;
    let mut nth = 0;
    for axis in given {
        let first = source.place_of_given(nth);
        let mut values = Vec::new();
        for value in &axis.values {
            values.push(given_value(value, &source.place_of_given(nth)));
            nth += 1;
        }
        match axes.iter_mut().find(|(key, ..)| *key == axis.key) {
            Some((_, place, old)) => (*place, *old) = (first, values),
            None => axes.push((axis.key.clone(), first, values)),
        }
    }
    let count = axes.iter().try_fold(1_usize, |count, (.., values)| count.checked_mul(values.len()));
    if count.is_none_or(|count| count > CELLS_MAX) {
        let span = axes.first().map_or(0..0, |(_, span, _)| span.clone());
        return Err(source.invalid(&span, format!("a matrix has at most {CELLS_MAX} cells")));
    }
    let mut cells = vec![Cell { at: Vec::new(), given: Vec::new(), table }];
    for (key, span, values) in &axes {
        let mut next = Vec::new();
        for cell in &cells {
            for value in values {
                let mut at = cell.at.clone();
                at.push((key.clone(), shown(value.get_ref())));
                let mut given = cell.given.clone();
                given.push((key.clone(), as_given(value.get_ref())));
                let mut table = cell.table.clone();
                open(table.get_mut(), key);
                put(table.get_mut(), key, value).map_err(|(message, meant)| {
                    source.with_suggestion(span, format!("matrix `{key}`: {message}"), meant)
                })?;
                next.push(Cell { at, given, table });
            }
        }
        cells = next;
    }
    Ok(cells)
}

/// The axes in the file, which are taken out of it.
fn written<'a>(source: &Source<'a>, table: &mut Spanned<DeTable<'a>>) -> Result<Vec<AxisValues<'a>>, ScenarioError> {
    let Some(matrix) = table.get_mut().remove(MATRIX) else { return Ok(Vec::new()) };
    let span = matrix.span();
    let DeValue::Table(matrix) = matrix.into_inner() else {
        return Err(source.invalid(&span, "the matrix is a table of keys with lists of values"));
    };
    let mut axes = Vec::new();
    for (key, values) in matrix {
        let span = key.span();
        let DeValue::Array(values) = values.into_inner() else {
            return Err(source.invalid(&span, format!("matrix `{}`: expected a list of values", key.get_ref())));
        };
        if values.is_empty() {
            return Err(source.invalid(&span, format!("matrix `{}`: there is no value", key.get_ref())));
        }
        axes.push((key.into_inner().into_owned(), span, values.into_iter().collect()));
    }
    // A table has no order of its own; the file's is what its reader expects.
    axes.sort_by_key(|(_, span, _): &AxisValues<'_>| span.start);
    Ok(axes)
}

/// What the command line means: TOML if it is some, else text.
fn given_value<'a>(text: &'a str, place: &Range<usize>) -> Spanned<DeValue<'a>> {
    match DeValue::parse(text) {
        Ok(value) => placed(value, place),
        Err(_) => Spanned::new(place.clone(), DeValue::String(Cow::Borrowed(text))),
    }
}

/// The same value with all that is in it at one place: where it was read from is no file.
fn placed<'a>(value: Spanned<DeValue<'a>>, place: &Range<usize>) -> Spanned<DeValue<'a>> {
    let value = match value.into_inner() {
        DeValue::Array(values) => DeValue::Array(values.into_iter().map(|value| placed(value, place)).collect()),
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(key, value)| (Spanned::new(place.clone(), key.into_inner()), placed(value, place)))
                .collect(),
        ),
        value => value,
    };
    Spanned::new(place.clone(), value)
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(values) => values.iter().map(|value| shown(value.get_ref())).collect::<Vec<_>>().join("+"),
        DeValue::Table(table) => {
            let pair = |(key, value): (&Spanned<Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
                format!("{}={}", key.get_ref(), shown(value.get_ref()))
            };
            table.iter().map(pair).collect::<Vec<_>>().join("+")
        }
    }
}

/// A value as the command line takes it, for exactly this one to come of it.
fn as_given(value: &DeValue<'_>) -> String {
    let bare = |text: &str| {
        let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:".contains(c));
        plain && DeValue::parse(text).is_err()
    };
    match value {
        DeValue::String(text) if bare(text) => text.to_string(),
        value => in_toml(value),
    }
}

fn in_toml(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => toml::Value::String(text.to_string()).to_string(),
        DeValue::Array(values) => {
            let values: Vec<String> = values.iter().map(|value| in_toml(value.get_ref())).collect();
            format!("[{}]", values.join(", "))
        }
        DeValue::Table(table) => {
            let pair = |(key, value): (&Spanned<Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
                format!("{} = {}", toml::Value::String(key.get_ref().to_string()), in_toml(value.get_ref()))
            };
            format!("{{ {} }}", table.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        value => shown(value),
    }
}

/// Tables that each file may leave out are there as soon as something is put into them.
fn open(table: &mut DeTable<'_>, path: &str) {
    const LEFT_OUT: [&str; 2] = ["cluster", "expect"];
    let first = path.split_once('.').map(|(first, _)| first);
    if let Some(known) = LEFT_OUT.into_iter().find(|known| Some(*known) == first)
        && !table.contains_key(known)
    {
        table.insert(Spanned::new(0..0, known.into()), Spanned::new(0..0, DeValue::Table(DeTable::new())));
    }
}

/// Why a path leads nowhere, and what was probably meant.
type Misled = (String, Option<String>);

/// Puts a value where a path leads: through tables by key, through lists of tables by name.
fn put<'a>(table: &mut DeTable<'a>, path: &str, value: &Spanned<DeValue<'a>>) -> Result<(), Misled> {
    let Some((first, rest)) = path.split_once('.') else {
        let key = table.keys().find(|key| key.get_ref() == path).cloned();
        let key = key.unwrap_or_else(|| Spanned::new(value.span(), Cow::Owned(path.to_owned())));
        table.insert(key, value.clone());
        return Ok(());
    };
    match table.get_mut(first).map(Spanned::get_mut) {
        Some(DeValue::Table(inner)) => put(inner, rest, value),
        Some(DeValue::Array(list)) => put_in_list(list.iter_mut(), first, rest, value),
        Some(_) => Err((format!("`{first}` has no keys"), None)),
        None => {
            let meant = nearest(first, table.keys().map(|key| key.get_ref().as_ref())).map(ToOwned::to_owned);
            Err((format!("there is no `{first}` in this file"), meant))
        }
    }
}

fn put_in_list<'l, 'a: 'l>(
    list: impl Iterator<Item = &'l mut Spanned<DeValue<'a>>>,
    kind: &str,
    rest: &str,
    value: &Spanned<DeValue<'a>>,
) -> Result<(), Misled> {
    let Some((name, rest)) = rest.split_once('.') else {
        return Err((format!("there are several of `{kind}`: write `{kind}.NAME.{rest}`"), None));
    };
    let mut names = Vec::new();
    for item in list {
        let DeValue::Table(table) = item.get_mut() else { continue };
        match table.get("name").and_then(|found| found.get_ref().as_str()) {
            Some(found) if found == name => return put(table, rest, value),
            found => names.extend(found.map(ToOwned::to_owned)),
        }
    }
    let meant = nearest(name, names.iter().map(String::as_str)).map(ToOwned::to_owned);
    Err((format!("there is no `{kind}` named `{name}`"), meant))
}

#[cfg(test)]
mod tests {
    use super::super::Scenario;
    use super::*;
    use std::path::Path;

    #[test]
    fn commas_within_a_value_part_nothing() {
        let parts = |text: &str| text.parse::<Axis>().unwrap().values;
        assert_eq!(parts("k=a, b"), ["a", "b"]);
        assert_eq!(parts("k=[\"1ms\", \"5ms\"],[ \"6ms\" ]"), ["[\"1ms\", \"5ms\"]", "[ \"6ms\" ]"]);
        assert_eq!(parts("k={ min = 1, max = 2 },3"), ["{ min = 1, max = 2 }", "3"]);
        assert_eq!(parts(r#"k="a,\"b",'c,"'"#), [r#""a,\"b""#, r#"'c,"'"#]);
        assert_eq!(parts("k=]],[a"), ["]]", "[a"], "what is no value is refused later");
        assert!("k=a,,b".parse::<Axis>().is_err());
    }

    #[test]
    fn a_cell_comes_again_from_what_the_command_line_is_given() {
        let text = "[matrix]\n\"vm.args\" = [[\"--a,b\", \"5\"], []]\n\"step.one.delay\" = [\"1ms\", [\"1ms\", \"5ms\"]]\n\
                    \"step.one.repeat\" = [2, { min = 1, max = 3 }]\n\"description\" = [\"7\", \"it's\", \"true\"]\n\
                    [vm]\nguest = \"builtin:idle\"\n[[step]]\nname = \"one\"\nevent = \"live\"\naction = \"mark\"\n[expect]\n";
        let all = Scenario::parse_all(Path::new("x.toml"), text, &[]).unwrap();
        assert_eq!(all.len(), 24);
        for scenario in all {
            let axes: Vec<Axis> =
                scenario.given.iter().map(|(key, value)| format!("{key}={value}").parse().unwrap()).collect();
            assert!(axes.iter().all(|axis| axis.values.len() == 1), "{axes:?}");
            let again = Scenario::parse_all(Path::new("x.toml"), text, &axes).unwrap();
            assert_eq!(again.len(), 1);
            assert_eq!(format!("{:?}", again[0]), format!("{scenario:?}"));
        }
    }
}
