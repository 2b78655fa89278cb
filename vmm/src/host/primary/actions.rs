//! What the primary's core says, done.

use super::{Failure, Guest, Reign};
use crate::host::commit::Job;
use crate::host::driver::ring;
use crate::host::vm_thread::VmEvent;
use crate::{clock, failpoint};
use ft_protocol::primary::{Action, Halt, Input};
use ft_protocol::wire::FromHost;

impl Reign<'_> {
    /// Feeds the core and does what it says, and what that leads to.
    pub(super) fn feed(&mut self, input: Input) -> Result<(), Failure> {
        let mut actions = Vec::new();
        self.gate.vcpu(input, &mut actions)?;
        self.act(actions)
    }

    /// Tells the core when the guest has taken all that came.
    pub(super) fn settle_events(&mut self) -> Result<(), Failure> {
        let mut actions = Vec::new();
        let inputs = self.machine.inputs();
        self.gate.settle_events(|| inputs.has_news(), &mut actions)?;
        self.act(actions)
    }

    fn act(&mut self, actions: Vec<Action>) -> Result<(), Failure> {
        for action in actions {
            if self.over {
                return Ok(());
            }
            self.execute(action)?;
        }
        if self.gate.must_rearm() {
            // Without a committer there is nothing to be timed: it has failed, and said so.
            let _ = self.jobs.send(Job::Rearm);
        }
        Ok(())
    }

    fn execute(&mut self, action: Action) -> Result<(), Failure> {
        match action {
            Action::PauseAtExit => {
                self.log.pause(true);
                if self.machine.is_at_exit() { self.feed(Input::AtExit) } else { Ok(()) }
            }
            Action::Stop => {
                self.log.pause(false);
                if let Err(error) = self.machine.complete_pending() {
                    return self.failed(error);
                }
                failpoint::pass("host.commit.stopped");
                self.before_stop = self.guest;
                if self.guest != Guest::Runs {
                    self.times.left = clock::monotonic();
                }
                self.guest = Guest::Stopped;
                if self.recording {
                    self.output()?;
                }
                self.settle_events()?;
                self.look_at_freed()?;
                if self.over { Ok(()) } else { self.feed(Input::Stopped) }
            }
            Action::Write { epoch, ended } => self.write(epoch, ended),
            Action::Resume => {
                self.guest = self.before_stop;
                self.feed(Input::Resumed { pause: clock::monotonic().since(self.times.left) })?;
                if matches!(self.guest, Guest::Waits(_)) { self.feed(Input::StillWaits) } else { Ok(()) }
            }
            Action::Publish { from, to } => {
                let record = self.record.take().expect("a record is written before it is published");
                // A committer that has ended has left word why.
                let freed = self.parts.control.freed()?;
                let _ = self.jobs.send(Job::Publish { record, from, to, freed });
                Ok(())
            }
            Action::Release(epoch) => {
                self.outbox.release(epoch);
                self.input.published(epoch);
                Ok(())
            }
            Action::Deliver => {
                if let Err(error) = self.machine.deliver() {
                    return self.failed(error);
                }
                if self.machine.waits_until().is_none() && matches!(self.before_stop, Guest::Waits(_)) {
                    // It has what it waited for.
                    self.before_stop = Guest::Runs;
                }
                Ok(())
            }
            Action::SetMode(mode) => {
                self.recording = mode.records();
                self.log.record(self.recording);
                self.recorded_since = self.recording.then(|| self.recorded_since.unwrap_or(self.gate.committed()));
                self.say_mode(mode);
                Ok(())
            }
            Action::LogDoorbell => {
                let (vm, generation) = (self.order.vm, self.order.generation);
                ring(&self.around.link, &FromHost::Logged { vm, generation });
                Ok(())
            }
            Action::Doorbell(epoch) => {
                let (vm, generation) = (self.order.vm, self.order.generation);
                ring(&self.around.link, &FromHost::Doorbell { vm, generation, epoch });
                Ok(())
            }
            Action::Halt(halt) => {
                self.over = true;
                self.say_outputs(true);
                self.around.say(match halt {
                    Halt::Fenced { .. } => VmEvent::Fenced { generation: self.order.generation },
                    Halt::Yielded => VmEvent::Yielded {
                        generation: self.order.generation,
                        stood: clock::monotonic().since(self.times.left),
                    },
                    Halt::Ended(_) => VmEvent::GuestEnded,
                });
                Ok(())
            }
        }
    }
}
