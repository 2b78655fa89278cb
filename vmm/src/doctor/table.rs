//! Findings as a table for people.

use super::{Finding, Verdict};
use std::fmt;

/// Prints one line for each finding, and below it what to do.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a>(pub &'a [Finding]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
        for finding in self.0 {
            let verdict = match finding.verdict {
                Verdict::Ok => "ok",
                Verdict::Degraded => "degraded",
                Verdict::Missing => "MISSING",
            };
            writeln!(f, "{verdict:<8}  {:<width$}  {}", finding.name, finding.detail)?;
            if let Some(advice) = &finding.advice {
                writeln!(f, "{:<8}  {:<width$}  -> {advice}", "", "")?;
            }
        }
        Ok(())
    }
}
