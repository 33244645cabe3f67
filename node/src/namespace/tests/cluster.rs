//! Members, tokens, clients and the ring.

use ring::{Epoch, NodeId, ReplicaCount, Weight, Zone};
use wire::{
    Refusal,
    cluster::{Access, ClientId, ClusterId, KeyFingerprint, Newcomer, Peer, PeerAccess, TokenPurpose},
    namespace::{Inode, Timestamp},
};

use super::harness::{Machine, found, node_row};
use crate::namespace::{
    ClusterCommand, ClusterOutcome, CommandBody, CommandOutcome, authority, cluster_epoch, cluster_id, cluster_map,
    identify,
};

/// A cluster for three replicas, with its first node.
fn founded() -> Machine {
    let mut machine = Machine::empty();
    let ClusterCommand::Found { cluster, node, authority, sealed_key, .. } = found() else { panic!("no founding") };
    let replicas = ReplicaCount::new(3).unwrap();
    let command = ClusterCommand::Found { cluster, replicas, node, authority, sealed_key, owner: (0, 0) };
    assert_eq!(propose(&mut machine, command), done(1));
    machine
}

fn propose(machine: &mut Machine, command: ClusterCommand) -> CommandOutcome {
    machine.propose(CommandBody::Cluster(command))
}

fn done(epoch: u64) -> CommandOutcome {
    CommandOutcome::Cluster(ClusterOutcome::Done { epoch: Epoch(epoch) })
}

fn admitted(purpose: TokenPurpose) -> CommandOutcome {
    CommandOutcome::Cluster(ClusterOutcome::Admitted { purpose })
}

fn create_token(machine: &mut Machine, number: u8, purpose: TokenPurpose) {
    let expires = Timestamp::new(machine.clock + 100, 0).unwrap();
    let command = ClusterCommand::CreateToken { hash: [number; 32], purpose, expires };
    assert!(matches!(propose(machine, command), CommandOutcome::Cluster(_)));
}

fn node(number: u8) -> Newcomer {
    let row = node_row(number);
    Newcomer::Node { id: row.id, address: row.address, zone: row.zone, weight: row.weight }
}

fn redeem(machine: &mut Machine, token: u8, key: u8, newcomer: Newcomer) -> CommandOutcome {
    propose(machine, ClusterCommand::RedeemToken { hash: [token; 32], key: KeyFingerprint([key; 32]), newcomer })
}

fn refused(refusal: Refusal) -> CommandOutcome {
    CommandOutcome::Refused(refusal)
}

fn join(machine: &mut Machine, number: u8) {
    create_token(machine, number, TokenPurpose::Node);
    assert_eq!(redeem(machine, number, number, node(number)), admitted(TokenPurpose::Node));
}

#[test]
fn a_founded_cluster_has_a_root_one_node_and_its_authority() {
    let mut machine = founded();
    let map = cluster_map(&machine.rows).unwrap().unwrap();
    assert_eq!((map.cluster, map.epoch, map.nodes.clone()), (ClusterId([1; 16]), Epoch(1), vec![node_row(1)]));
    assert_eq!((map.ring.is_some(), map.missing()), (false, 2));
    assert_eq!(authority(&machine.rows).unwrap().unwrap().sealed_key, [4, 5, 6]);
    assert_eq!(cluster_id(&machine.rows).unwrap(), Some(ClusterId([1; 16])));
    assert_eq!(machine.attr(Inode::ROOT).links, 2);
    // Once.
    assert_eq!(propose(&mut machine, found()), done(1));
    let ClusterCommand::Found { replicas, node, authority, sealed_key, .. } = found() else { panic!("no founding") };
    let other =
        ClusterCommand::Found { cluster: ClusterId([2; 16]), replicas, node, authority, sealed_key, owner: (0, 0) };
    assert_eq!(propose(&mut machine, other), refused(Refusal::OtherCluster));
}

#[test]
fn before_the_founding_there_is_no_cluster() {
    let mut machine = Machine::empty();
    assert_eq!(cluster_map(&machine.rows).unwrap(), None);
    assert_eq!(cluster_epoch(&machine.rows).unwrap(), None);
    assert_eq!(authority(&machine.rows).unwrap(), None);
    assert_eq!(propose(&mut machine, ClusterCommand::SolveRing), refused(Refusal::NotServing));
    assert!(machine.rows.pairs().is_empty());
}

#[test]
fn the_ring_is_solved_once_when_enough_nodes_have_joined() {
    let mut machine = founded();
    join(&mut machine, 9);
    assert_eq!(propose(&mut machine, ClusterCommand::SolveRing), done(2));
    assert_eq!(cluster_map(&machine.rows).unwrap().unwrap().missing(), 1);
    join(&mut machine, 5);
    assert_eq!(propose(&mut machine, ClusterCommand::SolveRing), done(4));
    let map = cluster_map(&machine.rows).unwrap().unwrap();
    let ring = map.ring.unwrap();
    assert_eq!((ring.epoch(), map.epoch, ring.bits().count()), (Epoch(4), Epoch(4), 4096));
    let ids: Vec<NodeId> = map.nodes.iter().map(|node| node.id).collect();
    assert_eq!(ids, [1, 9, 5].map(|number| node_row(number).id), "in the order in which they joined");
    // A later node is a member without partitions.
    join(&mut machine, 7);
    assert_eq!(propose(&mut machine, ClusterCommand::SolveRing), done(5));
    let map = cluster_map(&machine.rows).unwrap().unwrap();
    assert_eq!((map.nodes.len(), map.ring), (4, Some(ring)));
    assert_eq!(cluster_epoch(&machine.rows).unwrap(), Some(Epoch(5)));
}

#[test]
fn a_token_admits_one_key_which_may_ask_again() {
    let mut machine = founded();
    let purpose = TokenPurpose::Client(Access::ReadOnly);
    create_token(&mut machine, 1, purpose);
    let (me, you) = (Newcomer::Client { id: ClientId([1; 16]) }, Newcomer::Client { id: ClientId([2; 16]) });
    assert_eq!(redeem(&mut machine, 9, 1, me.clone()), refused(Refusal::TokenUnknown));
    assert_eq!(redeem(&mut machine, 1, 1, node(4)), refused(Refusal::TokenPurpose));
    assert_eq!(redeem(&mut machine, 1, 1, me.clone()), admitted(purpose));
    let rows = machine.rows.pairs();
    assert_eq!(redeem(&mut machine, 1, 1, me.clone()), admitted(purpose));
    assert_eq!(redeem(&mut machine, 1, 2, me.clone()), refused(Refusal::TokenUsed));
    assert_eq!(redeem(&mut machine, 1, 1, you), refused(Refusal::TokenUsed));
    assert_eq!(machine.rows.pairs(), rows);
    let known = |id: u8, key: u8| {
        identify(&machine.rows, &Peer::Client(ClientId([id; 16])), &KeyFingerprint([key; 32])).unwrap()
    };
    assert_eq!(known(1, 1), Some(PeerAccess::Client(Access::ReadOnly)));
    assert_eq!((known(1, 2), known(2, 1)), (None, None));
    machine.clock += 100;
    assert_eq!(redeem(&mut machine, 1, 1, me), refused(Refusal::TokenExpired));
}

#[test]
fn an_identity_and_an_address_belong_to_one_key() {
    let mut machine = founded();
    join(&mut machine, 2);
    create_token(&mut machine, 7, TokenPurpose::Node);
    assert_eq!(redeem(&mut machine, 7, 3, node(2)), refused(Refusal::Taken));
    let Newcomer::Node { id, zone, weight, .. } = node(3) else { panic!("no node") };
    let squatter = Newcomer::Node { id, address: node_row(2).address, zone, weight };
    assert_eq!(redeem(&mut machine, 7, 3, squatter), refused(Refusal::Taken));
    assert_eq!(redeem(&mut machine, 7, 3, Newcomer::Client { id: ClientId([1; 16]) }), refused(Refusal::TokenPurpose));
    // The refusals did not use the token up. The same node again, with another token, is the same node.
    let epoch = cluster_epoch(&machine.rows).unwrap();
    assert_eq!(redeem(&mut machine, 7, 2, node(2)), admitted(TokenPurpose::Node));
    assert_eq!(cluster_epoch(&machine.rows).unwrap(), epoch);
    let peer = Peer::Node(node_row(2).id);
    assert_eq!(identify(&machine.rows, &peer, &KeyFingerprint([2; 32])).unwrap(), Some(PeerAccess::Node));
    assert_eq!(identify(&machine.rows, &peer, &KeyFingerprint([3; 32])).unwrap(), None);
    create_token(&mut machine, 8, TokenPurpose::Client(Access::ReadWrite));
    let me = Newcomer::Client { id: ClientId([1; 16]) };
    assert_eq!(redeem(&mut machine, 8, 1, me.clone()), admitted(TokenPurpose::Client(Access::ReadWrite)));
    create_token(&mut machine, 9, TokenPurpose::Client(Access::ReadWrite));
    assert_eq!(redeem(&mut machine, 9, 2, me), refused(Refusal::Taken));
}

#[test]
fn a_node_that_moves_gets_a_new_map_and_no_address_of_another() {
    let mut machine = founded();
    join(&mut machine, 2);
    let address = ([10, 0, 0, 1], 7000).into();
    let node = node_row(2).id;
    assert_eq!(propose(&mut machine, ClusterCommand::MoveNode { node, address }), done(3));
    assert_eq!(propose(&mut machine, ClusterCommand::MoveNode { node, address }), done(3));
    assert_eq!(cluster_map(&machine.rows).unwrap().unwrap().node(node).unwrap().address, address);
    let taken = ClusterCommand::MoveNode { node, address: node_row(1).address };
    assert_eq!(propose(&mut machine, taken), refused(Refusal::Taken));
    let unknown = ClusterCommand::MoveNode { node: node_row(8).id, address };
    assert_eq!(propose(&mut machine, unknown), refused(Refusal::UnknownPeer));
}

#[test]
fn a_node_that_stands_elsewhere_or_has_another_share_gets_a_new_map() {
    let mut machine = founded();
    join(&mut machine, 2);
    let (node, zone, weight) = (node_row(2).id, "rack-2".to_owned().try_into().ok(), Weight(77.try_into().unwrap()));
    let place = |node, zone: &Option<Zone>| ClusterCommand::PlaceNode { node, zone: zone.clone(), weight };
    assert_eq!(propose(&mut machine, place(node, &zone)), done(3));
    assert_eq!(propose(&mut machine, place(node, &zone)), done(3), "the same again is no change");
    let row = cluster_map(&machine.rows).unwrap().unwrap().node(node).cloned().unwrap();
    assert_eq!(row, wire::cluster::NodeRow { zone, weight, ..node_row(2) });
    assert_eq!(propose(&mut machine, place(node, &None)), done(4));
    assert_eq!(propose(&mut machine, place(node_row(8).id, &None)), refused(Refusal::UnknownPeer));
}

#[test]
fn expired_tokens_are_forgotten_and_there_are_not_too_many() {
    let mut machine = founded();
    let rows = machine.rows.pairs().len();
    let create = |machine: &mut Machine, number: u32| {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        let expires = Timestamp::new(50_000, 0).unwrap();
        propose(machine, ClusterCommand::CreateToken { hash, purpose: TokenPurpose::Node, expires })
    };
    for number in 0..1024 {
        assert_eq!(create(&mut machine, number), done(1));
    }
    assert_eq!(create(&mut machine, 1024), refused(Refusal::Busy));
    machine.clock = 60_000;
    create_token(&mut machine, 1, TokenPurpose::Node);
    assert_eq!(machine.rows.pairs().len(), rows + 1);
}
