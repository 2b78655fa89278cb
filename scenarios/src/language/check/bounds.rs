//! Times and sizes that are some, and not too many.

use super::super::ScenarioError;
use super::super::error::Source;
use super::super::values::{Size, Time};
use crate::units::{ByteCount, show_span};
use ft_protocol::Span;
use std::ops::RangeInclusive;
use toml::Spanned;

/// A time within bounds, if there is one.
pub(super) fn within(
    source: &Source<'_>,
    key: &str,
    time: Option<&Spanned<Time>>,
    bounds: RangeInclusive<Span>,
) -> Result<Option<Span>, ScenarioError> {
    let Some(time) = time else { return Ok(None) };
    let span = time.get_ref().0;
    if !bounds.contains(&span) {
        let (least, most) = (show_span(*bounds.start()), show_span(*bounds.end()));
        return Err(source.invalid(&time.span(), format!("`{key}` is {least} to {most}")));
    }
    Ok(Some(span))
}

/// A time that is not none.
pub(super) fn some_time(
    source: &Source<'_>,
    key: &str,
    time: Option<&Spanned<Time>>,
) -> Result<Option<Span>, ScenarioError> {
    match time {
        Some(time) if time.get_ref().0 == Span::ZERO => {
            Err(source.invalid(&time.span(), format!("`{key}` is longer than no time at all")))
        }
        time => Ok(time.map(|time| time.get_ref().0)),
    }
}

/// A size that is not none.
pub(super) fn some_bytes(
    source: &Source<'_>,
    key: &str,
    size: Option<&Spanned<Size>>,
) -> Result<Option<ByteCount>, ScenarioError> {
    match size {
        Some(size) if size.get_ref().0.get() == 0 => {
            Err(source.invalid(&size.span(), format!("`{key}` is more than nothing")))
        }
        size => Ok(size.map(|size| size.get_ref().0)),
    }
}
