//! ftvm's command line.
#![forbid(unsafe_code)]

mod bench;
mod console;
mod demo;
mod disk;
mod doctor;
mod events;
mod exit_code;
mod failure;
mod flush;
mod guests;
mod host;
mod lineage;
mod load;
mod output;
mod planned;
mod pool;
mod pool_address;
mod pool_inspect;
mod progress;
mod replay;
mod run;
mod run_in_pool;
mod same_file;
mod scenario;
mod signals;
mod sim;
mod status;
mod switch;
mod typing;

use clap::{Parser, Subcommand};
use exit_code::ExitCode;
use failure::Failure;
use std::io::IsTerminal as _;

/// What a command comes to.
type CommandResult = Result<ExitStatus, Failure>;

/// What the process exits with.
enum ExitStatus {
    /// One of ftvm's own codes.
    Own(ExitCode),
    /// A guest's.
    Guest(u8),
}

/// Keeps a virtual machine running when the host under it dies.
#[derive(Parser)]
#[command(version, about, long_about = None, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a guest protected: in a private cluster of its own, or with --pool in one that is there
    Run(Box<run::Args>),
    /// See it work: a guest outlives six kills, and nobody can tell
    Demo(demo::Args),
    /// Run failures that are written down in files
    Scenario(scenario::Args),
    /// Run the protocol under simulated faults, thousands of runs a minute
    Sim(sim::Args),
    /// Measure what protection costs and how fast it is, against baselines of the same run
    Bench(bench::Args),
    /// Look at what this machine offers
    Doctor(doctor::Args),
    /// Re-execute a recording, verify it, and stop at any exit of its guest
    Replay(replay::Args),
    /// List the guests that ftvm brings along
    Guests(guests::Args),
    /// Run an Ethernet segment for guests, without privileges: a learning switch
    Switch(switch::Args),
    /// Put load on a guest from a segment, and check what it answers
    Load(load::Args),
    /// Show the hosts and VMs of a pool
    Status(status::Args),
    /// Read a VM's console, from its beginning or from where it was left
    Console(console::Args),
    /// Tell what happens in a cluster
    Events(events::Args),
    /// Protect a VM in another mode, while it runs
    Mode(planned::ModeArgs),
    /// Move a VM to another host, as planned
    Switchover(planned::SwitchoverArgs),
    /// Take all roles from a host
    Drain(planned::DrainArgs),
    /// End a VM's life and give back its part of the pool
    Delete(planned::DeleteArgs),
    /// End a cluster: its hosts and its controller; VMs wait in the pool
    Shutdown(planned::ShutdownArgs),
    /// Write the disk of a VM that has ended to a file
    Disk(disk::Args),
    /// Run a pool controller, or look into a pool
    Pool(Box<pool_inspect::PoolCommand>),
    /// Run a host
    Host(host::Args),
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    signals::unblock();
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Scenario(args) => scenario::run(&args),
        Command::Sim(args) => sim::run(args),
        Command::Mode(args) => planned::mode(&args),
        Command::Switchover(args) => planned::switchover(args),
        Command::Console(args) => console::run(&args),
        Command::Events(args) => events::run(&args),
        Command::Shutdown(args) => planned::shutdown(&args),
        Command::Disk(args) => disk::run(&args),
        Command::Delete(args) => planned::delete(&args),
        Command::Drain(args) => planned::drain(args),
        Command::Bench(args) => bench::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Guests(args) => guests::run(&args),
        Command::Switch(args) => switch::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Pool(command) => pool_inspect::run(*command),
        Command::Host(args) => host::run(args),
    };
    match result {
        Ok(ExitStatus::Own(code)) => code.into(),
        Ok(ExitStatus::Guest(code)) => code.into(),
        Err(failure) => failure.report().into(),
    }
}

/// `RUST_LOG` says what is logged; by default warnings are.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    // Colours are for people, not for files.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
}
