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
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn invalid(&self, span: &Range<usize>, message: impl Into<String>) -> ScenarioError {
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
        let (line, column) = self.place(span.start);
        ScenarioError::Invalid { path: self.path.to_owned(), line, column, message, suggestion }
    }

    pub(super) fn place(&self, byte: usize) -> (usize, usize) {
        let before = self.text.get(..byte).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// An error of the TOML reader, which names what it knows between backticks.
    pub(super) fn toml(&self, error: &toml::de::Error) -> ScenarioError {
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
    const WORDS: [(&str, &str); 7] = [
        (" as i128", ""),
        ("expected u16", "expected a whole number, 0 to 65535"),
        ("expected u32", "expected a whole number, 0 to 4294967295"),
        ("expected u64", "expected a whole number, not negative, that fits into 64 bits"),
        ("expected i32", "expected a whole number"),
        ("expected a sequence", "expected a list"),
        ("invalid type: map", "invalid type: table"),
    ];
    WORDS.iter().fold(message.to_owned(), |message, (word, better)| message.replace(word, better))
}

/// The known name that is most like the given one, if one is at all.
pub(super) fn nearest<'n>(given: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    /// Below this, names have hardly a letter in common.
    const LIKENESS_MIN: f64 = 0.7;
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(given, name), name))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, name)| name)
}
