//! `ftvm doctor`: what this machine offers.

use crate::exit_code::ExitCode;
use crate::{CommandResult, ExitStatus, output};
use vmm::doctor::{Table, examine, is_usable};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let findings = examine();
    if args.json {
        output::json(&findings)?;
    } else {
        output::text(&Table(&findings).to_string())?;
    }
    Ok(ExitStatus::Own(if is_usable(&findings) { ExitCode::Ok } else { ExitCode::KvmMissing }))
}
