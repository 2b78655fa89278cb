//! A guest on a cluster whose processes are the test's own, one by one: each can be given failpoints, killed and frozen,
//! the controller too. Whoever dies is started again; the pool is checked after each death.

use crate::golden::{Golden, TooShort, long_enough};
use crate::process::{End, Process};
use crate::support::{LOOK_INTERVAL, PATIENCE, Place, await_some};
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::timeline::Happening;
use ft_protocol::wire::{Answer, Request, RequestError, Status, ToClient, VmStatus};
use nix::sys::signal::Signal;
use shared_mem::console::{ConsoleError, ConsoleReadError};
use shared_mem::{ConsolePosition, ConsoleRing, Mapping, ReadOnly};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use vmm::client::{Client, ClientError};

/// Exit code of a host that found itself deposed.
const FENCED: i32 = 83;
/// Exit code of a host that did not find a controller when it started.
const UNREACHABLE: i32 = 75;

/// What a run is made of.
#[derive(Debug, Default)]
pub(crate) struct Plan<'a> {
    /// Failpoints of the controller's first life.
    pub(crate) controller: Option<&'a str>,
    /// Hosts in the order in which they join, with failpoints of their first life.
    pub(crate) hosts: &'a [(&'a str, Option<&'a str>)],
    /// Most descriptors that the controller may have open.
    pub(crate) controller_descriptors_max: Option<u32>,
    /// How controller and hosts are to flush.
    pub(crate) flush: Option<&'a str>,
    /// What happens to the pool while a controller that has died by itself is not there yet again.
    pub(crate) between_controllers: Option<fn(&Run)>,
    /// Bytes flip in the pool: it is not expected to be sound, and not checked.
    pub(crate) unsound: bool,
    /// The guest is to be lost.
    pub(crate) loses: bool,
}

pub(crate) struct Run {
    pub(crate) place: Place,
    pub(crate) golden: Golden,
    controller: Option<Process>,
    controller_descriptors_max: Option<u32>,
    flush: Option<String>,
    hosts: BTreeMap<String, Process>,
    client: Option<Client>,
    between_controllers: Option<fn(&Run)>,
    unsound: bool,
    loses: bool,
    all_joined: bool,
    vm: Option<ft_protocol::VmId>,
    ring: Option<ConsoleRing<Mapping<ReadOnly>>>,
    pub(crate) console: Vec<u8>,
    /// How much of it was there when [`has_moved`](Self::has_moved) looked last.
    seen: usize,
    ended: Option<(GuestEnd, u64)>,
    /// Hosts that were found frozen, with the generation that reigned then.
    frozen: BTreeMap<String, u64>,
    /// Ends of processes by signals.
    pub(crate) deaths: u32,
    /// Hosts that were found dead when the guest had ended.
    buried: BTreeSet<String>,
    /// Times that a process was found frozen.
    pub(crate) freezes: u32,
    pub(crate) happenings: Vec<Happening>,
    /// All of them, with their times, for the report of a failure.
    timeline: Vec<String>,
    /// When the console grew last, and the longest time in which it did not.
    grown_at: Instant,
    pub(crate) silence_max: Duration,
    deadline: Instant,
}

impl Run {
    /// Starts controller and hosts. The guest is created in the course of [`step`](Self::step).
    pub(crate) fn start(golden: &Golden, plan: &Plan<'_>) -> Self {
        let mut run = Self {
            place: Place::new(),
            golden: golden.clone(),
            controller: None,
            controller_descriptors_max: plan.controller_descriptors_max,
            flush: plan.flush.map(ToOwned::to_owned),
            hosts: BTreeMap::new(),
            client: None,
            between_controllers: plan.between_controllers,
            unsound: plan.unsound,
            loses: plan.loses,
            all_joined: false,
            vm: None,
            ring: None,
            console: Vec::new(),
            seen: 0,
            ended: None,
            frozen: BTreeMap::new(),
            deaths: 0,
            buried: BTreeSet::new(),
            freezes: 0,
            happenings: Vec::new(),
            timeline: Vec::new(),
            grown_at: Instant::now(),
            silence_max: Duration::ZERO,
            deadline: Instant::now() + 2 * PATIENCE,
        };
        run.start_controller(plan.controller);
        // Hosts do not wait for a controller that was never there.
        run.step_until("the controller", |run| run.client.is_some());
        for (name, failpoints) in plan.hosts {
            run.start_host(name, *failpoints);
            // In this order, so that the first is primary and the second stands by.
            run.await_joined(name);
        }
        run.all_joined = true;
        run
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.place.file("sock")
    }

    fn start_controller(&mut self, failpoints: Option<&str>) {
        let dir = self.place.pool();
        // A loaded machine must not look like a hanging host too often; the guest's words stay right either way.
        let arguments = ["pool", "--socket", "sock", "--heartbeat-ms", "150", "--dir", dir.to_str().expect("text")];
        let mut command = self.place.ftvm(&arguments);
        if let Some(most) = self.controller_descriptors_max {
            let program = command.get_program().to_owned();
            let mut shell = std::process::Command::new("/bin/sh");
            shell.args(["-c", "ulimit -n $0; exec \"$@\"", &most.to_string()]).arg(program).args(arguments);
            shell.current_dir(self.place.file("")).env_remove("FTVM_FAILPOINTS");
            command = shell;
        }
        command.envs(self.flush.iter().map(|kind| ("FTVM_FLUSH", kind)));
        if let Some(failpoints) = failpoints {
            command.env("FTVM_FAILPOINTS", failpoints);
        }
        self.controller = Some(Process::start(&self.place, "controller", command));
    }

    pub(crate) fn start_host(&mut self, name: &str, failpoints: Option<&str>) {
        let mut command = self.place.ftvm(&["host", "--id", name, "--pool", "sock"]);
        command.args(self.flush.iter().flat_map(|kind| ["--flush", kind]));
        if let Some(failpoints) = failpoints {
            command.env("FTVM_FAILPOINTS", failpoints);
        }
        let host = Process::start(&self.place, name, command);
        self.hosts.insert(name.to_owned(), host);
    }

    fn await_joined(&mut self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.step();
            let joined = |status: &Status| status.hosts.iter().any(|host| host.name == name && host.health == "up");
            if self.try_status().as_ref().is_some_and(joined) || self.is_frozen(name) {
                return;
            }
            assert!(Instant::now() < deadline, "host {name} does not join: {}", self.hosts[name].stderr());
        }
    }

    pub(crate) fn controller(&self) -> &Process {
        self.controller.as_ref().expect("there is a controller between two steps")
    }

    pub(crate) fn host(&self, name: &str) -> &Process {
        &self.hosts[name]
    }

    /// Whether it was found frozen and has not been thawed yet.
    pub(crate) fn is_frozen(&self, name: &str) -> bool {
        self.frozen.contains_key(name)
    }

    /// What the controller says of everything; `None` when it has just died.
    pub(crate) fn try_status(&mut self) -> Option<Status> {
        let client = self.client.as_mut()?;
        match client.request(Request::Status, Vec::new()) {
            Ok((Answer::Status(status), _)) => Some(status),
            Ok(other) => panic!("{other:?} is no status"),
            Err(_) => {
                self.client = None;
                None
            }
        }
    }

    pub(crate) fn try_vm(&mut self) -> Option<VmStatus> {
        let vm = self.vm?;
        self.try_status()?.vms.into_iter().find(|status| status.vm == vm)
    }

    /// Steps until the guest has been protected.
    pub(crate) fn await_protection(&mut self) -> Result<(), TooShort> {
        self.await_or_end("protection", Self::was_protected)
    }

    /// Steps until something is so, which is to be before the guest's end.
    pub(crate) fn await_or_end(
        &mut self,
        what: &str,
        mut is_so: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), TooShort> {
        let mut came = false;
        self.step_until(what, |run| {
            came = is_so(run);
            came || run.has_ended()
        });
        if came { Ok(()) } else { Err(self.too_short()) }
    }

    /// The guest is over, in every way as it should be but for what the test is about.
    pub(crate) fn too_short(&mut self) -> TooShort {
        self.check_end();
        TooShort { report: self.everything() }
    }

    /// A run whose guest is protected, and goes on for a while.
    pub(crate) fn protected(golden: &Golden, plan: &Plan<'_>) -> Self {
        Self::until(golden, plan, "protection", Self::was_protected)
    }

    /// The same, on so many hosts, whose pool the test may spoil.
    pub(crate) fn spoilable(golden: &Golden, hosts: usize) -> Self {
        let all = [("a", None), ("b", None), ("c", None), ("d", None)];
        Self::protected(golden, &Plan { hosts: &all[..hosts], unsound: true, ..Plan::default() })
    }

    /// A run in which something is so, and whose guest goes on for a while.
    pub(crate) fn until(golden: &Golden, plan: &Plan<'_>, what: &str, is_so: impl Fn(&mut Self) -> bool) -> Self {
        long_enough(golden, |golden| {
            let mut run = Self::start(golden, plan);
            run.await_or_end(what, &is_so).map(|()| run)
        })
    }

    fn was_protected(&mut self) -> bool {
        self.happenings.iter().any(|happening| matches!(happening, Happening::Protected { .. }))
    }

    /// Whether the console has grown since this was asked last.
    pub(crate) fn has_moved(&mut self) -> bool {
        let moved = self.console.len() > self.seen;
        self.seen = self.console.len();
        moved || self.has_ended()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Steps until something is so.
    pub(crate) fn step_until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            self.step();
            assert!(Instant::now() < deadline, "{what} did not come about; {}", self.everything());
        }
    }

    /// One look at everything: messages, console, deaths, freezes. Does what a user and a process supervisor would do.
    pub(crate) fn step(&mut self) {
        assert!(Instant::now() < self.deadline, "the guest does not end: {}", self.everything());
        self.reap_controller();
        if self.client.is_none() {
            self.connect();
        }
        self.create();
        self.listen();
        self.read_console();
        self.reap_hosts();
        self.look_for_frozen();
    }

    fn reap_controller(&mut self) {
        let Some(controller) = &mut self.controller else { return };
        match controller.end() {
            None => {}
            Some(End::Signal(_)) => {
                self.deaths += 1;
                self.client = None;
                self.check_pool("after the controller's death");
                if let Some(happens) = self.between_controllers {
                    happens(self);
                }
                self.start_controller(None);
            }
            Some(end) => panic!("the controller ended with {end:?}: {}", controller.stderr()),
        }
    }

    fn check_pool(&self, when: &str) {
        if !self.unsound {
            self.place.check_pool(when);
        }
    }

    /// Kills the controller, does something meanwhile, and starts another one.
    pub(crate) fn restart_controller(&mut self, meanwhile: impl FnOnce(&Self)) {
        let controller = self.controller.as_mut().expect("there is a controller");
        controller.signal(Signal::SIGKILL);
        await_some("the controller's end", || controller.end());
        self.client = None;
        meanwhile(self);
        self.start_controller(None);
    }

    /// What the controller says of everything, as soon as it says anything; the guest is not looked at.
    pub(crate) fn try_status_patiently(&mut self) -> Status {
        await_some("the controller's answer", || {
            if self.client.is_none() {
                self.client = Client::connect(self.socket()).ok();
            }
            let status = self.try_status();
            // Without what a step asks for beside it.
            self.client = None;
            status
        })
    }

    fn connect(&mut self) {
        match Client::connect(self.socket()) {
            Ok(mut client) => {
                if client.request(Request::Watch, Vec::new()).is_ok() {
                    self.client = Some(client);
                    self.attach();
                }
            }
            // It does not listen yet, or has died again.
            Err(_) => std::thread::sleep(LOOK_INTERVAL),
        }
    }

    /// Makes the VM, unless an earlier request has, whose answer was lost with the controller.
    fn create(&mut self) {
        if self.vm.is_some() || !self.all_joined {
            return;
        }
        let Some(status) = self.try_status() else { return };
        if let Some(found) = status.vms.iter().find(|vm| vm.name == "guest" && vm.phase != "creating") {
            self.vm = Some(found.vm);
            self.attach();
            return;
        }
        let uploads = self.golden.uploads();
        let spec = self.golden.spec("guest");
        let Some(client) = self.client.as_mut() else { return };
        match client.request(Request::CreateVm(spec), uploads) {
            Ok((Answer::VmCreated(vm), _)) => {
                self.vm = Some(vm);
                self.attach();
            }
            Ok(other) => panic!("{other:?} is no VM"),
            Err(ClientError::Refused(RequestError::NameTaken(_))) => {}
            Err(ClientError::Refused(refusal)) => panic!("the guest was refused: {refusal}"),
            Err(_) => self.client = None,
        }
    }

    /// Attaches to the console, from where it was left.
    fn attach(&mut self) {
        let (Some(vm), Some(client)) = (self.vm, self.client.as_mut()) else { return };
        let from = self.console.len() as u64;
        match client.request(Request::AttachConsole { vm, from }, Vec::new()) {
            Ok((_, extents)) => {
                let (_, extent) = extents.first().expect("a console comes with the answer");
                let ring = ConsoleRing::open(Mapping::read_only(extent).expect("the console can be mapped"));
                self.ring = Some(ring.expect("the console is sound"));
            }
            Err(ClientError::Refused(RequestError::Damaged(_))) if self.loses => self.client = None,
            Err(ClientError::Refused(refusal)) => panic!("the guest is lost: {refusal}; {}", self.everything()),
            Err(_) => self.client = None,
        }
    }

    fn listen(&mut self) {
        // Messages keep coming as long as the guest runs: what is there is taken, after one wait.
        let mut wait = LOOK_INTERVAL;
        for _ in 0..100 {
            let Some(client) = self.client.as_mut() else { return };
            match client.next(std::mem::take(&mut wait)) {
                Ok(Some(ToClient::Happened { at, happening })) => {
                    self.timeline.push(format!("{:>14.6} {happening:?}", at.ns() as f64 / 1e9));
                    self.happenings.push(happening);
                }
                Ok(Some(ToClient::VmEnded { vm, end, console_end })) if Some(vm) == self.vm => {
                    self.ended = Some((end, console_end));
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => self.client = None,
            }
        }
    }

    fn read_console(&mut self) {
        let Some(ring) = &self.ring else { return };
        let mut chunk = [0; 16 << 10];
        loop {
            let count = match ring.read(ConsolePosition::new(self.console.len() as u64), &mut chunk) {
                // Its controller writes it anew in a moment; the deadline of the run is that of this, too.
                Err(ConsoleReadError::Console(ConsoleError::Word(_))) if self.unsound => break,
                read => read.expect("nothing is lost"),
            };
            if count == 0 {
                break;
            }
            self.console.extend_from_slice(&chunk[..count]);
            self.silence_max = self.silence_max.max(self.grown_at.elapsed());
            self.grown_at = Instant::now();
        }
        let position = self.console.len() as u64;
        if let (Some(vm), Some(client)) = (self.vm, self.client.as_mut()) {
            // What is lost with a controller, the next attachment says again.
            let _ = client.notify(Request::ConsoleConsumed { vm, position }, Vec::new());
        }
        if !self.golden.console.starts_with(&self.console) {
            let pairs = self.golden.console.iter().zip(&self.console);
            let at = pairs.take_while(|(expected, found)| expected == found).count();
            let from = at.saturating_sub(60);
            let around = |bytes: &[u8]| String::from_utf8_lossy(&bytes[from..bytes.len().min(at + 60)]).into_owned();
            panic!(
                "the console is not what it should be from byte {at} on: expected {:?}, found {:?}; {}",
                around(&self.golden.console),
                around(&self.console),
                self.everything()
            );
        }
    }

    fn reap_hosts(&mut self) {
        let ends: Vec<(String, End)> =
            self.hosts.iter_mut().filter_map(|(name, host)| Some((name.clone(), host.end()?))).collect();
        for (name, end) in ends {
            if self.has_ended() {
                // It may have died before that. Nobody needs another one.
                self.deaths += u32::from(matches!(end, End::Signal(_)) && self.buried.insert(name));
                continue;
            }
            match end {
                End::Signal(_) => self.deaths += 1,
                // Deposed, or started while there was no controller.
                End::Code(FENCED | UNREACHABLE) => {}
                End::Code(code) => panic!("host {name} ended with {code}: {}", self.hosts[&name].stderr()),
            }
            self.frozen.remove(&name);
            self.check_pool("after a host's death");
            self.start_host(&name, None);
        }
    }

    /// A frozen host is thawed when the cluster has gone on without it.
    fn look_for_frozen(&mut self) {
        let stopped: Vec<String> =
            self.hosts.iter().filter(|(_, host)| host.is_stopped()).map(|(name, _)| name.clone()).collect();
        if stopped.is_empty() {
            return;
        }
        let status = self.try_vm();
        let generation = status.as_ref().map_or(0, |vm| vm.generation.get());
        for name in stopped {
            let since = *self.frozen.entry(name.clone()).or_insert_with(|| {
                self.freezes += 1;
                generation
            });
            let reigns = |vm: &VmStatus| vm.primary.as_deref() == Some(&name) && vm.phase == "running";
            let stands_by = |vm: &VmStatus| vm.secondary.as_deref() == Some(&name);
            let missed = match &status {
                // Nobody could be found to go on: it has to come back by itself.
                Some(vm) if vm.phase == "stranded" => true,
                Some(vm) if vm.phase == "running" => !reigns(vm) && !stands_by(vm) || generation > since,
                _ => false,
            };
            if missed || self.has_ended() {
                self.hosts[&name].signal(Signal::SIGCONT);
                self.frozen.remove(&name);
            }
        }
    }

    /// Runs to the guest's end and holds everything against what it should be. Gives the takeovers that there were.
    pub(crate) fn finish(mut self) -> u64 {
        let takeovers = self.check_end();
        let controller = self.controller.as_mut().expect("there is a controller");
        controller.signal(Signal::SIGTERM);
        let end = await_some("the controller's end", || controller.end());
        assert_eq!(end, End::Code(0), "{}", controller.stderr());
        self.check_pool("after the controller's end");
        if std::env::var_os("FTVM_POOL_VERBOSE").is_some() {
            eprintln!("longest silence {:?}; {}", self.silence_max, self.everything());
        }
        takeovers
    }

    /// Steps to the guest's end; what it has said and left must be right.
    fn check_end(&mut self) -> u64 {
        let mut takeovers = 0;
        loop {
            self.step();
            if let Some(vm) = self.try_vm() {
                takeovers = vm.takeovers;
            }
            if let Some((_, console_end)) = self.ended
                && self.console.len() as u64 >= console_end
            {
                break;
            }
        }
        let (end, _) = self.ended.clone().expect("it has just ended");
        assert_eq!(end, self.golden.end);
        assert!(self.console == self.golden.console, "the console is not what it should be");
        self.check_pool("after the guest's end");
        takeovers
    }

    /// Ends a run whose guest is of no more interest.
    pub(crate) fn everything(&self) -> String {
        let mut text = format!("frozen: {:?}; ended: {:?}\n", self.frozen, self.ended);
        let controller = self.controller.iter().map(|controller| ("controller", controller));
        for (name, process) in controller.chain(self.hosts.iter().map(|(name, host)| (name.as_str(), host))) {
            text.push_str(&format!("--- {name}\n{}\n", process.stderr()));
        }
        text.push_str(&self.timeline.join("\n"));
        text
    }

    /// Waits a moment for anything to happen.
    pub(crate) fn steps_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.has_ended() {
            self.step();
        }
    }
}
