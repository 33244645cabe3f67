//! What was written in many small pieces is put together by the servers.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
    time::Duration,
};

use harness::{Cluster, Mount, wait::until};
use serde_json::Value;

const PAGE: usize = 4096;
const PAGES: usize = 320;
/// A page that is never written.
const HOLE: usize = 200;

/// Pages of a file that has a clone.
const SHARED: usize = 20;

/// Two walks of the leader half a minute apart, on a busy machine.
const MERGED_WITHIN: Duration = Duration::from_secs(180);

/// Sessions, stamps, the time out of use.
const COLLECTED_WITHIN: Duration = Duration::from_secs(150);

fn page(number: usize) -> Vec<u8> {
    let mut bytes = vec![number as u8; PAGE];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    bytes
}

/// First byte and length of each extent.
fn extents(cluster: &Cluster, path: &str) -> Vec<(u64, u64)> {
    let told: Value = serde_json::from_str(&cluster.dfs(["stat", "--json", path]).ok()).unwrap();
    let extents = told[0]["extents"].as_array().cloned().unwrap_or_default();
    extents.iter().map(|extent| (extent["offset"].as_u64().unwrap(), extent["len"].as_u64().unwrap())).collect()
}

/// Issue 4: "Fragmented files are merged by the servers." Each page is a chunk of its own at first.
#[test]
fn pages_that_were_synced_one_by_one_become_few_extents_and_nothing_else_changes() {
    let cluster = Cluster::start();
    let mounts = ["one", "two"].map(|name| Mount::new(&cluster, name));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(mounts[0].path("file")).unwrap();
    let mut expected = vec![0; PAGES * PAGE];
    for at in 0..PAGES {
        let number = at * 7 % PAGES;
        if number != HOLE {
            file.write_all_at(&page(number), (number * PAGE) as u64).unwrap();
            file.sync_all().unwrap();
            expected[number * PAGE..][..PAGE].copy_from_slice(&page(number));
        }
    }
    assert_eq!(extents(&cluster, "/file").len(), PAGES - 1);
    // What two files share would be there twice.
    let shared = OpenOptions::new().write(true).create_new(true).open(mounts[0].path("shared")).unwrap();
    // From the end, so that it is never so short that its bytes lie with its name.
    for number in (0..SHARED).rev() {
        shared.write_all_at(&page(5000 + number), (number * PAGE) as u64).unwrap();
        shared.sync_all().unwrap();
    }
    cluster.dfs(["cp", "/shared", "/clone"]).ok();
    // Another mount learns where everything is, by one page, and keeps its lease.
    let other = fs::File::open(mounts[1].path("file")).unwrap();
    let mut first = [0; PAGE];
    other.read_exact_at(&mut first, 0).unwrap();
    let before = other.metadata().unwrap();

    let window = (1 << 20) / PAGE;
    let whole = [0..HOLE, HOLE + 1..window, window..PAGES];
    let whole = whole.map(|pages| ((pages.start * PAGE) as u64, (pages.len() * PAGE) as u64));
    until("the pages are put together", MERGED_WITHIN, || extents(&cluster, "/file") == whole);
    until("the single pages are gone", COLLECTED_WITHIN, || {
        let status = cluster.status();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        nodes.len() == 3 && nodes.iter().all(|node| node["store"]["chunks"] == whole.len() + SHARED)
    });

    let mut bytes = vec![0; PAGES * PAGE];
    other.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == expected, "read by a mount that knew the pages");
    assert!(fs::read(mounts[0].path("file")).unwrap() == expected, "read by the mount that wrote them");
    let copy = cluster.path("copy");
    cluster.dfs(["download", "/file", copy.to_str().unwrap()]).ok();
    assert!(fs::read(copy).unwrap() == expected, "downloaded");
    let after = other.metadata().unwrap();
    let told = |of: &fs::Metadata| (of.len(), of.blocks(), of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec());
    assert_eq!(told(&after), told(&before));
    assert_eq!([extents(&cluster, "/shared").len(), extents(&cluster, "/clone").len()], [SHARED; 2]);
    // It can be written as before.
    file.write_all_at(&page(1000), (HOLE * PAGE) as u64).unwrap();
    file.write_all_at(&page(1001), 0).unwrap();
    file.sync_all().unwrap();
    expected[HOLE * PAGE..][..PAGE].copy_from_slice(&page(1000));
    expected[..PAGE].copy_from_slice(&page(1001));
    assert!(fs::read(mounts[1].path("file")).unwrap() == expected, "written over");
}
