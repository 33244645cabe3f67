//! A history that ends on one survivor and goes on from there.

use std::collections::BTreeSet;

use ring::{Epoch, GcEpoch};
use wire::{
    Refusal,
    namespace::{Inode, NewContent, NewExtent, NewKind, Op, OpError, Replace, SessionNonce},
};

use super::harness::{CLIENT, Client, Machine, extent, name, new_inode, outcomes, slice};
use crate::{
    generation::Generation,
    namespace::{
        ClusterCommand, CommandBody, CommandOutcome, ENDED_MAX, cluster_map, gc_current, gc_safe, mount_sessions,
        session_list,
    },
};

fn recover(machine: &mut Machine, generation: u64) {
    let outcome = machine.propose(CommandBody::Cluster(ClusterCommand::Recover { generation }));
    assert!(!matches!(outcome, CommandOutcome::Refused(_)), "{outcome:?}");
}

/// The survivor, and the machine of those that are lost, which goes on for a while by itself.
fn parted() -> (Machine, Machine, Client) {
    let (mut left, mut lost) = (Machine::new(), Machine::new());
    let mut client = Client::open(&mut left, 1);
    Client::open(&mut lost, 1);
    client.touch(&mut left, Inode::ROOT, "before");
    for number in 10..200 {
        let mut other = Client::open(&mut lost, number);
        other.touch(&mut lost, Inode::ROOT, &number.to_string());
        lost.propose(CommandBody::RaiseGc { from: gc_current(&lost.rows).unwrap() });
    }
    (left, lost, client)
}

#[test]
fn no_number_of_the_lost_history_is_handed_out_again() {
    let (mut left, lost, _) = parted();
    recover(&mut left, 1);
    let new = Client::open(&mut left, 9);
    let used: BTreeSet<_> = session_list(&lost.rows).unwrap().into_iter().map(|row| row.session).collect();
    assert!(used.len() > 100 && used.iter().all(|session| *session < new.session), "{:?}", new.session);
    let theirs = lost.list(Inode::ROOT);
    assert!(theirs.iter().all(|entry| entry.inode < new.range.first), "{:?}", new.range);
    let (map, theirs) = (cluster_map(&left.rows).unwrap().unwrap(), cluster_map(&lost.rows).unwrap().unwrap());
    assert!(map.epoch > theirs.epoch && Generation::of_epoch(map.epoch) == Generation::new(1));
    assert_eq!((map.cluster, map.nodes), (theirs.cluster, theirs.nodes), "cluster and nodes stay");
    assert!(gc_safe(&left.rows).unwrap() > gc_current(&lost.rows).unwrap());
    assert_eq!(left.names(Inode::ROOT), ["before"]);
}

#[test]
fn no_session_goes_on_and_none_is_opened_again() {
    let (mut left, _, mut client) = parted();
    left.propose(CommandBody::OpenMount { client: CLIENT, nonce: SessionNonce([2; 16]) });
    recover(&mut left, 1);
    assert_eq!((session_list(&left.rows).unwrap(), mount_sessions(&left.rows).unwrap()), (vec![], vec![]));
    let new = new_inode(client.inode(&mut Machine::new()), NewKind::Directory);
    let batch = client.batch(vec![Op::Create { dir: Inode::ROOT, name: name("after"), new, replace: Replace::No }]);
    let refused = CommandOutcome::Refused(Refusal::UnknownSession);
    assert_eq!(left.propose(CommandBody::Batch { client: CLIENT, batch }), refused);
    let again = left.propose(CommandBody::OpenSession { client: CLIENT, nonce: SessionNonce([1; 16]) });
    assert_eq!(again, refused);
    left.finish_work();
    assert_eq!(left.names(Inode::ROOT), ["before"]);
}

/// Who acknowledged a put may be among the lost.
#[test]
fn a_chunk_that_was_put_before_is_put_again_before_a_file_names_it() {
    let (mut left, lost, _) = parted();
    recover(&mut left, 1);
    let mut client = Client::open(&mut left, 9);
    let stamps = [gc_current(&lost.rows).unwrap(), GcEpoch(gc_current(&left.rows).unwrap().0 - 1)];
    let mut create = |left: &mut Machine, gc: GcEpoch| {
        let extents = vec![NewExtent { gc, ..extent(0, slice(7, 10)) }];
        let new = new_inode(client.inode(left), NewKind::File(NewContent::Extents { extents, size: 10 }));
        let op = Op::Create { dir: Inode::ROOT, name: name("file"), new, replace: Replace::No };
        let batch = client.batch(vec![op]);
        outcomes(left.propose(CommandBody::Batch { client: CLIENT, batch })).remove(0)
    };
    for stale in stamps {
        assert_eq!(create(&mut left, stale).unwrap_err(), OpError::StaleGc);
    }
    let now = gc_current(&left.rows).unwrap();
    create(&mut left, now).unwrap();
}

#[test]
fn a_generation_begins_once_and_more_sessions_than_one_command_ends_take_more_of_them() {
    let mut machine = Machine::new();
    for number in 0..=u64::try_from(ENDED_MAX).unwrap() {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&number.to_be_bytes());
        machine.propose(CommandBody::OpenSession { client: CLIENT, nonce: SessionNonce(nonce) });
    }
    recover(&mut machine, 3);
    assert_eq!(session_list(&machine.rows).unwrap().len(), 1);
    let (epoch, gc) = (cluster_map(&machine.rows).unwrap().unwrap().epoch, gc_current(&machine.rows).unwrap());
    assert_eq!(epoch, Epoch(Generation::new(3).first()));
    recover(&mut machine, 3);
    assert_eq!(session_list(&machine.rows).unwrap(), []);
    assert_eq!(cluster_map(&machine.rows).unwrap().unwrap().epoch, epoch);
    assert_eq!(gc_current(&machine.rows).unwrap(), gc);
}

/// In the lost part of the history any partition may have gone over to any member, which would drop what it has.
#[test]
fn every_member_may_hold_anything_until_the_owners_have_confirmed_that_they_have_it() {
    let mut machine = super::moves::cluster(5);
    recover(&mut machine, 1);
    let map = cluster_map(&machine.rows).unwrap().unwrap();
    let partitions: Vec<_> = map.placement().unwrap().bits().partitions().collect();
    for partition in &partitions {
        assert!(map.nodes.iter().all(|node| map.counts(*partition, node.id)), "{partition:?}");
        assert!(map.can_be_clean(*partition));
    }
    assert_eq!(map.acting, map.epoch, "what was confirmed before counts no longer");
    machine.propose(CommandBody::Cluster(ClusterCommand::Clean { acting: map.acting, partitions }));
    assert!(cluster_map(&machine.rows).unwrap().unwrap().may_hold.is_empty());
}
