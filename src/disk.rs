//! `ftvm disk`: disks of protected guests.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::planned::find;
use crate::pool_address::PoolOption;
use crate::{CommandResult, ExitStatus};
use ft_protocol::wire::{Part, Request};
use scenarios::protected::{DiskExportError, export_disk};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Write the disk of a VM that has ended to a file
    Export(ExportArgs),
}

#[derive(clap::Args)]
struct ExportArgs {
    /// Name of the VM
    vm: String,
    /// The file; one that is there is replaced
    file: PathBuf,
    #[command(flatten)]
    pool: PoolOption,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let Command::Export(args) = &args.command;
    let mut client = args.pool.client()?;
    let vm = find(&mut client, &args.vm)?.vm;
    let (_, extents) = client.request(Request::ReadDisk(vm), Vec::new())?;
    let image = extents.into_iter().find(|(tag, _)| tag.grant.part == Part::Disk(vm)).map(|(_, image)| image);
    let image = image.ok_or(vmm::client::ClientError::WrongAnswer)?;
    export_disk(&image, &args.file)?;
    Ok(ExitStatus::Own(ExitCode::Ok))
}

impl From<DiskExportError> for Failure {
    fn from(error: DiskExportError) -> Self {
        let code = match &error {
            DiskExportError::Image(_) => ExitCode::Internal,
            DiskExportError::Write { .. } => ExitCode::OutputFailed,
        };
        Self::new(code, &error)
    }
}
