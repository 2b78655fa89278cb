//! Whom a step hits that says `any`. The draw is from all hosts, so that it depends on the seed and the step alone, and not on who
//! happens to live.

/// Whether something can be done to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It lives.
    Lives,
    /// It is dead, and is started again by itself in a moment: which moment is left to chance.
    ComesBack,
    /// It is dead, and stays so for a while or for ever.
    Dead,
}

/// The host that is hit where this one was drawn: it, if it lives; else the next one that does. `None`: nobody yet.
pub(crate) fn anybody(drawn: usize, hosts: &[Presence]) -> Option<usize> {
    let turned = (0..hosts.len()).map(|offset| (drawn + offset) % hosts.len());
    let found = turned.into_iter().find(|host| hosts[*host] != Presence::Dead)?;
    // Another one in its place would be another schedule of faults.
    (hosts[found] == Presence::Lives).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::Presence::{ComesBack, Dead, Lives};
    use super::anybody;

    #[test]
    fn it_is_the_one_that_was_drawn_where_that_one_can_be_hit() {
        assert_eq!(anybody(1, &[Lives, Lives, Lives]), Some(1));
        assert_eq!(anybody(1, &[Lives, ComesBack, Lives]), None, "it is waited for");
        assert_eq!(anybody(1, &[Lives, Dead, Lives]), Some(2));
        assert_eq!(anybody(2, &[Lives, ComesBack, Dead]), Some(0));
        assert_eq!(anybody(2, &[Dead, ComesBack, Dead]), None);
        assert_eq!(anybody(0, &[Dead, Dead, Dead]), None);
        assert_eq!(anybody(0, &[]), None);
    }
}
