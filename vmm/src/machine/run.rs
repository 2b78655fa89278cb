//! Running the guest, and serving what it accesses.

use super::crash::{CrashKind, CrashReport};
use super::device::{Context, Effects, SentPacket};
use super::dirty::{self, DirtyPages};
use super::error::{KvmCall, MachineError};
use super::inputs::{ExitNumber, InputError, InputSource, Produced};
use super::prepare::Machine;
use super::time::GuestTime;
use super::vcpu::Exit;
use super::vcpus::VcpuIndex;
use crate::clock;
use ft_protocol::Time;
use ft_protocol::console_input::input_beyond;
use ft_protocol::record::{Access, HistoryDigest};

/// Most accesses that finishing one instruction of a vCPU may take. KVM itself goes back to the guest after every 1024 steps of a
/// repeated string instruction.
const COMPLETION_STEPS_MAX: usize = 4096;

/// Why [`Machine::run`] returned.
#[derive(Debug, Clone, PartialEq)]
pub enum Stop {
    /// A [`Kicker`](super::Kicker) asked for it.
    Kicked,
    /// The last exit added console bytes or packets. They need not be taken at once: running on is fine.
    Output,
    /// The guest wants its disk writes to outlive everything: commit soon. Running on is fine.
    Flush,
    /// The input source must be looked after before the guest runs on.
    SourcePaused,
    /// The guest waits until then. Run again at that time, or when there is console input.
    Wait {
        /// When the wait is over.
        until: GuestTime,
    },
    /// The guest has ended with this code; it stays so.
    Exited(u32),
    /// The guest cannot run on; it stays so.
    Crashed(Box<CrashReport>),
}

/// Console bytes, with their place in all that the guest ever wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleOutput {
    /// How many bytes came before these.
    pub position: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// How far the guest has come, beside what its processor and memory say.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) exits: ExitNumber,
    /// The guest has not run on since.
    pub(super) is_at_exit: bool,
    /// When the guest came to its last exit.
    pub(super) exit_at: Time,
    /// All exits so far, in a number.
    pub(super) history: HistoryDigest,
    pub(super) console: Vec<u8>,
    /// Console bytes ever written, those in `console` included.
    pub(super) console_position: u64,
    /// Console input bytes that the guest's devices have ever taken.
    pub(super) console_taken: u64,
    /// Packets that the guest has sent and nobody has taken yet, in order.
    pub(super) packets: Vec<SentPacket>,
    /// Packets ever sent, those in `packets` included.
    pub(super) packet_position: u64,
    pub(super) flush: bool,
    pub(super) wait_until: Option<GuestTime>,
    pub(super) exit_code: Option<u32>,
    pub(super) crash: Option<CrashReport>,
}

impl Machine {
    /// Runs the guest until there is something for the caller.
    ///
    /// # Errors
    /// KVM or an input source failed; the guest has not run past that point.
    pub fn run(&mut self) -> Result<Stop, MachineError> {
        if self.platform.is_some() {
            // Whatever came since made a kick, and nobody else tells such a guest.
            self.deliver()?;
        }
        loop {
            if let Some(stop) = self.standing_stop()? {
                return Ok(stop);
            }
            self.progress.is_at_exit = false;
            let (vcpu, exit) = self.vcpus.run()?;
            match exit {
                Exit::Interrupted if self.vcpus.kicker().take() => return Ok(Stop::Kicked),
                Exit::Interrupted => {}
                Exit::Crash(kind) => self.note_crash(vcpu, kind)?,
                access => {
                    let before = self.progress.output_position();
                    self.serve(vcpu, access)?;
                    if self.progress.output_position() != before {
                        return Ok(Stop::Output);
                    }
                }
            }
        }
    }

    /// Finishes the access that the last exit was for, and stops all vCPUs. After that the registers are those between two
    /// instructions. It may add console bytes, and even an exit code.
    ///
    /// # Errors
    /// KVM or an input source failed.
    pub fn complete_pending(&mut self) -> Result<(), MachineError> {
        let limit = COMPLETION_STEPS_MAX * self.vcpus.count();
        for _ in 0..limit {
            match self.vcpus.stand_still()? {
                None => return Ok(()),
                Some((_, Exit::Interrupted)) => {}
                Some((vcpu, Exit::Crash(kind))) => self.note_crash(vcpu, kind)?,
                Some((vcpu, access)) => self.serve(vcpu, access)?,
            }
        }
        Err(MachineError::Unsettled { exits: self.progress.exits.0, limit })
    }

    /// The console bytes that have not been taken yet.
    pub fn take_console(&mut self) -> ConsoleOutput {
        let bytes = std::mem::take(&mut self.progress.console);
        ConsoleOutput { position: self.progress.console_position - bytes.len() as u64, bytes }
    }

    /// The console bytes that have not been taken yet, left where they are.
    #[must_use]
    pub fn pending_console(&self) -> &[u8] {
        &self.progress.console
    }

    /// How many console bytes the guest has ever written.
    #[must_use]
    pub fn console_position(&self) -> u64 {
        self.progress.console_position
    }

    /// How many console input bytes the guest's devices have ever taken.
    #[must_use]
    pub fn console_taken(&self) -> u64 {
        self.progress.console_taken
    }

    /// Where the next console input byte belongs in all that the guest was ever given: behind those that wait for it.
    #[must_use]
    pub fn console_input_end(&self) -> u64 {
        self.progress.console_taken + self.inputs.waiting_console().len() as u64
    }

    /// The packets that have not been taken yet, in the order in which the guest sent them.
    pub fn take_packets(&mut self) -> Vec<SentPacket> {
        std::mem::take(&mut self.progress.packets)
    }

    /// How many packets have not been taken yet.
    #[must_use]
    pub fn pending_packets(&self) -> usize {
        self.progress.packets.len()
    }

    /// Forgets the console bytes not taken yet that come before `position`: they have left before.
    pub fn drop_console_before(&mut self, position: u64) {
        let pending = self.progress.console.len();
        let start = self.progress.console_position - pending as u64;
        let known = usize::try_from(position.saturating_sub(start)).map_or(pending, |known| known.min(pending));
        self.progress.console.drain(..known);
    }

    /// How many packets the guest has ever sent.
    #[must_use]
    pub fn packet_position(&self) -> u64 {
        self.progress.packet_position
    }

    /// Lets devices take what came for them at this point of the guest's history, which is the last exit, or behind it
    /// where a kick has stopped the guest. Only right after a commit, which makes this point one that a successor finds.
    ///
    /// # Errors
    /// An input source failed.
    pub fn deliver(&mut self) -> Result<(), MachineError> {
        let mut effects = Effects::default();
        self.poll_devices(&mut effects)?;
        self.apply(effects)?;
        self.update_lines()
    }

    fn poll_devices(&mut self, effects: &mut Effects) -> Result<(), InputError> {
        let (exit, memory) = (self.progress.exits, &self.memory);
        let mut context = Context { exit, inputs: &mut *self.inputs, memory, effects };
        context.inputs.begin_poll();
        self.ports.poll(&mut context)?;
        self.mmio.poll(&mut context)
    }

    /// Tells the interrupt chips of a machine that has some what the devices want.
    fn update_lines(&mut self) -> Result<(), MachineError> {
        match &mut self.platform {
            Some(platform) => platform.update_lines(&self.vm, [&mut self.ports, &mut self.mmio]),
            None => Ok(()),
        }
    }

    /// Ends the guest's wait, if it waits, as time would: for a replay that comes to a state in which the wait is over.
    ///
    /// # Errors
    /// An input source failed.
    pub fn end_wait(&mut self) -> Result<(), MachineError> {
        if self.progress.wait_until.take().is_some() { self.deliver() } else { Ok(()) }
    }

    /// Puts another source in the place of the one that the guest's inputs came from, and gives that back.
    pub fn replace_inputs(&mut self, inputs: Box<dyn InputSource>) -> Box<dyn InputSource> {
        std::mem::replace(&mut self.inputs, inputs)
    }

    /// The source of the guest's inputs.
    pub fn inputs(&mut self) -> &mut dyn InputSource {
        &mut *self.inputs
    }

    /// Hands console input to the guest, which sees it from its next exit on. Says how many bytes were taken: at most
    /// [`CONSOLE_INPUT_MAX`](super::CONSOLE_INPUT_MAX) wait.
    pub fn push_console_input(&mut self, bytes: &[u8]) -> usize {
        self.inputs.offer_console(bytes)
    }

    /// Hands over console input that begins at this place in all that the guest is ever given. What it has already is
    /// passed over, what would leave a gap is not taken; nor is what there is no room for. Says how many bytes are new.
    pub fn push_console_input_at(&mut self, position: u64, bytes: &[u8]) -> usize {
        self.push_console_input(input_beyond(self.console_input_end(), position, bytes))
    }

    /// Until when the guest waits, if it does.
    #[must_use]
    pub fn waits_until(&self) -> Option<GuestTime> {
        self.progress.wait_until
    }

    /// The present guest time.
    #[must_use]
    pub fn guest_time(&self) -> GuestTime {
        self.inputs.now()
    }

    /// How many exits the guest's instructions have caused.
    #[must_use]
    pub fn exits(&self) -> ExitNumber {
        self.progress.exits
    }

    /// When the guest came to its last exit.
    #[must_use]
    pub fn exit_at(&self) -> Time {
        self.progress.exit_at
    }

    /// Whether the guest stands at its last exit, where every replay of it comes by, rather than somewhere behind it.
    #[must_use]
    pub fn is_at_exit(&self) -> bool {
        self.progress.is_at_exit
    }

    /// The digest of the guest's history up to its last exit.
    #[must_use]
    pub fn history_digest(&self) -> u32 {
        self.progress.history.at_exit()
    }

    /// Adds to `out` the pages that the guest and its devices wrote since the last harvest.
    ///
    /// # Errors
    /// KVM has no log.
    pub fn harvest(&mut self, out: &mut DirtyPages) -> Result<(), MachineError> {
        dirty::harvest(&self.vm, &self.memory, &self.ram, out)
    }

    /// What stands in the way of entering the guest.
    fn standing_stop(&mut self) -> Result<Option<Stop>, MachineError> {
        if let Some(code) = self.progress.exit_code {
            return Ok(Some(Stop::Exited(code)));
        }
        if let Some(report) = self.progress.crash {
            return Ok(Some(Stop::Crashed(Box::new(report))));
        }
        if self.inputs.must_pause() {
            return Ok(Some(Stop::SourcePaused));
        }
        if std::mem::take(&mut self.progress.flush) {
            return Ok(Some(Stop::Flush));
        }
        let Some(until) = self.progress.wait_until else { return self.give_owed() };
        if self.inputs.wakes() || self.inputs.now() >= until {
            self.progress.wait_until = None;
            self.inputs.wait_ends();
            self.deliver()?;
            // What was delivered may have been the last thing before the guest must stand still.
            return if self.inputs.must_pause() { Ok(Some(Stop::SourcePaused)) } else { self.give_owed() };
        }
        Ok(Some(if self.vcpus.kicker().take() { Stop::Kicked } else { Stop::Wait { until } }))
    }

    /// Gives the guest what a replay still has for the exit where it stands.
    fn give_owed(&mut self) -> Result<Option<Stop>, MachineError> {
        let mut before = None;
        while let Some(taken) = self.inputs.owes() {
            if before == Some(taken) {
                // It does not take it here: it has gone another way, which its next exit shows.
                break;
            }
            before = Some(taken);
            self.deliver()?;
            if self.inputs.must_pause() {
                return Ok(Some(Stop::SourcePaused));
            }
        }
        Ok(None)
    }

    /// Serves the access that a vCPU has stopped at.
    fn serve(&mut self, vcpu: VcpuIndex, access: Exit) -> Result<(), MachineError> {
        self.progress.exits.0 += 1;
        self.progress.is_at_exit = true;
        self.progress.exit_at = clock::monotonic();
        let mut effects = Effects::default();
        match access {
            Exit::Port => self.serve_port(vcpu, &mut effects)?,
            Exit::Mmio => self.serve_mmio(vcpu, &mut effects)?,
            Exit::Interrupted | Exit::Crash(_) => unreachable!("only accesses are served"),
        }
        self.poll_devices(&mut effects)?;
        self.apply(effects)?;
        self.update_lines()
    }

    fn serve_port(&mut self, vcpu: VcpuIndex, effects: &mut Effects) -> Result<(), InputError> {
        let exit = self.progress.exits;
        let mut vcpu = self.vcpus.still(vcpu);
        let access = vcpu.port_access();
        let port = u64::from(access.port);
        self.progress.history.ask(&Access {
            exit: exit.0,
            is_port: true,
            is_write: access.is_write,
            width: u8::try_from(access.width).expect("ports are at most four bytes wide"),
            address: port,
            data: access.data,
        });
        self.inputs.begin_exit(exit, self.progress.history.at_exit())?;
        let mut context = Context { exit, inputs: &mut *self.inputs, memory: &self.memory, effects };
        for word in access.data.chunks_exact_mut(access.width) {
            match access.is_write {
                true => self.ports.write(port, word, &mut context)?,
                false => self.ports.read(port, word, &mut context)?,
            }
        }
        if !access.is_write {
            self.progress.history.answer(access.data);
        }
        Ok(())
    }

    fn serve_mmio(&mut self, vcpu: VcpuIndex, effects: &mut Effects) -> Result<(), InputError> {
        let exit = self.progress.exits;
        let mut vcpu = self.vcpus.still(vcpu);
        let access = vcpu.mmio_access();
        self.progress.history.ask(&Access {
            exit: exit.0,
            is_port: false,
            is_write: access.is_write,
            width: u8::try_from(access.data.len()).expect("KVM has eight bytes for it"),
            address: access.address,
            data: access.data,
        });
        self.inputs.begin_exit(exit, self.progress.history.at_exit())?;
        let mut context = Context { exit, inputs: &mut *self.inputs, memory: &self.memory, effects };
        match access.is_write {
            true => self.mmio.write(access.address, access.data, &mut context)?,
            false => self.mmio.read(access.address, access.data, &mut context)?,
        }
        if !access.is_write {
            self.progress.history.answer(access.data);
        }
        Ok(())
    }

    /// Takes in what devices want of the outside, after the source of inputs has been told.
    fn apply(&mut self, effects: Effects) -> Result<(), InputError> {
        if !effects.console.is_empty() || !effects.packets.is_empty() {
            let produced = Produced {
                console_position: self.progress.console_position,
                console: &effects.console,
                packet_position: self.progress.packet_position,
                packets: &effects.packets,
            };
            self.inputs.produced(self.progress.exits, &produced)?;
        }
        self.progress.apply(effects);
        Ok(())
    }

    fn note_crash(&mut self, vcpu: VcpuIndex, kind: CrashKind) -> Result<(), MachineError> {
        let vcpu = self.vcpus.still(vcpu);
        let regs = vcpu.fd().get_regs().map_err(KvmCall::GetRegs.failed())?;
        let sregs = vcpu.fd().get_sregs().map_err(KvmCall::GetSregs.failed())?;
        self.progress.crash = Some(CrashReport::new(kind, regs, &sregs));
        Ok(())
    }
}

impl Progress {
    /// Grows with every output.
    fn output_position(&self) -> u64 {
        self.console_position + self.packet_position
    }

    fn apply(&mut self, mut effects: Effects) {
        self.console_position += effects.console.len() as u64;
        self.console.append(&mut effects.console);
        self.console_taken += effects.console_taken;
        self.packet_position += effects.packets.len() as u64;
        self.packets.append(&mut effects.packets);
        self.flush |= effects.flush;
        self.exit_code = effects.exit_code.or(self.exit_code);
        // What came with the very exit that wants to wait is there to be looked at.
        self.wait_until = if effects.received { None } else { effects.wait_until.or(self.wait_until) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_with_a_wait_ends_it() {
        let waits = |received| Effects { wait_until: Some(GuestTime(7)), received, ..Effects::default() };
        let mut progress = Progress::default();
        progress.apply(waits(true));
        assert_eq!(progress.wait_until, None);
        progress.apply(waits(false));
        assert_eq!(progress.wait_until, Some(GuestTime(7)));
        progress.apply(Effects::default());
        assert_eq!(progress.wait_until, Some(GuestTime(7)), "nothing came");
        progress.apply(Effects { received: true, ..Effects::default() });
        assert_eq!(progress.wait_until, None);
    }
}
