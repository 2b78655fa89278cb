//! Faults that only in the right place, or only together, do anything: drawn by themselves, they would hardly ever meet.

use super::draw::Draw;
use super::fault::{Fault, FaultEvent, Point, Target, When};
use super::plan::{Drawer, Kind, Salted};

/// Stores and flush that applying one page takes.
const PAGE_ACCESSES: u64 = 65;

/// Accesses that the steps after the pages take.
const AFTER_PAGES: u64 = 24;

/// Accesses in which the cluster state is stored, or nearly so.
const STATE_ACCESSES: u64 = 150;

impl Drawer {
    /// Sometimes draws several faults instead of one of this kind; says whether it did.
    pub(super) fn compound(&mut self, kind: Kind, faults: &mut Vec<FaultEvent>) -> bool {
        let (percent, draw): (u64, fn(&mut Self, &mut Vec<FaultEvent>)) = match kind {
            Kind::DieInPool => (40, Self::death_in_a_step),
            Kind::Corrupt => (30, Self::tear),
            Kind::Stop => (20, Self::zombie),
            Kind::HangVcpu => (40, Self::hang_and_death),
            Kind::Switchover => (25, Self::interrupted_switchover),
            Kind::StallClient => (25, Self::absent_reader),
            _ => return false,
        };
        let drawn = self.draw.chance(percent);
        if drawn {
            draw(self, faults);
        }
        drawn
    }

    /// A death in the middle of just the step that matters: of a publication, a checksum or an application.
    fn death_in_a_step(&mut self, faults: &mut Vec<FaultEvent>) {
        let vm = Target::Primary(self.vm());
        let (step, who, accesses) = self.draw.pick(&[
            (Point::RecordChecksummed, vm, 4),
            (Point::RecordWritten, vm, 6),
            (Point::RecordBegun, Target::Controller, AFTER_PAGES),
            (Point::WordSealed, Target::Controller, STATE_ACCESSES),
            (Point::HostJoined, Target::Controller, STATE_ACCESSES),
        ]);
        let most = if accesses == STATE_ACCESSES { 4 } else { 20 };
        let nth = u32::try_from(1 + self.draw.below(most)).unwrap_or(1);
        let accesses = match step {
            Point::RecordBegun => self.accesses_of_an_application(),
            _ => self.draw.below(accesses),
        };
        let (lines, restart_us) = (self.lines(), self.draw.between(self.weather.restart_us));
        let fault = Fault::DieInPool { who, accesses, lines, restart_us };
        faults.push(FaultEvent { when: When::After { step, nth }, fault });
    }

    /// A record is damaged while the controller has it in hand, perhaps the commit word, too, and the controller may die in
    /// the middle of applying it.
    fn tear(&mut self, faults: &mut Vec<FaultEvent>) {
        let step = self.draw.pick(&[Point::RecordLoaded, Point::RecordBegun, Point::RecordBegun]);
        let when = When::After { step, nth: u32::try_from(1 + self.draw.below(20)).unwrap_or(1) };
        let vm = self.vm();
        let mut corrupt = |what: Salted, draw: &mut Draw| {
            faults.push(FaultEvent { when, fault: Fault::Corrupt { vm, salt: what.salt(draw.bits()) } });
        };
        corrupt(Salted::Record, &mut self.draw);
        if self.draw.chance(50) {
            corrupt(Salted::Word, &mut self.draw);
        }
        if self.draw.chance(30) {
            return;
        }
        let accesses = self.accesses_of_an_application();
        let (lines, restart_us) = (self.lines(), self.draw.between(self.weather.restart_us));
        let fault = Fault::DieInPool { who: Target::Controller, accesses, lines, restart_us };
        faults.push(FaultEvent { when, fault });
    }

    /// Somewhere in the copy, the pages or the steps after them: each page comes once in both.
    fn accesses_of_an_application(&mut self) -> u64 {
        let pages = self.draw.below(2 + 2 * self.weather.guest_pages);
        pages * PAGE_ACCESSES + self.draw.below(AFTER_PAGES)
    }

    /// A primary that is stopped in the middle of a commit and goes on just when it is deposed.
    fn zombie(&mut self, faults: &mut Vec<FaultEvent>) {
        let who = Target::Primary(self.vm());
        let step = self.draw.pick(&[Point::RecordWritten, Point::RecordChecksummed, Point::VcpuStopped]);
        let nth = u32::try_from(1 + self.draw.below(20)).unwrap_or(1);
        let for_us = 4 * self.weather.heartbeat_us * self.weather.heartbeats_missing;
        faults.push(FaultEvent { when: When::After { step, nth }, fault: Fault::Stop { who, for_us } });
        let step = self.draw.pick(&[Point::WordSealed, Point::StatePersisted, Point::TakeoverAsked]);
        faults.push(FaultEvent { when: When::After { step, nth: 1 }, fault: Fault::Continue { who } });
    }

    /// A thread that hangs for ever, and while its host waits for it, the next death.
    fn hang_and_death(&mut self, faults: &mut Vec<FaultEvent>) {
        let vm = self.vm();
        let us = self.draw.below(self.weather.safety_us);
        faults.push(FaultEvent { when: When::At { us }, fault: Fault::HangVcpu { vm, for_us: None } });
        let us = us + self.weather.stall_bound_us() + self.draw.below(2 * self.weather.stall_bound_us());
        let who = self.draw.pick(&[Target::Controller, Target::Primary(vm)]);
        let (lines, restart_us) = (self.lines(), self.draw.between(self.weather.restart_us));
        faults.push(FaultEvent { when: When::At { us }, fault: Fault::Kill { who, lines, restart_us } });
    }

    /// A switchover whose target stops and whose controller dies before it is done.
    fn interrupted_switchover(&mut self, faults: &mut Vec<FaultEvent>) {
        let (vm, to) = (self.vm(), self.host());
        let us = self.draw.below(self.weather.safety_us);
        faults.push(FaultEvent { when: When::At { us }, fault: Fault::Switchover { vm, to: Some(to) } });
        let stop = Fault::Stop { who: Target::Host(to), for_us: self.for_us() };
        faults.push(FaultEvent { when: When::At { us: us + self.draw.below(500) }, fault: stop });
        let (who, lines) = (Target::Controller, self.lines());
        let kill = Fault::Kill { who, lines, restart_us: self.draw.between(self.weather.restart_us) };
        faults.push(FaultEvent { when: When::At { us: us + self.draw.below(3_000) }, fault: kill });
    }

    /// A client that reads nothing until long after everything is healed.
    fn absent_reader(&mut self, faults: &mut Vec<FaultEvent>) {
        let us = self.draw.below(self.weather.safety_us);
        let for_us = self.weather.safety_us - us + self.draw.below(4 * self.weather.stall_bound_us());
        faults.push(FaultEvent { when: When::At { us }, fault: Fault::PauseClient { for_us } });
    }
}
