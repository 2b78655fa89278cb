//! A load in numbers.

use super::client::Answered;
use ft_protocol::Span;
use serde::Serialize;

/// A load in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Operations that were answered.
    pub answered: u64,
    /// Writes that were acknowledged.
    pub acknowledged_writes: u64,
    /// Connections that were made.
    pub connections: u64,
    /// Connections that were reset or ended by the guest.
    pub resets: u64,
    /// Requests without an answer in time.
    pub timeouts: u64,
    /// How long it went on, in microseconds.
    pub took_us: u64,
    /// From request to answer.
    pub latency: Quantiles,
}

/// Times, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// Half of them are below.
    pub p50_us: u64,
    /// 99 of 100 are below.
    pub p99_us: u64,
    /// The longest: over a takeover, that takeover as a client sees it.
    pub max_us: u64,
}

impl LoadReport {
    pub(super) fn new(clients: &[Answered], took: Span) -> Self {
        let sum = |of: fn(&Answered) -> u64| clients.iter().map(of).sum();
        Self {
            answered: sum(|client| client.latencies.len() as u64),
            acknowledged_writes: sum(|client| client.writes.len() as u64),
            connections: sum(|client| client.connections),
            resets: sum(|client| client.resets),
            timeouts: sum(|client| client.timeouts),
            took_us: us(took),
            latency: Quantiles::of(
                clients.iter().flat_map(|client| client.latencies.iter().copied().map(us)).collect(),
            ),
        }
    }
}

impl Quantiles {
    pub(crate) fn of(mut times_us: Vec<u64>) -> Self {
        times_us.sort_unstable();
        let at = |hundredths: usize| {
            let rank = (times_us.len() * hundredths).div_ceil(100).max(1);
            times_us.get(rank - 1).copied().unwrap_or(0)
        };
        Self { p50_us: at(50), p99_us: at(99), max_us: at(100) }
    }
}

fn us(span: Span) -> u64 {
    span.ns() / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_taken() {
        assert_eq!(Quantiles::of(Vec::new()), Quantiles::default());
        assert_eq!(Quantiles::of(vec![5]), Quantiles { p50_us: 5, p99_us: 5, max_us: 5 });
        let quantiles = Quantiles::of((1..=200).rev().collect());
        assert_eq!(quantiles, Quantiles { p50_us: 100, p99_us: 198, max_us: 200 });
    }
}
