//! P1 and P2: what was acknowledged comes back, byte for byte, whatever happened since.

use fuse_client::{FilePath, Namespace, NamespaceError, download};

/// Reads `path` to its end and compares.
pub async fn bytes_are_as_acknowledged(
    namespace: &Namespace,
    path: &str,
    expected: &[u8],
) -> Result<(), NamespaceError> {
    let file = FilePath::parse(path.as_bytes()).unwrap();
    let mut reader = download::open(namespace, &file).await?;
    let mut found = Vec::new();
    while let Some(part) = reader.next().await? {
        found.extend_from_slice(&part);
    }
    let same = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
    let (found_len, len) = (found.len(), expected.len());
    assert!(
        found == expected,
        "{path} is not what was acknowledged: {found_len} bytes for {len}, {same} of them right"
    );
    Ok(())
}
