//! P6: "Placement is a pure function with frozen test vectors." DESIGN: "Same input, same output on every platform and release: frozen vectors in the tests."
//!
//! A node of one release and a node of the next must solve the same ring. These tables therefore never change: a solver
//! that gives another answer is another solver, and gets a version in the cluster map before it replaces this one.

use super::{Member, Ring, bits, member, solved};

/// Nodes of several weights and zones; `zones` of zero is none.
fn nodes(count: u8, zones: u8) -> Vec<Member> {
    let zone = |at: u8| (zones > 0).then(|| at % zones);
    (0..count).map(|at| member(at.wrapping_mul(91), zone(at), 1 + u32::from(at) * 7 % 5)).collect()
}

fn digest(ring: &Ring) -> String {
    let table: Vec<u8> = bits(ring.bits().bits())
        .partitions()
        .flat_map(|partition| ring.row(partition).iter().flat_map(|index| index.to_le_bytes()))
        .collect();
    blake3::hash(&table).to_hex().chars().take(16).collect()
}

#[test]
fn a_small_table_is_frozen() {
    let ring = solved(None, &nodes(5, 0), 3, 3);
    let rows: Vec<&[u16]> = ring.bits().partitions().map(|partition| ring.row(partition)).collect();
    assert_eq!(rows, [[4, 3, 2], [3, 4, 1], [0, 4, 2], [2, 4, 3], [1, 4, 3], [4, 2, 0], [3, 4, 1], [2, 4, 3]]);
    let ring = solved(Some(&ring), &nodes(6, 0), 3, 3);
    let rows: Vec<&[u16]> = ring.bits().partitions().map(|partition| ring.row(partition)).collect();
    assert_eq!(rows, [[5, 3, 2], [3, 4, 1], [4, 0, 2], [2, 4, 3], [1, 4, 3], [4, 2, 0], [3, 4, 1], [2, 4, 3]]);
}

#[test]
fn the_digests_of_solved_tables_are_frozen() {
    let first = solved(None, &nodes(12, 0), 3, 8);
    let joined = solved(Some(&first), &nodes(15, 0), 3, 8);
    let zoned = solved(Some(&joined), &nodes(15, 4), 3, 8);
    let left = solved(Some(&zoned), &nodes(15, 4)[4..], 3, 8);
    let crowded = solved(Some(&left), &nodes(15, 2)[4..], 3, 9);
    let more = solved(Some(&crowded), &nodes(15, 2)[4..], 5, 9);
    let large = solved(None, &nodes(200, 7), 3, 12);
    let rings = [&first, &joined, &zoned, &left, &crowded, &more, &large];
    assert_eq!(
        rings.map(digest),
        [
            "f49609b322b313e5",
            "9c1efca66bb6a9d4",
            "87cbb75d3ba15218",
            "6a35f43d395b6134",
            "5319efd9dd47b325",
            "a5e266c1791e30aa",
            "e0909a06bec8b0a9"
        ]
    );
}
