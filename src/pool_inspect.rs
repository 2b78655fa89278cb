//! `ftvm pool`: runs a controller, or looks at what lies in a pool (`inspect`) and whether it is sound (`check`).

use crate::exit_code::ExitCode;
use crate::failure::{Failure, PUT_SUPERBLOCK_BACK};
use crate::{CommandResult, ExitStatus, output, pool};
use scenarios::units::ByteCount;
use shared_mem::PoolError;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use vmm::inspect::{
    DeviceReport, Finding, HostReport, InspectError, JournalReport, JournalRole, LogReport, PoolReport, Severity,
    Verdict, VmReport, inspect,
};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct PoolCommand {
    #[command(subcommand)]
    look: Option<Look>,
    #[command(flatten)]
    serve: Option<pool::Args>,
}

#[derive(clap::Subcommand)]
enum Look {
    /// Show what lies in a pool, alive or dead, without touching it
    Inspect(Args),
    /// Verify a pool, alive or dead, without touching it; exits with 80 when it is damaged
    Check(Args),
    /// Show who is registered in etcd: the controller, and hosts
    Members(pool::MembersArgs),
}

#[derive(clap::Args)]
struct Args {
    /// The pool's directory, or the device that it lies on
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: PoolCommand) -> CommandResult {
    match (command.look, command.serve) {
        (Some(Look::Inspect(args)), _) => show(&args),
        (Some(Look::Check(args)), _) => check(&args),
        (Some(Look::Members(args)), _) => pool::members(&args),
        (None, Some(args)) => pool::run(args),
        (None, None) => Err(Failure::line(ExitCode::Usage, "say --socket and --dir, or inspect or check")),
    }
}

/// Prints all that is in the pool.
fn show(args: &Args) -> CommandResult {
    let report = match inspect(&args.dir) {
        Ok(report) => report,
        Err(error) => return lost(error, args),
    };
    if args.json {
        output::json(&report)?;
    } else {
        output::text(&describe(&report))?;
    }
    Ok(ExitStatus::Own(ExitCode::Ok))
}

/// Prints what does not verify.
fn check(args: &Args) -> CommandResult {
    let report = match vmm::inspect::check(&args.dir) {
        Ok(report) => report,
        Err(error) => return lost(error, args),
    };
    let verdict = report.verdict();
    if args.json {
        output::json(&serde_json::json!({ "verdict": verdict, "findings": report.findings }))?;
    } else {
        output::text(&checked(&report))?;
    }
    Ok(ExitStatus::Own(match verdict {
        Verdict::Sound => ExitCode::Ok,
        Verdict::InChange => ExitCode::TimeOut,
        Verdict::Damaged => ExitCode::ExpectationFailed,
    }))
}

/// A pool of which nothing can be shown, or none. That one is damaged is what was asked, and is said in JSON too.
fn lost(error: InspectError, args: &Args) -> CommandResult {
    if !args.json || !matches!(error, InspectError::Damaged(_)) {
        return Err(error.into());
    }
    let finding = Finding {
        severity: Severity::Damage,
        place: args.dir.display().to_string(),
        what: vmm::chain(&error),
        meaning: "no controller can start over this pool".to_owned(),
    };
    let found = serde_json::json!({ "verdict": Verdict::Damaged, "error": finding.what, "findings": [finding] });
    output::json(&found)?;
    Ok(ExitStatus::Own(ExitCode::ExpectationFailed))
}

impl From<InspectError> for Failure {
    fn from(error: InspectError) -> Self {
        let code = match &error {
            InspectError::Missing(_) => ExitCode::FileMissing,
            InspectError::Damaged(_) => ExitCode::ExpectationFailed,
            InspectError::Pool(PoolError::File { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                ExitCode::NotPermitted
            }
            InspectError::Pool(_) => ExitCode::NoPool,
            InspectError::Sigbus(_) => ExitCode::Internal,
        };
        let failure = Self::new(code, &error);
        match error {
            InspectError::Damaged(PoolError::SuperblockMissing { .. }) => failure.with_advice(PUT_SUPERBLOCK_BACK),
            _ => failure,
        }
    }
}

fn checked(report: &PoolReport) -> String {
    let mut text = findings(&report.findings);
    let verdict = match report.verdict() {
        Verdict::Sound => "sound",
        Verdict::InChange => "sound but for what is in change",
        Verdict::Damaged => "damaged",
    };
    let count = report.vms.len();
    let vms = if count == 1 { "VM" } else { "VMs" };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "pool {}: {verdict} ({count} {vms} checked)", report.dir.display());
    text
}

fn findings(found: &[Finding]) -> String {
    found.iter().fold(String::new(), |mut text, finding| {
        let _ = writeln!(text, "{finding}");
        text
    })
}

fn describe(report: &PoolReport) -> String {
    let mut text = String::new();
    let held = if report.held { "held by a controller" } else { "no controller holds it" };
    let _ = writeln!(text, "pool {}  {held}  id {}", report.dir.display(), report.id);
    let left = report.available_bytes.map_or_else(|| "unknown".to_owned(), bytes);
    let used = report.vms.iter().map(|vm| vm.used_bytes).sum();
    let _ = writeln!(
        text,
        "room  {} VMs, {} hosts, cluster state of {}; VMs take {}, {left} left",
        report.vm_slots,
        report.host_slots,
        bytes(report.cluster_bytes),
        bytes(used)
    );
    let _ = writeln!(text, "flush  {}", report.flush);
    if let Some(device) = &report.device {
        let _ = writeln!(text, "{}", describe_device(device));
    }
    for host in &report.hosts {
        let _ = writeln!(text, "{}", describe_host(host));
    }
    for vm in &report.vms {
        describe_vm(&mut text, vm);
    }
    text.push_str(&findings(&report.findings));
    text
}

fn describe_device(device: &DeviceReport) -> String {
    let hosts = device.bytes.saturating_sub(device.hosts_begin);
    format!(
        "device  {}, {} files; the controller's part {}, the hosts' {}; {} spent pages",
        bytes(device.bytes),
        device.files,
        bytes(device.controllers_end),
        bytes(hosts),
        device.spent_pages
    )
}

fn describe_host(host: &HostReport) -> String {
    let heart = match (host.beating, host.beats) {
        (true, _) => "beats",
        (false, Some(_)) => "silent",
        (false, None) => "never beat",
    };
    let beats = host.beats.map_or_else(String::new, |beats| format!("  {beats} beats"));
    let draining = if host.draining { "  draining" } else { "" };
    format!("host {}  {}  {heart}{beats}{draining}", host.slot, host.name)
}

fn describe_vm(text: &mut String, vm: &VmReport) {
    let slot = vm.slot.map_or_else(|| "-".to_owned(), |slot| slot.to_string());
    let disk = if vm.disk_bytes == 0 { String::new() } else { format!("  disk {}", bytes(vm.disk_bytes)) };
    let _ = writeln!(text, "vm {slot}  {}  memory {}{disk}", vm.name, bytes(vm.memory_bytes));
    if let Some(cluster) = &vm.cluster {
        let primary = cluster.primary.as_deref().unwrap_or("-");
        let end = cluster.ended.as_ref().map_or_else(String::new, |end| format!("  {end}"));
        let _ = writeln!(
            text,
            "  generation {}  primary {primary}  takeovers {}  switchovers {}{end}",
            cluster.generation, cluster.takeovers, cluster.switchovers
        );
    }
    if let Some(control) = &vm.control {
        let _ = writeln!(
            text,
            "  applied {}  freed {}  reigning generation {}",
            control.applied, control.freed, control.generation
        );
    }
    for journal in &vm.journals {
        describe_journal(text, journal);
    }
    if let Some(epoch) = vm.begun {
        let _ = match vm.kept {
            Some(_) => writeln!(text, "  kept  a copy of the record of epoch {epoch}, which was being applied"),
            None => writeln!(text, "  begun  epoch {epoch} was being applied, without a copy of its record"),
        };
    }
    for log in &vm.logs {
        describe_log(text, log);
    }
    for state in &vm.machine_state {
        let content = state.bytes.map_or_else(|| "not whole".to_owned(), bytes);
        let counts = if state.counts { "  counts" } else { "" };
        let _ = writeln!(text, "  state {}  epoch {}  {content}{counts}", state.slot, state.epoch);
    }
    if let Some(console) = &vm.console {
        let _ = writeln!(text, "  console  {} bytes so far, ring of {}", console.tail, bytes(console.ring_bytes));
    }
    if let Some(boot) = &vm.boot {
        let _ = writeln!(text, "  boot  {}  crc {:08x}", bytes(boot.bytes), boot.crc32);
    }
    let _ = writeln!(text, "  space  {} taken, {} reserved", bytes(vm.used_bytes), bytes(vm.reserved_bytes));
    let epoch = vm.recoverable.epoch.map_or_else(|| "nothing".to_owned(), |epoch| format!("epoch {epoch}"));
    let _ = writeln!(text, "  recoverable  {epoch}: {}", vm.recoverable.why);
}

fn role(role: JournalRole) -> &'static str {
    match role {
        JournalRole::Over => "over",
        JournalRole::Reigning => "reigning",
        JournalRole::Reserved => "reserved",
    }
}

fn describe_log(text: &mut String, log: &LogReport) {
    let tail = log.tail.map_or_else(|| "not laid out".to_owned(), |tail| format!("ends at {tail}"));
    let sealed = if log.sealed == Some(true) { "  sealed" } else { "" };
    let entries = log.entries.map_or_else(String::new, |entries| format!("  {entries} entries"));
    let _ = writeln!(text, "  log {}  {}  {tail}{entries}{sealed}", log.generation, role(log.role));
}

fn describe_journal(text: &mut String, journal: &JournalReport) {
    let role = role(journal.role);
    let committed = journal.committed.map_or_else(|| "damaged".to_owned(), |epoch| epoch.to_string());
    let sealed = if journal.sealed == Some(true) { "  sealed" } else { "" };
    let _ = writeln!(text, "  journal {}  {role}  committed {committed}{sealed}", journal.generation);
    for record in &journal.pending {
        let verdict = record.refused.as_deref().unwrap_or("sound");
        let _ = writeln!(
            text,
            "    record {}  {} pages  {} blocks  {} console bytes  {verdict}",
            record.epoch, record.pages, record.blocks, record.console_bytes
        );
    }
}

fn bytes(count: u64) -> String {
    ByteCount::new(count).to_string()
}
