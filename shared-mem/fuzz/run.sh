#!/bin/sh
# Fuzzes every parser for a bounded time each: run.sh [SECONDS]. Needs only the stable toolchain and a C++ compiler;
# with cargo-fuzz and a nightly toolchain, `cargo fuzz run TARGET` adds the sanitizers.
set -eu
cd "$(dirname "$0")"
seconds=${1:-30}
targets="record log_entry heartbeat superblock vm_entry blob"
# Coverage feedback for libFuzzer, from the stable compiler.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
# With --target, build scripts and macros are left without the instrumentation.
cargo build --release --target "$host"
out=${CARGO_TARGET_DIR:-target}/$host/release
mkdir -p artifacts
for target in $targets; do
    found=$(mktemp -d)
    "$out/$target" -max_total_time="$seconds" -max_len=16384 -artifact_prefix=artifacts/ \
        "$found" "corpus/$target" || { echo "$target failed, see artifacts/"; exit 1; }
    rm -rf "$found"
done
