//! Several hosts: network namespaces with addresses of their own, joined by a bridge. Only root makes them.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{cluster::run, node::program};

/// Numbers the sets of hosts that one test makes.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The hardware address of nobody: what is sent there is gone.
const NOBODY: &str = "02:00:00:00:00:ff";

/// Hosts on one bridge inside a namespace of its own, all gone with the value.
#[derive(Debug)]
pub struct Hosts {
    name: String,
    count: usize,
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments)).ok();
}

/// A program in a network of its own, or in that of the test; files and mounts are the test's in any case.
pub fn command_in(network: Option<&str>, name: &str) -> Command {
    match network {
        None => Command::new(program(name)),
        Some(network) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", PathBuf::from("/run/netns").join(network).display()));
            command.arg(program(name));
            command
        }
    }
}

impl Hosts {
    /// `count` hosts, 10.73.0.1 and on, that reach each other.
    pub fn make(count: usize) -> Self {
        let name = format!("dfs{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let hosts = Self { name, count };
        let switch = hosts.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "bridge", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "bridge", "up"]);
        for index in 0..count {
            let (host, port) = (hosts.host(index), format!("port{index}"));
            ip(&["netns", "add", &host]);
            ip(&["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host]);
            ip(&["-n", &switch, "link", "set", &port, "master", "bridge", "up"]);
            ip(&["-n", &host, "address", "add", &format!("10.73.0.{}/24", index + 1), "dev", "eth0"]);
            ip(&["-n", &host, "link", "set", "lo", "up"]);
            ip(&["-n", &host, "link", "set", "eth0", "up"]);
        }
        hosts
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    /// The network namespace of a host.
    pub fn host(&self, index: usize) -> String {
        format!("{}-host{index}", self.name)
    }

    /// Where a node on a host listens.
    pub fn address(index: usize) -> SocketAddr {
        SocketAddr::from(([10, 73, 0, u8::try_from(index + 1).unwrap()], 7400))
    }

    /// A host's line carries no more than `rate`, in the words of `tc`, out of it.
    pub fn slow(&self, index: usize, rate: &str) {
        let queue =
            ["qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "64kb", "latency", "500ms"];
        let set = Command::new("tc").args(["-n", &self.host(index)]).args(queue).status().unwrap();
        assert!(set.success(), "tc cannot slow down a line");
    }

    /// Pulls or plugs the cable of a host.
    pub fn cable(&self, index: usize, state: &str) {
        ip(&["-n", &self.switch(), "link", "set", &format!("port{index}"), state]);
    }

    /// From now on nothing that one host sends to another arrives; the other way all does.
    pub fn cut(&self, from: usize, to: usize) {
        let address = Self::address(to).ip().to_string();
        let host = self.host(from);
        ip(&["-n", &host, "neigh", "replace", &address, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent"]);
    }

    /// As it was before [`Hosts::cut`].
    pub fn mend(&self, from: usize, to: usize) {
        let address = Self::address(to).ip().to_string();
        ip(&["-n", &self.host(from), "neigh", "delete", &address, "dev", "eth0"]);
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let names = (0..self.count).map(|index| self.host(index)).chain([self.switch()]);
        for name in names {
            drop(Command::new("ip").args(["netns", "delete", &name]).status());
        }
    }
}
