//! Whether the cluster is as it should be: every chunk has all its replicas, and none of them is bad.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::Cluster;
use serde_json::Value;

/// Repair, and two passes over everything, on a machine with much else to do.
const WHOLE_MAX: Duration = Duration::from_secs(180);

/// The highest epoch of the map so far.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    highest: u64,
}

impl Epochs {
    /// "Epochs only rise."
    pub(crate) fn look(&mut self, status: &Value) -> Result<(), String> {
        let Some(epoch) = status["epoch"].as_u64() else { return Ok(()) };
        if epoch < self.highest {
            return Err(format!("the map went back from epoch {} to {epoch}", self.highest));
        }
        self.highest = epoch;
        Ok(())
    }

    /// Waits until nothing is lacking, nothing moves, and every node has read all it holds since.
    pub(crate) fn wait_whole(&mut self, cluster: &Cluster) -> Result<(), String> {
        let begun = Instant::now();
        let mut status = Value::Null;
        let mut passes: Option<Vec<u64>> = None;
        while begun.elapsed() < WHOLE_MAX {
            status = cluster.status();
            self.look(&status)?;
            if is_whole(&status, cluster.nodes.len()) {
                let now = self::passes(&status);
                let all = |holds: fn(u64, u64) -> bool| {
                    let pairs = |before: &Vec<u64>| now.iter().zip(before).all(|(now, before)| holds(*now, *before));
                    passes.as_ref().is_some_and(|before| before.len() == now.len() && pairs(before))
                };
                // The first of two may have begun before.
                if all(|now, before| now >= before + 2) {
                    return Ok(());
                }
                // A node that has just started has told nothing yet, or counts from the start.
                if now.len() == cluster.nodes.len() && !all(|now, before| now >= before) {
                    passes = Some(now);
                }
            }
            thread::park_timeout(Duration::from_millis(100));
        }
        Err(format!("the cluster does not become whole within {WHOLE_MAX:?}: {status:#}"))
    }
}

fn nodes(status: &Value) -> &[Value] {
    status["nodes"].as_array().map_or(&[], Vec::as_slice)
}

fn passes(status: &Value) -> Vec<u64> {
    nodes(status).iter().filter_map(|node| node["scrub"]["passes"].as_u64()).collect()
}

fn is_whole(status: &Value, count: usize) -> bool {
    let nodes = nodes(status);
    let is_well = |node: &Value| {
        node["state"] == "up"
            && (node["role"] == "leader" || node["role"] == "voter")
            && node["store"]["lacking"] == 0
            && node["store"]["failed"] == false
            && node["partitions"] == 4096
    };
    status["missing"] == 0
        && nodes.len() == count
        && nodes.iter().all(is_well)
        && status["moves"]["transition"].is_null()
        && status["moves"]["endangered"] == 0
}

/// What is told of damage that was not mended.
pub(crate) fn damage(status: &Value) -> Vec<String> {
    let warnings = status["warnings"].as_array().cloned().unwrap_or_default();
    let of_damage = warnings.iter().filter(|warning| warning["kind"] == "damaged");
    of_damage.map(|warning| format!("not mended: {warning}")).collect()
}
