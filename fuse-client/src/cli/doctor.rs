//! `dfs doctor`: what is wrong, what is at risk, what the cluster does about it, and what a person should do.

pub(super) mod diagnosis;
mod nodes;
pub(super) mod redundancy;
#[cfg(test)]
pub(super) mod tests;

use clap::Args;
use fuse_client::{Cluster, ClusterError};
use serde_json::{Value, json};
use wire::moves::{MovesAnswer, MovesRequest};

use self::diagnosis::{Diagnosis, Facts, Finding, Severity, diagnose, unanswered};
use super::{failure::Failure, invocation::Invocation, status::scrub_json, text::number::counted};

/// Arguments of `dfs doctor`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit status:
  0  all is well
  1  something wants attention, or the cluster is at work on it
  2  wrong usage, as everywhere
  3  the cluster cannot be asked, or some files cannot be stored or read

Sure copies in reach are those on nodes that are up and lack nothing.
\"Meanwhile\" says what the cluster does by itself, \"To do\" what it leaves to
people.

Examples:
  dfs doctor
  dfs doctor --json | jq -r '.findings[] | .kind'
  dfs doctor > /dev/null || echo 'look at the cluster'")]
pub(crate) struct DoctorArguments {
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

/// Examines the cluster. Fails with the status that says how it is, unless all is well.
pub(crate) async fn run(invocation: &Invocation, arguments: DoctorArguments) -> Result<(), Failure> {
    let asked = ask(invocation).await;
    let diagnosis = match &asked {
        Ok(facts) => diagnose(facts),
        Err(error) => unanswered(error),
    };
    if arguments.json {
        invocation.screen.print_json(&diagnosis_json(asked.as_ref().ok(), &diagnosis))?;
    } else {
        invocation.screen.print(&text(&diagnosis))?;
    }
    match exit_status(diagnosis.severity()) {
        0 => Ok(()),
        status => Err(Failure::Diagnosed { status }),
    }
}

/// Connects and asks for everything that there is to know.
async fn ask(invocation: &Invocation) -> Result<Facts, ClusterError> {
    let cluster = invocation.try_cluster().await?;
    let facts = facts(&cluster).await;
    cluster.close().await;
    facts
}

/// Asks for everything that there is to know of a cluster that answers.
pub(super) async fn facts(cluster: &Cluster) -> Result<Facts, ClusterError> {
    let status = cluster.status().await?;
    let MovesAnswer::Status(moves) = cluster.moves(MovesRequest::Status).await? else {
        return Err(ClusterError::Confused);
    };
    let health = cluster.health().await?;
    let map = cluster.refresh().await?;
    Ok(Facts { status, moves: *moves, health, map })
}

fn exit_status(severity: Severity) -> u8 {
    match severity {
        Severity::Note => 0,
        Severity::Mending | Severity::Attention => 1,
        Severity::Unavailable => 3,
    }
}

/// A headline, and a paragraph for each finding.
fn text(diagnosis: &Diagnosis) -> String {
    let of =
        |severity: Severity| diagnosis.findings.iter().filter(|finding| finding.severity == severity).count() as u64;
    let (attention, mending) = (of(Severity::Attention), of(Severity::Mending));
    let cluster = match &diagnosis.cluster {
        Some(cluster) => format!("Cluster {}", cluster.chars().take(8).collect::<String>()),
        None => "The cluster".to_owned(),
    };
    let how = match diagnosis.severity() {
        Severity::Note => "is healthy".to_owned(),
        Severity::Mending => "is at work and wants nothing of you".to_owned(),
        Severity::Attention => {
            format!("serves; {}", counted(attention, "thing wants attention", "things want attention"))
        }
        Severity::Unavailable if diagnosis.cluster.is_none() => "cannot be asked".to_owned(),
        Severity::Unavailable => "cannot store or read some files".to_owned(),
    };
    let also = if mending > 0 && attention > 0 { format!(", {mending} under way") } else { String::new() };
    let mut text = format!("{cluster} {how}{also}.\n");
    for Finding { text: what, meanwhile, advice, .. } in &diagnosis.findings {
        text.push_str(&format!("\n{what}\n"));
        for (label, words) in [("Meanwhile", meanwhile), ("To do", advice)] {
            if let Some(words) = words {
                text.push_str(&format!("  {label}: {words}\n"));
            }
        }
    }
    text
}

fn diagnosis_json(facts: Option<&Facts>, diagnosis: &Diagnosis) -> Value {
    let findings: Vec<Value> = diagnosis
        .findings
        .iter()
        .map(|finding| {
            json!({
                "kind": finding.kind,
                "severity": finding.severity.word(),
                "node": finding.node.map(|node| node.to_string()),
                "text": finding.text,
                "meanwhile": finding.meanwhile,
                "to_do": finding.advice,
            })
        })
        .collect();
    let redundancy = diagnosis.redundancy.map(|redundancy| {
        json!({
            "wanted": redundancy.wanted,
            "lowest": redundancy.lowest,
            "partitions": redundancy.partitions,
            "partitions_fewer": redundancy.fewer,
            "partitions_catching_up": redundancy.catching_up,
            "chunks_fewer": redundancy.chunks_fewer,
            "partitions_unwritable": redundancy.unwritable,
            "partitions_unreadable": redundancy.unreadable,
        })
    });
    let told = facts.and_then(|facts| facts.health.as_ref()).map(|health| &health.nodes);
    let nodes = told.map(|nodes| {
        let node = |node: &wire::health::NodeHealth| {
            json!({
                "id": node.node.to_string(),
                "silent_ms": node.silent_ms,
                "version": node.heard.as_ref().map(|heard| heard.report.version.clone()),
                "clock_ahead_ms": node.heard.as_ref().map(|heard| heard.clock_ahead_ms),
                "scrub": scrub_json(node),
            })
        };
        nodes.iter().map(node).collect::<Vec<_>>()
    });
    json!({
        "cluster": diagnosis.cluster,
        "severity": diagnosis.severity().word(),
        "status": exit_status(diagnosis.severity()),
        "redundancy": redundancy,
        "findings": findings,
        "nodes": nodes,
    })
}
