//! What this machine offers: one finding for each thing that ftvm uses, with what to do where it is missing.

mod kvm;
mod system;
mod table;
#[cfg(test)]
mod tests;

pub use table::Table;

use serde::Serialize;

/// How good a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// ftvm does without, or with less.
    Degraded,
    /// ftvm cannot protect a guest here.
    Missing,
}

/// What was found about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The thing.
    pub name: &'static str,
    /// How good it is.
    pub verdict: Verdict,
    /// What was seen.
    pub detail: String,
    /// What to do, where something can be done.
    pub advice: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, detail: detail.into(), advice: None }
    }

    fn degraded(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Degraded, detail: detail.into(), advice: Some(advice.into()) }
    }

    fn missing(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Missing, detail: detail.into(), advice: Some(advice.into()) }
    }
}

/// Looks at everything. Takes some milliseconds, since it starts two small guests; changes nothing.
#[must_use]
pub fn examine() -> Vec<Finding> {
    let mut findings = kvm::examine();
    findings.extend(system::examine());
    findings
}

/// Whether ftvm can protect a guest with what was found.
#[must_use]
pub fn is_usable(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.verdict != Verdict::Missing)
}
