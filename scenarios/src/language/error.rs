//! What is wrong with a scenario file, and where.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a file is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("cannot read scenario {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text says something that it must not, or does not say what it must.
    #[error("{}:{line}:{column}: {message}{}", path.display(), Hint(suggestion.as_deref()))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// One line.
        message: String,
        /// What was probably meant.
        suggestion: Option<String>,
    },
    /// The command line says something about the file that it must not.
    #[error("--matrix {argument}: {message}{} (for {})", Hint(suggestion.as_deref()), path.display())]
    Given {
        /// The file.
        path: PathBuf,
        /// What the command line says.
        argument: String,
        /// One line.
        message: String,
        /// What was probably meant.
        suggestion: Option<String>,
    },
}

/// Where it stands, for errors.
enum Place {
    /// Line and column, from 1.
    File(usize, usize),
    /// An argument of the command line, by its place among the given values.
    Given(usize),
}

struct Hint<'a>(Option<&'a str>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(suggestion) => write!(f, "; did you mean `{suggestion}`?"),
            None => Ok(()),
        }
    }
}

/// Turns places in a text into errors.
pub(crate) struct Source<'a> {
    pub(crate) path: &'a Path,
    pub(crate) text: &'a str,
    /// The values that the command line gives, each with its key. Their places lie behind the text, one for each.
    pub(crate) given: Vec<String>,
}

impl Source<'_> {
    pub(crate) fn invalid(&self, span: &Range<usize>, message: impl Into<String>) -> ScenarioError {
        self.with_suggestion(span, message.into(), None)
    }

    /// An error about a name that is none of those that are known.
    pub(super) fn unknown<'n>(
        &self,
        span: &Range<usize>,
        message: impl Into<String>,
        given: &str,
        known: impl IntoIterator<Item = &'n str>,
    ) -> ScenarioError {
        let suggestion = nearest(given, known).map(ToOwned::to_owned);
        self.with_suggestion(span, message.into(), suggestion)
    }

    pub(super) fn with_suggestion(
        &self,
        span: &Range<usize>,
        message: String,
        suggestion: Option<String>,
    ) -> ScenarioError {
        let path = self.path.to_owned();
        match self.place_of(span.start) {
            Place::File(line, column) => ScenarioError::Invalid { path, line, column, message, suggestion },
            Place::Given(nth) => {
                let argument = self.given.get(nth).cloned().unwrap_or_default();
                ScenarioError::Given { path, argument, message, suggestion }
            }
        }
    }

    /// The place of a value that the command line gives.
    pub(super) fn place_of_given(&self, nth: usize) -> Range<usize> {
        let start = self.text.len() + 1 + nth;
        start..start + 1
    }

    fn place_of(&self, byte: usize) -> Place {
        match byte.checked_sub(self.text.len() + 1) {
            Some(nth) => Place::Given(nth),
            None => {
                let (line, column) = self.place(byte);
                Place::File(line, column)
            }
        }
    }

    /// The line where something begins, from 1; `None` for what the command line gives.
    pub(super) fn line(&self, span: &Range<usize>) -> Option<usize> {
        match self.place_of(span.start) {
            Place::File(line, _) => Some(line),
            Place::Given(_) => None,
        }
    }

    fn place(&self, byte: usize) -> (usize, usize) {
        let before = self.text.get(..byte).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// An error of the TOML reader, which names what it knows between backticks.
    pub(crate) fn toml(&self, error: &toml::de::Error) -> ScenarioError {
        let message = in_words(&error.message().split_whitespace().collect::<Vec<_>>().join(" "));
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let suggestion = match names.split_first() {
            Some((given, known)) if message.starts_with("unknown ") => {
                nearest(given, known.iter().copied()).map(ToOwned::to_owned)
            }
            _ => None,
        };
        self.with_suggestion(&error.span().unwrap_or(0..0), message, suggestion)
    }
}

/// What the reader of TOML says of types, as people say it.
fn in_words(message: &str) -> String {
    const WORDS: [(&str, &str); 13] = [
        (" as i128", ""),
        ("expected u16", "expected a whole number, 0 to 65535"),
        ("expected u32", "expected a whole number, 0 to 4294967295"),
        ("expected u64", "expected a whole number, not negative, that fits into 64 bits"),
        ("expected i32", "expected a whole number"),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected a table"),
        ("expected a string", "expected a text in quotes"),
        ("expected a boolean", "expected true or false"),
        ("invalid type: map", "invalid type: table"),
        ("invalid type: sequence", "invalid type: list"),
        (
            "invalid type: table, expected a list",
            "invalid type: table, expected a list of them: `[[..]]`, or `[{ .. }]`",
        ),
        ("wanted string or table", "expected a word in quotes"),
    ];
    let message = WORDS.iter().fold(message.to_owned(), |message, (word, better)| message.replace(word, better));
    // Nobody knows how the types are called that take the tables.
    match message.split_once("expected struct ") {
        Some((before, _)) => format!("{before}expected a table of keys"),
        None => message,
    }
}

/// The known name that is most like the given one, if one is at all.
pub(super) fn nearest<'n>(given: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    /// Below this, names have hardly a letter in common.
    const LIKENESS_MIN: f64 = 0.7;
    /// One letter of shorter ones is too much of them.
    const SLIP_LETTERS_MIN: usize = 3;
    let likeness = |name: &str| {
        let likeness = strsim::jaro_winkler(given, name);
        let one_slip = name.len() >= SLIP_LETTERS_MIN && strsim::damerau_levenshtein(given, name) <= 1;
        // Whole thousandths: names that are as like are told apart by how long they are.
        let likeness = if one_slip { likeness.max(LIKENESS_MIN) } else { likeness };
        (likeness * 1_000.0).round()
    };
    let known = known.into_iter().map(|name| (likeness(name), name.len().abs_diff(given.len()), name));
    known
        .filter(|(likeness, ..)| *likeness >= LIKENESS_MIN * 1_000.0)
        .max_by(|one, other| one.0.total_cmp(&other.0).then(other.1.cmp(&one.1)))
        .map(|(.., name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn what_is_one_slip_away_is_near() {
        assert_eq!(nearest("mn", ["min", "max"]), Some("min"));
        assert_eq!(nearest("mx", ["min", "max"]), Some("max"));
        assert_eq!(nearest("hosst", ["hosts", "heartbeat", "host"]), Some("hosts"));
        assert_eq!(nearest("d", ["a", "b", "c"]), None);
        assert_eq!(nearest("epcoh", ["epoch", "generation"]), Some("epoch"));
    }
}
