//! Carries out what steps do, and undoes it when its time is over.

use super::corrupt::Corruption;
use super::perform::{Performance, Undo, name_of};
use super::prepare::mac;
use super::{Hamper, Presence, RunnerError, anybody};
use crate::cluster::{CONTROLLER, Held, HostName, HostSignal};
use crate::event::{Event, What};
use crate::language::{Act, CorruptWhat, Step, Target, WaysPart};
use crate::protected::{Roles, RunError, UnreadConsole};
use ft_protocol::spec::Mode;
use ft_protocol::wire::Request;
use ft_protocol::{Span, Time};
use std::io::Write as _;
use std::ops::RangeFrom;
use std::time::Duration;
use vmm::clock::monotonic;
use vmm::net::{Stretch, Trouble};

/// Where in the pool's parent the pool is.
const POOL: &str = "pool";
/// The file that takes all space.
const FILLER: &str = "filler";
/// Written at once.
const FILL_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;

impl Performance<'_> {
    /// For each act of a step, the hosts that it is about; `None` while a role is vacant.
    pub(super) fn targets(&mut self, index: usize, step: &Step) -> Result<Option<Vec<Vec<HostName>>>, RunnerError> {
        let mut all = Vec::new();
        let mut draws = 0..;
        for act in &step.acts {
            let mut hosts: Vec<HostName> = Vec::new();
            for target in act.targets() {
                match self.target(index, target, &mut draws)? {
                    Some(found) => {
                        hosts.extend(found.into_iter().filter(|host| !hosts.contains(host)).collect::<Vec<_>>())
                    }
                    None => return Ok(None),
                }
            }
            // Its death may be known to the cluster before the kernel has finished with it.
            if matches!(act, Act::Start { .. }) && hosts.iter().any(|host| self.dying.contains(host)) {
                return Ok(None);
            }
            // Who was fenced, or is started again whenever it dies, is there in a moment.
            if !matches!(act, Act::Start { .. }) && hosts.iter().any(|host| self.run.comes_back(host)) {
                return Ok(None);
            }
            // What is not there cannot be corrupted: a log without a recording mode, a journal between two generations.
            if let Act::Corrupt { what, vm, bits, .. } = act
                && *what != CorruptWhat::Heartbeat
                && !self.corruption(*what, *vm, *bits, 0).has_place()
            {
                return Ok(None);
            }
            // Nor can a record that nobody will read any more. At a failpoint there is one in somebody's hands.
            if let Act::Corrupt { what: what @ CorruptWhat::Journal, vm, bits, .. } = act
                && !self.standing.contains_key(&index)
            {
                let part = &self.scenario.vms[*vm];
                let epoch = part.epoch_interval.unwrap_or(Mode::from(part.mode).default_epoch_interval());
                let corruption = self.corruption(*what, *vm, *bits, 0);
                if !self.record_waits(&corruption, epoch)? {
                    return Ok(None);
                }
            }
            // A controller that stands still would not answer.
            if matches!(act, Act::Delete { .. }) && !self.controller_answers() {
                return Ok(None);
            }
            all.push(hosts);
        }
        Ok(Some(all))
    }

    fn target(
        &mut self,
        index: usize,
        target: &Target,
        draws: &mut RangeFrom<usize>,
    ) -> Result<Option<Vec<HostName>>, RunnerError> {
        let alive =
            |this: &Self, host: &HostName| this.run.cluster().host_pid(host).is_some() && !this.dying.contains(host);
        // A host that has just died still has its role until the controller knows.
        let holder = |this: &Self, host: Option<HostName>| host.filter(|host| alive(this, host)).map(|host| vec![host]);
        Ok(match target {
            Target::Primary(vm) => {
                let roles = self.roles(*vm)?;
                holder(self, roles.primary)
            }
            Target::Secondary(vm) => {
                let roles = self.roles(*vm)?;
                holder(self, roles.secondary)
            }
            Target::Spare(vm) => {
                let roles = self.roles(*vm)?;
                let (Some(_), Some(_)) = (&roles.primary, &roles.secondary) else { return Ok(None) };
                let busy = [roles.primary, roles.secondary];
                let names: Vec<HostName> = self.run.cluster().host_names().cloned().collect();
                let spare = names.into_iter().find(|name| alive(self, name) && !busy.contains(&Some(name.clone())));
                spare.map(|host| vec![host])
            }
            Target::Any => {
                let names: Vec<HostName> = self.run.cluster().host_names().cloned().collect();
                let presence = |name: &HostName| match alive(self, name) {
                    true => Presence::Lives,
                    false if self.run.comes_back_at_once(name) => Presence::ComesBack,
                    false if self.dying.contains(name) && self.run.respawns(name) => Presence::ComesBack,
                    false => Presence::Dead,
                };
                let presences: Vec<Presence> = names.iter().map(presence).collect();
                let drawn = self.schedule.draw(index, draws.next().unwrap_or_default(), names.len());
                anybody(drawn, &presences).map(|host| vec![names[host].clone()])
            }
            Target::Host(host) => Some(vec![host.clone()]),
            Target::HitBy(step) => Some(self.hit[*step].clone()),
        })
    }

    fn roles(&mut self, vm: usize) -> Result<Roles, RunnerError> {
        if self.controller_answers() {
            return Ok(self.run.roles_of(vm)?);
        }
        // What was known when it last answered.
        let timeline = self.run.timeline_of(vm);
        Ok(Roles { primary: timeline.primary().cloned(), secondary: timeline.secondary().cloned() })
    }

    /// Does one thing of the step at this index.
    pub(super) fn act(&mut self, index: usize, step: &Step, act: &Act, hosts: &[HostName]) -> Result<(), RunnerError> {
        match act {
            Act::Signal { signal, undo_after, .. } => {
                for host in hosts {
                    if self.run.is_dead_controller(host) {
                        continue;
                    }
                    self.signal(step, host, *signal)?;
                    match signal {
                        HostSignal::Stop => self.hampers.begin(host, Hamper::Stop, ends(*undo_after)),
                        HostSignal::Kill | HostSignal::Cont => _ = self.hampers.end(host, Hamper::Stop),
                    }
                }
            }
            Act::Start { .. } => {
                for host in hosts {
                    let done = self.run.start_host(host);
                    self.of_step(step, done)?;
                }
            }
            Act::Restart { dead_for, .. } => {
                for host in hosts {
                    self.restart(step, host, *dead_for)?;
                }
            }
            Act::Slow { percent, during, .. } => {
                for host in hosts {
                    if self.run.is_dead_controller(host) {
                        continue;
                    }
                    let lives = self.run.check_alive(host);
                    self.of_step(step, lives)?;
                    self.began(act, host.as_str())?;
                    self.hampers.begin(host, Hamper::Slow(*percent), ends(*during));
                    let done = self.slow_down(host);
                    self.of_step(step, done)?;
                }
            }
            Act::Cut { from, ways, during, .. } => {
                for host in hosts {
                    self.began(act, host.as_str())?;
                    for cut in Hamper::of_cut(*from, *ways) {
                        self.hampers.begin(host, cut, ends(*during));
                    }
                    let done = self.hold(host);
                    self.of_step(step, done)?;
                }
            }
            Act::Heal { .. } => self.heal(hosts)?,
            Act::Segment { link, ways, loss, latency, during } => {
                self.trouble(act, (*link, *ways), (*loss, *latency), *during)?;
            }
            Act::Clock { by_ns, during, .. } => {
                for host in hosts {
                    self.began(act, host.as_str())?;
                    self.step_clock(step, host, *by_ns, *during)?;
                }
            }
            Act::Switchover { vm, to } => {
                let to = to.as_ref().and(hosts.first()).map(|host| host.as_str().to_owned());
                let vm = self.run.vm_id(*vm);
                self.order(step, Request::Switchover { vm, to })?;
            }
            Act::Drain { on, .. } => {
                for host in hosts {
                    self.order(step, Request::Drain { host: host.as_str().to_owned(), on: *on })?;
                }
            }
            Act::Mode { vm, mode } => {
                let vm = self.run.vm_id(*vm);
                self.order(step, Request::SetMode { vm, mode: (*mode).into() })?;
            }
            Act::Corrupt { what, vm, bits, .. } => self.corrupt(index, act, (*what, *vm, *bits), hosts)?,
            Act::Fill { during } => self.fill(act, *during)?,
            Act::Delete { vm } => {
                let done = self.run.delete(*vm);
                self.of_step(step, done)?;
            }
            Act::Mark => {}
        }
        Ok(())
    }

    fn restart(&mut self, step: &Step, process: &HostName, dead_for: Span) -> Result<(), RunnerError> {
        let is_controller = process.as_str() == CONTROLLER && !self.run.is_dead_controller(process);
        let dies = is_controller || self.run.cluster().host_pid(process).is_some();
        let done = self.run.take_away(process, dead_for);
        self.of_step(step, done)?;
        if dies {
            self.dying.insert(process.clone());
            self.hampers.end(process, Hamper::Stop);
        }
        Ok(())
    }

    /// Holds just what the host is cut from now.
    fn hold(&mut self, host: &HostName) -> Result<(), RunError> {
        let held = Held {
            to_host: self.hampers.has(host, Hamper::CutToHost),
            from_host: self.hampers.has(host, Hamper::CutFromHost),
        };
        self.run.cluster_mut().hold_messages(host, held);
        Ok(self.run.cluster_mut().cut_pool(host, self.hampers.has(host, Hamper::CutFromPool))?)
    }

    fn step_clock(
        &mut self,
        step: &Step,
        host: &HostName,
        by_ns: i64,
        during: Option<Span>,
    ) -> Result<(), RunnerError> {
        let done = self.run.step_clock(host, by_ns);
        self.of_step(step, done)?;
        if during.is_none() {
            // It goes on from there: nothing of it is still to come.
            self.ended("clock", host.as_str())?;
        }
        self.undo_later(during, || Undo::Step(host.clone(), -by_ns));
        Ok(())
    }

    fn signal(&mut self, step: &Step, host: &HostName, signal: HostSignal) -> Result<(), RunnerError> {
        let done = self.run.signal(host, signal);
        self.of_step(step, done)?;
        if signal == HostSignal::Kill {
            self.dying.insert(host.clone());
        }
        Ok(())
    }

    fn order(&mut self, step: &Step, request: Request) -> Result<(), RunnerError> {
        let done = self.run.order(request, &step.name);
        self.of_step(step, done)
    }

    fn began(&mut self, act: &Act, target: &str) -> Result<(), RunnerError> {
        let what = What::FaultBegan { fault: name_of(act), target: target.to_owned() };
        Ok(self.run.note(Event { at: monotonic(), what })?)
    }

    fn ended(&mut self, fault: &str, target: &str) -> Result<(), RunnerError> {
        let what = What::FaultEnded { fault: fault.to_owned(), target: target.to_owned() };
        Ok(self.run.note(Event { at: monotonic(), what })?)
    }

    fn undo_later(&mut self, after: Option<Span>, undo: impl FnOnce() -> Undo) {
        if let Some(after) = after {
            self.undos.push((monotonic() + after, undo()));
        }
    }

    /// Undoes what is due.
    pub(super) fn undo_due(&mut self) -> Result<(), RunnerError> {
        let now = monotonic();
        while let Some((process, hamper)) = self.hampers.next_over(now) {
            self.over(&process, hamper)?;
        }
        let due: Vec<Undo> = self.undos.extract_if(.., |(at, _)| *at <= now).map(|(_, undo)| undo).collect();
        due.iter().try_for_each(|undo| self.undo(undo))
    }

    fn undo(&mut self, undo: &Undo) -> Result<(), RunnerError> {
        match undo {
            Undo::Calm(stretch, fault) if self.troubles.get(stretch) == Some(fault) => self.calm(*stretch),
            Undo::Calm(..) => Ok(()),
            Undo::Step(host, by_ns) => {
                self.run.step_clock(host, *by_ns)?;
                self.ended("clock", host.as_str())
            }
        }
    }

    /// Something that was wrong is so no longer.
    fn over(&mut self, process: &HostName, hamper: Hamper) -> Result<(), RunnerError> {
        match hamper {
            Hamper::Stop => {
                let lives = self.run.check_alive(process).is_ok();
                if lives && !self.is_held(process) && !self.dying.contains(process) {
                    self.run.signal(process, HostSignal::Cont)?;
                }
                Ok(())
            }
            Hamper::Slow(_) if self.hampers.slowest(process).is_some() => Ok(self.slow_down(process)?),
            Hamper::Slow(_) => self.hurry(process),
            Hamper::CutFromPool | Hamper::CutToHost | Hamper::CutFromHost => self.reconnect(process),
            Hamper::Full => self.empty(),
        }
    }

    fn heal(&mut self, hosts: &[HostName]) -> Result<(), RunnerError> {
        for host in hosts {
            if self.hampers.end_slow(host) {
                self.hurry(host)?;
            }
            if self.hampers.end_cuts(host) {
                self.reconnect(host)?;
            }
        }
        if hosts.is_empty() {
            for stretch in self.troubles.keys().copied().collect::<Vec<_>>() {
                self.calm(stretch)?;
            }
            if self.hampers.end(&HostName::new(POOL), Hamper::Full) {
                self.empty()?;
            }
        }
        Ok(())
    }

    /// Something is wrong with the segment, or with a link to it, from now on.
    fn trouble(
        &mut self,
        act: &Act,
        (link, ways): (Option<usize>, WaysPart),
        (loss, delay): (u16, Span),
        during: Option<Span>,
    ) -> Result<(), RunnerError> {
        let Some(switch) = self.segment.clone() else { return Ok(()) };
        let trouble = Trouble { loss: f64::from(loss) / 1_000.0, delay: Duration::from_nanos(delay.ns()) };
        let stretches = match link.map(mac) {
            None => vec![Stretch::Segment],
            Some(mac) if ways == WaysPart::ToGuest => vec![Stretch::To(mac)],
            Some(mac) if ways == WaysPart::FromGuest => vec![Stretch::From(mac)],
            Some(mac) => vec![Stretch::To(mac), Stretch::From(mac)],
        };
        for stretch in stretches {
            self.faults_ever += 1;
            let fault = self.faults_ever;
            if self.troubles.insert(stretch, fault).is_some() {
                self.ended("segment", &self.name_of_stretch(stretch))?;
            }
            switch.set_trouble(stretch, Some(trouble));
            self.began(act, &self.name_of_stretch(stretch))?;
            self.undo_later(during, || Undo::Calm(stretch, fault));
        }
        Ok(())
    }

    fn calm(&mut self, stretch: Stretch) -> Result<(), RunnerError> {
        self.troubles.remove(&stretch);
        if let Some(switch) = &self.segment {
            switch.set_trouble(stretch, None);
        }
        self.ended("segment", &self.name_of_stretch(stretch))
    }

    fn name_of_stretch(&self, stretch: Stretch) -> String {
        let vm = |device| {
            let place = (0..self.scenario.vms.len()).find(|place| mac(*place) == device);
            place.map_or("?", |place| self.scenario.vms[place].name.as_str())
        };
        match stretch {
            Stretch::Segment => "segment".to_owned(),
            Stretch::From(device) => format!("from {}", vm(device)),
            Stretch::To(device) => format!("to {}", vm(device)),
        }
    }

    /// Lets a process run just as much as it may now. One that stands still goes on doing so.
    fn slow_down(&mut self, host: &HostName) -> Result<(), RunError> {
        let stands = self.stands(host);
        let percent = self.hampers.slowest(host);
        Ok(self.run.cluster_mut().throttle(host, percent, stands)?)
    }

    fn hurry(&mut self, host: &HostName) -> Result<(), RunnerError> {
        // A dead one is in no need of it.
        let _ = self.slow_down(host);
        self.ended("slow", host.as_str())
    }

    /// The host is cut from less, or from nothing any more.
    fn reconnect(&mut self, host: &HostName) -> Result<(), RunnerError> {
        self.hold(host)?;
        if self.hampers.is_cut(host) { Ok(()) } else { self.ended("cut", host.as_str()) }
    }

    fn corrupt(
        &mut self,
        index: usize,
        act: &Act,
        (what, vm, bits): (CorruptWhat, usize, u32),
        hosts: &[HostName],
    ) -> Result<(), RunnerError> {
        let vm_name = self.scenario.vms[vm].name.clone();
        let pages: Vec<(u16, String)> = match what {
            CorruptWhat::Heartbeat => {
                hosts.iter().filter_map(|host| Some((number_of(host)?, host.to_string()))).collect()
            }
            _ => vec![(0, vm_name)],
        };
        for (host, target) in pages {
            let places = self.corruption(what, vm, bits, host).flip(&mut self.randoms[index])?;
            if what == CorruptWhat::Heartbeat {
                self.flipped_beats.insert(host);
            }
            let fault = format!("{}: {}", name_of(act), places.join(", "));
            self.run.note(Event { at: monotonic(), what: What::FaultBegan { fault, target } })?;
        }
        Ok(())
    }

    fn corruption(&self, what: CorruptWhat, vm: usize, bits: u32, host: u16) -> Corruption {
        let part = &self.scenario.vms[vm];
        let journal = super::prepare::vm(part, Vec::new()).spec("guest", UnreadConsole::Waits).journal;
        Corruption {
            pool: self.run.cluster().pool_directory().join(POOL),
            what,
            vm: u16::try_from(vm).unwrap_or(u16::MAX),
            generation: self.run.timeline_of(vm).generation().map_or(1, ft_protocol::Generation::get),
            host,
            slots: journal.slots,
            slot_bytes: journal.slot_bytes,
            bits,
        }
    }

    fn fill(&mut self, act: &Act, during: Option<Span>) -> Result<(), RunnerError> {
        let chunk = vec![0x55; FILL_BYTES];
        let Some(tmpfs) = &self.tmpfs else { return Ok(()) };
        let path = tmpfs.path().join(FILLER);
        // One fill follows another without any space between them.
        let file = std::fs::File::options().create(true).append(true).open(&path);
        let mut file = file.map_err(|source| RunnerError::File { path: path.clone(), source })?;
        // Ends when the space does; then page by page.
        while file.write_all(&chunk).is_ok() {}
        while file.write_all(&chunk[..PAGE_BYTES]).is_ok() {}
        self.hampers.begin(&HostName::new(POOL), Hamper::Full, ends(during));
        self.began(act, POOL)
    }

    /// Ends a fill.
    fn empty(&mut self) -> Result<(), RunnerError> {
        let Some(tmpfs) = &self.tmpfs else { return Ok(()) };
        let path = tmpfs.path().join(FILLER);
        std::fs::remove_file(&path).map_err(|source| RunnerError::File { path, source })?;
        self.ended("pool full", POOL)
    }
}

/// When something that begins now is over.
fn ends(during: Option<Span>) -> Option<Time> {
    during.map(|during| monotonic() + during)
}

/// The number of a host's heartbeat page: hosts join in the order of their names.
fn number_of(host: &HostName) -> Option<u16> {
    (0..crate::cluster::HOSTS_MAX).find(|number| HostName::nth(*number) == *host)
}
