//! Every target over its seeds and over mutations of them, each run with others: what is printed shows them again.
//!
//! `FTVM_FUZZ_SEED` chooses the mutations, `FTVM_FUZZ_ROUNDS` how many there are per target.

use ftvm_fuzz::{Mutator, TARGETS, Target};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const ROUNDS: u64 = 4_000;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is behind 1970").as_secs();
    from_environment("FTVM_FUZZ_SEED").unwrap_or_else(now)
}

fn hex(input: &[u8]) -> String {
    input.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first input that a target gives up at.
fn finding(target: &Target, seed: u64, rounds: u64) -> Option<Vec<u8>> {
    let survives = |input: &Vec<u8>| catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok();
    let seeds = (target.seeds)();
    let mut mutator = Mutator::new(seed);
    let mutated = (0..rounds).map(|_| mutator.next_input(&seeds));
    seeds.iter().cloned().chain(mutated).find(|input| !survives(input))
}

#[test]
fn no_bytes_end_a_process() {
    let (seed, rounds) = (seed(), from_environment("FTVM_FUZZ_ROUNDS").unwrap_or(ROUNDS));
    let mut found = Vec::new();
    for target in TARGETS {
        assert!(!(target.seeds)().is_empty(), "{} has nothing to begin with", target.name);
        if let Some(input) = finding(&target, seed, rounds) {
            found.push(format!("{}: {}", target.name, hex(&input)));
        }
    }
    assert!(found.is_empty(), "FTVM_FUZZ_SEED={seed} FTVM_FUZZ_ROUNDS={rounds}: {found:#?}");
}

/// What `cargo fuzz run TARGET` begins with, where its users look for it.
#[test]
fn every_target_has_its_file_and_its_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).expect("the manifest of cargo-fuzz");
    for target in TARGETS {
        let name = target.name;
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "fuzz/Cargo.toml has no {name}");
        let source = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).expect(name);
        assert!(source.contains(&format!("ftvm_fuzz::run(\"{name}\", data)")), "{name} runs something else: {source}");
        let seeds: Vec<_> = std::fs::read_dir(fuzz.join("corpus").join(name)).expect(name).flatten().collect();
        assert!(!seeds.is_empty(), "{name} has no seed: cargo run -p ftvm-fuzz --bin ftvm-fuzz-seeds -- fuzz/corpus");
        for seed in seeds {
            let input = std::fs::read(seed.path()).expect("a seed");
            let survives = catch_unwind(|| ftvm_fuzz::run(name, &input)).is_ok();
            assert!(survives, "{name} gives up at {}", seed.path().display());
        }
    }
}

#[test]
fn a_parser_that_gives_up_is_found() {
    fn run(data: &[u8]) {
        assert!(data.len() != 5 || data[3] < 0x80, "a bug");
    }
    let target = Target { name: "planted", run, seeds: || vec![b"abcde".to_vec()] };
    let input = finding(&target, 1, ROUNDS).expect("thousands of mutations meet it");
    assert!(input.len() == 5 && input[3] >= 0x80);
}

#[test]
fn one_seed_is_one_sequence() {
    let seeds = vec![b"some bytes to begin with".to_vec()];
    let inputs = |seed| {
        let mut mutator = Mutator::new(seed);
        (0..50).map(|_| mutator.next_input(&seeds)).collect::<Vec<_>>()
    };
    assert_eq!(inputs(3), inputs(3));
    assert_ne!(inputs(3), inputs(4));
}
