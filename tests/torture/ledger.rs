//! What was acknowledged: for each file the contents that it may have. Pure.

use std::collections::BTreeMap;

/// Bytes of a file; none if there is no such file.
pub(crate) type Content = Option<Vec<u8>>;

/// How sure a writer can be of a file of its own.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The last synced content, and what was made of it since, in order.
    versions: Vec<Content>,
    /// An operation on it has failed: nobody knows whether, or when, it will take effect.
    is_closed: bool,
}

/// Files of one worker by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    records: BTreeMap<String, Record>,
}

impl Ledger {
    /// What a reader sees now, on whatever mount; none if that cannot be said.
    pub(crate) fn current(&self, name: &str) -> Option<&Content> {
        let record = self.records.get(name)?;
        record.versions.last().filter(|_| !record.is_closed)
    }

    /// Files that can be worked with.
    pub(crate) fn open_names(&self) -> Vec<String> {
        self.records.iter().filter(|(_, record)| !record.is_closed).map(|(name, _)| name.clone()).collect()
    }

    /// A change begins: from now on the file may also be like this.
    pub(crate) fn begin(&mut self, name: &str, content: Content) {
        let absent = || Record { versions: vec![None], is_closed: false };
        self.records.entry(name.to_owned()).or_insert_with(absent).versions.push(content);
    }

    /// The file, as it is now, was acknowledged as durable.
    pub(crate) fn synced(&mut self, name: &str) {
        if let Some(record) = self.records.get_mut(name) {
            let last = record.versions.len().saturating_sub(1);
            record.versions.drain(..last);
        }
    }

    /// An operation on the file has failed: it is left alone from now on.
    pub(crate) fn close(&mut self, name: &str) {
        if let Some(record) = self.records.get_mut(name) {
            record.is_closed = true;
        }
    }

    /// The mount has died: of what was not synced, any part from the end may be missing.
    pub(crate) fn crash(&mut self) {
        self.records.values_mut().filter(|record| record.versions.len() > 1).for_each(|record| record.is_closed = true);
    }

    /// What is wrong with what was found: everything that was promised must be there, and nothing else.
    pub(crate) fn wrong(&self, found: impl Fn(&str) -> Content) -> Vec<String> {
        let wrong = |(name, record): (&String, &Record)| {
            let found = found(name);
            let right = if record.is_closed { record.allows(&found) } else { record.versions.last() == Some(&found) };
            (!right).then(|| format!("{name}: found {}, allowed {}", brief(&found), record.brief()))
        };
        self.records.iter().filter_map(wrong).collect()
    }
}

impl Record {
    /// Whether this is one of the versions, or a step between two: a write may be stored in part.
    fn allows(&self, found: &Content) -> bool {
        if self.versions.contains(found) {
            return true;
        }
        let Some(found) = found else { return false };
        let versions: Vec<&Vec<u8>> = self.versions.iter().flatten().collect();
        let longest = versions.iter().map(|bytes| bytes.len()).max().unwrap_or(0);
        let is_between = |(at, byte): (usize, &u8)| versions.iter().any(|bytes| bytes.get(at).unwrap_or(&0) == byte);
        found.len() <= longest && found.iter().enumerate().all(is_between)
    }

    fn brief(&self) -> String {
        let versions: Vec<_> = self.versions.iter().map(brief).collect();
        format!("{}{}", versions.join(" → "), if self.is_closed { " (one failed)" } else { "" })
    }
}

/// A content in a few characters.
pub(crate) fn brief(content: &Content) -> String {
    content.as_ref().map_or("nothing".to_owned(), |bytes| {
        let hash = blake3::hash(bytes).to_hex();
        format!("{} bytes {}", bytes.len(), hash.get(..8).unwrap_or_default())
    })
}

#[test]
fn the_ledger_allows_what_may_be_and_nothing_else() {
    let (old, new) = (Some(vec![1; 10]), Some(vec![2; 12]));
    let mut ledger = Ledger::default();
    ledger.begin("file", old.clone());
    ledger.synced("file");
    assert!(ledger.wrong(|_| old.clone()).is_empty());
    assert_eq!(ledger.wrong(|_| None).len(), 1, "lost");
    assert_eq!(ledger.wrong(|_| new.clone()).len(), 1, "from nowhere");
    ledger.begin("file", new.clone());
    assert_eq!(ledger.current("file"), Some(&new));
    ledger.crash();
    assert_eq!(ledger.current("file"), None);
    let mut torn = vec![2; 12];
    torn[..5].fill(1);
    for allowed in [&old, &new, &Some(torn.clone())] {
        assert!(ledger.wrong(|_| allowed.clone()).is_empty());
    }
    torn[3] = 9;
    assert_eq!(ledger.wrong(|_| Some(torn.clone())).len(), 1, "bytes that nobody wrote");
    assert_eq!(ledger.wrong(|_| None).len(), 1, "lost");
}
