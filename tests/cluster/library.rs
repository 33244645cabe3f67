//! The client as a library: the example of its documentation against a cluster.

use std::process::Command;

use harness::{Cluster, cluster::run, node::program};

#[test]
fn the_example_of_the_library_runs() {
    let cluster = Cluster::start();
    let example = program("examples/roundtrip");
    let said = run(Command::new(example).arg(cluster.profile())).ok();
    assert!(!said.is_empty());
}
