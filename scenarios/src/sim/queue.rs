//! Virtual time: what happens next.

use super::fault::Target;
use ft_protocol::ids::VmId;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Something that happens at some time. Events that belong to a process carry the life it was in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The controller's main loop goes one step on.
    ControllerTurn,
    /// The controller's timer fires.
    ControllerTick,
    /// The application of a VM's record goes one step on.
    Apply(VmId),
    /// Console output of a VM's record log is moved to its ring.
    DrainLog(VmId),
    /// A host's main loop goes one step on.
    HostTurn(usize),
    /// A host's timer fires.
    HostTick(usize),
    /// A host tries to connect.
    HostConnect(usize),
    /// A host has made a standby.
    StandbyMade { host: usize, machine: u32 },
    /// A primary's machine goes one step on.
    Machine { host: usize, machine: u32, step: MachineStep },
    /// The client tries to connect.
    ClientConnect,
    /// The client asks for a VM again.
    ClientAsk(VmId),
    /// The client looks at the console of a VM.
    ClientRead(VmId),
    /// The controller notices that a life of a host is over, before the connection closes.
    DeathSeen { host: usize, life: u32 },
    /// The fence agent has done with a life of a host what it could.
    FenceTried { host: usize, life: u32 },
    /// A message arrives.
    Deliver { link: usize, to_controller: bool },
    /// A fault of the plan comes due.
    Fault(usize),
    /// A process begins a new life.
    Restart(Target),
    /// A fault ends.
    Mend(Mend),
    /// The safety phase is over.
    Heal,
    /// A look at the progress of the liveness phase.
    Watch,
    /// A look at what the steps of a scenario wait for.
    Scene,
}

/// The end of a fault that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mend {
    Continue(Target),
    Hurry(Target),
    Reconnect(usize),
    /// A machine of a host goes on.
    Unhang {
        host: usize,
        machine: u32,
    },
    Drain,
}

/// What a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MachineStep {
    /// Reads the machine state and goes live.
    Load,
    /// Runs the guest for a while.
    Slice,
    /// The guest's wait is over.
    Wake,
    /// The vCPU stands still.
    Stopped,
    /// Copies the dirty pages into the slot.
    Write,
    /// Computes the checksum and makes the record durable.
    Checksum,
    /// Moves the commit word.
    Publish,
    /// Carries out the next action of the core.
    Act,
    /// A deadline of the core.
    Tick,
    /// Looks whether slots were freed.
    Poll,
    /// Says that its thread lives.
    Breathe,
    /// Some steps on the way to the end of the log.
    Replay,
    /// A packet comes for the guest.
    Arrive,
    /// A secondary that follows goes some steps on.
    Follow,
}

#[derive(Debug, PartialEq, Eq)]
struct Scheduled {
    at_ns: u64,
    sequence: u64,
    life: u32,
    event: Event,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at_ns, self.sequence).cmp(&(other.at_ns, other.sequence))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Events to come, in the order of their times; those of one time in the order in which they were scheduled.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
}

impl Queue {
    /// Schedules an event.
    pub(crate) fn push(&mut self, at_ns: u64, life: u32, event: Event) {
        self.sequence += 1;
        self.heap.push(Reverse(Scheduled { at_ns, sequence: self.sequence, life, event }));
    }

    /// The next event with its time and the life it belongs to.
    pub(crate) fn pop(&mut self) -> Option<(u64, u32, Event)> {
        self.heap.pop().map(|Reverse(next)| (next.at_ns, next.life, next.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_then_of_scheduling() {
        let mut queue = Queue::default();
        queue.push(5, 1, Event::Heal);
        queue.push(3, 1, Event::ControllerTick);
        queue.push(5, 1, Event::Watch);
        queue.push(3, 1, Event::ControllerTurn);
        let order: Vec<Event> = std::iter::from_fn(|| queue.pop()).map(|(_, _, event)| event).collect();
        assert_eq!(order, [Event::ControllerTick, Event::ControllerTurn, Event::Heal, Event::Watch]);
    }
}
