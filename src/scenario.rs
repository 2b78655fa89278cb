//! `ftvm demo`
use crate::{CommandResult, ExitStatus};
#[derive(clap::Args)]
pub(crate) struct Args {}
pub(crate) fn run(_args: &Args) -> CommandResult {
    Ok(ExitStatus::Own(crate::exit_code::ExitCode::Ok))
}
