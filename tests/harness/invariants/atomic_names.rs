//! P4: every operation happened once and whole, and nothing else happened: a directory lists what the ledger says.

use std::collections::BTreeMap;

use fuse_client::{FilePath, Namespace, NamespaceError};
use wire::namespace::{FileType, ListWant};

use super::Ledger;

/// Lists `dir` and compares names and sizes.
pub async fn names_are_as_acknowledged(
    namespace: &Namespace,
    dir: &str,
    ledger: &Ledger,
) -> Result<(), NamespaceError> {
    let path = FilePath::parse(dir.as_bytes()).unwrap();
    let mut listing = namespace.list(&path, ListWant::Attrs).await?;
    let mut found = BTreeMap::new();
    while let Some(entries) = listing.next_page().await? {
        for entry in entries {
            assert_eq!(entry.file_type, FileType::File, "{dir} holds files");
            let name = format!("{dir}/{}", String::from_utf8_lossy(entry.name.as_bytes()));
            let twice = found.insert(name, entry.attr.unwrap().size);
            assert!(twice.is_none(), "{dir} lists a name twice");
        }
    }
    let expected = ledger.iter().filter(|(name, _)| name.starts_with(&format!("{dir}/")));
    let expected: BTreeMap<_, _> = expected.map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect();
    assert_eq!(found, expected, "{dir} is not what was acknowledged");
    Ok(())
}
