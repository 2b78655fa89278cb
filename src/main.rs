//! ftvm's command line.
fn main() {}
