//! `ftvm disk`: disks of protected guests.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::planned::find;
use crate::pool_address::PoolOption;
use crate::{CommandResult, ExitStatus, output};
use ft_protocol::wire::{Part, Request};
use scenarios::disk_image::{self, DiskImageError};
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
    /// Check that an image is one that builtin:disk can have left
    Verify(VerifyArgs),
}

#[derive(clap::Args)]
struct VerifyArgs {
    /// The image: the file given to `--disk`, or written by `ftvm disk export`
    file: PathBuf,
    /// The steps that the guest was to take
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=50_000_000))]
    steps: u64,
    /// The guest's seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Of a guest that did not come to its end: the image of any step will do
    #[arg(long)]
    unfinished: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Verified {
    first_step: u64,
    last_step: u64,
    blocks: u64,
    digest: String,
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
    match &args.command {
        Command::Export(args) => export(args),
        Command::Verify(args) => verify(args),
    }
}

fn verify(args: &VerifyArgs) -> CommandResult {
    let found = disk_image::verify(&args.file, args.seed, args.steps).map_err(|error| {
        let code = match &error {
            DiskImageError::Read(_) => ExitCode::FileMissing,
            _ => ExitCode::ExpectationFailed,
        };
        Failure::line(code, format!("{}: {}", args.file.display(), vmm::chain(&error)))
    })?;
    let (first_step, last_step) = (*found.steps.start(), *found.steps.end());
    if !found.steps.contains(&args.steps) && !args.unfinished {
        let line = format!(
            "{}: the image of step {last_step}, not of {}: with --unfinished any step will do",
            args.file.display(),
            args.steps
        );
        return Err(Failure::line(ExitCode::ExpectationFailed, line));
    }
    let verified = Verified { first_step, last_step, blocks: found.written, digest: format!("{:016x}", found.digest) };
    if args.json {
        output::json(&verified)?;
    } else {
        let Verified { blocks, digest, .. } = verified;
        output::text(&format!("{blocks} blocks after {last_step} steps, digest {digest}\n"))?;
    }
    Ok(ExitStatus::Own(ExitCode::Ok))
}

fn export(args: &ExportArgs) -> CommandResult {
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
