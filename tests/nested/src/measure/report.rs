//! Samples as rows, and rows as a document.

use super::Measurement;
use ftvm_bench::{Commit, Figures, Row, Unit, amount, markdown};
use nested_inside::sample::{Boot, EPOCH_MS, Sample, Snapshot, Survival, TICK_MS, TICKER_MIB};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// How the document says that it is made anew.
const COMMAND: &str = "cargo run -p nested -- measure";

pub(super) fn boots(samples: &[Sample]) -> Vec<Row> {
    let of = |wanted: Boot| -> Vec<f64> {
        let ns = |sample: &Sample| match sample {
            Sample::Boot { way, ns } if *way == wanted => Some(*ns as f64),
            _ => None,
        };
        samples.iter().filter_map(ns).collect()
    };
    let beside = |name: &str, way: Boot, what: &str, base: Boot| {
        Row::new(name, Unit::Ns, &of(way)).in_pairs(what, &of(way), &of(base))
    };
    let protected = format!("ftvm, checkpoint mode, epochs of {EPOCH_MS} ms, with its cluster's start");
    vec![
        Row::new("QEMU, microvm", Unit::Ns, &of(Boot::QemuMicrovm)),
        beside("QEMU, q35", Boot::QemuQ35, "QEMU, microvm", Boot::QemuMicrovm),
        beside("ftvm, unprotected", Boot::Unprotected, "QEMU, microvm", Boot::QemuMicrovm),
        beside(&protected, Boot::Protected, "ftvm, unprotected", Boot::Unprotected),
    ]
}

pub(super) fn pauses(samples: &[Sample]) -> Vec<Row> {
    let set = |sample: &Sample| match sample {
        Sample::Commit { working_set_mib, .. } | Sample::Snapshot { working_set_mib, .. } => Some(*working_set_mib),
        _ => None,
    };
    let sets: BTreeSet<u64> = samples.iter().filter_map(set).collect();
    sets.into_iter().flat_map(|mib| pauses_with(samples, mib)).collect()
}

fn pauses_with(samples: &[Sample], mib: u64) -> Vec<Row> {
    let commit = |sample: &Sample| match sample {
        Sample::Commit { working_set_mib, line } if *working_set_mib == mib => Commit::parse(line),
        _ => None,
    };
    let commits: Vec<Commit> = samples.iter().filter_map(commit).collect();
    let each = |of: fn(&Commit) -> f64| -> Vec<f64> { commits.iter().map(of).collect() };
    let pages = Figures::of(&each(|commit| commit.pages as f64)).median;
    let pauses = each(|commit| commit.pause);
    let ftvm = Row::new(format!("{mib} MiB: commit of ftvm's, {pages:.0} pages"), Unit::Ns, &pauses)
        .part("stop", &each(|commit| commit.stop))
        .part("harvest", &each(|commit| commit.harvest))
        .part("copy", &each(|commit| commit.copy))
        .part("machine state", &each(|commit| commit.state))
        .part("resume", &each(|commit| commit.resume));
    let ways = [
        (Snapshot::Full, "QEMU, full snapshot"),
        (Snapshot::Precopy, "QEMU, last pass of a live snapshot"),
        (Snapshot::Background, "QEMU, background snapshot"),
    ];
    let snapshots = ways.into_iter().filter_map(|(way, name)| {
        let taken = taken(samples, way, mib);
        if taken.is_empty() {
            return None;
        }
        let each = |of: fn(&(f64, f64, f64)) -> f64| -> Vec<f64> { taken.iter().map(of).collect() };
        let bytes = amount(Figures::of(&each(|taken| taken.2)).median, Unit::Bytes);
        let row = Row::new(format!("{mib} MiB: {name}, {bytes}"), Unit::Ns, &each(|taken| taken.0));
        Some(row.against("commit of ftvm's", &pauses).part("until the snapshot is whole", &each(|taken| taken.1)))
    });
    std::iter::once(ftvm).chain(snapshots).collect()
}

/// Pause, time until it is whole, bytes.
fn taken(samples: &[Sample], wanted: Snapshot, mib: u64) -> Vec<(f64, f64, f64)> {
    let one = |sample: &Sample| match sample {
        Sample::Snapshot { way, working_set_mib, pause_ns, whole_ns, bytes }
            if *way == wanted && *working_set_mib == mib =>
        {
            Some((*pause_ns as f64, *whole_ns as f64, *bytes as f64))
        }
        _ => None,
    };
    samples.iter().filter_map(one).collect()
}

pub(super) fn blackouts(samples: &[Sample]) -> Vec<Row> {
    let row = |name: &str, way| Row::new(name, Unit::Ns, &silences(samples, way));
    let takeovers = silences(samples, Survival::Takeover);
    vec![
        row("ftvm, primary killed: the secondary takes over", Survival::Takeover),
        row("QEMU killed: another one, started before, is given the last snapshot", Survival::PreparedRestore)
            .against("ftvm's takeover", &takeovers),
        row("QEMU killed: another one is started with the last snapshot", Survival::Restore)
            .against("ftvm's takeover", &takeovers),
    ]
}

fn silences(samples: &[Sample], wanted: Survival) -> Vec<f64> {
    let ns = |sample: &Sample| match sample {
        Sample::Blackout { way, ns, .. } if *way == wanted => Some(*ns as f64),
        _ => None,
    };
    samples.iter().filter_map(ns).collect()
}

/// The most lines that were said twice, and the most that were never said.
fn broken_lines(samples: &[Sample], of: fn(Survival) -> bool) -> (u64, u64) {
    samples.iter().fold((0, 0), |(most_again, most_lost), sample| match sample {
        Sample::Blackout { way, again, lost, .. } if of(*way) => (most_again.max(*again), most_lost.max(*lost)),
        _ => (most_again, most_lost),
    })
}

pub(super) fn document(measurement: &Measurement) -> String {
    let mut text = head(measurement);
    let [boots, pauses, blackouts] = measurement.rows();
    let _ = write!(
        text,
        "## Boot\n\nFrom the start of the process to the first line of the guest's user space (`init: up`) on the serial console; one of each \
         in turns, {} rounds. A ratio is the median of the rounds' ratios.\n\n{}",
        measurement.plan.boots,
        markdown(&boots)
    );
    let _ = write!(
        text,
        "## Pause\n\nThe guest writes to so many MiB over and over (`burner`). A commit of ftvm's holds the pages that were written since the \
         one before; epochs are long enough for all of them. Its pause is what its host says of it. QEMU (microvm) writes to a file on a tmpfs \
         (`migrate` to an open file), and its pause is the time between its events `STOP` and `RESUME`:\n\n\
         - full snapshot: stop, write, go on. All memory is read; pages of zeroes are only noted. This is how Firecracker makes a full \
         snapshot, which writes all memory out.\n\
         - last pass of a live snapshot: memory is written while the guest runs, then it is stopped, and what it has written to \
         meanwhile is written: the nearest to a diff snapshot.\n\
         - background snapshot: stopped for the devices' state; memory is write-protected, and written while the guest \
         runs on and waits at each first write to a page.\n\n\
         A commit of ftvm's is the next state, complete, which another host can go on from; QEMU's snapshots are made once and begin from nothing each time.\n\n{}",
        markdown(&pauses)
    );
    let _ = write!(
        text,
        "## Blackout\n\nThe guest has filled {TICKER_MIB} MiB and says a number every {TICK_MS} ms. The process that runs it is killed (SIGKILL); the blackout is \
         the longest silence on its console until it speaks steadily again. ftvm has a secondary that stands by, with epochs of {EPOCH_MS} ms. QEMU had a \
         full snapshot made some {} ms before the kill.\n\n{}",
        25 * TICK_MS,
        markdown(&blackouts)
    );
    let (again, lost) = broken_lines(&measurement.samples, |way| way == Survival::Takeover);
    let _ = writeln!(text, "- ftvm: at most {again} lines were said twice, and {lost} were never said.");
    let (again, lost) = broken_lines(&measurement.samples, |way| way != Survival::Takeover);
    let _ = writeln!(
        text,
        "- QEMU: up to {again} lines were said twice, and {lost} never: the guest went back to its snapshot, and whoever had \
         heard it knows of things that it has not done."
    );
    let unable = measurement.unable();
    if !unable.is_empty() {
        let _ = writeln!(text, "\n## Not measured\n");
    }
    for (what, why) in unable {
        let _ = writeln!(text, "- {what}: {}", why.replace('\n', " "));
    }
    text
}

fn head(measurement: &Measurement) -> String {
    let Measurement { machine, load, qemu, kernels, seconds, quick, plan, .. } = measurement;
    let mut text = String::from("# Performance of Linux guests, beside QEMU\n\n");
    let _ = write!(
        text,
        "Generated by `{COMMAND}{} --report docs/performance-nested.md`: ftvm and QEMU in turns, on the same kvm-amd inside a machine that \
         QEMU emulates (TCG), with the same kernel, initrd, command line and {} MiB of memory. Emulation makes everything slow, and exits and page faults \
         slower than the rest: only the ratios mean something, and they may be others on hardware. Firecracker itself is not measured: \
         Debian has no package of it; what it does for a snapshot is what QEMU is made to do here. Measured: the median, and beside it the 99th percentile, which of \
         fewer than 100 samples is the largest. Spread: the middle half of the samples as a share of the median.\n\n",
        if *quick { " --quick" } else { "" },
        plan.memory_mib,
    );
    let _ = write!(
        text,
        "| machine | |\n|---|---|\n| emulated on | {} x {}, {} of memory, Linux {} |\n| load there (runnable tasks) | {:.1} to {:.1} |\n\
         | QEMU, outside and inside | {qemu} |\n| KVM | kvm-amd of {} (nested, in TCG) |\n| the guests' kernel | {} |\n| run | {seconds:.0} s |\n\n",
        machine.processors,
        machine.processor,
        amount(machine.memory_bytes as f64, Unit::Bytes),
        machine.kernel,
        load[0],
        load[1],
        kernels[0],
        kernels[1],
    );
    text
}

#[cfg(test)]
mod tests {
    use super::super::{Measurement, plan};
    use super::{blackouts, boots, pauses};
    use nested_inside::sample::{Boot, Sample, Snapshot, Survival};

    fn commit(mib: u64, pages: u64, pause: u64) -> Sample {
        let line = format!(
            "2026-11-22T12:00:00Z TRACE ftvm::commit: committed vm=0 epoch=7 pages={pages} pause={pause} stop=10 harvest=20 copy=30 \
             state=25 resume=15 checksum=40 publish=5"
        );
        Sample::Commit { working_set_mib: mib, line }
    }

    fn snapshot(way: Snapshot, mib: u64, pause_ns: u64) -> Sample {
        Sample::Snapshot { way, working_set_mib: mib, pause_ns, whole_ns: pause_ns * 3, bytes: 1 << 20 }
    }

    fn samples() -> Vec<Sample> {
        let boot = |way, ns| Sample::Boot { way, ns };
        let blackout = |way, ns, again| Sample::Blackout { way, ns, again, lost: 0 };
        vec![
            boot(Boot::QemuMicrovm, 100),
            boot(Boot::Unprotected, 110),
            boot(Boot::QemuMicrovm, 1000),
            boot(Boot::Unprotected, 1200),
            boot(Boot::QemuMicrovm, 100),
            boot(Boot::Unprotected, 130),
            commit(16, 4100, 2_000_000),
            commit(4, 1030, 1_000_000),
            snapshot(Snapshot::Full, 16, 500_000_000),
            snapshot(Snapshot::Precopy, 16, 40_000_000),
            snapshot(Snapshot::Full, 4, 300_000_000),
            Sample::Unable { what: "background snapshot".to_owned(), why: "no\nsuch thing".to_owned() },
            blackout(Survival::Takeover, 30_000_000, 0),
            blackout(Survival::Restore, 900_000_000, 26),
            blackout(Survival::PreparedRestore, 300_000_000, 27),
        ]
    }

    #[test]
    fn boots_are_held_against_those_of_their_round() {
        let rows = boots(&samples());
        let unprotected = rows.iter().find(|row| row.name == "ftvm, unprotected").unwrap();
        assert_eq!((unprotected.measured.count, unprotected.ratio), (3, Some(1.2)));
        assert_eq!(rows[0].measured.median, 100.0);
        assert_eq!(rows.last().unwrap().measured.count, 0, "nothing was measured of it");
    }

    #[test]
    fn snapshots_are_held_against_commits_of_the_same_guest() {
        let rows = pauses(&samples());
        let told: Vec<(&str, Option<f64>)> = rows.iter().map(|row| (row.name.as_str(), row.ratio)).collect();
        assert_eq!(
            told,
            [
                ("4 MiB: commit of ftvm's, 1030 pages", None),
                ("4 MiB: QEMU, full snapshot, 1.00 MiB", Some(300.0)),
                ("16 MiB: commit of ftvm's, 4100 pages", None),
                ("16 MiB: QEMU, full snapshot, 1.00 MiB", Some(250.0)),
                ("16 MiB: QEMU, last pass of a live snapshot, 1.00 MiB", Some(20.0)),
            ]
        );
        assert_eq!(rows[0].parts.len(), 5);
    }

    #[test]
    fn restores_are_held_against_takeovers() {
        let rows = blackouts(&samples());
        let ratios: Vec<_> = rows.iter().map(|row| row.ratio).collect();
        assert_eq!(ratios, [None, Some(10.0), Some(30.0)]);
    }

    #[test]
    fn the_document_says_what_was_compared_and_how_it_is_made_anew() {
        let measurement = Measurement {
            machine: ftvm_bench::Machine::describe(),
            load: [0.5, 1.5],
            qemu: "7.2.22".to_owned(),
            kernels: ["linux-image-a".to_owned(), "linux-image-b".to_owned()],
            started_unix: 0,
            seconds: 12.0,
            quick: true,
            plan: plan(true),
            samples: samples(),
        };
        let text = measurement.document();
        for part in [
            "`cargo run -p nested -- measure --quick --report docs/performance-nested.md`",
            "Firecracker itself is not measured",
            "| QEMU, outside and inside | 7.2.22 |",
            "kvm-amd of linux-image-a",
            "| 16 MiB: QEMU, full snapshot, 1.00 MiB | 500 ms |",
            "## Not measured\n\n- background snapshot: no such thing",
            "ftvm: at most 0 lines were said twice",
            "QEMU: up to 27 lines were said twice",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("measured.json");
        measurement.write_json(&path).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(json["samples"].as_array().unwrap().len(), samples().len());
    }
}
