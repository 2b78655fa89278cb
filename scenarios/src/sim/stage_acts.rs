//! What the steps of a scenario do in the simulator.

use super::fault::{Fault, Lines, Target as Whom, Ways};
use super::plan::Salted;
use super::queue::Mend;
use super::stage::{FOR_EVER_US, POOL, START_US, Stage, ended};
use super::world::World;
use crate::cluster::{ClusterError, HostName, HostSignal};
use crate::event::What;
use crate::language::{Act, CorruptWhat, CutFrom, WaysPart};
use crate::runner::Hamper;
use ft_protocol::Span;
use ft_protocol::ids::VmId;
use ft_protocol::spec::Mode;
use std::ops::RangeFrom;

impl World {
    pub(super) fn perform(
        &mut self,
        (index, step): (usize, &str),
        act: &Act,
        targets: &[Whom],
        draws: &mut RangeFrom<usize>,
    ) {
        let us = |span: &Span| span.ns() / 1_000;
        let during = |span: &Option<Span>| span.as_ref().map_or(FOR_EVER_US, us);
        let names = || targets.iter().copied().map(Stage::name);
        match act {
            Act::Signal { signal, undo_after, .. } => {
                for who in self.living(index, targets) {
                    self.see(What::Signalled { host: Stage::name(who), signal: *signal });
                    match signal {
                        HostSignal::Kill => self.kill(who, Lines::Kept, Some(START_US)),
                        HostSignal::Stop => {
                            self.hamper([Stage::name(who)], Hamper::Stop, *undo_after);
                            self.apply_fault(Fault::Stop { who, for_us: during(undo_after) });
                        }
                        HostSignal::Cont => {
                            self.ends_early(&Stage::name(who), Hamper::Stop);
                            self.mend(Mend::Continue(who));
                        }
                    }
                }
            }
            Act::Start { .. } => {
                for who in targets {
                    self.start(index, *who);
                }
            }
            Act::Restart { dead_for, .. } => {
                for who in targets {
                    self.take_away(*who, us(dead_for) + START_US);
                }
            }
            Act::Slow { percent, during: span, .. } => {
                for who in self.living(index, targets) {
                    self.began("slow", &[who]);
                    self.hamper([Stage::name(who)], Hamper::Slow(*percent), *span);
                    let factor = self.slowness_of(who);
                    self.apply_fault(Fault::Slow { who, factor, for_us: during(span) });
                }
            }
            Act::Cut { from, ways, during: span, .. } => {
                self.began("cut", targets);
                Hamper::of_cut(*from, *ways).for_each(|cut| self.hamper(names(), cut, *span));
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
                for who in targets {
                    self.mend_all(*who);
                }
            }
            // Such files are not played at all.
            Act::Segment { .. } => {}
            Act::Clock { by_ns, during: span, .. } => {
                self.began("clock steps", targets);
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
                for who in targets {
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
                self.hamper([HostName::new(POOL)], Hamper::Full, *span);
                self.apply_fault(Fault::FillPool { for_us: during(span) });
            }
            Act::Delete { vm } => self.request_delete(VmId::new(u16::try_from(*vm).unwrap_or(0)), false),
            Act::Mark => {}
        }
    }

    /// Those of a step's targets that it can strike: as on real processes, one that means the dead ends the run. Who died in this very
    /// moment is not known to be dead, and feels nothing.
    fn living(&mut self, index: usize, targets: &[Whom]) -> Vec<Whom> {
        let mut living = targets.to_vec();
        living.retain(|who| {
            let actor = self.actor_mut(*who);
            let (alive, died_ns) = (actor.alive, actor.died_ns);
            if !alive && died_ns < self.now_ns && matches!(who, Whom::Host(_)) {
                self.fail_step(index, ClusterError::HostDead { name: Stage::name(*who) });
            }
            alive
        });
        living
    }

    fn start(&mut self, index: usize, who: Whom) {
        if self.actor_mut(who).alive {
            return self.fail_step(index, ClusterError::HostAlive { name: Stage::name(who) });
        }
        self.lives_again_at(who, self.now_ns + START_US * 1_000);
    }

    fn fail_step(&mut self, index: usize, why: ClusterError) {
        if let Some(stage) = &mut self.stage {
            stage.failed.get_or_insert((index, why));
        }
    }

    /// So many times longer everything takes a process that is slow. Whole times: a little less of the processor is half of it.
    pub(super) fn slowness_of(&self, who: Whom) -> u64 {
        let percent = self.stage.as_ref().and_then(|stage| stage.hampers.slowest(&Stage::name(who)));
        percent.map_or(1, |percent| u64::from(100_u32.div_ceil(percent.max(1))))
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

    /// Something that is wrong with a process, or with the pool, ends before its time; says whether it was there.
    fn ends_early(&mut self, name: &HostName, hamper: Hamper) -> bool {
        self.stage.as_mut().is_some_and(|stage| stage.hampers.end(name, hamper))
    }

    /// Ends a fill, if there is one.
    fn empty_pool(&mut self) {
        self.mend(Mend::Drain);
        if self.ends_early(&HostName::new(POOL), Hamper::Full) {
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
        if self.stage.as_mut().is_some_and(|stage| stage.hampers.end_slow(&Stage::name(who))) {
            self.see(ended("slow", Stage::name(who).as_str()));
        }
        if self.stage.as_mut().is_some_and(|stage| stage.hampers.end_cuts(&Stage::name(who))) {
            self.see(ended("cut", Stage::name(who).as_str()));
        }
    }
}
