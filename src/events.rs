//! `ftvm events`: what happens in a cluster.

use crate::exit_code::ExitCode;
use crate::pool_address::{PoolOption, waiting_for};
use crate::run_in_pool::{RECONNECT, duration};
use crate::signals::EndSignals;
use crate::{CommandResult, ExitStatus, output, progress};
use ft_protocol::{Span, Time};
use scenarios::attached::{Sight, Watcher};
use scenarios::event::{Event, What, json_line, vm_of};
use scenarios::telling::Names;
use scenarios::units::parse_span;
use std::os::fd::AsFd as _;
use std::time::{SystemTime, UNIX_EPOCH};
use vmm::clock::monotonic;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pool: PoolOption,
    /// Tell only what is about this VM
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    /// Tell what the controller remembers of its life so far, and do not wait for more
    #[arg(long)]
    no_follow: bool,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
    /// How long a controller that has died is waited for
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = RECONNECT)]
    reconnect: Span,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    output::require()?;
    let signals = EndSignals::new()?;
    let pool = args.pool.address()?;
    let found = progress::show(waiting_for(&pool), || Watcher::new(&pool, duration(args.reconnect), signals.as_fd()));
    let mut watcher = match found {
        Err(error) if error.gave_up() => return Ok(signals.end()),
        found => found?,
    };
    let mut teller = Teller { names: Names::default(), only: args.vm.as_deref(), json: args.json, start: None };
    if let Some(status) = watcher.status()? {
        teller.names.learn(&status);
    }
    loop {
        // Nothing to wait for: what the controller remembers came before its answer about its state.
        let until = if args.no_follow { Time::ZERO } else { monotonic() + Span::from_ms(60_000) };
        let (sights, interrupted) = watcher.next(until, signals.as_fd())?;
        let mut text = String::new();
        for sight in sights {
            text.push_str(&teller.tell(sight));
        }
        output::text(&text)?;
        if args.no_follow {
            return Ok(ExitStatus::Own(ExitCode::Ok));
        }
        if interrupted {
            return Ok(signals.end());
        }
    }
}

struct Teller<'a> {
    names: Names,
    /// The VM that is wanted.
    only: Option<&'a str>,
    json: bool,
    /// When the first event was.
    start: Option<Time>,
}

impl Teller<'_> {
    /// The line, or nothing if it is not wanted.
    fn tell(&mut self, sight: Sight) -> String {
        let (at, what) = match sight {
            Sight::Happened(at, happening) => (at, What::Happened(happening)),
            Sight::ControllerGone(at) => (at, What::ControllerGone),
            Sight::ControllerBack(at) => (at, What::ControllerBack),
        };
        if let What::Happened(happening) = &what {
            self.names.take(happening);
            if self.only.is_some_and(|name| vm_of(happening).is_none_or(|vm| self.names.vm(vm) != name)) {
                return String::new();
            }
        }
        if self.json {
            let start = *self.start.get_or_insert(at);
            return json_line(&Event { at, what }, start).unwrap_or_default();
        }
        let line = match &what {
            What::Happened(happening) => self.names.tell(happening),
            What::ControllerGone => "the controller is gone".to_owned(),
            _ => "there is a controller again".to_owned(),
        };
        format!("{}  {line}\n", time_of_day(at))
    }
}

/// When it was, by the clock on the wall, in UTC.
fn time_of_day(at: Time) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall = now.saturating_sub(duration(monotonic().since(at)));
    let (seconds, ms) = (wall.as_secs(), wall.subsec_millis());
    format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}
