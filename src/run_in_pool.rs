//! `ftvm run --pool`: a guest, protected, in a cluster that goes on without us.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::pool_address::{self, KeyOption};
use crate::run::{self, and_then_told, follow, guest_end, write_summary};
use crate::signals::EndSignals;
use crate::{CommandResult, ExitStatus, output, progress};
use ft_protocol::Span;
use ft_protocol::spec::NAME_BYTES_MAX;
use scenarios::attached::{AttachedVm, Following, NewName, start_detached};
use scenarios::foreground::Shown;
use scenarios::guest::{GuestImage, GuestSource};
use scenarios::protected::{GuestDisk, Outcome, RunError, UnreadConsole, export_disk};
use scenarios::units::parse_span;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;
use vmm::transport::Address;

/// Bytes of a name that leave room for a number behind it.
const STEM_BYTES_MAX: usize = NAME_BYTES_MAX - 8;

#[derive(clap::Args)]
pub(crate) struct PoolRunArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten, next_help_heading = "In a cluster that is there")]
    key: KeyOption,
    /// Name of the VM; without it that of the guest, with a number if it is taken
    #[arg(long, value_name = "NAME", requires = "place", help_heading = "In a cluster that is there")]
    name: Option<String>,
    /// Start the VM, say its name, and leave it alone
    #[arg(long, requires = "place", conflicts_with_all = ["rm", "events", "json", "time_limit"], help_heading = "In a cluster that is there")]
    detach: bool,
    /// Delete the VM when it has ended, and when this command is ended
    #[arg(long, requires = "place", help_heading = "In a cluster that is there")]
    rm: bool,
    /// What becomes of console output while nobody reads it and the pool's console ring is full
    #[arg(long, value_enum, requires = "place", help_heading = "In a cluster that is there")]
    unread: Option<Unread>,
    /// How long a controller that has died is waited for
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = RECONNECT, help_heading = "In a cluster that is there")]
    reconnect: Span,
}

/// The cluster to run in.
#[derive(clap::Args)]
#[group(id = "place", multiple = false)]
struct Place {
    /// Run in the cluster whose controller listens there, which goes on afterwards
    #[arg(long, value_name = "SOCKET", help_heading = "In a cluster that is there")]
    pool: Option<PathBuf>,
    /// Run in the cluster that this file says, which goes on afterwards
    #[arg(long, value_name = "FILE", help_heading = "In a cluster that is there")]
    cluster: Option<PathBuf>,
}

/// How long commands wait for a controller that has died.
pub(crate) const RECONNECT: &str = "60s";

/// What becomes of console output that nobody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Unread {
    /// The guest waits for a reader
    Wait,
    /// The oldest output is overwritten
    Overwrite,
}

impl PoolRunArgs {
    /// The cluster to run in, if it is not to be a private one.
    pub(crate) fn address(&self) -> Result<Option<Address>, Failure> {
        match (self.place.pool.as_deref(), self.place.cluster.as_deref()) {
            (None, None) => Ok(None),
            (pool, cluster) => pool_address::resolve(pool, cluster, &self.key).map(Some),
        }
    }

    /// What other commands need to be told to be about the same cluster.
    fn as_options(&self) -> String {
        pool_address::as_options(self.place.pool.as_deref(), self.place.cluster.as_deref())
    }

    /// A console that is left to itself is kept from nobody; one that is read is not to lose a byte.
    fn unread(&self) -> UnreadConsole {
        match self.unread {
            Some(Unread::Wait) => UnreadConsole::Waits,
            Some(Unread::Overwrite) => UnreadConsole::Overwritten,
            None if self.detach => UnreadConsole::Overwritten,
            None => UnreadConsole::Waits,
        }
    }

    fn new_name(&self, image: &GuestImage) -> NewName {
        match &self.name {
            Some(name) => NewName::Given(name.clone()),
            None => NewName::Like(stem(image.source())),
        }
    }
}

/// A valid name that reminds of the guest's.
fn stem(guest: &GuestSource) -> String {
    let text = match guest {
        GuestSource::Builtin(name) => name.clone(),
        GuestSource::File(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let known = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-');
    let stem: String = text.to_ascii_lowercase().chars().filter(|c| known(*c)).take(STEM_BYTES_MAX).collect();
    if stem.is_empty() { "guest".to_owned() } else { stem }
}

/// As the standard library has it.
pub(crate) fn duration(span: Span) -> Duration {
    Duration::from_nanos(span.ns())
}

pub(crate) fn run(address: &Address, args: &run::Args, pool: &PoolRunArgs, image: &GuestImage) -> CommandResult {
    output::require()?;
    vmm::slice::run_soon();
    let (name, options) = (pool.new_name(image), args.vm(image.disk().map_or(0, GuestDisk::bytes))?);
    let signals = EndSignals::new()?;
    let following = Following {
        pool: address,
        patience: duration(pool.reconnect),
        events: args.events.as_deref(),
        interrupt: Some(signals.as_fd()),
    };
    if pool.detach {
        let started = progress::show(run::being_made(&options), || {
            start_detached(following, image, &options, &name, pool.unread())
        });
        return match started {
            Ok(name) => output::text(&format!("{name}\n")).map(|()| ExitStatus::Own(ExitCode::Ok)),
            Err(error) => not_started(error, pool, &signals),
        };
    }
    let started = progress::show(run::being_made(&options), || {
        AttachedVm::start(following, image, &options, &name, pool.unread())
    });
    let mut vm = match started {
        Ok(vm) => vm,
        Err(error) => return not_started(error, pool, &signals),
    };
    let shown = match args.input(image).and_then(|input| follow(args.time_limit, &mut vm, &signals, input)) {
        Ok(shown) => shown,
        // Whatever broke is here, not there: the guest does not pay for it.
        Err(failure) => {
            return Err(match leave_alone(vm, pool) {
                Ok(left) => failure.with_advice(&left),
                Err(_) => failure,
            });
        }
    };
    let outcome = match &shown {
        Shown::Over(outcome) => Some(outcome),
        Shown::Interrupted | Shown::OutputClosed | Shown::TimeOut => None,
    };
    // Whatever becomes of it: the VM is to be left as the user wants it.
    let told = args.json.as_ref().map_or(Ok(()), |to| {
        let since = vm.started_at();
        write_summary(&mut vm, since, outcome, to.as_deref())
    });
    and_then_told(came_to(shown, vm, pool, image, &signals), told)
}

/// What becomes of a command whose VM was not made, or that does not wait for it.
fn not_started(error: RunError, pool: &PoolRunArgs, signals: &EndSignals) -> CommandResult {
    if let RunError::Unfinished { name } = &error {
        let cluster = pool.as_options();
        eprintln!(
            "ftvm: {name} may be made all the same: `ftvm status {cluster}` shows it, `ftvm delete {name} {cluster}` deletes it"
        );
    } else if !error.gave_up() {
        return Err(error.into());
    }
    Ok(signals.end())
}

/// What a VM that is over, or is left, is to whoever started it.
fn came_to(
    shown: Shown,
    mut vm: AttachedVm,
    pool: &PoolRunArgs,
    image: &GuestImage,
    signals: &EndSignals,
) -> CommandResult {
    match shown {
        Shown::Over(Outcome::Ended(end)) => {
            if let Some(disk) = image.disk() {
                export_disk(&vm.disk_image()?, disk.path())?;
            }
            if pool.rm {
                vm.delete()?;
            }
            guest_end(end)
        }
        Shown::Over(Outcome::Lost { .. } | Outcome::Deleted) => {
            unreachable!("a cluster that is not ours may always get another host")
        }
        Shown::TimeOut => {
            let line = "the guest did not end within the time limit";
            Err(Failure::line(ExitCode::TimeOut, line).with_advice(&leave(vm, pool)?))
        }
        Shown::OutputClosed => {
            leave(vm, pool)?;
            Ok(ExitStatus::Own(ExitCode::OutputClosed))
        }
        Shown::Interrupted => {
            let code = signals.received().unwrap_or(ExitCode::Terminated);
            eprintln!("ftvm: {}", leave(vm, pool)?);
            Ok(ExitStatus::Own(code))
        }
    }
}

/// Leaves the VM as the user wants it, and says how.
fn leave(vm: AttachedVm, pool: &PoolRunArgs) -> Result<String, Failure> {
    if pool.rm {
        let (name, cluster) = (vm.name().to_owned(), pool.as_options());
        return Ok(if vm.delete()? {
            format!("{name} is deleted")
        } else {
            format!("{name} could not be deleted, there is no controller: `ftvm delete {name} {cluster}` does it later")
        });
    }
    leave_alone(vm, pool)
}

/// Leaves the VM where it is, and says how to read on: also where it was to be deleted in the end, which has not come.
fn leave_alone(vm: AttachedVm, pool: &PoolRunArgs) -> Result<String, Failure> {
    let (name, position) = (vm.name().to_owned(), vm.position());
    let again = format!("`ftvm console {name} {} --from {position}` reads on", pool.as_options());
    // Who said so explicitly gets what they said.
    if pool.unread.is_none() {
        vm.release()?;
    }
    Ok(format!("{name} runs on: {again}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_protocol::spec::name_is_valid;

    #[test]
    fn names_remind_of_the_guest_and_are_valid() {
        for (guest, name) in [
            ("builtin:counter", "counter"),
            ("/guests/My Guest.elf", "myguest"),
            ("...", "guest"),
            ("/", "guest"),
            ("Übung.1.elf", "bung1"),
        ] {
            let Ok(source) = guest.parse::<GuestSource>();
            assert_eq!(stem(&source), name, "{guest}");
            assert!(name_is_valid(name));
        }
        let long = GuestSource::File("x".repeat(200).into());
        assert!(name_is_valid(&format!("{}-999", stem(&long))));
    }
}
