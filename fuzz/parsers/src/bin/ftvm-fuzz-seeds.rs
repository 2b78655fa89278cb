//! Writes the seeds of every target, a directory each: `ftvm-fuzz-seeds DIRECTORY`.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: ftvm-fuzz-seeds DIRECTORY");
        return ExitCode::from(2);
    };
    match write(&PathBuf::from(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the seeds cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &std::path::Path) -> std::io::Result<()> {
    for target in ftvm_fuzz::TARGETS {
        let place = directory.join(target.name);
        std::fs::create_dir_all(&place)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(place.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
