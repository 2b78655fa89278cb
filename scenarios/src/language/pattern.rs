//! What a console line is matched against.

use regex::bytes::Regex;

/// Part of a line, or a regular expression.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// The line contains this.
    Text(String),
    /// The line matches this.
    Regex(Regex),
}

impl Pattern {
    /// Whether a line (without its end) matches.
    #[must_use]
    pub fn matches(&self, line: &[u8]) -> bool {
        match self {
            Self::Text(text) => text.is_empty() || line.windows(text.len()).any(|window| window == text.as_bytes()),
            Self::Regex(regex) => regex.is_match(line),
        }
    }
}
