//! Random schedules of three sessions whose messages are late, lost and out of order.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;
use wire::{
    lease::{LeaseGeneration, LeaseMode, LeaseNumber, Recall, Release, TERM},
    namespace::{Inode, SessionId},
};

use super::harness::{A, B, C, CLIENT, EXCLUSIVE, OVER, SHARED};
use crate::lease::{ChangeId, Clearing, Ending, Leases, Marking, Moment, Passing, Readiness, Standing};

const SESSIONS: [SessionId; 3] = [A, B, C];
const INODES: u64 = 4;

/// What a session believes. The state of an inode is a number that rises with each change.
#[derive(Clone, Copy, Debug)]
struct Belief {
    mode: LeaseMode,
    number: LeaseNumber,
    state: u64,
}

#[derive(Debug)]
struct Client {
    session: SessionId,
    /// None while it reclaims.
    generation: Option<LeaseGeneration>,
    /// The last one that it knew.
    known_generation: LeaseGeneration,
    /// Counts its reclaims, and since when the one under way is.
    reclaims: u64,
    reclaiming_since: Option<Instant>,
    /// What it said that it held.
    held: Vec<(Inode, LeaseMode)>,
    until: Instant,
    beliefs: BTreeMap<Inode, Belief>,
    /// The last recall of each inode.
    recalled: BTreeMap<Inode, (LeaseNumber, Option<LeaseMode>)>,
    known: LeaseNumber,
    change: Option<(ChangeId, Inode, Stage)>,
    silent_until: Instant,
}

impl Client {
    /// Grants before `number` give no more than `keep`.
    fn heed(&mut self, inode: Inode, number: LeaseNumber, keep: Option<LeaseMode>) {
        let last = self.recalled.entry(inode).or_insert((number, keep));
        if last.0 <= number {
            *last = (number, keep);
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Waiting,
    Marked,
    Proposed,
}

/// On its way to a session, or from it.
#[derive(Debug)]
enum Message {
    Granted { to: usize, generation: LeaseGeneration, number: LeaseNumber, leases: Vec<(Inode, LeaseMode, u64)> },
    Recalls { to: usize, generation: LeaseGeneration, recalls: Vec<Recall> },
    Renewed { to: usize, generation: LeaseGeneration, sent: Instant },
    Release { from: usize, generation: LeaseGeneration, release: Release },
    Reclaim { from: usize, reclaim: u64, term: u64, known: LeaseGeneration, held: Vec<(Inode, LeaseMode)> },
    Reclaimed { to: usize, reclaim: u64, generation: LeaseGeneration, refused: Vec<Inode> },
    NotCurrent { to: usize, generation: LeaseGeneration },
}

struct World {
    random: StdRng,
    leases: Leases,
    now: Instant,
    clients: Vec<Client>,
    messages: Vec<Message>,
    states: BTreeMap<Inode, u64>,
    term: u64,
    grants: u64,
    changes: u64,
    kept: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut leases = Leases::new(1, now);
        leases.begin(SESSIONS);
        let client = |session| Client {
            session,
            generation: None,
            known_generation: LeaseGeneration::default(),
            reclaims: 0,
            reclaiming_since: None,
            held: Vec::new(),
            until: now,
            beliefs: BTreeMap::new(),
            recalled: BTreeMap::new(),
            known: LeaseNumber::default(),
            change: None,
            silent_until: now,
        };
        Self {
            random: StdRng::seed_from_u64(seed),
            leases,
            now,
            clients: SESSIONS.map(client).into(),
            messages: Vec::new(),
            states: (0..INODES).map(|inode| (Inode(inode), 0)).collect(),
            term: 1,
            grants: 0,
            changes: 0,
            kept: 0,
        }
    }

    fn flip(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn inode(&mut self) -> Inode {
        Inode(self.random.random_range(0..INODES))
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.random.random_range(0..60));
        let ready = self.leases.readiness(self.now) == Readiness::Ready;
        let at = self.random.random_range(0..self.clients.len());
        if self.now >= self.clients[at].silent_until {
            match self.random.random_range(0..10) {
                0 if self.flip(4) => {
                    self.clients[at].silent_until = self.now + Duration::from_millis(self.random.random_range(0..9000));
                }
                0 | 1 => self.renew(at),
                2..=4 if ready => self.ask(at),
                5 if ready => self.wish(at),
                6 | 7 if ready => self.change(at),
                8 => self.poll_recalls(at),
                _ => self.give_up_one(at),
            }
        }
        if self.flip(1) {
            let generation = self.clients[at].generation;
            match generation {
                _ if self.flip(20) => self.begin_term(),
                Some(generation) => self.messages.push(Message::NotCurrent { to: at, generation }),
                None => {}
            }
        }
        while !self.messages.is_empty() && self.flip(60) {
            let index = self.random.random_range(0..self.messages.len());
            let message = self.messages.swap_remove(index);
            self.deliver(message);
        }
        self.check();
    }

    /// Another leader, with a table of its own. What was under way is decided or never will be.
    fn begin_term(&mut self) {
        self.term += 1;
        self.leases = Leases::new(self.term, self.now);
        self.leases.begin(SESSIONS);
        for client in &mut self.clients {
            if let Some((_, inode, Stage::Proposed)) = client.change.take() {
                client.beliefs.remove(&inode);
            }
        }
    }

    /// The generation, if it is current; another one is asked for.
    fn current(&mut self, at: usize) -> Option<LeaseGeneration> {
        let client = &self.clients[at];
        let session = client.session;
        let Some(generation) = client.generation else {
            self.reclaim(at);
            return None;
        };
        if self.leases.is_current(session, CLIENT, generation) {
            return Some(generation);
        }
        self.messages.push(Message::NotCurrent { to: at, generation });
        None
    }

    /// Says what it holds; again if there was no answer for long. Messages may come twice.
    fn reclaim(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if client.reclaiming_since.is_some_and(|since| self.now < since + Duration::from_millis(300)) {
            return;
        }
        client.reclaiming_since = Some(self.now);
        client.reclaims += 1;
        let live = client.until > self.now;
        let held: Vec<_> = match live {
            true => client.beliefs.iter().map(|(inode, belief)| (*inode, belief.mode)).collect(),
            false => Vec::new(),
        };
        let (reclaim, known) = (client.reclaims, client.known_generation);
        let copies = 1 + u32::from(self.flip(30));
        for _ in 0..copies {
            let held = held.clone();
            self.messages.push(Message::Reclaim { from: at, reclaim, term: self.term, known, held });
        }
        self.clients[at].held = held;
    }

    /// Whoever says so may be wrong: a node that does not lead any more.
    fn handle_not_current(&mut self, at: usize, generation: LeaseGeneration) {
        let client = &mut self.clients[at];
        if client.generation == Some(generation) {
            client.generation = None;
            client.known_generation = generation;
            client.reclaiming_since = None;
            self.reclaim(at);
        }
    }

    fn handle_reclaimed(&mut self, to: usize, generation: LeaseGeneration, refused: &[Inode]) {
        let client = &mut self.clients[to];
        let was_said = |inode: &Inode| client.held.iter().any(|(held, _)| held == inode);
        client.beliefs.retain(|inode, _| was_said(inode) && !refused.contains(inode));
        for belief in client.beliefs.values_mut() {
            belief.number = LeaseNumber::default();
        }
        self.kept += client.beliefs.len() as u64;
        client.recalled.clear();
        client.known = LeaseNumber::default();
        client.generation = Some(generation);
        let sent = client.reclaiming_since.take();
        client.until = client.until.max(sent.unwrap() + TERM);
    }

    fn renew(&mut self, at: usize) {
        let sent = self.now;
        if let Some(generation) = self.current(at) {
            self.leases.handle_renew(self.clients[at].session, self.now);
            self.messages.push(Message::Renewed { to: at, generation, sent });
        }
    }

    fn granted(&mut self, at: usize, exclusive: &[Inode], told: &[Inode], since: Moment, states: &[u64]) {
        let session = self.clients[at].session;
        let Some(generation) = self.clients[at].generation else { return };
        let (unleased, number) = self.leases.settle_ask(session, exclusive, told, since);
        let told = told.iter().zip(states).filter(|(inode, _)| !unleased.contains(inode));
        let mode = |inode| if exclusive.contains(inode) { EXCLUSIVE } else { SHARED };
        let leases: Vec<_> = told.map(|(inode, state)| (*inode, mode(inode), *state)).collect();
        self.grants += leases.len() as u64;
        self.messages.push(Message::Granted { to: at, generation, number, leases });
    }

    fn ask(&mut self, at: usize) {
        if self.current(at).is_none() {
            return;
        }
        let told = [self.inode()];
        let since = self.leases.moment();
        let states = told.map(|inode| self.states[&inode]);
        // Others may do something between the state that is told and the grant.
        if self.flip(30) {
            let other = (at + 1) % self.clients.len();
            self.change(other);
        }
        let session = self.clients[at].session;
        if self.leases.poll_told(Some(session), &told, since, self.now) == Standing::Current {
            self.granted(at, &[], &told, since, &states);
        }
    }

    fn wish(&mut self, at: usize) {
        if self.current(at).is_none() {
            return;
        }
        let (session, inode) = (self.clients[at].session, self.inode());
        let id = self.leases.open_change(session, Passing::No);
        let marked = self.leases.mark(id, &[inode]) == Marking::Marked;
        if !marked || self.leases.poll_clear(id, self.now) != Clearing::Clear {
            // It does not wait; what it recalled is recalled.
            return self.leases.end_change(id, Ending::Abandoned);
        }
        self.leases.settle_exclusive(id);
        let since = self.leases.moment();
        let state = self.states[&inode];
        self.granted(at, &[inode], &[inode], since, &[state]);
    }

    /// Begins a change, or goes on with the one under way.
    fn change(&mut self, at: usize) {
        let session = self.clients[at].session;
        let (id, inode, stage) = match self.clients[at].change {
            Some(change) => change,
            None => (self.leases.open_change(session, Passing::Allowed), self.inode(), Stage::Waiting),
        };
        let stage = match stage {
            Stage::Waiting if self.leases.mark(id, &[inode]) == Marking::Blocked => Stage::Waiting,
            Stage::Waiting | Stage::Marked => match self.leases.poll_clear(id, self.now) {
                Clearing::Clear => {
                    self.apply(at, inode);
                    Stage::Proposed
                }
                Clearing::LookAgain | Clearing::Until(_) => Stage::Marked,
            },
            Stage::Proposed => {
                self.answer(at, id, inode);
                self.clients[at].change = None;
                return;
            }
        };
        self.clients[at].change = Some((id, inode, stage));
    }

    fn apply(&mut self, at: usize, inode: Inode) {
        for (other, client) in self.clients.iter().enumerate() {
            let holds = client.until > self.now && client.beliefs.contains_key(&inode);
            assert!(other == at || !holds, "{inode} changes under {:?}", client.session);
        }
        *self.states.get_mut(&inode).unwrap() += 1;
        self.changes += 1;
    }

    fn answer(&mut self, at: usize, id: ChangeId, inode: Inode) {
        let session = self.clients[at].session;
        let generation = self.clients[at].generation.filter(|now| self.leases.is_current(session, CLIENT, *now));
        if generation.is_none() {
            // What it left is not known under this generation.
            self.clients[at].beliefs.remove(&inode);
            return self.leases.end_change(id, Ending::Decided);
        }
        let (unleased, number) = self.leases.settle_change(id, &[].into(), &[inode]);
        let state = self.states[&inode];
        let client = &mut self.clients[at];
        // What was granted before and arrives later is older than this answer.
        let granted = unleased.is_empty().then_some(SHARED);
        client.heed(inode, number, granted);
        match client.beliefs.get_mut(&inode) {
            Some(belief) if granted.is_some() => *belief = Belief { number, state, ..*belief },
            Some(_) => drop(client.beliefs.remove(&inode)),
            None if granted.is_some() => drop(client.beliefs.insert(inode, Belief { mode: SHARED, number, state })),
            None => {}
        }
    }

    fn poll_recalls(&mut self, at: usize) {
        if let Some(generation) = self.current(at) {
            let recalls = self.leases.recalls(self.clients[at].session, self.clients[at].known);
            self.messages.push(Message::Recalls { to: at, generation, recalls });
        }
    }

    fn give_up_one(&mut self, at: usize) {
        let first = self.clients[at].beliefs.keys().next().copied();
        if let (Some(inode), true) = (first, self.flip(30)) {
            self.let_go(at, inode, LeaseNumber::default(), None);
        }
    }

    fn let_go(&mut self, from: usize, inode: Inode, number: LeaseNumber, keep: Option<LeaseMode>) {
        let client = &mut self.clients[from];
        let Some(generation) = client.generation else { return };
        let number = client.beliefs.get(&inode).map_or(number, |belief| belief.number.max(number));
        client.heed(inode, number, keep);
        match (client.beliefs.get_mut(&inode), keep) {
            (Some(belief), Some(keep)) => belief.mode = belief.mode.min(keep),
            (_, _) => drop(client.beliefs.remove(&inode)),
        }
        self.messages.push(Message::Release { from, generation, release: Release { number, inode, keep } });
    }

    fn deliver(&mut self, message: Message) {
        let (to, generation) = match &message {
            Message::Granted { to, generation, .. }
            | Message::Recalls { to, generation, .. }
            | Message::Renewed { to, generation, .. } => (*to, *generation),
            Message::Release { from, generation, release } => {
                let session = self.clients[*from].session;
                if self.leases.is_current(session, CLIENT, *generation) {
                    self.leases.handle_release(session, &[*release]);
                }
                return;
            }
            Message::Reclaim { from, reclaim, term, known, held } => {
                let (from, reclaim) = (*from, *reclaim);
                // What was sent to the leader of a term is not heard by that of a later one.
                if *term != self.term {
                    return;
                }
                let client = (CLIENT, *known);
                let session = self.clients[from].session;
                let (generation, refused) = self.leases.handle_reclaim(session, client, held, false, self.now);
                if self.flip(80) {
                    self.messages.push(Message::Reclaimed { to: from, reclaim, generation, refused });
                }
                return;
            }
            Message::Reclaimed { to, .. } | Message::NotCurrent { to, .. } => (*to, LeaseGeneration::default()),
        };
        let client = &mut self.clients[to];
        if self.now < client.silent_until {
            return self.messages.push(message);
        }
        match message {
            Message::NotCurrent { to, generation } => return self.handle_not_current(to, generation),
            Message::Reclaimed { to, reclaim, generation, refused } => {
                if client.generation.is_none() && client.reclaims == reclaim {
                    self.handle_reclaimed(to, generation, &refused);
                }
                return;
            }
            _ if client.generation != Some(generation) => return,
            _ => {}
        }
        match message {
            Message::Granted { number, leases, .. } => {
                for (inode, mode, state) in leases {
                    // Older than what is known: a belief that it would make is not missed.
                    if client.recalled.get(&inode).is_some_and(|(recalled, _)| *recalled > number) {
                        continue;
                    }
                    match client.beliefs.get_mut(&inode) {
                        Some(held) if held.number > number => {}
                        Some(held) => {
                            *held = Belief { mode: held.mode.max(mode), number, state: held.state.max(state) }
                        }
                        None => drop(client.beliefs.insert(inode, Belief { mode, number, state })),
                    }
                }
            }
            Message::Recalls { recalls, .. } => {
                for Recall { number, inode, keep } in recalls {
                    let client = &mut self.clients[to];
                    client.known = client.known.max(number);
                    client.heed(inode, number, keep);
                    self.let_go(to, inode, number, keep);
                }
            }
            Message::Renewed { sent, .. } => client.until = client.until.max(sent + TERM),
            _ => unreachable!("it went the other way, or was dealt with"),
        }
    }

    fn check(&self) {
        let live = |client: &&Client| client.until > self.now;
        for (inode, state) in &self.states {
            let believed: Vec<_> = self
                .clients
                .iter()
                .filter(live)
                .filter_map(|client| {
                    let belief = client.beliefs.get(inode)?;
                    Some((client, belief))
                })
                .collect();
            let exclusive = believed.iter().any(|(_, belief)| belief.mode == EXCLUSIVE);
            assert!(!exclusive || believed.len() == 1, "{inode} is exclusive and not alone: {believed:?}");
            for (client, belief) in believed {
                let own = client.change.is_some_and(|(_, changes, _)| changes == *inode);
                assert!(own || belief.state == *state, "{inode} is at {state}, and {client:?} believes otherwise");
            }
        }
    }
}

#[test]
fn no_session_believes_what_is_not_so_whatever_the_messages_do() {
    let (mut grants, mut changes, mut kept) = (0, 0, 0);
    for seed in 0..60 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..3000 {
            world.step();
        }
        world.now += OVER * 3;
        assert_eq!(world.leases.readiness(world.now), Readiness::Ready);
        grants += world.grants;
        changes += world.changes;
        kept += world.kept;
    }
    assert!(grants > 3000 && changes > 3000, "{grants} grants and {changes} changes prove something");
    assert!(kept > 500, "{kept} leases were kept over a reclaim");
}
