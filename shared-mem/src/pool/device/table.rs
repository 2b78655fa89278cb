//! Which file lies where on a device, and what space may become what.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::numbers::{PAGE_SIZE, len_u64, round_up};

/// Longest name.
const NAME_BYTES_MAX: usize = 255;

/// The table on a device is not one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TableError {
    /// It ends in the middle.
    #[error("the table ends after {0} bytes, in the middle of an entry")]
    CutOff(usize),
    /// The controller's part and the hosts' part overlap, or lie outside of the device.
    #[error("the table's parts of controller and hosts overlap, or leave the device")]
    Parts,
    /// A spent page makes no sense.
    #[error("the table's spent page {0} lies outside of the hosts' part, or is out of order")]
    Spent(u64),
    /// An entry makes no sense.
    #[error("the table's entry {0} lies outside of the device, over another one, or has an impossible name")]
    Entry(u64),
    /// Something lies behind its end.
    #[error("the table has {0} bytes behind its end")]
    Behind(usize),
}

/// How a device is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceUsage {
    /// Length of the device, in whole pages.
    pub bytes: u64,
    /// The controller's files lie below this.
    pub controllers_end: u64,
    /// Files that hosts write lie from here on.
    pub hosts_begin: u64,
    /// Files there are.
    pub files: usize,
    /// Pages that hold no file's beginning again.
    pub spent_pages: usize,
}

/// Who writes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The controller alone.
    Controller,
    /// A host, and perhaps one that should not any more.
    Hosts,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) owner: Owner,
}

/// All files of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    start: u64,
    end: u64,
    /// Below this all space is, or was, the controller's.
    controllers: u64,
    /// From here on all space is, or was, hosts'.
    hosts: u64,
    /// First pages of hosts' files that are gone: words of dead generations.
    spent: BTreeSet<u64>,
    files: BTreeMap<String, Entry>,
}

impl Table {
    /// An empty one, for files between `start` and `end`.
    pub(super) fn new(start: u64, end: u64) -> Self {
        let end = end / PAGE_SIZE * PAGE_SIZE;
        Self { start, end, controllers: start, hosts: end, spent: BTreeSet::new(), files: BTreeMap::new() }
    }

    /// The table of the same device without any file.
    pub(super) fn emptied(&self) -> Self {
        Self::new(self.start, self.end)
    }

    /// How the device is used.
    #[must_use]
    pub fn usage(&self) -> DeviceUsage {
        DeviceUsage {
            bytes: self.end,
            controllers_end: self.controllers,
            hosts_begin: self.hosts,
            files: self.files.len(),
            spent_pages: self.spent.len(),
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        self.files.get(name)
    }

    /// Names below `name`, sorted.
    pub(super) fn below(&self, name: &str) -> Vec<String> {
        let is_below =
            |other: &&String| name.is_empty() || other.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
        self.files.keys().filter(is_below).cloned().collect()
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        match self.files.remove(name) {
            Some(Entry { at, owner: Owner::Hosts, .. }) => {
                self.spent.insert(at);
                true
            }
            other => other.is_some(),
        }
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> bool {
        let found = self.files.remove(from);
        found.is_some_and(|entry| self.files.insert(to.to_owned(), entry).is_none())
    }

    /// Places a file; `None`: it does not fit, or has a name that no file can have.
    pub(super) fn add(&mut self, name: &str, len: u64, owner: Owner) -> Option<&Entry> {
        if !is_name(name) || self.files.contains_key(name) {
            return None;
        }
        let space = round_up(len.max(1), PAGE_SIZE);
        let at = match owner {
            Owner::Controller => self.lowest(space)?,
            Owner::Hosts => self.highest(space)?,
        };
        match owner {
            Owner::Controller => self.controllers = self.controllers.max(at + space),
            Owner::Hosts => self.hosts = self.hosts.min(at),
        }
        self.files.insert(name.to_owned(), Entry { at, len, owner });
        self.files.get(name)
    }

    /// The first of these lengths for which there would be no place, were there a file of hosts for each of them.
    pub(super) fn lacks_room_for(&self, lens: &[u64]) -> Option<u64> {
        let mut tried = self.clone();
        let mut found = lens.iter().enumerate().map(|(number, len)| {
            let placed = tried.add(&format!("to-come/{number}"), *len, Owner::Hosts).is_some();
            (!placed).then_some(*len)
        });
        found.find_map(|lacks| lacks)
    }

    /// What no file has.
    pub(super) fn free_bytes(&self) -> u64 {
        self.gaps(self.start, self.end).into_iter().map(|(from, to)| to - from).sum()
    }

    /// The largest file that anybody could still have.
    pub(super) fn largest_gap(&self) -> u64 {
        let gaps = self.gaps(self.start, self.hosts).into_iter().chain(self.gaps(self.controllers, self.end));
        gaps.map(|(from, to)| to - from).max().unwrap_or(0)
    }

    /// Unused ranges between two places, ascending.
    fn gaps(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let mut taken: Vec<_> = self.files.values().map(|entry| (entry.at, entry.end())).collect();
        taken.sort_unstable();
        let mut gaps = Vec::new();
        let mut free = from;
        for (at, end) in taken {
            if at > free {
                gaps.push((free, at.min(to)));
            }
            free = free.max(end);
        }
        gaps.push((free, to));
        gaps.retain(|(from, to)| from < to);
        gaps
    }

    fn lowest(&self, space: u64) -> Option<u64> {
        self.gaps(self.start, self.hosts).into_iter().find(|(from, to)| to - from >= space).map(|(from, _)| from)
    }

    /// The highest place, in the smallest gap that has one, whose first page has never held a word of a generation that is
    /// gone. Files come and go in a few sizes: what a small one leaves whole, a large one will want.
    fn highest(&self, space: u64) -> Option<u64> {
        let mut gaps = self.gaps(self.controllers, self.end);
        gaps.sort_by_key(|(from, to)| (to - from, std::cmp::Reverse(*from)));
        gaps.into_iter().find_map(|(from, to)| {
            let mut at = to.checked_sub(space)?;
            while at >= from && self.spent.contains(&at) {
                at = at.checked_sub(PAGE_SIZE)?;
            }
            (at >= from).then_some(at)
        })
    }

    /// As it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let counts = [len_u64(self.spent.len()), len_u64(self.files.len())];
        for number in [self.controllers, self.hosts].into_iter().chain(counts).chain(self.spent.iter().copied()) {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for (name, entry) in &self.files {
            bytes.push(u8::try_from(name.len()).expect("checked when it was added"));
            bytes.push(u8::from(entry.owner == Owner::Hosts));
            bytes.extend_from_slice(&entry.at.to_le_bytes());
            bytes.extend_from_slice(&entry.len.to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) has made: one table, one encoding.
    ///
    /// # Errors
    /// When the bytes are no table of a device with files between `start` and `end`.
    pub fn parse(bytes: &[u8], start: u64, end: u64) -> Result<Self, TableError> {
        let mut rest = Rest { bytes, length: bytes.len() };
        let mut table = Self::new(start, end);
        table.controllers = rest.number()?;
        table.hosts = rest.number()?;
        if table.controllers < start || table.hosts > table.end || table.controllers > table.hosts {
            return Err(TableError::Parts);
        }
        let (spent, files) = (rest.number()?, rest.number()?);
        for _ in 0..spent {
            let at = rest.number()?;
            let is_page = at.is_multiple_of(PAGE_SIZE) && (table.hosts..table.end).contains(&at);
            if !is_page || table.spent.last().is_some_and(|last| *last >= at) {
                return Err(TableError::Spent(at));
            }
            table.spent.insert(at);
        }
        let mut taken = Vec::new();
        for index in 0..files {
            let wrong = TableError::Entry(index);
            let [name_len, owner] = rest.take(2)? else { return Err(wrong) };
            let owner = match owner {
                0 => Owner::Controller,
                1 => Owner::Hosts,
                _ => return Err(wrong),
            };
            let name_len = usize::from(*name_len);
            let entry = Entry { at: rest.number()?, len: rest.number()?, owner };
            let name = String::from_utf8(rest.take(name_len)?.to_vec()).map_err(|_| wrong.clone())?;
            let (low, high) = match owner {
                Owner::Controller => (start, table.controllers),
                Owner::Hosts => (table.hosts, table.end),
            };
            let fits = entry.at >= low && entry.len <= end && entry.end() <= high && entry.at.is_multiple_of(PAGE_SIZE);
            let is_next = table.files.last_key_value().is_none_or(|(last, _)| *last < name);
            if !fits || !is_name(&name) || !is_next {
                return Err(wrong);
            }
            taken.push((entry.at, entry.end(), index));
            table.files.insert(name, entry);
        }
        if !rest.bytes.is_empty() {
            return Err(TableError::Behind(rest.bytes.len()));
        }
        taken.sort_unstable();
        match taken.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            Some(pair) => Err(TableError::Entry(pair[1].2)),
            None => Ok(table),
        }
    }
}

impl Entry {
    fn end(&self) -> u64 {
        self.at.saturating_add(round_up(self.len.max(1), PAGE_SIZE))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('/') && !name.ends_with('/')
}

struct Rest<'a> {
    bytes: &'a [u8],
    length: usize,
}

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], TableError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(TableError::CutOff(self.length))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, TableError> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(*bytes.first_chunk().expect("eight were taken")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1 << 20;
    const END: u64 = 2 << 20;

    #[test]
    fn the_two_kinds_of_space_never_mix_and_words_are_never_reused() {
        let mut table = Table::new(START, END);
        let image = table.add("vm-0/image", 8192, Owner::Controller).unwrap().at;
        assert_eq!(image, START);
        let mut words = BTreeSet::new();
        for generation in 1..50 {
            let name = format!("vm-0/journal.{generation}");
            let at = table.add(&name, 10 * PAGE_SIZE, Owner::Hosts).unwrap().at;
            assert!(words.insert(at), "generation {generation} has the word of an earlier one");
            assert!(table.remove(&name));
        }
        let hosts = table.hosts;
        assert!(hosts > END - 100 * PAGE_SIZE, "the rest of the space is used again");
        while let Some(entry) = table.add(&format!("vm-0/{}", table.files.len()), 64 << 10, Owner::Controller) {
            assert!(entry.end() <= hosts, "what hosts may still write to is nobody else's");
        }
        assert_eq!(Table::parse(&table.to_bytes(), START, END), Ok(table.clone()));
        assert_eq!(table.largest_gap(), END - table.controllers, "hosts could still have what they had");
    }

    #[test]
    fn what_is_to_come_has_a_place_or_lacks_one() {
        let mut table = Table::new(START, END);
        let page = PAGE_SIZE;
        table.add("vm-0/image", END - START - 20 * page, Owner::Controller).unwrap();
        assert_eq!(table.lacks_room_for(&[12 * page, 8 * page]), None);
        assert_eq!(table.lacks_room_for(&[12 * page, 8 * page, 1]), Some(1));
        assert_eq!(table.free_bytes(), 20 * page);
        table.add("vm-0/journal.1", 10 * page, Owner::Hosts).unwrap();
        assert!(table.remove("vm-0/journal.1"));
        // There, but not where a file's beginning has been before.
        assert_eq!((table.free_bytes(), table.lacks_room_for(&[10 * page, 10 * page])), (20 * page, Some(10 * page)));
        assert_eq!(table.lacks_room_for(&[9 * page, 10 * page]), None);
    }

    /// A small file takes the place that a small one has left, not one that a large one will want again.
    #[test]
    fn small_files_leave_large_gaps_whole() {
        let mut table = Table::new(START, END);
        let page = PAGE_SIZE;
        let files = [("vm-0/x", 1), ("vm-0/journal.1", 20), ("vm-1/x", 1), ("vm-1/log.1", 3), ("vm-2/x", 1)];
        for (name, pages) in files {
            table.add(name, pages * page, Owner::Hosts).unwrap();
        }
        let (large, small) = (table.find("vm-0/journal.1").unwrap().at, table.find("vm-1/log.1").unwrap().at);
        assert!(table.remove("vm-0/journal.1") && table.remove("vm-1/log.1"));
        assert_eq!(table.add("vm-1/log.2", 2 * page, Owner::Hosts).unwrap().at, small + page);
        assert_eq!(table.add("vm-0/journal.2", 19 * page, Owner::Hosts).unwrap().at, large + page);
    }

    #[test]
    fn names_are_those_of_a_tree() {
        let mut table = Table::new(START, END);
        for name in ["superblock", "vm-1/image", "vm-1/state", "vm-10/image"] {
            table.add(name, 1, Owner::Controller).unwrap();
        }
        assert_eq!(table.below("vm-1"), ["vm-1/image", "vm-1/state"]);
        assert!(table.add("superblock", 1, Owner::Controller).is_none());
        assert!(table.rename("vm-1/state", "vm-1/redo") && !table.rename("nothing", "vm-1/x"));
        assert!(table.find("vm-1/redo").is_some() && table.find("vm-1/state").is_none());
    }

    #[test]
    fn damaged_tables_are_refused() {
        let mut table = Table::new(START, END);
        table.add("a", 5000, Owner::Controller).unwrap();
        table.add("log.1", 5000, Owner::Hosts).unwrap();
        let bytes = table.to_bytes();
        for length in 0..bytes.len() {
            assert!(Table::parse(&bytes[..length], START, END).is_err(), "{length} bytes");
        }
        assert!(matches!(Table::parse(&bytes, START + PAGE_SIZE, END), Err(TableError::Entry(_))));
        assert_eq!(Table::parse(&bytes, START, END - 3 * PAGE_SIZE), Err(TableError::Parts));
        assert_eq!(Table::parse(&[&bytes[..], &[0]].concat(), START, END), Err(TableError::Behind(1)));
        for page in [START, END, END - 1] {
            let mut astray = table.clone();
            astray.spent.insert(page);
            assert_eq!(Table::parse(&astray.to_bytes(), START, END), Err(TableError::Spent(page)));
        }
        let mut overlapping = table.clone();
        overlapping.files.insert("b".to_owned(), Entry { at: START, len: 1, owner: Owner::Controller });
        assert!(matches!(Table::parse(&overlapping.to_bytes(), START, END), Err(TableError::Entry(_))));
    }
}
