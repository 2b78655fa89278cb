//! `ftvm run`: a guest, protected, in a private cluster or (see `run_in_pool`) in one that is there.

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::flush::Flush;
use crate::lineage::Parent;
use crate::run_in_pool::{self, PoolRunArgs};
use crate::signals::EndSignals;
use crate::{CommandResult, ExitStatus, output, progress, same_file, typing};
use ft_protocol::commit_meta::GuestEnd;
use ft_protocol::policy::{Failback, Policy};
use ft_protocol::spec::{Mode, NETS_MAX, NetSpec};
use ft_protocol::{Span, Time};
use scenarios::cluster::{Cluster, ClusterOptions, default_pool_parent};
use scenarios::console_input::{ConsoleInput, Keys};
use scenarios::devices::{DiskOption, NetOption};
use scenarios::foreground::{Followed, ShowError, Showing, Shown, show};
use scenarios::guest::{GuestError, GuestImage, GuestSource, LinuxFiles};
use scenarios::protected::{
    GuestDisk, JOURNAL_SLOTS_MAX, JournalOptions, JournalReserve, Outcome, PRIVATE_NAME, ProtectedRun, Respawn,
    RunError, VmOptions, export_disk,
};
use scenarios::status_line::StatusLine;
use scenarios::summary::Summary;
use scenarios::units::{ByteCount, parse_span};
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use vmm::client::Patience;
use vmm::clock::monotonic;
use vmm::disk_file::DiskFile;
use vmm::machine::linux::VcpuCount;
use vmm::recording::RecordError;
use vmm::unprotected::{RecordTo, UnprotectedError, UnprotectedGuest};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The guest: a static ELF64 file, or builtin:NAME (see `ftvm guests`)
    #[arg(value_name = "GUEST", required_unless_present = "kernel")]
    guest: Option<String>,
    /// Arguments for the guest
    #[arg(last = true, value_name = "ARGS", conflicts_with = "kernel")]
    args: Vec<String>,
    #[command(flatten)]
    linux: LinuxArgs,
    /// Do not feed the guest's console from standard input
    #[arg(long)]
    pub(crate) no_input: bool,
    #[command(flatten)]
    in_pool: PoolRunArgs,
    /// A network device: segment=PATH (see `ftvm switch`) or tap=NAME; ,mac=ADDRESS behind it if you need one
    #[arg(long, value_name = "NETWORK")]
    net: Vec<NetOption>,
    /// The disk: a file; with ,size=SIZE behind it one that is made if it is not there
    #[arg(long, value_name = "FILE")]
    disk: Option<DiskOption>,
    /// How many hosts (default 3)
    #[arg(long, value_name = "N")]
    hosts: Option<u16>,
    /// Guest memory
    /// (default 64MiB, of a Linux guest 256MiB)
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteCount>,
    /// Memory for copies of written pages that the primary's host keeps; without it all that the guest ever wrote
    #[arg(long, value_name = "SIZE")]
    working_set: Option<ByteCount>,
    /// Commit records that may wait for the controller: how far the primary can be ahead of it
    #[arg(long, value_name = "N", default_value_t = JournalOptions::default().slots,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(JOURNAL_SLOTS_MAX)))]
    journal_slots: u32,
    /// Space in the pool that each of them has reserved; a larger record takes more when it is written (default 2MiB)
    #[arg(long, value_name = "SIZE")]
    journal_reserve: Option<JournalReserve>,
    /// How the guest is protected (default checkpoint; with --record, replay)
    #[arg(long, value_enum)]
    mode: Option<RunMode>,
    /// Longest time between two commits, in milliseconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    epoch_ms: Option<u64>,
    /// Silence after which a host is suspected, in milliseconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(10..=600_000))]
    heartbeat_ms: Option<u64>,
    /// Refuse to start unless a third host has room for the secondary after next, and keep it free
    #[arg(long)]
    require_spare: bool,
    /// The host on which the guest would best run, such as b
    #[arg(long, value_name = "HOST")]
    prefer: Option<String>,
    /// Move the guest back to its old or preferred place when that was healthy for so long and is better
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    failback: Option<Span>,
    /// Record the guest's whole history to a file, for `ftvm replay`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Start hosts that die again
    #[arg(long)]
    respawn: bool,
    /// Keep the pool and the hosts' logs at the end
    #[arg(long)]
    keep: bool,
    /// Where the pool is made: a tmpfs or hugetlbfs
    #[arg(long, value_name = "DIR", env = "FTVM_POOL_DIR", default_value_os_t = default_pool_parent())]
    pool_dir: PathBuf,
    /// How written cache lines get into the pool: `auto` (nothing on tmpfs, the processor's best on DAX), none, clwb, clflushopt
    /// or clflush
    #[arg(long, value_name = "KIND", env = "FTVM_FLUSH", default_value = "auto")]
    flush: Flush,
    /// End after this long
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    pub(crate) time_limit: Option<Span>,
    /// Write what happens to a file, as JSON lines
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
    /// Write the run in numbers, as JSON, to a file or to standard error
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub(crate) json: Option<Option<PathBuf>>,
    /// Write the checksum of an unprotected guest's memory at its end to a file
    #[arg(long, value_name = "FILE", hide = true)]
    memory_crc: Option<PathBuf>,
    /// The process that this run belongs to: dies with it
    #[arg(long, value_name = "PID", hide = true)]
    private_to: Option<i32>,
}

/// A Linux guest.
#[derive(clap::Args)]
struct LinuxArgs {
    /// A Linux guest instead of GUEST: its kernel, a bzImage, a vmlinux, or a kernel with a Multiboot header
    #[arg(long, value_name = "FILE", conflicts_with = "guest", help_heading = "Linux guests")]
    kernel: Option<PathBuf>,
    /// Its initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel", help_heading = "Linux guests")]
    initrd: Option<PathBuf>,
    /// Its kernel's command line [default: console=ttyS0, or none for Multiboot]
    #[arg(long, value_name = "WORDS", requires = "kernel", help_heading = "Linux guests")]
    cmdline: Option<String>,
    /// How many vCPUs it has, 1 to 4
    #[arg(long, value_name = "N", requires = "kernel", default_value_t = VcpuCount::ONE, help_heading = "Linux guests")]
    vcpus: VcpuCount,
}

/// How a guest is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum RunMode {
    /// Outputs wait for the commit of their epoch
    Checkpoint,
    /// Inputs go to a log and outputs leave at once; for guests that are deterministic between exits
    Replay,
    /// Replay, and the secondary executes the same all along and compares: it finds what one of the two got wrong
    Lockstep,
    /// Not at all: on this host alone, without a pool
    None,
}

/// Guest memory unless the user says otherwise.
const MEMORY: ByteCount = ByteCount::mib(64);
const LINUX_MEMORY: ByteCount = ByteCount::mib(256);

/// Hosts of a private cluster, unless the user says otherwise.
const HOSTS: u16 = 3;

impl Args {
    /// What the VM is to be.
    ///
    /// # Errors
    /// No entropy for the addresses of network devices.
    pub(crate) fn vm(&self, disk_bytes: u64) -> Result<VmOptions, Failure> {
        Ok(VmOptions {
            nets: self.nets()?,
            disk_bytes,
            memory: self.memory(),
            mode: match self.mode() {
                RunMode::Replay => Mode::Replay,
                RunMode::Lockstep => Mode::Lockstep,
                RunMode::Checkpoint | RunMode::None => Mode::Checkpoint,
            },
            args: self.args.clone(),
            epoch_interval: self.epoch_ms.map(Span::from_ms),
            working_set: self.working_set,
            journal: JournalOptions {
                slots: self.journal_slots,
                reserve: self.journal_reserve.unwrap_or(JournalOptions::default().reserve),
            },
            policy: Policy {
                anti_affinity: Vec::new(),
                require_spare: self.require_spare,
                preferred: self.prefer.clone(),
                failback: self.failback.map(|hold| Failback { hold }),
            },
        })
    }

    /// What nobody asks for does not get in the way of what somebody asks for.
    fn mode(&self) -> RunMode {
        self.mode.unwrap_or(if self.record.is_some() { RunMode::Replay } else { RunMode::Checkpoint })
    }

    fn memory(&self) -> ByteCount {
        let default = if self.linux.kernel.is_some() { LINUX_MEMORY } else { MEMORY };
        self.memory.unwrap_or(default)
    }

    fn image(&self) -> Result<GuestImage, GuestError> {
        match (&self.linux.kernel, &self.guest) {
            (Some(kernel), _) => {
                let (initrd, command_line) = (self.linux.initrd.clone(), self.linux.cmdline.clone());
                LinuxFiles { kernel: kernel.clone(), initrd, command_line, vcpus: self.linux.vcpus }.read()
            }
            (None, Some(guest)) => {
                let Ok(source) = guest.parse::<GuestSource>();
                source.read()
            }
            (None, None) => unreachable!("one of the two is required"),
        }
    }

    /// What feeds the guest's console, once it runs.
    pub(crate) fn input(&self, image: &GuestImage) -> Result<Option<ConsoleInput>, Failure> {
        (!self.no_input).then(|| typing::protected(keys_of(image))).transpose()
    }

    fn nets(&self) -> Result<Vec<NetSpec>, Failure> {
        let failed = |error: io::Error| Failure::new(ExitCode::Internal, &error);
        self.net.iter().map(NetOption::spec).collect::<Result<_, _>>().map_err(failed)
    }

    /// What only a private cluster can be told.
    fn without_own_cluster(&self) -> [(&'static str, bool); 6] {
        [
            ("--mode none", self.mode() == RunMode::None),
            ("--hosts", self.hosts.is_some()),
            ("--heartbeat-ms", self.heartbeat_ms.is_some()),
            ("--respawn", self.respawn),
            ("--keep", self.keep),
            ("--record", self.record.is_some()),
        ]
    }
}

/// Linux has a line discipline of its own.
fn keys_of(image: &GuestImage) -> Keys {
    if image.is_linux() { Keys::Raw } else { Keys::Cooked }
}

/// Refuses options that were given.
fn refuse(options: &[(&str, bool)], why: &str) -> Result<(), Failure> {
    match options.iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(Failure::line(ExitCode::Usage, format!("{option} has no meaning {why}"))),
        None => Ok(()),
    }
}

/// What one option writes, no other one reads or writes.
fn refuse_same_files(args: &Args) -> Result<(), Failure> {
    let source = args.guest.as_ref().map(|guest| {
        let Ok(source) = guest.parse::<GuestSource>();
        source
    });
    let guest = match &source {
        Some(GuestSource::File(path)) => Some(path.as_path()),
        _ => None,
    };
    same_file::refuse(&[
        ("GUEST", guest),
        ("--kernel", args.linux.kernel.as_deref()),
        ("--initrd", args.linux.initrd.as_deref()),
        ("--disk", args.disk.as_ref().map(|disk| disk.path.as_path())),
        ("--record", args.record.as_deref()),
        ("--events", args.events.as_deref()),
        ("--json", args.json.as_ref().and_then(Option::as_deref)),
        ("--memory-crc", args.memory_crc.as_deref()),
    ])
}

pub(crate) fn run(args: &Args) -> CommandResult {
    if let Some(parent) = args.private_to
        && !Parent::new(parent).die_with()
    {
        return Err(Failure::line(ExitCode::Terminated, "the process that started this run is gone"));
    }
    args.flush.apply()?;
    refuse_same_files(args)?;
    let mut image = args.image()?;
    if image.is_linux() && args.record.is_some() {
        return Err(Failure::line(
            ExitCode::Usage,
            "--record needs a guest that is deterministic between exits: not Linux",
        ));
    }
    let mode = args.mode();
    if image.is_linux() && matches!(mode, RunMode::Replay | RunMode::Lockstep) {
        let refused = "a Linux guest is not deterministic between exits: it needs --mode checkpoint (or none)";
        return Err(Failure::line(ExitCode::Usage, refused));
    }
    image.check(args.memory().get(), &args.args)?;
    if args.net.len() > NETS_MAX {
        return Err(Failure::line(ExitCode::Usage, format!("--net was given more than {NETS_MAX} times")));
    }
    if mode != RunMode::None {
        for net in &args.net {
            // Said here once, rather than by each host.
            vmm::net::check(&net.backend)?;
        }
        if let Some(disk) = &args.disk {
            image = image.with_disk(Arc::new(GuestDisk::open(disk)?));
        }
    }
    if let Some(address) = args.in_pool.address()? {
        refuse(&args.without_own_cluster(), "with --pool: the cluster is there already")?;
        return run_in_pool::run(&address, args, &args.in_pool, &image);
    }
    output::require()?;
    // Said here once, rather than by each host.
    drop(vmm::machine::open_kvm()?);
    if args.record.is_some() && mode == RunMode::Checkpoint {
        return Err(Failure::line(
            ExitCode::Usage,
            "--record needs --mode replay, lockstep or none: checkpoint mode logs no inputs",
        ));
    }
    match mode {
        RunMode::None => run_unprotected(args, &image),
        RunMode::Checkpoint | RunMode::Replay | RunMode::Lockstep => run_protected(args, &image),
    }
}

fn run_unprotected(args: &Args, image: &GuestImage) -> CommandResult {
    let without = [
        ("--time-limit", args.time_limit.is_some()),
        ("--events", args.events.is_some()),
        ("--json", args.json.is_some()),
        ("--keep", args.keep),
        ("--respawn", args.respawn),
    ];
    refuse(&without, "with --mode none, which has no cluster: leave one of them out")?;
    let nets = args.nets()?;
    let disk = args.disk.as_ref().map(|disk| DiskFile::open(&disk.path, disk.size.map(ByteCount::get)));
    let typing = match args.no_input {
        true => None,
        false => Some(typing::unprotected(keys_of(image))?),
    };
    let (input, _typing) = typing.unzip();
    let guest = UnprotectedGuest {
        input,
        image: image.bytes(),
        memory_bytes: args.memory().get(),
        args: &args.args,
        nets: &nets,
        disk: disk.transpose().map_err(UnprotectedError::from)?,
    };
    let name = image.source().to_string();
    args.record.as_deref().map_or(Ok(()), check_recordable)?;
    let record = args.record.as_deref().map(|path| RecordTo { path, guest: &name });
    let end = vmm::unprotected::run_recorded(guest, record, &mut io::stdout().lock())?;
    if let Some(path) = &args.memory_crc {
        std::fs::write(path, format!("{:08x}\n", end.memory_crc())).map_err(|error| {
            Failure::line(ExitCode::OutputFailed, format!("cannot write {}: {error}", path.display()))
        })?;
    }
    recorded_end(guest_end(end.guest), end.recording)
}

/// A recording is written from several processes, one after the other, and gone on with where it was good: that takes a file.
/// Opening a pipe would also wait for somebody who reads it, deaf to signals.
fn check_recordable(path: &Path) -> Result<(), Failure> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            let line = format!("cannot record to {}: not a regular file", path.display());
            Err(Failure::line(ExitCode::OutputFailed, line))
        }
        // What cannot be looked at is made, or refused, where it is opened.
        _ => Ok(()),
    }
}

/// What the controller of a private cluster is to record. The file is made here, where the user sees why it cannot be.
fn record_in_cluster(path: Option<&Path>) -> Result<Vec<(String, PathBuf)>, Failure> {
    let Some(path) = path else { return Ok(Vec::new()) };
    check_recordable(path)?;
    let made = std::path::absolute(path).and_then(|absolute| File::create(path).map(|_| absolute));
    let failed = |error: io::Error| {
        Failure::line(ExitCode::OutputFailed, format!("cannot record to {}: {error}", path.display()))
    };
    Ok(vec![(PRIVATE_NAME.to_owned(), made.map_err(failed)?)])
}

/// A recording that is not whole is said at the end too; it changes what comes out only where all else went well.
fn recorded_end(end: CommandResult, recording: Option<Result<u64, RecordError>>) -> CommandResult {
    match recording {
        Some(Err(error)) => and_then_told(end, Err(Failure::new(ExitCode::OutputFailed, &error))),
        Some(Ok(_)) | None => end,
    }
}

/// What is shown while the pool makes a large VM: its memory takes space there, and its disk is copied.
pub(crate) fn being_made(options: &VmOptions) -> impl Fn(Duration) -> String + Send + use<> {
    let (memory, disk) = (options.memory, ByteCount::new(options.disk_bytes));
    move |taken| {
        let disk = if disk.get() > 0 { format!(" and copies its disk of {disk}") } else { String::new() };
        format!("the pool makes room for a VM of {memory}{disk}: {} s so far", taken.as_secs())
    }
}

fn run_protected(args: &Args, image: &GuestImage) -> CommandResult {
    vmm::slice::run_soon();
    let signals = EndSignals::new()?;
    let of_cluster = ClusterOptions {
        executable: this_program()?,
        hosts: args.hosts.unwrap_or(HOSTS),
        pool_parent: args.pool_dir.clone(),
        heartbeat_bound: args.heartbeat_ms.map(Span::from_ms),
        record: record_in_cluster(args.record.as_deref())?,
        keep: args.keep,
        custom: scenarios::cluster::ClusterCustom::default(),
    };
    let options = args.vm(image.disk().map_or(0, GuestDisk::bytes))?;
    let respawn = if args.respawn { Respawn::All } else { Respawn::Fenced };
    let wish = signals.as_fd().try_clone_to_owned().map_err(|error| Failure::new(ExitCode::Internal, &error))?;
    let patience = Patience { until: None, interrupt: Some(Arc::new(wish)) };
    let started = Cluster::start_with(of_cluster, patience).map_err(RunError::from).and_then(|cluster| {
        progress::show(being_made(&options), || {
            ProtectedRun::start(cluster, image, &options, respawn, args.events.as_deref())
        })
    });
    let mut run = match started {
        Err(error) if error.gave_up() => {
            return Ok(signals.end());
        }
        started => started?,
    };
    // From here on a signal is looked for between two requests, and what is asked at the end is waited for.
    run.set_patience(Patience::default());
    let of_run = run.cluster();
    let (pool_directory, run_directory) = (of_run.pool_directory().to_owned(), of_run.run_directory().to_owned());
    let shown = follow(args.time_limit, &mut run, &signals, args.input(image)?)?;
    let outcome = match &shown {
        Shown::Over(outcome) => Some(outcome),
        Shown::Interrupted | Shown::OutputClosed | Shown::TimeOut => None,
    };
    // Whatever becomes of it: what the guest wrote to its disk is worth more.
    let told = args.json.as_ref().map_or(Ok(()), |to| {
        let since = run.started_at();
        write_summary(&mut run, since, outcome, to.as_deref())
    });
    let exported = match (&shown, image.disk()) {
        (Shown::Over(Outcome::Ended(_)), Some(disk)) => {
            run.disk_image().map_err(Failure::from).and_then(|found| Ok(export_disk(&found, disk.path())?))
        }
        _ => Ok(()),
    };
    let told = told.and_then(|()| Ok(run.shut_down().map(drop)?));
    if args.keep {
        eprintln!("ftvm: pool kept in {}, logs in {}", pool_directory.display(), run_directory.display());
    }
    let end = exported.and_then(|()| came_to(shown, args, &signals, &pool_directory));
    recorded_end(and_then_told(end, told), args.record.as_deref().map(vmm::recording::check_whole))
}

/// A summary that could not be written is said at the end; it changes what comes out only where all else went well.
pub(crate) fn and_then_told(end: CommandResult, told: Result<(), Failure>) -> CommandResult {
    let Err(failure) = told else { return end };
    match end {
        Ok(ExitStatus::Guest(0) | ExitStatus::Own(ExitCode::Ok)) => Err(failure),
        other => {
            failure.report();
            other
        }
    }
}

/// What a run that is over, or was left, is to whoever started it.
fn came_to(shown: Shown, args: &Args, signals: &EndSignals, pool_directory: &Path) -> CommandResult {
    match shown {
        Shown::Over(Outcome::Ended(end)) => guest_end(end),
        Shown::Over(Outcome::Deleted) => unreachable!("nobody else can delete a VM of a private cluster"),
        Shown::Over(Outcome::Lost { recoverable }) => {
            let kept = args.keep.then_some(pool_directory);
            Err(Failure::line(ExitCode::VmLost, lost_line(recoverable.map(ft_protocol::Epoch::get), kept)))
        }
        Shown::Interrupted => Ok(signals.end()),
        Shown::OutputClosed => Ok(ExitStatus::Own(ExitCode::OutputClosed)),
        Shown::TimeOut => Err(Failure::line(ExitCode::TimeOut, "the guest did not end within the time limit")),
    }
}

/// Shows the console until there is a reason to stop.
pub(crate) fn follow(
    time_limit: Option<Span>,
    run: &mut impl Followed,
    signals: &EndSignals,
    input: Option<ConsoleInput>,
) -> Result<Shown, Failure> {
    let limit: Option<Time> = time_limit.map(|limit| monotonic() + limit);
    let status = io::stderr().is_terminal().then(StatusLine::default);
    // Not through Rust's standard output: its buffer would hold back what the guest has said.
    let failed = |error: io::Error| Failure::new(ExitCode::Internal, &error);
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(failed)?);
    let showing = Showing { interrupt: signals.as_fd(), status, limit, input };
    show(run, &mut out, showing).map_err(|error| match error {
        ShowError::Run(error) => error.into(),
        ShowError::Output(_) => Failure::new(ExitCode::OutputFailed, &error),
    })
}

/// Writes a run that began then in numbers.
pub(crate) fn write_summary(
    run: &mut impl Followed,
    since: Time,
    outcome: Option<&Outcome>,
    to: Option<&Path>,
) -> Result<(), Failure> {
    let epochs = run.vm_status()?.map_or(0, |vm| vm.applied.get());
    let summary = Summary::new(run.timeline(), outcome, since, monotonic(), epochs);
    let json = serde_json::to_string_pretty(&summary).map_err(|error| Failure::new(ExitCode::Internal, &error))?;
    match to {
        None => eprintln!("{json}"),
        Some(path) => std::fs::write(path, json + "\n").map_err(|error| {
            Failure::line(ExitCode::OutputFailed, format!("cannot write {}: {error}", path.display()))
        })?,
    }
    Ok(())
}

fn lost_line(recoverable: Option<u64>, kept: Option<&Path>) -> String {
    let state = match recoverable {
        Some(0) => "nothing was committed yet".to_owned(),
        Some(epoch) => format!("the pool held everything up to epoch {epoch}"),
        None => "what the pool held is not known".to_owned(),
    };
    let place = match kept {
        Some(path) => format!("it is kept in {}", path.display()),
        None => "run with --keep to keep it, or with --respawn or more --hosts to go on".to_owned(),
    };
    format!("the guest is lost: no host is left to run it; {state}; {place}")
}

/// What a guest's end is to whoever started it.
pub(crate) fn guest_end(end: GuestEnd) -> CommandResult {
    match end {
        GuestEnd::Exited(code) => Ok(ExitStatus::Guest(code.to_le_bytes()[0])),
        GuestEnd::Crashed(line) => Err(Failure::line(ExitCode::GuestCrashed, format!("the guest crashed: {line}"))),
    }
}

/// The program that controllers and hosts are started from.
pub(crate) fn this_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| {
        Failure::line(ExitCode::Internal, format!("cannot find the path of the ftvm program: {error}"))
    })
}
