//! Notes the commit that the program is built from, for the lines that reproduce a run.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/logs/HEAD");
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = git.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let commit = commit.and_then(|bytes| String::from_utf8(bytes).ok());
    println!("cargo::rustc-env=FTVM_COMMIT={}", commit.as_deref().map_or("unknown", str::trim));
}
