//! `dfs dev up`: makes a cluster, or starts what is not running of it.

use std::{fs, time::Duration};

use fuse_client::{
    Profile,
    login::{ReplaceProfile, login},
};
use tokio::time::Instant;
use wire::{
    cluster::{Access, ClusterStatus, TokenPurpose},
    token::Token,
};

use super::{
    UpArguments,
    binary::Programs,
    folder::{DevFolder, DevNode, DevState, Stage},
    join::{self, Place},
    mounted::Mounter,
    ports,
    process::{self, NodeProcess, Started},
    serving,
};
use crate::cli::{
    failure::{Failure, Line},
    invocation::Invocation,
    screen::say,
    text::number::counted,
};

/// Longest wait for everything: a node starts in a second, an election takes another.
const UP_MAX: Duration = Duration::from_secs(60);

/// How long a cluster may not serve before its processes are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Nodes and replicas if nobody says otherwise.
const DEFAULT_COUNT: u8 = 3;

/// Brings the cluster up, step by step; each looks whether it is done.
pub(super) async fn run(invocation: &Invocation, arguments: UpArguments) -> Result<(), Failure> {
    let folder = DevFolder::create(&arguments.folder.path(invocation)?)?;
    let _lock = folder.lock()?;
    let mut state = plan(folder.load()?, &arguments)?;
    let programs = Programs::find(&invocation.environment, arguments.node_binary.as_deref())?;
    Mounter { invocation, folder: &folder }.plan(&mut state, arguments.mount.as_deref())?;
    folder.save(&state)?;
    let deadline = Instant::now() + UP_MAX;

    let up = Up { invocation, programs, folder, capacity: arguments.capacity, deadline };
    up.make_folders(&state)?;
    up.found(&mut state).await?;
    up.start_members(&state).await?;
    up.join_others(&mut state).await?;
    up.write_profile().await?;
    let status = up.wait(&mut state).await?;
    if let Some(dir) = &state.mount {
        Mounter { invocation, folder: &up.folder }.bring_up(&up.programs, dir).await?;
    }
    let default = up.default_profile(&status);
    invocation.screen.print(&up.summary(&state, &default))
}

/// The state that was asked for: a new one, or the old one with nodes added.
fn plan(existing: Option<DevState>, arguments: &UpArguments) -> Result<DevState, Failure> {
    let had = existing.as_ref().map_or(0, |state| state.nodes.len());
    let asked = arguments.nodes.map(usize::from);
    let count = asked.unwrap_or(if had > 0 { had } else { usize::from(DEFAULT_COUNT) });
    let mut state = match existing {
        None => {
            let fits = u8::try_from(count).unwrap_or(u8::MAX).min(DEFAULT_COUNT);
            DevState::new(arguments.replicas.unwrap_or(fits), Vec::new())
        }
        Some(state) => {
            if count < had {
                let line = Line::new(format!("the cluster has {had} nodes, not {count}"));
                return Err(line.advice("leave out --nodes, or make another one with --dir").usage());
            }
            if let Some(replicas) = arguments.replicas.filter(|&replicas| replicas != state.replicas) {
                let line = Line::new(format!("the cluster was made for {} replicas, not {replicas}", state.replicas));
                return Err(line.advice("leave out --replicas, or make another one with --dir").usage());
            }
            state
        }
    };
    if count < usize::from(state.replicas) {
        let replicas = state.replicas;
        let line = Line::new(format!("{} cannot keep {replicas} replicas", counted(count as u64, "node", "nodes")));
        return Err(line.advice(format!("use --nodes {replicas} or more, or fewer --replicas")).usage());
    }
    let ports = new_ports(&state, count - had, arguments.port_base)?;
    state.nodes.extend(ports.into_iter().map(|port| DevNode::planned(format!("127.0.0.1:{port}"))));
    Ok(state)
}

/// Ports for nodes to be added.
fn new_ports(state: &DevState, count: usize, base: Option<u16>) -> Result<Vec<u16>, Failure> {
    let mut taken = ports::taken();
    let ours = state.nodes.iter().filter_map(|node| node.address.rsplit(':').next()?.parse::<u16>().ok());
    taken.extend(ours);
    let Some(base) = base else {
        let none = || Line::new("no free ports").advice("choose some with --port-base").failed();
        return ports::choose(&taken, count, rand::random()).ok_or_else(none);
    };
    let first = usize::from(base) + state.nodes.len();
    (first..first + count)
        .map(|port| match u16::try_from(port) {
            Ok(port) if !taken.contains(&port) => Ok(port),
            Ok(port) => Err(Line::new(format!("port {port} is taken")).advice("choose another --port-base").failed()),
            Err(_) => Err(Line::new(format!("--port-base {base} leaves no room for {count} ports")).usage()),
        })
        .collect()
}

/// One run of the command.
struct Up<'a> {
    invocation: &'a Invocation,
    programs: Programs,
    folder: DevFolder,
    capacity: Option<String>,
    deadline: Instant,
}

impl Up<'_> {
    fn make_folders(&self, state: &DevState) -> Result<(), Failure> {
        (0..state.nodes.len()).try_for_each(|index| {
            let node = self.folder.node(index);
            fs::create_dir_all(node.path())
                .map_err(|error| Line::new(format!("cannot make {}", node.path().display())).because(&error).failed())
        })
    }

    /// The first node makes the cluster.
    async fn found(&self, state: &mut DevState) -> Result<(), Failure> {
        let replicas = state.replicas;
        let Some(first) = state.nodes.first_mut().filter(|first| first.stage == Stage::Planned) else {
            return Ok(());
        };
        let place = Place { listen: &first.address, capacity: self.capacity.as_deref() };
        join::init(&self.programs, &self.folder.node(0), replicas, &place).await?;
        first.stage = Stage::Joined;
        self.folder.save(state)
    }

    /// Starts every member that does not run, all at once: none can serve before most of them do.
    async fn start_members(&self, state: &DevState) -> Result<(), Failure> {
        let mut started = Vec::new();
        for (index, node) in state.nodes.iter().enumerate().filter(|(_, node)| node.stage == Stage::Joined) {
            started.extend(self.start(index, node, state.nodes.len())?.map(|started| (index, started)));
        }
        for (index, mut started) in started {
            serving::until_ready(&self.folder.node(index), &mut started, self.deadline).await?;
        }
        Ok(())
    }

    fn start(&self, index: usize, node: &DevNode, nodes: usize) -> Result<Option<Started>, Failure> {
        let folder = self.folder.node(index);
        if NodeProcess::find(&folder).is_some() {
            return Ok(None);
        }
        process::start((&self.programs.dfs, &self.programs.node), &folder, nodes, &node.address)
            .map(Some)
            .map_err(|error| Line::new(format!("cannot start {}", folder.name())).because(&error).failed())
    }

    /// The others become members, one after the other, and run.
    async fn join_others(&self, state: &mut DevState) -> Result<(), Failure> {
        let profile = serving::profile(&self.folder.node(0).admin_profile())?;
        let nodes = state.nodes.len();
        for index in 0..nodes {
            let folder = self.folder.node(index);
            let Some(node) = state.nodes.get_mut(index).filter(|node| node.stage == Stage::Planned) else {
                continue;
            };
            let place = Place { listen: &node.address, capacity: self.capacity.as_deref() };
            join::join(&self.programs, &folder, &place, &profile, self.deadline).await?;
            node.stage = Stage::Joined;
            let started = self.start(index, node, nodes)?;
            self.folder.save(state)?;
            if let Some(mut started) = started {
                serving::until_ready(&folder, &mut started, self.deadline).await?;
            }
        }
        Ok(())
    }

    /// Logs a client in, if there is none yet.
    async fn write_profile(&self) -> Result<(), Failure> {
        let folder = self.folder.profile();
        if Profile::load(&folder).is_ok() {
            return Ok(());
        }
        let admin = serving::profile(&self.folder.node(0).admin_profile())?;
        let purpose = TokenPurpose::Client(Access::ReadWrite);
        let text = join::token(&admin, purpose, self.deadline).await?;
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Line::new(format!("cannot write the profile {}", folder.display())).because(error).failed()
        };
        let token: Token = text.parse().map_err(|error| failed(&error))?;
        login(&token, &folder, ReplaceProfile::Yes).await.map(drop).map_err(|error| failed(&error))
    }

    fn all_run(&self, state: &DevState) -> bool {
        (0..state.nodes.len()).all(|index| NodeProcess::find(&self.folder.node(index)).is_some())
    }

    /// Until all serves; identities are noted for when it does not.
    async fn wait(&self, state: &mut DevState) -> Result<ClusterStatus, Failure> {
        let log = self.folder.node(0).log();
        let profile = serving::profile(&self.folder.profile())?;
        let status = loop {
            let patience = self.deadline.min(Instant::now() + LOOK_AGAIN);
            match serving::until_serving(&profile, state, &log, patience).await {
                Ok(status) if self.all_run(state) => break status,
                Err(failure) if Instant::now() >= self.deadline => return Err(failure),
                // One that was killed a moment ago was seen to run still when the others were started.
                Ok(_) | Err(_) => self.start_members(state).await?,
            }
        };
        for node in &mut state.nodes {
            let row = status.nodes.iter().find(|row| row.row.address.to_string() == node.address);
            node.id = row.map(|row| row.row.id.to_string()).or(node.id.take());
        }
        self.folder.save(state)?;
        Ok(status)
    }

    /// Makes the cluster the default one if there is none. Returns what a command needs to reach it.
    fn default_profile(&self, status: &ClusterStatus) -> String {
        let places = self.invocation.profile_places();
        let name = std::ffi::OsStr::new("default");
        let named = format!(" --profile {}", self.folder.profile().display());
        match places.find(name).and_then(|folder| Profile::load(&folder)) {
            Ok(profile) if profile.cluster == status.cluster => return String::new(),
            Ok(_) => return named,
            Err(fuse_client::ProfileError::Missing { .. }) => {}
            Err(_) => return named,
        }
        // The user's own: a cluster for trying things out is not for the whole machine.
        let Some(user) = places.user else { return named };
        let copied = Profile::load(&self.folder.profile()).and_then(|profile| profile.save(&user.join(name)));
        match copied {
            Ok(()) => String::new(),
            Err(error) => {
                say(&Line::new("there is no default profile").because(&error).to_string());
                named
            }
        }
    }

    fn summary(&self, state: &DevState, profile: &str) -> String {
        let nodes = counted(state.nodes.len() as u64, "node serves", "nodes serve");
        let dir = self.folder.path().display();
        let mount = state.mount.as_ref().map(|dir| format!(", mounted on {}", dir.display())).unwrap_or_default();
        format!(
            "{nodes}, in {dir}{mount}\n\
             Try:   dfs{profile} upload -r SRC /\n\
             \x20      dfs{profile} ls -l /\n\
             Stop:  dfs dev down --dir {dir}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{UpArguments, plan};
    use crate::cli::{
        arguments::{Arguments, Command},
        dev::{DevArguments, DevCommand, folder::DevState},
    };

    fn up(line: &[&str]) -> UpArguments {
        match Arguments::parse_from([&["dfs", "dev", "up"], line].concat()).command {
            Command::Dev(DevArguments { command: DevCommand::Up(arguments) }) => arguments,
            other => panic!("not dev up: {other:?}"),
        }
    }

    #[test]
    fn a_new_cluster_has_three_nodes_and_three_replicas() {
        let state = plan(None, &up(&[])).unwrap();
        assert_eq!((state.nodes.len(), state.replicas), (3, 3));
    }

    #[test]
    fn fewer_nodes_than_three_keep_as_many_replicas_as_they_are() {
        assert_eq!(plan(None, &up(&["--nodes", "1"])).unwrap().replicas, 1);
        assert_eq!(plan(None, &up(&["--nodes", "5"])).unwrap().replicas, 3);
        assert!(plan(None, &up(&["--nodes", "2", "--replicas", "3"])).is_err());
    }

    #[test]
    fn an_existing_cluster_keeps_its_addresses_and_may_grow_but_not_shrink() {
        let old = DevState::new(3, ["a:1", "a:2", "a:3"].map(String::from).to_vec());
        assert_eq!(plan(Some(old.clone()), &up(&[])).unwrap(), old);
        let grown = plan(Some(old.clone()), &up(&["--nodes", "4"])).unwrap();
        assert_eq!((grown.nodes.len(), &grown.nodes[..3]), (4, &old.nodes[..]));
        assert!(plan(Some(old.clone()), &up(&["--nodes", "2"])).is_err());
        assert!(plan(Some(old), &up(&["--replicas", "2"])).is_err());
    }
}
