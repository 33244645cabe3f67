//! P7, nobody unknown: tokens let in once, for one thing, for a time; certificates only where they were made; and a
//! client that may only read only reads.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use harness::{
    Cluster, NodeProcess, Ran,
    cluster::run,
    node::{free_address, program},
    wait::until,
};
use wire::{cluster::TokenPurpose, token::Token};

fn login(home: &Path, token: &str) -> Ran {
    run(Command::new(program("dfs")).env("XDG_CONFIG_HOME", home).env_remove("DFS_PROFILE").args(["login", token]))
}

fn as_client(home: &Path, arguments: &[&str]) -> Ran {
    run(Command::new(program("dfs")).env("XDG_CONFIG_HOME", home).env_remove("DFS_PROFILE").args(arguments))
}

fn token(cluster: &Cluster, arguments: &[&str]) -> String {
    cluster.dfs([&["token", "create"], arguments].concat()).ok().trim().to_owned()
}

fn join(data: &Path, token: &str) -> Ran {
    join_at(&free_address().to_string(), data, token)
}

fn join_at(address: &str, data: &Path, token: &str) -> Ran {
    let mut command = Command::new(program("dfs-node"));
    run(command.arg("join").arg("--data").arg(data).args(["--listen", address, "--token", token]))
}

#[test]
fn a_token_lets_one_client_in_once() {
    let cluster = Cluster::start();
    let text = token(&cluster, &["--for", "client"]);
    let (first, second) = (cluster.path("first"), cluster.path("second"));
    login(&first, &text).ok();
    as_client(&first, &["mkdir", "/mine"]).ok();
    assert_eq!(as_client(&first, &["ls", "/"]).ok(), "mine\n");
    login(&second, &text).fails(1, &["cannot log in", "the token has been used", "dfs token create --for client"]);
    assert!(!second.join("dfs/default/certificate.der").exists());
}

#[test]
fn a_token_that_is_wrong_expired_or_for_something_else_lets_nobody_in() {
    let cluster = Cluster::start();
    let home = cluster.path("home");
    login(&home, "open sesame").fails(1, &["cannot log in", "this is not a token"]);
    let text = token(&cluster, &["--for", "client"]);
    login(&home, &text[..text.len() - 4]).fails(1, &["cannot log in", "copy it again"]);
    let for_node = token(&cluster, &["--for", "node"]);
    login(&home, &for_node).fails(1, &["cannot log in", "for a node", "dfs-node join"]);
    let data = cluster.path("newcomer");
    join(&data, &text).fails(2, &["lets a client in, not a node", "dfs token create --for node"]);
    join(&data, "open sesame").fails(2, &["this is not a token"]);
    let short = token(&cluster, &["--for", "client", "--expires", "1s"]);
    let begun = Instant::now();
    until("the token's second is over", Duration::from_secs(20), || begun.elapsed() > Duration::from_millis(1500));
    login(&cluster.path("late"), &short).fails(1, &["cannot log in", "the token has expired", "make a new token"]);
    assert!(!cluster.path("late").join("dfs/default/certificate.der").exists());
    cluster.dfs(["token", "create", "--for", "node", "--read-only"]).fails(2, &["--read-only is for clients"]);
    cluster.dfs(["token", "create", "--for", "client", "--expires", "soon"]).status(2);
}

#[test]
fn a_used_token_lets_no_second_node_in() {
    let mut cluster = Cluster::start();
    let text = token(&cluster, &["--for", "node"]);
    let data = cluster.path("fourth");
    let taken = cluster.nodes[1].address.to_string();
    let words = [format!("has the address {taken}"), format!("dfs remove {taken}"), "still good".to_owned()];
    join_at(&taken, &data, &text).fails(1, &words.each_ref().map(String::as_str));
    join(&data, &text).ok();
    join(&cluster.path("fifth"), &text).fails(1, &["the token has been used", "make a new one"]);
    assert!(!cluster.path("fifth").join("node.toml").exists());
    let file = fs::read_to_string(data.join("node.toml")).unwrap();
    let listen = file.lines().find_map(|line| line.strip_prefix("listen = ")).unwrap().trim_matches('"');
    let mut node = NodeProcess::new(data, listen.parse().unwrap(), None);
    node.start();
    cluster.nodes.push(node);
    cluster.wait_healthy();
}

#[test]
fn what_belongs_to_one_cluster_opens_nothing_in_another() {
    let (ours, theirs) = (Cluster::with(1, 1), Cluster::with(1, 1));
    theirs.dfs(["mkdir", "/theirs"]).ok();

    // A token of ours that leads to their node.
    let text = token(&ours, &["--for", "client"]);
    login(&ours.path("home"), &text).ok();
    let home = ours.path("home");
    let profile = home.join("dfs/default/profile.toml");
    let before = fs::read_to_string(&profile).unwrap();
    let after = before.replace(&ours.nodes[0].address.to_string(), &theirs.nodes[0].address.to_string());
    assert_ne!(before, after);
    fs::write(&profile, &after).unwrap();
    let ran = as_client(&home, &["ls", "/"]);
    assert!(!ran.stdout.contains("theirs"));
    assert!(!ran.stderr.contains("is it running"), "{}", ran.stderr);
    ran.fails(1, &["cannot reach the cluster", "the identity of this profile is refused", "dfs login TOKEN"]);

    // Their authority and cluster id as well: now their node says no.
    let cluster_id = |cluster: &Cluster| cluster.status()["cluster"].as_str().unwrap().to_owned();
    fs::write(&profile, after.replace(&cluster_id(&ours), &cluster_id(&theirs))).unwrap();
    fs::copy(theirs.profile().join("authority.der"), home.join("dfs/default/authority.der")).unwrap();
    let ran = as_client(&home, &["ls", "/"]);
    assert!(!ran.stdout.contains("theirs"));
    ran.fails(1, &["cannot reach the cluster", "log in again with a new token"]);
    assert_eq!(theirs.dfs(["ls", "/"]).ok(), "theirs\n");

    // A second login does not overwrite the profile of another cluster unless it is told to.
    fs::write(&profile, before).unwrap();
    fs::copy(ours.profile().join("authority.der"), home.join("dfs/default/authority.der")).unwrap();
    let text = token(&theirs, &["--for", "client"]);
    login(&home, &text).fails(1, &["profile of another cluster", "--force"]);
    as_client(&home, &["login", "--force", &text]).ok();
    assert_eq!(as_client(&home, &["ls", "/"]).ok(), "theirs\n");
}

#[test]
fn a_token_of_one_cluster_lets_nobody_into_another() {
    let (ours, theirs) = (Cluster::with(1, 1), Cluster::with(1, 1));
    let parsed = |cluster: &Cluster| token(cluster, &["--for", "client"]).parse::<Token>().unwrap();
    let (our_token, their_token) = (parsed(&ours), parsed(&theirs));
    let home = ours.path("home");
    // A token of ours that leads to their node: it is not the cluster that the token was made by.
    let misled = Token { seeds: their_token.seeds.clone(), ..our_token.clone() };
    login(&home, &misled.to_string()).fails(1, &["cannot log in", &theirs.nodes[0].address.to_string()]);
    // With their authority as well: they never gave this secret away.
    let forged = Token { secret: our_token.secret, ..their_token.clone() };
    login(&home, &forged.to_string()).fails(1, &["cannot log in", "make a new token"]);
    let data = ours.path("newcomer");
    let forged = Token { purpose: TokenPurpose::Node, ..forged };
    join(&data, &forged.to_string()).fails(1, &["make a new one"]);
    assert!(!home.join("dfs/default/certificate.der").exists() && !data.join("node.toml").exists());
    assert_eq!(theirs.status()["nodes"].as_array().unwrap().len(), 1);
    // Neither token was used up by that.
    for token in [our_token, their_token] {
        login(&home.join(token.seeds[0].to_string()), &token.to_string()).ok();
    }
}

#[test]
fn a_client_that_may_only_read_reads_and_writes_nothing() {
    let cluster = Cluster::start();
    let file = cluster.path("file");
    fs::write(&file, b"bytes").unwrap();
    let file = file.to_str().unwrap().to_owned();
    cluster.dfs(["upload", &file, "/file"]).ok();
    let home: PathBuf = cluster.path("home");
    login(&home, &token(&cluster, &["--for", "client", "--read-only"])).ok();
    assert_eq!(as_client(&home, &["cat", "/file"]).ok(), "bytes");
    let copy = cluster.path("copy");
    as_client(&home, &["download", "/file", copy.to_str().unwrap()]).ok();
    as_client(&home, &["status"]).ok();
    for arguments in [
        &["upload", &file, "/other"][..],
        &["mkdir", "/dir"],
        &["rm", "/file"],
        &["mv", "/file", "/moved"],
        &["cp", "/file", "/copy"],
        &["ln", "-s", "file", "/link"],
        &["token", "create", "--for", "client"],
    ] {
        as_client(&home, arguments).fails(1, &["may"]);
    }
    assert_eq!(cluster.dfs(["ls", "/"]).ok(), "file\n");
}
