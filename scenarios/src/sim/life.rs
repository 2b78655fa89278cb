//! Death, new life, and the end of all faults.

use super::draw::Range;
use super::fault::{Lines, Target};
use super::inject::host_target;
use super::net::Message;
use super::queue::{Event, Mend};
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
        let restart = self.plan.weather.restart_us;
        let restart_ns = match restart_us {
            Some(us) => us * 1_000,
            None => self.actor_mut(target).between(Range::new(restart.least * 1_000, restart.most * 1_000)),
        };
        self.queue.push(self.now_ns + restart_ns, 0, Event::Restart(target));
    }

    fn send_closed(&mut self, link: usize, to_controller: bool) {
        self.send(link, to_controller, Message::Closed);
    }

    pub(crate) fn restart(&mut self, target: Target) {
        if self.actor_mut(target).alive {
            return;
        }
        self.tell(|| format!("{target:?} begins a new life"));
        self.actor_mut(target).rise();
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

    /// Ends all faults: from here on the cluster has to find its way back by itself.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        self.tell(|| "everything is healed".to_owned());
        self.mend(Mend::Drain);
        self.client.paused_until_ns = 0;
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
        for link in 0..self.links.len() {
            for to_controller in [false, true] {
                let way = self.links[link].way(to_controller);
                if std::mem::take(&mut way.stalled_until_ns) > 0 {
                    for _ in 0..self.links[link].way(to_controller).messages.len() {
                        self.queue.push(self.now_ns, 0, Event::Deliver { link, to_controller });
                    }
                }
            }
        }
        self.begin_watch();
    }
}
