//! `ftvm guests`: the guests that ftvm brings along.

use crate::exit_code::ExitCode;
use crate::{CommandResult, ExitStatus, output};
use serde::Serialize;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Guest {
    name: &'static str,
    summary: &'static str,
}

/// What each is for, and its arguments.
fn summary(name: &str) -> &'static str {
    match name {
        "burn" => "computes without a single exit, then prints the result (--rounds N)",
        "counter" => "prints numbered lines (--lines N --every-us N)",
        "disk" => {
            "writes blocks to its disk, reads them back, verifies them (--steps N --seed N --flush-every N --every-us N)"
        }
        "echo" => "prints the lines that it is given, until a line `end`",
        "idle" => "waits, and prints a line at each tick (--ticks N --tick-ms N --touch-kib N)",
        "kv" => "a key-value store over TCP (--ip ADDRESS/BITS --port N)",
        "netecho" => "sends back what comes by UDP and TCP (--ip ADDRESS/BITS --port N --connections N)",
        "rebel" => "breaks the rules: its history depends on RDTSC and RDRAND (--lines N --every-us N --from LINE)",
        "torture" => {
            "writes all over its memory; its checksum shows every lost write (--steps N --progress N --seed N)"
        }
        _ => "",
    }
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let guests: Vec<Guest> = vmm::machine::guests::names().map(|name| Guest { name, summary: summary(name) }).collect();
    if args.json {
        output::json(&guests)?;
    } else {
        let lines: String =
            guests.iter().map(|guest| format!("builtin:{:<10}{}\n", guest.name, guest.summary)).collect();
        output::text(&lines)?;
    }
    Ok(ExitStatus::Own(ExitCode::Ok))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bundled_guest_is_described() {
        for name in vmm::machine::guests::names() {
            assert!(!summary(name).is_empty(), "{name}");
        }
    }
}
