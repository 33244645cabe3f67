//! The cluster map in rows: members, ring, tokens, clients, the authority.
//!
//! # Invariants
//! - Every change of members or ring raises the epoch; the same epoch is the same map everywhere.
//! - A token admits one key. The same key asking again before it expires gets the same answer.
//! - An identity or an address belongs to one key.
//!
//! # Not here
//! From one ring to the next (`moves`); who is away (`stand_ins`).

use std::net::SocketAddr;

use ring::{Epoch, GcEpoch, Member, NodeId, PartitionBits, Weight, Zone, solver};
use wire::{
    Refusal,
    cluster::{ClusterId, ClusterMap, KeyFingerprint, Newcomer, NodeRow, Peer, PeerAccess, TokenPurpose},
    namespace::{INODE_RANGE_LEN, Inode, Mode, Timestamp, Usage},
};

use super::{
    command::{ClientRow, ClusterCommand, ClusterOutcome, CommandOutcome},
    edit::{Edit, Fault, collect},
    moves,
    row::{self, Body, Counters, InodeRow, MemberRow, MetaRow, SealedAuthority, Standing, TokenRow, TokenUse},
    stand_ins, table,
};
use crate::kv::{KvError, KvRead};

/// 4,096 partitions: a hundred a node, which balances them within a hundredth, up to 120 nodes with three replicas; and
/// a map of 25 KB, which still travels in one packet train. Larger clusters will need another number, and moves.
const RING_BITS: u8 = 12;

/// Tokens that have not expired.
const TOKENS_MAX: usize = 1024;

/// The map: members and ring; none before the cluster is founded.
pub fn cluster_map(rows: &dyn KvRead) -> Result<Option<ClusterMap>, KvError> {
    let Some(meta) = row::read::<MetaRow>(rows, &table::single(table::META))? else { return Ok(None) };
    Ok(Some(ClusterMap {
        cluster: meta.cluster,
        epoch: meta.epoch,
        replicas: meta.replicas,
        nodes: members(rows)?,
        ring: row::read(rows, &table::single(table::RING))?,
        may_hold: stand_ins::may_hold(rows)?,
        transition: moves::transition(rows)?,
        leaving: moves::leaving(rows)?,
        away: stand_ins::away(rows)?,
        acting: meta.acting,
    }))
}

/// Version of the map, without reading it all; none before the cluster is founded.
pub fn cluster_epoch(rows: &dyn KvRead) -> Result<Option<Epoch>, KvError> {
    Ok(row::read::<MetaRow>(rows, &table::single(table::META))?.map(|meta| meta.epoch))
}

/// What `peer` may do, if it is known by this `key`.
pub fn identify(rows: &dyn KvRead, peer: &Peer, key: &KeyFingerprint) -> Result<Option<PeerAccess>, KvError> {
    Ok(match peer {
        Peer::Node(id) => row::read::<MemberRow>(rows, &table::node(*id))?
            .filter(|member| member.node.key == *key)
            .map(|_| PeerAccess::Node),
        Peer::Client(id) => row::read::<ClientRow>(rows, &table::client(*id))?
            .filter(|client| client.key == *key)
            .map(|client| PeerAccess::Client(client.access)),
    })
}

/// The authority; none before the cluster is founded.
pub fn authority(rows: &dyn KvRead) -> Result<Option<SealedAuthority>, KvError> {
    row::read(rows, &table::single(table::AUTHORITY))
}

/// Members in the order in which they joined.
pub(super) fn members(rows: &dyn KvRead) -> Result<Vec<NodeRow>, KvError> {
    let mut members: Vec<MemberRow> = table_rows(rows, table::NODE)?.into_iter().map(|(_, member)| member).collect();
    members.sort_by_key(|member| member.place);
    Ok(members.into_iter().map(|member| member.node).collect())
}

pub(super) fn table_rows<T: serde::de::DeserializeOwned>(
    rows: &dyn KvRead,
    table: u8,
) -> Result<Vec<(Vec<u8>, T)>, KvError> {
    let (from, to) = table::rows_of_table(table);
    let found = collect(rows, &from, &to, usize::MAX)?;
    let mut decoded = Vec::with_capacity(found.len());
    for (key, value) in found {
        let row = row::decode(&key, &value)?;
        decoded.push((key, row));
    }
    Ok(decoded)
}

/// Whether there is a token whose secret has this hash; it may be used or expired.
pub fn is_token(rows: &dyn KvRead, hash: &[u8; 32]) -> Result<bool, KvError> {
    let row: Option<TokenRow> = row::read(rows, &table::token(hash))?;
    Ok(row.is_some())
}

impl Edit<'_> {
    /// A change of the cluster.
    pub(super) fn cluster(&mut self, command: &ClusterCommand) -> Result<CommandOutcome, Fault> {
        let meta: Option<MetaRow> = self.read(&table::single(table::META))?;
        let result = match (command, meta) {
            (ClusterCommand::Found { cluster, .. }, Some(meta)) if meta.cluster == *cluster => Ok(meta.epoch),
            (ClusterCommand::Found { .. }, Some(_)) => Err(Refusal::OtherCluster),
            (ClusterCommand::Found { cluster, replicas, node, authority, sealed_key, owner }, None) => {
                let meta = MetaRow {
                    cluster: *cluster,
                    epoch: Epoch(1),
                    replicas: *replicas,
                    joined: 0,
                    bits: None,
                    highest_fence: Epoch::default(),
                    floor: Epoch::default(),
                    acting: Epoch::default(),
                };
                let authority = SealedAuthority { certificate: authority.clone(), sealed_key: sealed_key.clone() };
                Ok(self.found(meta, node, &authority, *owner)?)
            }
            (_, None) => Err(Refusal::NotServing),
            (ClusterCommand::CreateToken { hash, purpose, expires }, Some(meta)) => {
                self.create_token(hash, *purpose, *expires)?.map(|()| meta.epoch)
            }
            (ClusterCommand::RedeemToken { hash, key, newcomer }, Some(meta)) => {
                return Ok(match self.redeem(meta, hash, *key, newcomer)? {
                    Ok(purpose) => CommandOutcome::Cluster(ClusterOutcome::Admitted { purpose }),
                    Err(refusal) => CommandOutcome::Refused(refusal),
                });
            }
            (ClusterCommand::Recover { generation }, Some(meta)) => Ok(self.recover(meta, *generation)?),
            (ClusterCommand::SolveRing, Some(meta)) => Ok(self.solve_ring(meta)?),
            (ClusterCommand::MoveNode { node, address }, Some(meta)) => self.move_node(meta, *node, *address)?,
            (ClusterCommand::PlaceNode { node, zone, weight }, Some(meta)) => {
                self.place_node(meta, *node, zone.as_ref(), *weight)?
            }
            (
                ClusterCommand::Rebalance { .. }
                | ClusterCommand::Settle { .. }
                | ClusterCommand::SetLeaving { .. }
                | ClusterCommand::RemoveNode { .. },
                Some(meta),
            ) => return self.moves(meta, command),
            (ClusterCommand::Away { .. } | ClusterCommand::Back { .. } | ClusterCommand::Clean { .. }, Some(meta)) => {
                return self.absence(meta, command);
            }
        };
        Ok(match result {
            Ok(epoch) => CommandOutcome::Cluster(ClusterOutcome::Done { epoch }),
            Err(refusal) => CommandOutcome::Refused(refusal),
        })
    }

    /// The first rows of a cluster: itself, its first node, an empty root.
    fn found(
        &mut self,
        meta: MetaRow,
        node: &NodeRow,
        authority: &SealedAuthority,
        (uid, gid): (u32, u32),
    ) -> Result<Epoch, Fault> {
        self.put(table::single(table::AUTHORITY), authority)?;
        let counters = Counters {
            next_inode: u64::from(INODE_RANGE_LEN),
            next_session: 1,
            gc_current: GcEpoch(1),
            gc_safe: GcEpoch(0),
            orphans_index: 0,
        };
        self.put(table::single(table::COUNTERS), &counters)?;
        let root = InodeRow {
            body: Body::Directory { parent: Inode::ROOT, next_cookie: wire::namespace::Cookie(1) },
            standing: Standing::Named,
            mode: Mode::new(0o755),
            uid,
            gid,
            links: 2,
            size: 0,
            allocated: 0,
            accessed: self.stamp,
            modified: self.stamp,
            changed: self.stamp,
            born: self.stamp,
            change: 1,
            data_version: 1,
        };
        self.put_inode(Inode::ROOT, &root)?;
        self.put(table::single(table::USAGE), &Usage { inodes: 1, bytes: 0 })?;
        self.add_member(MetaRow { epoch: Epoch(0), ..meta }, node.clone())
    }

    /// Adds a member; the epoch of the map that has it.
    fn add_member(&mut self, meta: MetaRow, node: NodeRow) -> Result<Epoch, Fault> {
        let place = meta.joined;
        self.put(table::node(node.id), &MemberRow { place, node })?;
        self.next_map(MetaRow { joined: place + 1, ..meta })
    }

    /// The map has changed: it gets its epoch.
    pub(super) fn next_map(&mut self, meta: MetaRow) -> Result<Epoch, Fault> {
        let meta = self.stand_in_anew(MetaRow { epoch: meta.epoch.next(), ..meta })?;
        self.put(table::single(table::META), &meta)?;
        Ok(meta.epoch)
    }

    fn create_token(
        &mut self,
        hash: &[u8; 32],
        purpose: TokenPurpose,
        expires: Timestamp,
    ) -> Result<Result<(), Refusal>, Fault> {
        let mut alive = 0;
        for (key, token) in table_rows::<TokenRow>(self, table::TOKEN)? {
            if token.expires <= self.stamp {
                self.remove(key)?;
            } else {
                alive += 1;
            }
        }
        if alive >= TOKENS_MAX {
            return Ok(Err(Refusal::Busy));
        }
        let key = table::token(hash);
        // The same secret twice is the same command sent again: the answer to the first was lost.
        if !self.exists(&key)? {
            self.put(key, &TokenRow { purpose, expires, used: None })?;
        }
        Ok(Ok(()))
    }

    fn redeem(
        &mut self,
        meta: MetaRow,
        hash: &[u8; 32],
        key: KeyFingerprint,
        newcomer: &Newcomer,
    ) -> Result<Result<TokenPurpose, Refusal>, Fault> {
        let token_key = table::token(hash);
        let Some(token) = self.read::<TokenRow>(&token_key)? else { return Ok(Err(Refusal::TokenUnknown)) };
        let peer = match newcomer {
            Newcomer::Node { id, .. } => Peer::Node(*id),
            Newcomer::Client { id } => Peer::Client(*id),
        };
        if token.expires <= self.stamp {
            return Ok(Err(Refusal::TokenExpired));
        }
        match token.used {
            Some(used) if used == (TokenUse { key, peer }) => return Ok(Ok(token.purpose)),
            Some(_) => return Ok(Err(Refusal::TokenUsed)),
            None => {}
        }
        let admitted = match (token.purpose, newcomer) {
            (TokenPurpose::Node, Newcomer::Node { id, address, zone, weight }) => {
                let node = NodeRow { id: *id, address: *address, zone: zone.clone(), weight: *weight, key };
                self.admit_node(meta, node)?
            }
            (TokenPurpose::Client(access), Newcomer::Client { id }) => {
                self.admit_client(ClientRow { id: *id, key, access })?
            }
            (TokenPurpose::Node, Newcomer::Client { .. }) | (TokenPurpose::Client(_), Newcomer::Node { .. }) => {
                Err(Refusal::TokenPurpose)
            }
        };
        if let Err(refusal) = admitted {
            return Ok(Err(refusal));
        }
        self.put(token_key, &TokenRow { used: Some(TokenUse { key, peer }), ..token })?;
        Ok(Ok(token.purpose))
    }

    fn admit_node(&mut self, meta: MetaRow, node: NodeRow) -> Result<Result<(), Refusal>, Fault> {
        if self.exists(&table::removed(node.id))? {
            return Ok(Err(Refusal::UnknownPeer));
        }
        let members = members(self)?;
        let same = members.iter().find(|member| member.id == node.id);
        let address_taken = members.iter().any(|member| member.id != node.id && member.address == node.address);
        match same {
            Some(member) if member.key == node.key => Ok(Ok(())),
            Some(_) => Ok(Err(Refusal::Taken)),
            None if address_taken => Ok(Err(Refusal::Taken)),
            None => {
                self.add_member(meta, node)?;
                Ok(Ok(()))
            }
        }
    }

    fn admit_client(&mut self, client: ClientRow) -> Result<Result<(), Refusal>, Fault> {
        let key = table::client(client.id);
        match self.read::<ClientRow>(&key)? {
            Some(old) if old.key != client.key => return Ok(Err(Refusal::Taken)),
            Some(_) | None => {}
        }
        self.put(key, &client)?;
        Ok(Ok(()))
    }

    /// Solves the ring if it is not solved and enough nodes have joined; the epoch afterwards.
    fn solve_ring(&mut self, meta: MetaRow) -> Result<Epoch, Fault> {
        if meta.bits.is_some() {
            return Ok(meta.epoch);
        }
        let bits = PartitionBits::new(RING_BITS).expect("a constant within the limit");
        let members: Vec<Member> = members(self)?.iter().map(NodeRow::member).collect();
        match solver::solve(None, &members, meta.replicas, bits, meta.epoch.next()) {
            Ok(ring) => {
                self.put(table::single(table::RING), &ring)?;
                self.next_map(MetaRow { bits: Some(bits), ..meta })
            }
            Err(_) => Ok(meta.epoch),
        }
    }

    fn move_node(&mut self, meta: MetaRow, node: NodeId, address: SocketAddr) -> Result<Result<Epoch, Refusal>, Fault> {
        let key = table::node(node);
        let Some(mut member) = self.read::<MemberRow>(&key)? else { return Ok(Err(Refusal::UnknownPeer)) };
        if member.node.address == address {
            return Ok(Ok(meta.epoch));
        }
        if members(self)?.iter().any(|other| other.address == address) {
            return Ok(Err(Refusal::Taken));
        }
        member.node.address = address;
        self.put(key, &member)?;
        Ok(Ok(self.next_map(meta)?))
    }

    /// The ring follows by a command of its own ([`ClusterCommand::Rebalance`]).
    fn place_node(
        &mut self,
        meta: MetaRow,
        node: NodeId,
        zone: Option<&Zone>,
        weight: Weight,
    ) -> Result<Result<Epoch, Refusal>, Fault> {
        let key = table::node(node);
        let Some(mut member) = self.read::<MemberRow>(&key)? else { return Ok(Err(Refusal::UnknownPeer)) };
        if member.node.zone.as_ref() == zone && member.node.weight == weight {
            return Ok(Ok(meta.epoch));
        }
        (member.node.zone, member.node.weight) = (zone.cloned(), weight);
        self.put(key, &member)?;
        Ok(Ok(self.next_map(meta)?))
    }
}

/// Which cluster the rows belong to; none before it is founded.
pub fn cluster_id(rows: &dyn KvRead) -> Result<Option<ClusterId>, KvError> {
    Ok(row::read::<MetaRow>(rows, &table::single(table::META))?.map(|meta| meta.cluster))
}
