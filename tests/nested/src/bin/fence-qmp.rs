//! See `nested::fence`.
#![forbid(unsafe_code)]

use nested::fence::{Verdict, act};
use std::io::Read as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut parameters = String::new();
    let read = std::io::stdin().read_to_string(&mut parameters);
    let done = read.map_err(|error| error.to_string()).and_then(|_| act(&parameters));
    ExitCode::from(
        done.unwrap_or_else(|why| {
            eprintln!("fence-qmp: {why}");
            Verdict::Failed
        })
        .exit_code(),
    )
}
