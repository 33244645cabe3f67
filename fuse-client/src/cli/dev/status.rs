//! `dfs dev status`: processes, the mount, and how the cluster sees them.

use std::path::Path;

use serde_json::{Value, json};
use wire::cluster::ClusterStatus;

use super::{
    StatusArguments,
    folder::{DevFolder, DevNode, Stage},
    mounted::{Found, Mounter},
    process::NodeProcess,
    serving,
};
use crate::cli::{
    failure::Failure,
    invocation::Invocation,
    nodes::state_word,
    text::table::{Align, Table},
};

/// A node with its process.
struct Seen {
    name: String,
    id: Option<String>,
    pid: Option<i32>,
    address: String,
    data: String,
    log: String,
    state: &'static str,
    cluster_state: Option<&'static str>,
}

/// Shows nodes.
pub(super) async fn run(invocation: &Invocation, arguments: StatusArguments) -> Result<(), Failure> {
    let (folder, state) = DevFolder::open(&arguments.folder.path(invocation)?)?;
    let pids: Vec<Option<i32>> = (0..state.nodes.len())
        .map(|index| NodeProcess::find(&folder.node(index)).map(|process| process.pid()))
        .collect();
    // With nobody running there is nobody to ask.
    let asked = if pids.iter().any(Option::is_some) { Some(ask(&folder).await) } else { None };
    let (status, silence) = match asked {
        Some(Ok(status)) => (Some(status), None),
        Some(Err(failure)) => (None, failure.line()),
        None => (None, None),
    };
    let nodes: Vec<Seen> = state
        .nodes
        .iter()
        .zip(&pids)
        .enumerate()
        .map(|(index, (node, pid))| see(&folder, index, node, *pid, status.as_ref()))
        .collect();
    let dir = folder.path().display();
    let mounter = Mounter { invocation, folder: &folder };
    let mount: Option<(&Path, Found)> =
        state.mount.as_deref().map(|dir| mounter.look(dir).map(|found| (dir, found))).transpose()?;
    if arguments.json {
        let mount = mount.map(|(dir, found)| json!({ "dir": dir.display().to_string(), "state": found.word() }));
        return invocation.screen.print_json(&json!({
            "dir": dir.to_string(),
            "profile": folder.profile().display().to_string(),
            "replicas": state.replicas,
            "cluster": status.as_ref().map(|status| status.cluster.to_string()),
            "answers": status.is_some(),
            "nodes": nodes.iter().map(Seen::json).collect::<Vec<_>>(),
            "mount": mount,
        }));
    }
    let mut table = Table::new(&[
        ("NODE", Align::Left),
        ("ID", Align::Left),
        ("PID", Align::Right),
        ("ADDRESS", Align::Left),
        ("STATE", Align::Left),
        ("CLUSTER SAYS", Align::Left),
    ]);
    for node in &nodes {
        table.push(vec![
            node.name.clone(),
            node.id.as_ref().map_or("?".to_owned(), |id| id.chars().take(8).collect()),
            node.pid.map_or("-".to_owned(), |pid| pid.to_string()),
            node.address.clone(),
            node.state.to_owned(),
            node.cluster_state.unwrap_or("-").replace('-', if node.cluster_state.is_some() { " " } else { "-" }),
        ]);
    }
    let silence = silence.map(|line| format!("\nThe cluster does not answer: {line}\n")).unwrap_or_default();
    let mount = mount.map(|(dir, found)| format!("\n{}\n", found.sentence(dir))).unwrap_or_default();
    let text = format!("Cluster in {dir}, logs in {dir}/node-*/log\n\n{}{mount}{silence}", table.text());
    invocation.screen.print(&text)
}

async fn ask(folder: &DevFolder) -> Result<ClusterStatus, Failure> {
    serving::ask(&serving::profile(&folder.profile())?).await
}

fn see(folder: &DevFolder, index: usize, node: &DevNode, pid: Option<i32>, status: Option<&ClusterStatus>) -> Seen {
    let row = status.and_then(|status| status.nodes.iter().find(|row| row.row.address.to_string() == node.address));
    let files = folder.node(index);
    Seen {
        name: files.name(),
        id: row.map(|row| row.row.id.to_string()).or_else(|| node.id.clone()),
        pid,
        address: node.address.clone(),
        data: files.data().display().to_string(),
        log: files.log().display().to_string(),
        state: match (pid, node.stage) {
            (Some(_), _) => "running",
            (None, Stage::Joined) => "stopped",
            (None, Stage::Planned) => "not joined",
        },
        cluster_state: row.map(|row| state_word(row.state)),
    }
}

impl Seen {
    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "id": self.id,
            "pid": self.pid,
            "address": self.address,
            "data": self.data,
            "log": self.log,
            "state": self.state,
            "cluster_state": self.cluster_state,
        })
    }
}
