//! What the steps of a scenario do in the simulator, and to whom.

use super::fault::{Fault, Lines, Target as Whom, Ways};
use super::plan::Salted;
use super::queue::Mend;
use super::stage::{FOR_EVER_US, POOL, START_US, Stage, ended, index_of_host};
use super::world::World;
use crate::cluster::{CONTROLLER, HostName, HostSignal};
use crate::event::What;
use crate::language::{Act, CorruptWhat, CutFrom, Target, WaysPart};
use crate::runner::Hamper;
use ft_protocol::Span;
use ft_protocol::ids::VmId;
use ft_protocol::spec::Mode;
use std::ops::RangeFrom;

impl World {
    /// Whether there is somebody to whom the step can do all that it does.
    pub(super) fn has_targets(&mut self, index: usize) -> bool {
        let Some(stage) = &self.stage else { return false };
        let acts = stage.schedule.step(index).acts.clone();
        let waits = |act: &&Act| !matches!(act, Act::Start { .. });
        let struck: Vec<Target> = acts.iter().filter(waits).flat_map(Act::targets).cloned().collect();
        // Who was fenced, or is started again whenever it dies, is there in a moment.
        if struck.iter().any(|target| self.is_to_come(target, index)) {
            return false;
        }
        let named = |target: &&Target| !matches!(target, Target::Host(_) | Target::HitBy(_));
        let targets: Vec<Target> = acts.iter().flat_map(Act::targets).filter(named).cloned().collect();
        let alive = self.hosts.iter().any(|host| host.actor.alive);
        // Who any is must be drawn only when it is done.
        targets
            .iter()
            .all(|target| if *target == Target::Any { alive } else { !self.whom(target, index, &mut (0..)).is_empty() })
    }

    /// Whether somebody whom a step means is dead, and about to live again. Any is whoever lives.
    fn is_to_come(&mut self, target: &Target, index: usize) -> bool {
        if *target == Target::Any {
            return false;
        }
        let whom = self.whom(target, index, &mut (0..));
        whom.into_iter().any(|who| matches!(who, Whom::Host(_)) && self.actor_mut(who).back_ns.is_some())
    }

    /// The host that has a role for a VM, as the controller sees it.
    pub(super) fn role_host(&self, vm: u16, primary: bool) -> Option<Whom> {
        let status = self.controller.core.status().vms.into_iter().find(|status| status.vm == VmId::new(vm))?;
        let name = if primary { status.primary } else { status.secondary }?;
        index_of_host(&HostName::new(&name)).map(Whom::Host)
    }

    /// Whom a step means; what is left to chance depends on the seed and the step alone.
    fn whom(&mut self, target: &Target, index: usize, draws: &mut RangeFrom<usize>) -> Vec<Whom> {
        let number = |vm: usize| u16::try_from(vm).unwrap_or(0);
        let holds = |vm: usize, host: usize| {
            self.hosts[host].machines.iter().any(|machine| usize::from(machine.vm.get()) == vm)
        };
        let alive: Vec<usize> = (0..self.hosts.len()).filter(|host| self.hosts[*host].actor.alive).collect();
        let host = |host: usize| Whom::Host(u16::try_from(host).unwrap_or(0));
        match target {
            Target::Primary(vm) => self.role_host(number(*vm), true).into_iter().collect(),
            Target::Secondary(vm) => self.role_host(number(*vm), false).into_iter().collect(),
            Target::Spare(vm) => {
                alive.iter().find(|host| !holds(*vm, **host)).map(|found| host(*found)).into_iter().collect()
            }
            Target::Any => {
                let hosts = self.hosts.len();
                let Some(stage) = &mut self.stage else { return Vec::new() };
                // Drawn from all, as on real processes: the draw does not depend on who happens to be alive.
                let first = stage.schedule.draw(index, draws.next().unwrap_or_default(), hosts);
                let mut turned = (0..hosts).map(|offset| (first + offset) % hosts);
                turned.find(|found| alive.contains(found)).map(host).into_iter().collect()
            }
            Target::Host(name) if name.as_str() == CONTROLLER => vec![Whom::Controller],
            Target::Host(name) => index_of_host(name).map(Whom::Host).into_iter().collect(),
            Target::HitBy(step) => self.last_hit(*step),
        }
    }

    pub(super) fn last_hit(&self, step: usize) -> Vec<Whom> {
        self.stage.as_ref().map_or_else(Vec::new, |stage| stage.hit[step].clone())
    }

    pub(super) fn perform(
        &mut self,
        (index, step): (usize, &str),
        act: &Act,
        draws: &mut RangeFrom<usize>,
        hit: &mut Vec<Whom>,
    ) {
        let us = |span: &Span| span.ns() / 1_000;
        let during = |span: &Option<Span>| span.as_ref().map_or(FOR_EVER_US, us);
        let targets: Vec<Whom> = act.targets().iter().flat_map(|target| self.whom(target, index, draws)).collect();
        match act {
            Act::Signal { signal, undo_after, .. } => {
                for who in &targets {
                    self.see(What::Signalled { host: Stage::name(*who), signal: *signal });
                    match signal {
                        HostSignal::Kill => self.kill(*who, Lines::Kept, Some(START_US)),
                        // The dead stand still anyway.
                        HostSignal::Stop if !self.actor_mut(*who).alive => {}
                        HostSignal::Stop => {
                            self.hamper(&[*who], Hamper::Stop, *undo_after);
                            self.apply_fault(Fault::Stop { who: *who, for_us: during(undo_after) });
                        }
                        HostSignal::Cont => {
                            self.ends_early(*who, Hamper::Stop);
                            self.mend(Mend::Continue(*who));
                        }
                    }
                }
            }
            Act::Start { .. } => {
                for who in &targets {
                    if !self.actor_mut(*who).alive {
                        self.lives_again_at(*who, self.now_ns + START_US * 1_000);
                    }
                }
            }
            Act::Restart { dead_for, .. } => {
                for who in &targets {
                    self.take_away(*who, us(dead_for) + START_US);
                }
            }
            Act::Slow { percent, during: span, .. } => {
                // Whole times: a little less of the processor is half of it there.
                let factor = u64::from(100_u32.div_ceil((*percent).max(1)));
                self.began("slow", &targets);
                self.hamper(&targets, Hamper::Slow, *span);
                for who in &targets {
                    self.apply_fault(Fault::Slow { who: *who, factor, for_us: during(span) });
                }
            }
            Act::Cut { from, ways, during: span, .. } => {
                self.began("cut", &targets);
                Hamper::of_cut(*from, *ways).for_each(|cut| self.hamper(&targets, cut, *span));
                let ways = match ways {
                    WaysPart::Both | WaysPart::ToGuest | WaysPart::FromGuest => Ways::Both,
                    WaysPart::ToHost => Ways::FromController,
                    WaysPart::FromHost => Ways::ToController,
                };
                for who in targets.iter().copied() {
                    if *from != CutFrom::Network {
                        self.apply_fault(Fault::CutPool { who, accesses: 0, for_us: during(span) });
                    }
                    if *from != CutFrom::Pool {
                        self.apply_fault(Fault::StallLink { who, ways, for_us: during(span) });
                    }
                }
            }
            Act::Heal { targets: of } => {
                if of.is_empty() {
                    self.empty_pool();
                }
                for who in &targets {
                    self.mend_all(*who);
                }
            }
            // Such files are not played at all.
            Act::Segment { .. } => {}
            Act::Clock { by_ns, during: span, .. } => {
                self.began("clock steps", &targets);
                let over = span.unwrap_or(Span::ZERO);
                let at = self.stage_time() + over;
                for who in targets.iter().copied() {
                    self.apply_fault(Fault::JumpClock { who, by_us: by_ns / 1_000 });
                    if let Some(stage) = &mut self.stage {
                        stage.endings.push((at, ended("clock", Stage::name(who).as_str())));
                    }
                    if let Some(stage) = self.stage.as_mut().filter(|_| span.is_some()) {
                        stage.jumps_back.push((at, Fault::JumpClock { who, by_us: -(by_ns / 1_000) }));
                    }
                }
            }
            Act::Switchover { vm, to } => {
                let to = to.as_ref().and_then(|_| targets.first().copied());
                let to = to.and_then(|to| if let Whom::Host(host) = to { Some(host) } else { None });
                let vm = VmId::new(u16::try_from(*vm).unwrap_or(0));
                let id = self.request_switchover(vm, to);
                self.ordered(id, step);
            }
            Act::Drain { on, .. } => {
                for who in &targets {
                    if let Whom::Host(host) = who {
                        let id = if *on { self.request_drain(*host) } else { self.request_drain_over(*host) };
                        self.ordered(id, step);
                    }
                }
            }
            Act::Mode { vm, mode } => {
                let id = self.request_mode(VmId::new(u16::try_from(*vm).unwrap_or(0)), Mode::from(*mode));
                self.ordered(id, step);
            }
            Act::Corrupt { what, vm, bits, .. } => {
                let what = if *what == CorruptWhat::CommitWord { Salted::Word } else { Salted::Record };
                for _ in 0..*bits {
                    let nth = draws.next().unwrap_or_default();
                    let salt = self.stage.as_mut().map_or(0, |stage| stage.schedule.draw(index, nth, usize::MAX));
                    let salt = u64::try_from(salt).unwrap_or(0);
                    let vm = u16::try_from(*vm).unwrap_or(0);
                    self.apply_fault(Fault::Corrupt { vm, salt: what.salt(salt) });
                }
                self.see(What::FaultBegan { fault: "corrupt".to_owned(), target: "pool".to_owned() });
            }
            Act::Fill { during: span } => {
                self.see(What::FaultBegan { fault: "pool full".to_owned(), target: POOL.to_owned() });
                let until = span.map(|span| self.stage_time() + Span::from_us(us(&span)));
                if let Some(stage) = &mut self.stage {
                    stage.hampers.begin(&HostName::new(POOL), Hamper::Full, until);
                }
                self.apply_fault(Fault::FillPool { for_us: during(span) });
            }
            Act::Delete { vm } => self.request_delete(VmId::new(u16::try_from(*vm).unwrap_or(0)), false),
            Act::Mark => {}
        }
        hit.extend(targets);
    }

    /// A process is dead for so long, also if it would come back by itself before.
    fn take_away(&mut self, who: Whom, away_us: u64) {
        if self.actor_mut(who).alive {
            self.see(What::Signalled { host: Stage::name(who), signal: HostSignal::Kill });
            self.kill(who, Lines::Kept, Some(away_us));
        }
        let back_ns = self.now_ns + away_us * 1_000;
        // Who was taken away for longer stays away for longer.
        let back_ns = self.actor_mut(who).back_ns.map_or(back_ns, |other| other.max(back_ns));
        self.lives_again_at(who, back_ns);
    }

    fn began(&mut self, fault: &str, targets: &[Whom]) {
        for who in targets {
            let (fault, target) = (fault.to_owned(), Stage::name(*who).to_string());
            self.see(What::FaultBegan { fault, target });
        }
    }

    fn ordered(&mut self, id: u64, step: &str) {
        if let Some(stage) = &mut self.stage {
            stage.orders.push((id, step.to_owned()));
        }
    }

    /// Something that is wrong with a process ends before its time; says whether it was there.
    fn ends_early(&mut self, who: Whom, hamper: Hamper) -> bool {
        self.stage.as_mut().is_some_and(|stage| stage.hampers.end(&Stage::name(who), hamper))
    }

    /// Ends a fill, if there is one.
    fn empty_pool(&mut self) {
        self.mend(Mend::Drain);
        if self.stage.as_mut().is_some_and(|stage| stage.hampers.end(&HostName::new(POOL), Hamper::Full)) {
            self.see(ended("pool full", POOL));
        }
    }

    /// Ends all that was done to a process, but its death and its standing still.
    fn mend_all(&mut self, who: Whom) {
        self.mend(Mend::Hurry(who));
        if let Whom::Host(host) = who {
            self.mend(Mend::Reconnect(usize::from(host)));
            if let Some(link) = self.hosts[usize::from(host)].link {
                self.flow_again(link);
            }
        }
        if self.ends_early(who, Hamper::Slow) {
            self.see(ended("slow", Stage::name(who).as_str()));
        }
        if self.stage.as_mut().is_some_and(|stage| stage.hampers.end_cuts(&Stage::name(who))) {
            self.see(ended("cut", Stage::name(who).as_str()));
        }
    }
}
