//! `dfs-node`: one storage daemon. Arguments → data directory → serve until signalled.

use std::{io::Write, net::SocketAddr, path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use clap::Parser;
use node::{
    authority::seal,
    chunk_store::ChunkStoreConfig,
    config::{Config, GarbageConfig, MembershipConfig, MergeConfig, ServeConfig},
    consensus::{Health, SystemClock, WallClock},
    disk::{
        Disk, FileDisk, FileDiskConfig, LockError,
        ballast::{Ballast, Starved},
        data_dir::{DataDir, FORMAT, NodeFile},
    },
    kv::{FjallConfig, FjallKv},
    node::{Node, Parts},
    recover::{self, Report, Scene},
};
use rand::Rng;
use ring::NodeId;
use tracing::info;
use wire::{
    cluster::{Access, ClientId, ClusterId, Newcomer, Peer, Redeem, SealKey, TokenPurpose},
    quic::{Authority, AuthorityKey, Endpoint, EndpointConfig, KeyPair, UdpSocketConfig, bind_udp},
    token::{Token, TokenError},
};

mod arguments;
mod founding;
mod place;
mod room;

use arguments::{Arguments, Command, InitArguments, JoinArguments, RecoverArguments, RunArguments};
use place::{advertised, check_place, disk_len, weight};

/// How long a redemption may take at one seed.
const REDEEM_DEADLINE: Duration = Duration::from_secs(15);

/// How long a node waits for the lock of its directory.
const LOCK_MAX: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// The command was given in a way that cannot be: its status is that of what the parser of the arguments refuses.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUsage(String);

/// Exit status of [`WrongUsage`].
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow!(error).context("the runtime does not start")),
    };
    let result = runtime.block_on(async {
        match arguments.command {
            Command::Init(arguments) => init(arguments).await,
            Command::Join(arguments) => join(arguments).await,
            Command::Run(arguments) => run(arguments).await,
            Command::Recover(arguments) => recover(arguments).await,
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    // One line: each cause once, though some libraries repeat theirs in their own text.
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.contains(&cause) {
            line.push_str(if line.is_empty() { "" } else { ": " });
            line.push_str(&cause);
        }
    }
    tell(&line);
    if error.is::<WrongUsage>() { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE }
}

/// What a person reads. Where nobody can, on a full disk or a closed pipe, the node goes on.
fn tell(line: &str) {
    drop(writeln!(std::io::stderr(), "dfs-node: {line}"));
}

/// What the command says, in the same way.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// Locks the directory for as long as the guard lives. A process that was killed holds its lock until the kernel has
/// taken it down, so one that is started at once in its place tries for a while.
async fn lock(path: &Path) -> anyhow::Result<node::disk::DirLock> {
    let disk = disk("lock")?;
    let until = tokio::time::Instant::now() + LOCK_MAX;
    loop {
        match disk.lock_dir(path).await {
            Err(LockError::InUse { .. }) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(LOCK_POLL).await;
            }
            locked => return Ok(locked?),
        }
    }
}

fn disk(name: &'static str) -> anyhow::Result<Arc<dyn Disk>> {
    let disk = FileDisk::start(&FileDiskConfig { name, ..FileDiskConfig::default() });
    Ok(Arc::new(disk.context("the threads of the disk do not start")?))
}

async fn init(InitArguments { place, replicas }: InitArguments) -> anyhow::Result<()> {
    check_place(&place)?;
    let dir = DataDir::create(&place.data)?;
    let _lock = lock(dir.path()).await?;
    let mut rng = rand::rng();
    let cluster = ClusterId(rng.random());
    let authority = AuthorityKey::generate(cluster);
    let seal_key = SealKey(rng.random());
    let key = dir.key()?;
    let id = node_id_of(&key);
    let certificate = authority.sign(&key.request(), Peer::Node(id), Access::ReadWrite)?;
    dir.write_certificate(&certificate, authority.authority())?;
    dir.write_seal(&seal_key)?;
    dir.write_founding(&seal(&authority, &seal_key, rng.random()))?;
    let advertise = place.advertise.unwrap_or(place.listen);
    write_admin(&dir, &authority, cluster, advertise, ClientId(rng.random()))?;
    dir.write_node_file(&NodeFile {
        format: FORMAT,
        cluster: cluster.to_string(),
        node: id.to_string(),
        replicas,
        listen: place.listen,
        advertise,
        zone: place.zone,
        capacity: place.capacity.map(|size| size.as_u64()),
        seeds: Vec::new(),
        owner: Some((rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())),
    })?;
    let data = place.data.display();
    say(&format!("cluster {cluster} made, this is node {id}"));
    say(&format!("start it:        dfs-node run --data {data}"));
    say(&format!("add nodes:       dfs --profile {data}/admin token create --for node"));
    say(&format!("let clients in:  dfs --profile {data}/admin token create --for client"));
    Ok(())
}

/// The profile of the first client, who may make tokens for everybody else.
fn write_admin(
    dir: &DataDir,
    authority: &AuthorityKey,
    cluster: ClusterId,
    seed: SocketAddr,
    client: ClientId,
) -> anyhow::Result<()> {
    let key = KeyPair::generate();
    let certificate = authority.sign(&key.request(), Peer::Client(client), Access::ReadWrite)?;
    let profile = format!("version = 1\ncluster = \"{cluster}\"\naccess = \"read-write\"\nseeds = [\"{seed}\"]\n");
    dir.write_profile(&[
        ("key.der", &key.to_pkcs8()),
        ("authority.der", &authority.authority().certificate),
        ("certificate.der", &certificate),
        ("profile.toml", profile.as_bytes()),
    ])?;
    Ok(())
}

async fn join(JoinArguments { place, token }: JoinArguments) -> anyhow::Result<()> {
    check_place(&place)?;
    let token: Token = token.parse().map_err(|error: TokenError| WrongUsage(error.to_string()))?;
    if token.purpose != TokenPurpose::Node {
        let line = "this token lets a client in, not a node; make one with dfs token create --for node";
        return Err(WrongUsage(line.to_owned()).into());
    }
    let dir = DataDir::create(&place.data)?;
    let _lock = lock(dir.path()).await?;
    let key = dir.key()?;
    let id = node_id_of(&key);
    let advertise = place.advertise.unwrap_or(place.listen);
    let capacity = place.capacity.map(|size| size.as_u64());
    let weight = weight(dir.path(), capacity).await?;
    let newcomer = Newcomer::Node { id, address: advertise, zone: place.zone.clone(), weight };
    let redeem = Redeem { secret: token.secret, request: key.request(), newcomer };
    let redeemed = redeem_anywhere(&token, &redeem, advertise).await?;
    let authority = Authority { certificate: redeemed.authority };
    dir.write_certificate(&redeemed.certificate, &authority)?;
    dir.credentials()?;
    dir.write_node_file(&NodeFile {
        format: FORMAT,
        cluster: redeemed.cluster.to_string(),
        node: id.to_string(),
        replicas: redeemed.replicas,
        listen: place.listen,
        advertise,
        zone: place.zone,
        capacity,
        seeds: redeemed.seeds,
        owner: None,
    })?;
    say(&format!("joined cluster {} as node {id}", redeemed.cluster));
    say(&format!("start it:  dfs-node run --data {}", place.data.display()));
    Ok(())
}

/// Asks one seed after the other. The same key may ask again: a lost answer uses nothing up.
async fn redeem_anywhere(
    token: &Token,
    redeem: &Redeem,
    advertise: SocketAddr,
) -> anyhow::Result<wire::cluster::Redeemed> {
    let mut last = anyhow!("the token names no node to ask");
    for &seed in &token.seeds {
        let any: SocketAddr = if seed.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = bind_udp(any, UdpSocketConfig::default()).context("cannot open a UDP socket")?;
        let config = EndpointConfig { socket, credentials: None, cluster: None, serve: false, rng_seed: None };
        let endpoint = Endpoint::new(config)?;
        let answer = endpoint.redeem(seed, token.authority, redeem, REDEEM_DEADLINE).await;
        endpoint.close().await;
        match answer {
            Ok(redeemed) => return Ok(redeemed),
            Err(wire::quic::RedeemError::Refused(wire::Refusal::Taken)) => {
                return Err(anyhow!(
                    "another node of the cluster has the address {advertise}: remove that one if it is gone (dfs remove \
                     {advertise}), or join with another --listen; the token is still good"
                ));
            }
            Err(wire::quic::RedeemError::Refused(refusal)) if !is_passing(&refusal) => {
                return Err(anyhow!("{refusal}; make a new one with dfs token create --for node"));
            }
            Err(error) => last = anyhow!(error).context(format!("{seed} cannot let this node in")),
        }
    }
    Err(last)
}

/// Whether another seed, or a later try, may answer otherwise.
fn is_passing(refusal: &wire::Refusal) -> bool {
    use wire::Refusal as R;
    matches!(refusal, R::Busy | R::NoQuorum | R::NotLeader { .. } | R::NotServing | R::Internal)
}

/// A node's identity is born with its key, so that asking twice is asking as the same node.
fn node_id_of(key: &KeyPair) -> NodeId {
    let [id, _] = *key.fingerprint().0.as_chunks::<16>().0 else {
        unreachable!("32 bytes are two halves of 16");
    };
    NodeId::from_bytes(id)
}

async fn run(arguments: RunArguments) -> anyhow::Result<()> {
    let levels = tracing_subscriber::EnvFilter::try_new(&arguments.log)
        .map_err(|error| WrongUsage(format!("--log {}: {error}", arguments.log)))?;
    tracing_subscriber::fmt()
        .with_env_filter(levels)
        .with_writer(std::io::stderr)
        // They would be told on standard error too, and a node whose log is on a full disk would end of it.
        .log_internal_errors(false)
        .with_ansi(false)
        .init();
    raise_file_limit();
    let (dir, file) = DataDir::open(&arguments.data)?;
    advertised(&file, &arguments)?;
    let _lock = lock(dir.path()).await?;
    dir.check_raft_log()?;
    let (mut signals, mut ballast, began) =
        (room::Signals::listen()?, Ballast::new(dir.path()), tokio::time::Instant::now());
    let served = serve(&dir, &file, &arguments, (&mut signals, ballast.twin())).await;
    let Err(failure) = served else { return Ok(()) };
    tokio::select! {
        biased;
        _ = signals.next() => Err(failure),
        made = room::make(&mut ballast, began) => match made {
            Ok(Some(count)) => {
                tracing::error!(%failure, count, "the file system was full: starting over");
                Err(failure.context(room::start_over(count)))
            }
            Ok(None) => Err(failure),
            Err(error) => Err(failure.context(error)),
        },
    }
}

/// Serves until a signal, or until something fails that this node cannot go on without.
async fn serve(
    dir: &DataDir,
    file: &NodeFile,
    arguments: &RunArguments,
    (signals, ballast): (&mut room::Signals, Ballast),
) -> anyhow::Result<()> {
    // A store may take long to open. Whoever does not wait for that loses no more than by a kill.
    let node = tokio::select! {
        biased;
        signal = signals.next() => {
            info!(signal, "stopping before it serves");
            return Ok(());
        }
        started = start(dir, file, arguments, ballast.starved()) => started?,
    };
    let ballast = tokio::spawn(ballast.keep());
    // In a task: what it looks at changes with every entry of the log, and this thread would be woken for each.
    let watched = tokio::spawn(failed(node.clone()));
    let failed = tokio::select! {
        signal = signals.next() => {
            info!(signal, "stopping");
            None
        }
        reason = watched => Some(reason?),
    };
    ballast.abort();
    node.shut_down().await;
    match failed {
        None => Ok(()),
        Some(failure) => Err(failure),
    }
}

async fn start(
    dir: &DataDir,
    file: &NodeFile,
    arguments: &RunArguments,
    starved: Starved,
) -> anyhow::Result<Arc<Node>> {
    let (parts, config) = assemble(dir, file, arguments).await?;
    let config = Config { starved, ..config };
    let (id, listen) = (parts.id, config.listen);
    let first_client = parts.founding.as_ref().map(|founding| founding.client);
    let node = Node::start(parts, config).await?;
    if let Some(client) = first_client {
        founding::settle(&node, dir, client).await;
    }
    say(&format!("dfs-node: ready, node {id} on {listen}"));
    info!(%id, %listen, "serving");
    Ok(node)
}

/// Sealed segments stay open, four thousand a terabyte: as many files as the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// Waits until consensus or the chunk index has failed on this node: it must not go on as if they had not.
async fn failed(node: Arc<Node>) -> anyhow::Error {
    let (mut view, mut index) = (node.consensus.watch(), node.chunks.watch_index());
    let namespace = async {
        let failed = view.wait_for(|view| matches!(view.health, Health::Failed { .. })).await;
        match failed.as_deref().map(|view| &view.health) {
            Ok(Health::Failed { reason }) => reason.clone(),
            _ => "it ended".to_owned(),
        }
    };
    let index = async {
        let failed = index.wait_for(Option::is_some).await;
        failed.ok().and_then(|reason| reason.clone()).unwrap_or_else(|| "it ended".to_owned())
    };
    tokio::select! {
        reason = namespace => anyhow!("the namespace failed on this node and was stopped: {reason}"),
        reason = index => anyhow!("the chunk index failed on this node, which starts again from what is on disk: {reason}"),
    }
}

async fn recover(RecoverArguments { data, force, follow }: RecoverArguments) -> anyhow::Result<()> {
    let cannot = || format!("cannot recover {}", data.display());
    let (dir, file) = DataDir::open(&data)?;
    let _lock = lock(dir.path()).await.with_context(cannot)?;
    let scene = Scene {
        node: file.node_id().ok_or_else(|| anyhow!("node.toml names no node"))?,
        cluster: file.cluster_id().ok_or_else(|| anyhow!("node.toml names no cluster"))?,
        disk: disk("log")?,
        credentials: Arc::new(dir.credentials()?),
        seed: rand::rng().random(),
        dir,
    };
    if follow {
        let aside = recover::follow(&scene, &file.seeds).await.with_context(cannot)?;
        say(&format!(
            "it begins anew in the recovered cluster; what it had of the namespace is in {}",
            aside.display()
        ));
        say(&format!("start it:  dfs-node run --data {}", data.display()));
        return Ok(());
    }
    scene.dir.check_raft_log().with_context(cannot)?;
    if !scene.dir.path().join("log/vote").exists() {
        return Err(anyhow!(recover::Refused::NothingHere).context(cannot()));
    }
    let state = FjallKv::open(&scene.dir.path().join("state"), FjallConfig::default());
    let state = Arc::new(state.context("the state machine's store does not open").with_context(cannot)?);
    let now = SystemClock.now();
    let report = |plan: &recover::Plan| Report { plan, data: data.clone(), now }.to_string();
    if !force {
        say(report(&recover::look(&scene, state).await.with_context(cannot)?).trim_end());
        return Ok(());
    }
    let done = recover::lead_alone(&scene, state, now, |plan| tell(&plan.cost())).await;
    done.with_context(cannot)?;
    say("this node is the only voter of the cluster now; what only others had is lost");
    say(&format!("start it:              dfs-node run --data {}", data.display()));
    say("other nodes left:      dfs-node recover --data DIR --follow, then dfs-node run");
    say("nodes that are gone:   add new ones, then dfs remove NODE --force for each");
    Ok(())
}

/// Opens everything that a node stands on.
async fn assemble(dir: &DataDir, file: &NodeFile, arguments: &RunArguments) -> anyhow::Result<(Parts, Config)> {
    let id = file.node_id().ok_or_else(|| anyhow!("node.toml names no node"))?;
    let cluster = file.cluster_id().ok_or_else(|| anyhow!("node.toml names no cluster"))?;
    let site = place::site(dir, file, arguments).await?;
    let listen = arguments.listen.unwrap_or(file.listen);
    let socket = bind_udp(listen, UdpSocketConfig::default()).with_context(|| format!("cannot listen on {listen}"))?;
    let credentials = Arc::new(dir.credentials()?);
    let founding = founding::founding(dir, file, id, &site)?;
    let path = dir.path();
    let state = Arc::new(
        FjallKv::open(&path.join("state"), FjallConfig::default())
            .context("the state machine's store does not open")?,
    );
    let rows = path.join("index");
    let index = FjallKv::open(&rows, FjallConfig::default()).with_context(|| {
        format!("the chunk index does not open (it is made again from the chunks if {} is removed)", rows.display())
    })?;
    let index = Arc::new(index);
    let (sealer, keeper) = (dir.clone(), dir.clone());
    let total = disk_len(path).await?;
    let parts = Parts {
        id,
        cluster,
        replicas: file.replicas,
        site,
        seeds: file.seeds.iter().copied().chain(dir.addresses()?.into_values()).collect(),
        addresses: dir.addresses()?,
        keep_addresses: Box::new(move |addresses| keeper.write_addresses(addresses).map_err(Into::into)),
        credentials,
        socket,
        log_disk: disk("log")?,
        log_dir: path.join("log"),
        chunk_disk: disk("chunk")?,
        chunk_dir: path.join("chunks"),
        state,
        index,
        clock: Arc::new(SystemClock),
        seed: rand::rng().random(),
        chunk_store: ChunkStoreConfig::for_disk(total, place::capacity(file, arguments)),
        seal: dir.seal()?,
        keep_seal: Box::new(move |seal| sealer.write_seal(seal).map_err(Into::into)),
        founding,
    };
    let config = Config {
        data: path.to_owned(),
        listen,
        serve: ServeConfig::default(),
        membership: MembershipConfig { out_after: arguments.out_after, ..MembershipConfig::default() },
        repair: arguments.repair(),
        garbage: GarbageConfig::default(),
        merge: MergeConfig::default(),
        starved: Starved::default(),
    };
    Ok((parts, config))
}
