//! Which hosts are known to have joined: that one did is told once, whoever tells it.

use ft_protocol::HostId;
use ft_protocol::timeline::Happening;
use std::collections::BTreeSet;

/// Hosts that have joined, and are not known to have gone since.
#[derive(Debug, Default)]
pub(super) struct JoinedHosts(BTreeSet<HostId>);

impl JoinedHosts {
    /// Whether a happening tells something new. What a controller remembers of its life, its state, and hosts that find the
    /// next one all say again who is there.
    pub(super) fn is_news(&mut self, happening: &Happening) -> bool {
        match happening {
            Happening::HostJoined { host, .. } => self.0.insert(*host),
            Happening::HostDown { host, .. } => {
                self.0.remove(host);
                true
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_joins_once_until_it_is_down() {
        let mut hosts = JoinedHosts::default();
        let name = || "a".to_owned();
        let joined = |host| Happening::HostJoined { host: HostId::new(host), name: name() };
        let down = |host| Happening::HostDown { host: HostId::new(host), name: name() };
        let told = [joined(0), joined(1), joined(0), down(0), joined(1), joined(0), joined(0)];
        let news: Vec<bool> = told.iter().map(|happening| hosts.is_news(happening)).collect();
        assert_eq!(news, [true, true, false, true, false, true, false]);
    }
}
