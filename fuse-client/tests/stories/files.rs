//! Single files: what is uploaded comes back, whatever fails meanwhile.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use fuse_client::{
    Caller, Cluster, ClusterConfig, FilePath, Namespace, NamespaceError, Profile,
    download::{self, ReadError},
    login::{LoginError, ReplaceProfile, login},
    namespace::Follow,
    upload::{UploadError, UploadOptions, upload},
};
use ring::ChunkKey;
use tokio::time::{Instant, timeout};
use wire::namespace::{ChunkSlice, Extent, ExtentBody, JournaledChunk};

use crate::fake::FakeCluster;

pub(crate) fn path(text: &str) -> FilePath {
    FilePath::parse(text.as_bytes()).unwrap()
}

/// Bytes that no two places share.
pub(crate) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

async fn put(namespace: &Namespace, at: &str, content: &[u8]) -> Result<(), UploadError> {
    upload(namespace, &path(at), content, &UploadOptions::default()).await.map(drop)
}

pub(crate) async fn read(namespace: &Namespace, at: &str) -> Result<Vec<u8>, NamespaceError> {
    let mut reader = download::open(namespace, &path(at)).await?;
    let mut all = Vec::new();
    while let Some(part) = reader.next().await? {
        all.extend_from_slice(&part);
    }
    Ok(all)
}

const MIB: usize = 1 << 20;

#[tokio::test]
async fn files_of_every_size_come_back_as_they_went_in() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    for (index, len) in
        [0, 1, 4095, 4096, 4097, 16 * 1024, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 22 * MIB + 5].into_iter().enumerate()
    {
        let content = bytes(len, index as u64 + 1);
        let at = format!("/file{index}");
        put(&namespace, &at, &content).await.unwrap();
        assert!(read(&namespace, &at).await.unwrap() == content, "{len} bytes differ");
        assert_eq!(namespace.resolve(&path(&at), Follow::No).await.unwrap().size, len as u64);
    }
    cluster.assert_durable();
    namespace.finish().await;
    assert_eq!(cluster.state.lock().names.sessions(), 0, "the session said good-bye");
}

#[tokio::test]
async fn a_range_is_read_without_the_rest_and_ends_at_the_end_of_the_file() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let content = bytes(22 * MIB, 3);
    put(&namespace, "/f", &content).await.unwrap();
    let inode = namespace.resolve(&path("/f"), Follow::No).await.unwrap().inode;
    for (offset, len) in [(0, 1), (5, 100), (4 * MIB - 3, 7), (MIB, 20 * MIB), (22 * MIB - 5, 100), (30 * MIB, 5)] {
        let part = namespace.read_range(inode, offset as u64, len as u32).await.unwrap();
        let end = (offset + len).min(content.len());
        assert!(part == content[offset.min(end)..end], "{len} bytes from {offset} differ");
    }
}

#[tokio::test]
async fn a_chunk_that_a_store_lost_before_its_sync_is_put_again() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    for store in &mut cluster.state.lock().stores {
        store.crashes = 2;
    }
    let content = bytes(9 * MIB, 1);
    put(&namespace, "/f", &content).await.unwrap();
    cluster.assert_durable();
    assert!(read(&namespace, "/f").await.unwrap() == content);
}

#[tokio::test]
async fn a_stale_map_is_refreshed_and_the_chunk_put_again() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    cluster.state.lock().stale_epochs = 3;
    let content = bytes(5 * MIB, 1);
    put(&namespace, "/f", &content).await.unwrap();
    cluster.assert_durable();
    assert!(namespace.cluster().map().epoch.0 > 5);
}

#[tokio::test]
async fn extents_refused_as_stale_are_put_again_from_the_replicas() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    cluster.state.lock().names.stale_commits = 2;
    let content = bytes(5 * MIB, 1);
    put(&namespace, "/f", &content).await.unwrap();
    assert!(read(&namespace, "/f").await.unwrap() == content);
}

#[tokio::test]
async fn lost_answers_and_changes_of_leader_execute_nothing_twice() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    {
        let mut state = cluster.state.lock();
        state.lost_answers = 4;
        state.leader_changes_after = Some(2);
    }
    // The fake asserts that no number is executed twice.
    for index in 0..20 {
        put(&namespace, &format!("/f{index}"), &bytes(100, index)).await.unwrap();
    }
    for index in 0..20 {
        assert_eq!(read(&namespace, &format!("/f{index}")).await.unwrap(), bytes(100, index));
    }
}

#[tokio::test]
async fn a_rotten_replica_is_reported_and_another_one_read() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let content = bytes(13 * MIB, 1);
    put(&namespace, "/f", &content).await.unwrap();
    namespace.cluster().drain().await;
    for rotten in 0..3 {
        for (index, store) in cluster.state.lock().stores.iter_mut().enumerate() {
            store.rotten = index == rotten;
        }
        assert!(read(&namespace, "/f").await.unwrap() == content);
    }
    for store in &mut cluster.state.lock().stores {
        store.rotten = true;
    }
    let error = read(&namespace, "/f").await.unwrap_err();
    assert!(matches!(error, NamespaceError::Read { source: ReadError::NoReplica { .. }, .. }), "{error}");
    assert!(cluster.state.lock().stores.iter().any(|store| !store.suspected.is_empty()));
}

#[tokio::test]
async fn a_chunk_that_its_replicas_still_lack_comes_from_the_namespace() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let content = bytes(20_000, 1);
    put(&namespace, "/f", &content).await.unwrap();
    namespace.cluster().drain().await;
    let key = ChunkKey::of(&content);
    {
        let mut state = cluster.state.lock();
        for store in &mut state.stores {
            assert!(store.stable.remove(&key).is_some());
        }
        state.names.journal.insert(key, JournaledChunk { bytes: content.clone(), key });
    }
    assert!(read(&namespace, "/f").await.unwrap() == content);
    let begun = Instant::now();
    let inode = namespace.resolve(&path("/f"), Follow::No).await.unwrap().inode;
    let part = namespace.read_range(inode, 5000, 9000).await.unwrap();
    assert!(part == content[5000..14_000]);
    // Whoever knows nothing and says nothing is not waited for.
    cluster.state.lock().stores[1].silent = true;
    assert!(read(&namespace, "/f").await.unwrap() == content);
    assert!(begun.elapsed() < Duration::from_secs(3), "reading took {:?}", begun.elapsed());
    cluster.state.lock().stores[1].silent = false;
    // Bytes that are not those of the key are nobody's.
    cluster.state.lock().names.journal.get_mut(&key).unwrap().bytes[7] ^= 1;
    assert!(read(&namespace, "/f").await.is_err());
    cluster.state.lock().names.journal.clear();
    let begun = Instant::now();
    let error = read(&namespace, "/f").await.unwrap_err();
    assert!(matches!(error, NamespaceError::Read { source: ReadError::NoReplica { .. }, .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3), "to know that nobody has it took {:?}", begun.elapsed());
}

#[tokio::test]
async fn writes_and_reads_go_on_within_five_seconds_when_a_node_falls_silent() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let before = bytes(9 * MIB, 1);
    put(&namespace, "/before", &before).await.unwrap();
    namespace.cluster().drain().await;
    cluster.state.lock().stores[2].silent = true;
    let begun = Instant::now();
    assert!(read(&namespace, "/before").await.unwrap() == before);
    assert!(begun.elapsed() < Duration::from_secs(3), "reading took {:?}", begun.elapsed());
    let begun = Instant::now();
    let content = bytes(9 * MIB, 2);
    put(&namespace, "/after", &content).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "writing took {:?}", begun.elapsed());
    assert!(read(&namespace, "/after").await.unwrap() == content);
    cluster.assert_durable();
}

#[tokio::test]
async fn a_silent_leader_is_left_within_five_seconds() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    put(&namespace, "/a", b"a").await.unwrap();
    {
        let mut state = cluster.state.lock();
        state.stores[0].silent = true;
        state.leader = 1;
    }
    let begun = Instant::now();
    put(&namespace, "/b", b"b").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
}

#[tokio::test]
async fn one_full_disk_is_no_harm_and_two_are_no_space() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    cluster.state.lock().stores[1].full = true;
    put(&namespace, "/one", &bytes(9 * MIB, 1)).await.unwrap();
    cluster.state.lock().stores[2].full = true;
    let error = put(&namespace, "/two", &bytes(9 * MIB, 2)).await.unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
    assert!(cluster.state.lock().names.at("/two").is_none());
    assert!(read(&namespace, "/one").await.unwrap() == bytes(9 * MIB, 1));
}

#[tokio::test]
async fn without_a_quorum_the_error_comes_within_the_deadline_and_says_so() {
    let cluster = FakeCluster::start().await;
    let config = ClusterConfig { deadline: Duration::from_secs(2), ..ClusterConfig::default() };
    let namespace = Namespace::new(cluster.connect_with(config).await, Caller::ROOT);
    cluster.state.lock().no_quorum = true;
    let error = timeout(Duration::from_secs(4), namespace.resolve(&path("/x"), Follow::No)).await.unwrap();
    let error = error.unwrap_err().to_string();
    assert!(error.contains("no quorum") && error.contains("127.0.0.1"), "{error}");
}

#[tokio::test]
async fn copies_share_the_chunks_of_their_source() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let content = bytes(22 * MIB, 1);
    put(&namespace, "/f", &content).await.unwrap();
    namespace.cluster().drain().await;
    let chunks =
        |cluster: &FakeCluster| cluster.state.lock().stores.iter().map(|store| store.stable.len()).sum::<usize>();
    let before = chunks(&cluster);
    let moved = |cluster: &FakeCluster| {
        let state = cluster.state.lock();
        state.stores.iter().map(|store| store.gets + store.puts).sum::<u64>()
    };
    let moved_before = moved(&cluster);
    assert!(moved_before > 0);
    namespace.copy_file(&path("/f"), &path("/g")).await.unwrap();
    namespace.create_dir(&path("/dir"), wire::namespace::Mode::new(0o755)).await.unwrap();
    namespace.copy_file(&path("/f"), &path("/dir/f")).await.unwrap();
    namespace.copy_tree(&path("/dir"), &path("/twin"), |_| ()).await.unwrap();
    assert_eq!(moved(&cluster), moved_before, "no chunk travels for a copy");
    assert!(read(&namespace, "/g").await.unwrap() == content);
    assert_eq!(chunks(&cluster), before);
    let times = |at: &str| cluster.state.lock().names.at(at).unwrap().attr.modified;
    assert_eq!(times("/f"), times("/g"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_during_an_upload_stops_nothing() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let content = bytes(40 * MIB, 1);
    let writing = put(&namespace, "/f", &content);
    let dying = async {
        while cluster.state.lock().stores[2].stable.is_empty() {
            tokio::task::yield_now().await;
        }
        cluster.stop(2).await;
    };
    let (written, ()) = tokio::join!(writing, dying);
    written.unwrap();
    cluster.assert_durable();
    assert!(read(&namespace, "/f").await.unwrap() == content);
}

#[tokio::test]
async fn when_no_node_can_be_reached_the_error_names_those_that_were_tried() {
    let cluster = FakeCluster::start().await;
    for index in 0..3 {
        cluster.stop(index).await;
    }
    let config = ClusterConfig { deadline: Duration::from_secs(2), ..ClusterConfig::default() };
    let begun = Instant::now();
    let error = Cluster::connect(&cluster.profile, config).await.unwrap_err().to_string();
    assert!(error.contains("no node of the cluster answers") && error.contains("127.0.0.1"), "{error}");
    assert!(error.lines().count() == 1 && begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_token_gives_a_profile_once_and_again_to_the_key_that_used_it() {
    let cluster = FakeCluster::start().await;
    let place = tempfile::tempdir().unwrap();
    let (mine, other) = (place.path().join("mine"), place.path().join("other"));
    let profile = login(&cluster.token(), &mine, ReplaceProfile::No).await.unwrap();
    assert_eq!(Profile::load(&mine).unwrap(), profile);
    let namespace = Namespace::new(Cluster::connect(&profile, ClusterConfig::default()).await.unwrap(), Caller::ROOT);
    put(&namespace, "/f", b"in").await.unwrap();
    let refused = login(&cluster.token(), &other, ReplaceProfile::No).await.unwrap_err();
    assert!(refused.to_string().contains("has been used"), "{refused}");
    assert!(Profile::load(&other).is_err());

    // The answer was lost, and the program stopped: the key is there, the profile is not.
    let again = place.path().join("again");
    std::fs::create_dir(&again).unwrap();
    std::fs::write(again.join("key.pending.der"), &profile.key.0).unwrap();
    assert_eq!(login(&cluster.token(), &again, ReplaceProfile::No).await.unwrap().key, profile.key);

    let foreign = FakeCluster::start().await;
    let refused = login(&foreign.token(), &mine, ReplaceProfile::No).await.unwrap_err();
    assert!(matches!(refused, LoginError::OtherCluster { .. }), "{refused}");
    assert_eq!(Profile::load(&mine).unwrap(), profile, "a refusal changes nothing");
}

/// The bytes of `at`, as chunks of `part_len`: the version stays, and the chunks of before are nowhere.
fn move_bytes(cluster: &FakeCluster, at: &str, content: &[u8], part_len: usize) {
    let mut state = cluster.state.lock();
    let inode = state.names.at(at).unwrap().attr.inode;
    let mut extents = BTreeMap::new();
    state.stores.iter_mut().for_each(|store| store.stable.clear());
    for (index, part) in content.chunks(part_len).enumerate() {
        let (key, offset) = (ChunkKey::of(part), (index * part_len) as u64);
        let len = part.len() as u32;
        let slice = ChunkSlice { key, chunk_len: len, offset: 0, len };
        extents.insert(offset, Extent { offset, body: ExtentBody::Chunk(slice) });
        for store in &mut state.stores {
            store.stable.insert(key, Bytes::copy_from_slice(part));
        }
    }
    state.names.files.get_mut(&inode).unwrap().extents = extents;
}

/// A server merges extents while the version of the bytes stays.
#[tokio::test]
async fn bytes_that_were_moved_since_they_were_listed_are_found() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let content = bytes(9 * MIB + 100, 5);
    put(&namespace, "/file", &content).await.unwrap();
    let mut reader = download::open(&namespace, &path("/file")).await.unwrap();
    move_bytes(&cluster, "/file", &content, 3 * MIB);
    let mut all = Vec::new();
    while let Some(part) = reader.next().await.unwrap() {
        all.extend_from_slice(&part);
    }
    assert!(all == content);
}

#[tokio::test]
async fn bytes_that_are_nowhere_although_the_version_stands_are_an_error_and_those_of_another_version_are_not_mixed_in()
{
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let content = bytes(9 * MIB, 5);
    put(&namespace, "/file", &content).await.unwrap();
    let first_error = async |change: &dyn Fn()| {
        let mut reader = download::open(&namespace, &path("/file")).await.unwrap();
        change();
        loop {
            match reader.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it was read to its end"),
                Err(NamespaceError::Read { source, .. }) => return source,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let changed = first_error(&|| {
        move_bytes(&cluster, "/file", &bytes(9 * MIB, 6), 3 * MIB);
        let mut state = cluster.state.lock();
        let inode = state.names.at("/file").unwrap().attr.inode;
        state.names.files.get_mut(&inode).unwrap().attr.data_version += 1;
    })
    .await;
    assert!(matches!(changed, ReadError::Changed), "{changed}");
    let lost = first_error(&|| cluster.state.lock().stores.iter_mut().for_each(|store| store.stable.clear())).await;
    assert!(matches!(lost, ReadError::NoReplica { .. }), "{lost}");
}
