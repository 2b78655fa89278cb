//! `--flush`: how what is written to the pool becomes durable there.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use shared_mem::FlushKind;
use shared_mem::mem::ParseFlushKindError;
use std::str::FromStr;

/// A way of flushing, or `auto`: what is detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flush(Option<FlushKind>);

impl FromStr for Flush {
    type Err = ParseFlushKindError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" { Ok(Self(None)) } else { text.parse().map(Some).map(Self) }
    }
}

impl Flush {
    /// Has this process, and the ones that it starts, do so.
    pub(crate) fn apply(self) -> Result<(), Failure> {
        let Self(Some(kind)) = self else { return Ok(()) };
        kind.force().map_err(|error| Failure::line(ExitCode::Usage, format!("--flush {kind}: {error}")))
    }
}
