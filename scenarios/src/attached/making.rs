//! Makes VMs in a cluster that somebody else runs.

use super::link::Link;
use super::{Following, NewName, watch_patiently};
use crate::guest::GuestImage;
use crate::protected::{RunError, UnreadConsole, VmOptions};
use ft_protocol::VmId;
use ft_protocol::wire::{Answer, Request, RequestError, Status, VmStatus};
use std::time::Duration;
use vmm::client::ClientError;

/// Names that are tried for a VM to which the user gave none.
const NAMES_MAX: u32 = 1_000;
/// How long a controller may take to say what there is, to somebody who wants to end.
pub(super) const LAST_LOOK_BOUND: Duration = Duration::from_secs(1);

/// Makes a VM and lets it run, and looks no further; says what it is called.
///
/// # Errors
/// When the controller cannot be reached, dies and none comes within the patience, or refuses; or is not waited for any more.
pub fn start_detached(
    following: Following<'_>,
    image: &GuestImage,
    options: &VmOptions,
    name: &NewName,
    unread: UnreadConsole,
) -> Result<String, RunError> {
    let mut link = following.connect()?;
    create(&mut link, image, options, name, unread).map(|((_, name), _)| name)
}

/// Makes a VM: its number and name, and what there was before it. What happened since then is still to be told.
///
/// # Errors
/// As above; [`RunError::Unfinished`] where the controller was asked, and its answer was not waited for.
pub(super) fn create(
    link: &mut Link,
    image: &GuestImage,
    options: &VmOptions,
    name: &NewName,
    unread: UnreadConsole,
) -> Result<((VmId, String), Status), RunError> {
    let mut number = 1;
    let mut before = watch_patiently(link)?;
    loop {
        let called = match name {
            NewName::Given(name) => name.clone(),
            NewName::Like(name) if number == 1 => name.clone(),
            NewName::Like(name) => format!("{name}-{number}"),
        };
        let spec = options.spec(&called, unread);
        let is_ours = |vm: &&VmStatus| {
            (&vm.name, vm.memory_bytes, vm.disk_bytes) == (&called, spec.memory_bytes, spec.disk_bytes)
                && vm.nets == spec.nets
        };
        match link.ask(Request::CreateVm(spec.clone()), image.uploads()?) {
            Ok(Some((Answer::VmCreated(vm), _))) => return Ok(((vm, called), before)),
            Ok(Some(_)) => return Err(ClientError::WrongAnswer.into()),
            // It died with the answer, or before it had made anything: the next one knows which.
            Ok(None) => {
                let waited = link.wait_for_another().and_then(|()| watch_patiently(link));
                let now = waited.map_err(|error| error.of_making(&called))?;
                let was_there = before.vms.iter().any(|vm| vm.name == called);
                if let Some(made) = now.vms.iter().find(is_ours).filter(|_| !was_there) {
                    return Ok(((made.vm, called), now));
                }
                before = now;
            }
            Err(RunError::Client(ClientError::Refused(RequestError::NameTaken(_))))
                if matches!(name, NewName::Like(_)) && number < NAMES_MAX =>
            {
                number += 1;
            }
            Err(error) if error.gave_up() => {
                link.hurry(LAST_LOOK_BOUND);
                let Some(now) = link.status().ok().flatten() else { return Err(error.of_making(&called)) };
                let made = now.vms.iter().find(|vm| is_ours(vm) && vm.phase != "creating");
                let made = made.filter(|_| !before.vms.iter().any(|vm| vm.name == called)).map(|made| made.vm);
                return made.map(|vm| ((vm, called.clone()), now)).ok_or_else(|| error.of_making(&called));
            }
            Err(error) => return Err(error),
        }
    }
}
