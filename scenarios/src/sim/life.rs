//! Death, new life, and the end of all faults.

use super::draw::Range;
use super::fault::{Lines, Target};
use super::inject::host_target;
use super::machine::Role;
use super::net::Message;
use super::queue::{Event, Mend};
use super::weather::NEW_VERSION;
use super::world::World;

impl World {
    /// A process that was to die in the middle of an access has come to it.
    pub(crate) fn bury(&mut self, target: Target) {
        let actor = self.actor_mut(target);
        if let Some(doom) = actor.doom
            && actor.cache.is_dead()
        {
            self.kill(target, doom.lines, Some(doom.restart_us));
        }
    }

    /// Ends a process: its connections close, its unflushed lines go as said, a new life may follow.
    pub(crate) fn kill(&mut self, target: Target, lines: Lines, restart_us: Option<u64>) {
        if !self.actor_mut(target).alive {
            return;
        }
        self.tell(|| format!("{target:?} dies, its lines are {lines:?}"));
        self.actor_mut(target).die(lines);
        self.actor_mut(target).died_ns = self.now_ns;
        match target {
            Target::Host(host) => {
                let host = usize::from(host);
                if self.plan.weather.deaths_seen {
                    let life = self.hosts[host].actor.life - 1;
                    self.schedule(1_000, Event::DeathSeen { host, life });
                }
                if let Some(link) = self.hosts[host].link.take() {
                    self.links[link].open = false;
                    self.send_closed(link, true);
                }
                self.hosts[host].forget();
            }
            _ => {
                for link in 0..self.links.len() {
                    if self.links[link].open {
                        self.links[link].open = false;
                        self.send_closed(link, false);
                    }
                }
            }
        }
        let fenced = self.deposed;
        self.stage_died(target, fenced);
        if !self.comes_back(target, fenced) {
            return;
        }
        let restart = self.plan.weather.restart_us;
        let restart_ns = match restart_us {
            Some(us) => us * 1_000,
            None => self.actor_mut(target).between(Range::new(restart.least * 1_000, restart.most * 1_000)),
        };
        self.lives_again_at(target, self.now_ns + restart_ns);
    }

    /// When the next life of a dead process begins; what was set before is void.
    pub(crate) fn lives_again_at(&mut self, target: Target, at_ns: u64) {
        self.actor_mut(target).back_ns = Some(at_ns);
        self.queue.push(at_ns, 0, Event::Restart(target));
    }

    fn send_closed(&mut self, link: usize, to_controller: bool) {
        self.send(link, to_controller, Message::Closed);
    }

    pub(crate) fn restart(&mut self, target: Target) {
        let now_ns = self.now_ns;
        // It lives, or is to come at another time.
        if self.actor_mut(target).back_ns != Some(now_ns) {
            return;
        }
        self.tell(|| format!("{target:?} begins a new life"));
        self.actor_mut(target).rise(now_ns);
        self.stage_rose(target);
        match target {
            Target::Host(host) => {
                let host = usize::from(host);
                self.hosts[host].begin();
                self.schedule_now(Event::HostConnect(host));
            }
            _ => self.recover_controller(),
        }
    }

    pub(crate) fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Continue(target) => {
                let actor = self.actor_mut(target);
                if std::mem::take(&mut actor.stopped) {
                    for event in std::mem::take(&mut actor.deferred) {
                        self.schedule_now(event);
                    }
                }
            }
            Mend::Unhang { host, machine } => self.unhang(host, machine),
            Mend::Hurry(target) => self.actor_mut(target).slowness = 1,
            Mend::Reconnect(host) => {
                let actor = &self.hosts[host].actor;
                if actor.alive && actor.doom.is_none() {
                    actor.cache.revive();
                }
            }
            Mend::Drain => self.pool.full = false,
        }
    }

    /// A machine's thread goes on where it hung, and so does who waited for its end.
    fn unhang(&mut self, host: usize, number: u32) {
        let found = self.hosts[host].machines.iter_mut().find(|machine| machine.number == number);
        let Some(machine) = found else { return };
        let Role::Primary(primary) = &mut machine.role else { return };
        primary.hung = false;
        for step in std::mem::take(&mut primary.held_back) {
            self.schedule_now(Event::Machine { host, machine: number, step });
        }
        if std::mem::take(&mut self.hosts[host].joining) {
            self.wake_host(host);
        }
    }

    /// Threads that hang for ever must be found out; where nobody could, or nobody could take over, they go on.
    fn unhang_hopeless(&mut self) {
        for host in 0..self.hosts.len() {
            let lonely = self.plan.weather.is_uneven() || self.successors(host) == 0;
            let hopeless = self.hosts[host].version < NEW_VERSION || lonely;
            if hopeless || self.hosts[host].joining && !self.may_stay_behind(host) {
                self.unhang_all(host);
            }
        }
    }

    /// Lets all of a host's threads go on.
    pub(crate) fn unhang_all(&mut self, host: usize) {
        let machines: Vec<u32> = self.hosts[host].machines.iter().map(|machine| machine.number).collect();
        for machine in machines {
            self.unhang(host, machine);
        }
    }

    /// Hosts that can read what this one writes.
    fn successors(&self, host: usize) -> usize {
        let version = self.hosts[host].version;
        self.hosts.iter().filter(|other| other.version >= version).count() - 1
    }

    /// One host whose main loop waits for the end of a thread that hangs may do so for ever, if there are others enough.
    pub(crate) fn may_stay_behind(&self, host: usize) -> bool {
        let others_needed = 2 + usize::from(self.spare_is_required());
        let first = self.hosts[..host].iter().chain(&self.hosts[host + 1..]).all(|other| !other.joining);
        first && !self.plan.weather.is_uneven() && self.truths.len() == 1 && self.successors(host) >= others_needed
    }

    /// Ends all faults: from here on the cluster has to find its way back by itself.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        self.tell(|| "everything is healed".to_owned());
        self.mend(Mend::Drain);
        self.resume_client();
        let targets: Vec<Target> =
            (0..self.hosts.len()).map(host_target).chain(std::iter::once(Target::Controller)).collect();
        for target in targets {
            self.mend(Mend::Continue(target));
            self.mend(Mend::Hurry(target));
            let actor = self.actor_mut(target);
            if actor.alive {
                // Who was about to die in the middle of an access lives on.
                actor.doom = None;
                actor.cache.revive();
            }
        }
        self.unhang_hopeless();
        for link in 0..self.links.len() {
            self.flow_again(link);
        }
        self.begin_watch();
    }

    /// Messages of a connection are held back no more.
    pub(crate) fn flow_again(&mut self, link: usize) {
        for to_controller in [false, true] {
            let way = self.links[link].way(to_controller);
            if std::mem::take(&mut way.stalled_until_ns) > 0 {
                for _ in 0..self.links[link].way(to_controller).messages.len() {
                    self.queue.push(self.now_ns, 0, Event::Deliver { link, to_controller });
                }
            }
        }
    }
}
