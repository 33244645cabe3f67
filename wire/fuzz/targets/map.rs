//! A cluster map and its ring: what is accepted can be asked for every partition.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ring::Ring;
use wire::cluster::ClusterMap;

fn check(ring: &Ring) {
    for partition in ring.bits().partitions() {
        assert_eq!(ring.replica_set(partition).nodes().len(), ring.replicas().count());
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(ring) = postcard::from_bytes::<Ring>(bytes) {
        check(&ring);
    }
    if let Ok(map) = postcard::from_bytes::<ClusterMap>(bytes) {
        map.ring.iter().for_each(check);
        let again = postcard::to_stdvec(&map).expect("it was read");
        assert_eq!(postcard::from_bytes::<ClusterMap>(&again).expect("it was written"), map);
    }
});
