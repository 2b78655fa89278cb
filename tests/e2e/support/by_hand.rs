//! A cluster as a user starts it: a controller and hosts, each a command of its own.

use super::command::{Ended, Place, Running};
use super::{await_some, await_true, is_stopped, signal};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;

/// Where the controller listens.
pub(crate) const SOCKET: &str = "sock";

/// A controller, and hosts by name.
pub(crate) struct ByHand {
    pub(crate) place: Place,
    pool: Option<Running>,
    hosts: BTreeMap<String, Running>,
}

impl ByHand {
    pub(crate) fn start(hosts: &[&str]) -> Self {
        Self::start_armed(hosts, "")
    }

    /// Starts a cluster whose first controller has failpoints.
    pub(crate) fn start_armed(hosts: &[&str], failpoints: &str) -> Self {
        let mut cluster = Self { place: Place::new(), pool: None, hosts: BTreeMap::new() };
        cluster.start_armed_pool(failpoints);
        for host in hosts {
            cluster.start_host(host);
        }
        cluster
    }

    /// Starts the controller, over the pool that is there or a new one.
    pub(crate) fn start_pool(&mut self) {
        self.start_armed_pool("");
    }

    fn start_armed_pool(&mut self, failpoints: &str) {
        self.start_pool_with(&[], failpoints);
    }

    /// Starts the controller with options of its own.
    pub(crate) fn start_pool_with(&mut self, options: &[&str], failpoints: &str) {
        let dir = self.place.pool().join("pool");
        // A loaded machine must not look like a hanging host.
        let heartbeat = ["--heartbeat-ms", "2000"];
        let arguments = ["pool", "--socket", SOCKET, "--dir", dir.to_str().expect("a plain path")];
        let mut command = self.place.ftvm(&[&arguments[..], &heartbeat[..], options].concat());
        if !failpoints.is_empty() {
            command.env("FTVM_FAILPOINTS", failpoints);
        }
        self.pool = Some(self.place.start_command(command));
        await_true("the controller", || self.command(&["status"], &[]).code == Some(0));
    }

    /// Kills the controller.
    pub(crate) fn kill_pool(&mut self) {
        let pool = self.pool.take().expect("it runs");
        pool.signal(Signal::SIGKILL);
        assert_eq!(pool.end().code, None);
    }

    /// Asks the controller, and with it the cluster, to end.
    pub(crate) fn terminate_pool(&self) {
        self.pool.as_ref().expect("it runs").signal(Signal::SIGTERM);
    }

    /// Stops the controller, which hears and says nothing until it goes on.
    pub(crate) fn stop_pool(&self) {
        self.pool.as_ref().expect("it runs").signal(Signal::SIGSTOP);
    }

    /// Waits until the controller has stopped at a failpoint.
    pub(crate) fn await_stopped_pool(&self) {
        let pool = self.pool.as_ref().expect("it runs").pid();
        await_true("the controller's stop", || is_stopped(pool));
    }

    /// Lets a stopped controller go on.
    pub(crate) fn continue_pool(&self) {
        self.pool.as_ref().expect("it runs").signal(Signal::SIGCONT);
    }

    /// Waits until the controller has died of a failpoint.
    pub(crate) fn await_dead_pool(&mut self) {
        assert_eq!(self.pool.take().expect("it ran").end().code, None);
    }

    /// Starts a host and waits until it has joined.
    pub(crate) fn start_host(&mut self, name: &str) {
        let host = self.place.start(&["host", "--name", name, "--pool", SOCKET]);
        self.hosts.insert(name.to_owned(), host);
        await_true("the host", || self.health(name) == "up");
    }

    /// Kills a host and waits until the controller knows.
    pub(crate) fn kill_host(&mut self, name: &str) {
        let host = self.hosts.remove(name).expect("it runs");
        signal(host.pid(), Signal::SIGKILL);
        assert_eq!(host.end().code, None);
        await_true("the end of the host", || self.health(name) != "up");
    }

    fn health(&self, host: &str) -> String {
        let status = self.status();
        let hosts = status["hosts"].as_array().expect("a list");
        let found = hosts.iter().find(|found| found["name"] == host);
        found.map_or_else(String::new, |found| found["health"].as_str().expect("a word").to_owned())
    }

    /// Waits for the end of everybody, which somebody else has asked for.
    pub(crate) fn has_ended(&mut self) {
        for host in std::mem::take(&mut self.hosts).into_values() {
            assert_eq!(host.end().code, Some(0));
        }
        assert_eq!(self.pool.take().expect("it ran").end().code, Some(0));
    }

    /// The command line of a command of this cluster's.
    pub(crate) fn arguments<'a>(command: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
        [command, &["--pool", SOCKET], rest].concat()
    }

    /// Runs such a command to its end.
    pub(crate) fn command(&self, command: &[&str], rest: &[&str]) -> Ended {
        self.place.run(&Self::arguments(command, rest))
    }

    /// Starts such a command.
    pub(crate) fn start_command(&self, command: &[&str], rest: &[&str]) -> Running {
        self.place.start(&Self::arguments(command, rest))
    }

    /// What the guest says without protection.
    pub(crate) fn golden(&self, guest: &[impl AsRef<OsStr>]) -> Vec<u8> {
        let mut arguments: Vec<&OsStr> = ["run", "--mode", "none"].iter().map(OsStr::new).collect();
        arguments.extend(guest.iter().map(AsRef::as_ref));
        self.place.run(&arguments).ok().stdout
    }

    pub(crate) fn status(&self) -> Value {
        let ended = self.command(&["status", "--json"], &[]).ok();
        serde_json::from_slice(&ended.stdout).expect("the status is JSON")
    }

    /// The state of a VM, if there is one of this name.
    pub(crate) fn vm(&self, name: &str) -> Option<Value> {
        let status = self.status();
        status["vms"].as_array().expect("a list").iter().find(|vm| vm["name"] == name).cloned()
    }

    /// Waits until a VM is there and something about it is so.
    pub(crate) fn await_vm(&self, name: &str, what: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
        await_some(what, || self.vm(name).filter(|vm| is_so(vm)))
    }
}

/// Whether a VM has a secondary.
pub(crate) fn is_protected(vm: &Value) -> bool {
    vm["unprotected"].is_null()
}

/// Whether a VM's guest has ended.
pub(crate) fn has_ended(vm: &Value) -> bool {
    !vm["ended"].is_null()
}
