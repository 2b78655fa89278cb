//! Console input: passed on from the one client that feeds a VM to its primary, and what that says of it back. Nothing is
//! kept here: what is lost on the way is sent again, once the primary has said what it has.

use super::clients::answer;
use super::io::Action;
use super::vm::Phase;
use super::{Controller, Generation, HostId, LinkId, Turn, VmId};
use crate::console_input::{InputAt, MESSAGE_INPUT_MAX, MESSAGES_UNTOLD_MAX};
use crate::wire::{Answer, INPUT_SINCE, RequestError, ToClient, ToHost};

/// The client that feeds a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Feeder {
    link: LinkId,
    /// Messages passed on since the primary last said how far it is.
    untold: u32,
    /// One was not passed on: all behind it are in vain.
    gap: bool,
}

impl Controller {
    pub(super) fn open_input(&mut self, turn: &mut Turn<'_>, link: LinkId, id: u64, vm: VmId) {
        let refusal = match self.vms.get(&vm) {
            None => Some(RequestError::UnknownVm(vm)),
            Some(entry) => match &entry.phase {
                Phase::Creating { .. } => Some(RequestError::UnknownVm(vm)),
                Phase::Damaged { .. } => Some(RequestError::Damaged(vm)),
                Phase::Ended { .. } => Some(RequestError::NotNow("the guest has ended".to_owned())),
                Phase::Deleting { .. } => Some(RequestError::NotNow("the VM is deleted".to_owned())),
                _ if entry.feeder.is_some_and(|feeder| feeder.link != link) => {
                    Some(RequestError::NotNow("another command feeds the guest's console".to_owned()))
                }
                _ => entry.primary().and_then(|host| self.takes_no_input(host)).map(RequestError::NotNow),
            },
        };
        if let Some(refusal) = refusal {
            answer(turn, link, id, Err(refusal), Vec::new());
            return;
        }
        answer(turn, link, id, Ok(Answer::Done), Vec::new());
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let feeder = entry.feeder.get_or_insert(Feeder { link, untold: 0, gap: false });
        // Who asks over and over buries the primary no less.
        feeder.gap |= feeder.untold >= MESSAGES_UNTOLD_MAX;
        if !feeder.gap {
            feeder.untold += 1;
            self.send_open_input(turn, vm);
        }
    }

    /// Why the host cannot be given console input, if it cannot.
    fn takes_no_input(&self, host: HostId) -> Option<String> {
        let protocol = self.hosts.get(&host)?.protocol.filter(|protocol| *protocol < INPUT_SINCE)?;
        let name = self.host_name(host);
        Some(format!(
            "host `{name}` speaks protocol {protocol}, console input takes {INPUT_SINCE}: use a newer ftvm there"
        ))
    }

    /// Somebody feeds the VM, and its primary runs and has been told all, or is a new one: it is asked where the input is.
    pub(super) fn ask_for_input(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        if let Some(feeder) = self.vms.get_mut(&vm).and_then(|entry| entry.feeder.as_mut()) {
            (feeder.untold, feeder.gap) = (0, false);
            self.send_open_input(turn, vm);
        }
    }

    fn send_open_input(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get(&vm) else { return };
        let (Some(feeder), Phase::Running { host }) = (entry.feeder, &entry.phase) else { return };
        let (host, generation) = (*host, entry.generation);
        let refusal = self.takes_no_input(host);
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if let Some(reason) = refusal {
            entry.feeder = None;
            let message = ToClient::InputEnded { vm, reason };
            turn.actions.push(Action::ToClient { link: feeder.link, message, grants: Vec::new() });
            return;
        }
        self.to_host(turn, host, ToHost::OpenInput { vm, generation }, Vec::new());
    }

    /// Input from a client. Without a primary that runs it goes nowhere: the next one says what it has.
    pub(super) fn fed(&mut self, turn: &mut Turn<'_>, link: LinkId, vm: VmId, (position, bytes): (u64, Vec<u8>)) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let Some(feeder) = entry.feeder.as_mut().filter(|feeder| feeder.link == link) else { return };
        let Phase::Running { host } = entry.phase else { return };
        if bytes.len() > MESSAGE_INPUT_MAX {
            return;
        }
        // A primary that does not get on is not buried in messages.
        feeder.gap |= feeder.untold >= MESSAGES_UNTOLD_MAX;
        if feeder.gap {
            return;
        }
        feeder.untold += 1;
        let generation = entry.generation;
        self.to_host(turn, host, ToHost::Input { vm, generation, position, bytes }, Vec::new());
    }

    /// A primary says how far its guest's input is.
    pub(super) fn input_at(
        &mut self,
        turn: &mut Turn<'_>,
        vm: VmId,
        generation: Generation,
        at: InputAt,
        host: HostId,
    ) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        if entry.generation != generation || entry.phase != (Phase::Running { host }) {
            return;
        }
        let Some(feeder) = &mut entry.feeder else { return };
        feeder.untold = 0;
        let (link, gap) = (feeder.link, feeder.gap);
        turn.actions.push(Action::ToClient { link, message: ToClient::InputAt { vm, at }, grants: Vec::new() });
        if gap {
            self.ask_for_input(turn, vm);
        }
    }

    pub(super) fn close_input(&mut self, link: LinkId, vm: VmId) {
        if let Some(entry) = self.vms.get_mut(&vm) {
            entry.feeder = entry.feeder.filter(|feeder| feeder.link != link);
        }
    }
}
