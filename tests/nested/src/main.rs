//! Nested machines by hand.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use nested::{Cluster, Setup};
use nested_inside::wire::End;
use std::error::Error;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// A program that a person watches has as long as it wants.
const BY_HAND_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// The program to take when nothing is said: busybox's shell.
const SHELL: &str = "sh";

/// Boots nested machines with a real kvm-amd, and runs programs in them.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch the packages that images are made from
    Packages,
    /// Fetch the kernel, build the programs, make the images
    Image,
    /// Boot machines and run a program in one of them; its exit code is this one's
    Exec {
        #[command(flatten)]
        setup: SetupArgs,
        /// The machine that runs it: 1 is a, 2 is b
        #[arg(long, default_value_t = 1)]
        on: usize,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        argv: Vec<String>,
    },
    /// Boot a machine and measure Linux guests in it, in ftvm and in QEMU: boot, pause, blackout. Takes a quarter of an hour or more
    Measure {
        /// Only a look: each thing once or twice
        #[arg(long)]
        quick: bool,
        /// Write everything that was measured there
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Write the document there; without it, it goes to standard output
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
    /// Boot machines and feed a shell in one of them from standard input
    Shell {
        #[command(flatten)]
        setup: SetupArgs,
        /// The machine: 1 is a, 2 is b
        #[arg(long, default_value_t = 1)]
        on: usize,
    },
}

#[derive(clap::Args)]
struct SetupArgs {
    /// How many machines
    #[arg(long, default_value_t = 1)]
    machines: usize,
    /// The memory of each, in MiB
    #[arg(long, default_value_t = 2048)]
    memory: u64,
    /// The shared memory device, in MiB; 0 for none
    #[arg(long, default_value_t = 1024)]
    pool: u64,
    /// Give the machines a QEMU of their own
    #[arg(long)]
    qemu: bool,
    /// Files to put into each machine before anything runs: HERE:THERE
    #[arg(long, value_name = "HERE:THERE")]
    put: Vec<String>,
    /// Files to fetch from the machine at the end: THERE:HERE
    #[arg(long, value_name = "THERE:HERE")]
    get: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            let mut line = format!("nested: {error}");
            let mut cause = error.source();
            while let Some(source) = cause {
                line.push_str(&format!(": {source}"));
                cause = source.source();
            }
            eprintln!("{line}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Packages => {
            println!("{}", nested::image::fetch()?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Image => {
            let images = nested::image::Images::make(None, false)?;
            println!("kernel  {}", images.kernel.name);
            println!("guests' {}", images.guest_kernel.name);
            println!("vmlinux {}", images.guest_kernel.vmlinux.display());
            println!("bzImage {}", images.guest_kernel.image.display());
            println!("host    {}", images.host_initrd.display());
            println!("guest   {}", images.guest_initrd.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Exec { setup, on, argv } => execute(&setup, on, &argv, false),
        Command::Measure { quick, json, report } => {
            let measurement = nested::measure::measure(quick, &mut io::stderr())?;
            if let Some(path) = json {
                measurement.write_json(&path)?;
            }
            match report {
                Some(path) => measurement.write_document(&path)?,
                None => print!("{}", measurement.document()),
            }
            Ok(if measurement.unable().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Shell { setup, on } => execute(&setup, on, &[SHELL.to_owned()], true),
    }
}

fn execute(args: &SetupArgs, on: usize, argv: &[String], feed: bool) -> Result<ExitCode, Box<dyn Error>> {
    let setup = Setup {
        machines: args.machines,
        memory_mib: args.memory,
        pool_mib: args.pool,
        ftvm: None,
        has_qemu: args.qemu,
    };
    let cluster = Cluster::boot(setup)?;
    for pair in &args.put {
        let (here, there) = split(pair)?;
        let permissions = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(here)?.permissions());
        let content = fs::read(here)?;
        for machine in &cluster.machines {
            machine.put(there, permissions & 0o777, &content)?;
        }
    }
    let machine = on.checked_sub(1).and_then(|index| cluster.machines.get(index));
    let machine = machine.ok_or_else(|| format!("there is no machine {on} of {}", args.machines))?;
    eprintln!("nested: up after {:.1} s", cluster.boot_time().as_secs_f64());
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let mut process = machine.start(&words)?;
    let (mut out, mut err) = (0, 0);
    let (input, lines) = std::sync::mpsc::channel();
    if feed {
        thread::spawn(move || read_input(&input));
    } else {
        process.close_input()?;
    }
    let end = loop {
        while let Ok(bytes) = lines.try_recv() {
            if bytes.is_empty() { process.close_input()? } else { process.write(&bytes)? }
        }
        // Comes back with whatever there is: input is looked for again soon.
        let seen = (out, err);
        match process.await_output(Duration::from_millis(20), |o| (o.stdout.len(), o.stderr.len()) != seen) {
            Ok(_) | Err(nested::MachineError::Silent { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let output = process.look()?;
        io::stdout().write_all(&output.stdout[out..])?;
        io::stdout().flush()?;
        io::stderr().write_all(&output.stderr[err..])?;
        (out, err) = (output.stdout.len(), output.stderr.len());
        if let Some(end) = output.end {
            break end;
        }
    };
    drop(process.wait(BY_HAND_TIMEOUT)?);
    for pair in &args.get {
        let (there, here) = split(pair)?;
        fs::write(here, machine.get(there)?)?;
    }
    Ok(match end {
        End::Code(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        End::Signal(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)),
    })
}

fn split(pair: &str) -> Result<(&str, &str), String> {
    pair.split_once(':').ok_or_else(|| format!("{pair} is no pair: write FROM:TO"))
}

/// Hands on what is typed; nothing, at its end.
fn read_input(to: &std::sync::mpsc::Sender<Vec<u8>>) {
    let mut buffer = [0; 4096];
    loop {
        let count = io::stdin().read(&mut buffer).unwrap_or(0);
        if to.send(buffer[..count].to_vec()).is_err() || count == 0 {
            return;
        }
    }
}
