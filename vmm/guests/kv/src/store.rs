//! The values, each with the number of the write that made it.

use crate::request::{Operation, Reply};
use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;

/// What a key costs beside its bytes and those of its value.
const OVERHEAD_BYTES: usize = 128;

struct Entry {
    version: u64,
    value: String,
}

/// The store.
pub(crate) struct Store {
    entries: BTreeMap<String, Entry>,
    /// Writes so far.
    sequence: u64,
    bytes: usize,
    bytes_max: usize,
}

impl Store {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { entries: BTreeMap::new(), sequence: 0, bytes: 0, bytes_max }
    }

    pub(crate) fn keys(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Does one operation on one key.
    pub(crate) fn execute<'a>(&'a mut self, key: &str, operation: Operation<'_>) -> Reply<'a> {
        match operation {
            Operation::Get => self.get(key),
            Operation::Set { value } => self.put(key, value),
            Operation::Cas { expected, new } => match self.entries.get(key) {
                None => Reply::None,
                Some(entry) if entry.value != expected => Reply::Mismatch { version: entry.version },
                Some(_) => self.put(key, new),
            },
            Operation::Delete => match self.entries.remove(key) {
                None => Reply::None,
                Some(entry) => {
                    self.bytes -= cost(key, &entry.value);
                    self.sequence += 1;
                    Reply::Done { version: self.sequence }
                }
            },
        }
    }

    fn get(&self, key: &str) -> Reply<'_> {
        match self.entries.get(key) {
            None => Reply::None,
            Some(Entry { version, value }) => Reply::Value { version: *version, value },
        }
    }

    fn put(&mut self, key: &str, value: &str) -> Reply<'static> {
        let before = self.entries.get(key).map_or(0, |entry| cost(key, &entry.value));
        let bytes = self.bytes - before + cost(key, value);
        if bytes > self.bytes_max {
            return Reply::Error("the store is full");
        }
        self.bytes = bytes;
        self.sequence += 1;
        let entry = Entry { version: self.sequence, value: value.to_owned() };
        self.entries.insert(key.to_owned(), entry);
        Reply::Done { version: self.sequence }
    }
}

fn cost(key: &str, value: &str) -> usize {
    OVERHEAD_BYTES + key.len() + value.len()
}
