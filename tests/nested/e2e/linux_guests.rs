//! Linux guests: an unmodified Debian kernel, alone and over its hosts' deaths.

use crate::{PATIENCE, boot};
use std::fs;
use std::path::Path;

pub(crate) const KERNEL: &str = "console=ttyS0 loglevel=5 8250.nr_uarts=1 panic=-1 mitigations=off no_timer_check tsc=reliable \
                      random.trust_cpu=on nokaslr";

/// What no guest's kernel may say.
pub(crate) const TROUBLE: [&str; 6] = ["soft lockup", "backwards", "needs reset", "I/O error", "BUG:", "rcu: INFO"];

/// One connection through the whole run; the primary's host dies each time another third of its lines has come back.
/// The addresses are those of a TAP device of the machine and of the guest.
const KILLS: &str = r#"
kills=$1 lines=$2 words="$3"
tunctl -t tap0 && ip addr add 10.78.0.1/24 dev tap0 && ip link set tap0 up || exit 10
ftvm run --kernel /guest/vmlinux --initrd /guest/initrd --vcpus 2 --memory 160MiB --net tap=tap0 --disk /tmp/disk,size=4MiB \
    --heartbeat-ms 20000 --epoch-ms 200 --respawn --events /tmp/events --cmdline "$words" > /tmp/console 2> /tmp/errors &
run=$!
await() { until eval "$1"; do kill -0 $run || { echo "the run ended before: $1"; cat /tmp/errors; exit 11; }; sleep 0.2; done; }
# A guest that can be reached does not listen yet.
await 'echo heard | nc -w 5 10.78.0.50 7 2> /dev/null | grep -q heard'
message() { i=0; while [ $i -lt $lines ]; do echo "message $i of one connection"; i=$((i + 1)); [ -n "$1" ] && sleep $1; done; }
# Whoever waits for this script waits for all that have its standard error.
(message 0.1; sleep 100000) 2> /dev/null | nc 10.78.0.50 7 > /tmp/echoed 2> /dev/null &
killed=0
while [ $killed -lt $kills ]; do
    killed=$((killed + 1))
    await '[ $(wc -l < /tmp/echoed) -ge $((killed * lines / (kills + 1))) ]'
    host=$(grep -o '"live":{[^}]*"host":[0-9]' /tmp/events | tail -n 1 | sed 's/.*://' | tr 0-4 a-e)
    pid=$(ps | grep "ftvm host" | grep -- "--id $host " | grep -v grep | sed 's/^ *//; s/ .*//')
    kill -9 $pid && echo "killed $host"
    await "[ \$(grep -c '\"live\":' /tmp/events) -gt $killed ]"
done
await '[ $(wc -l < /tmp/echoed) -ge $lines ]'
message > /tmp/expected
cmp /tmp/echoed /tmp/expected || exit 12
grep -q "diskwriter ended with 0" /tmp/console || await 'grep -q "diskwriter ended with" /tmp/console'
kill $run
wait $run
cat /tmp/console
"#;

#[test]
fn linux_boots_alone_and_ends() {
    let Some((cluster, _turn)) = boot(1, 0) else { return };
    let machine = &cluster.machines[0];
    let linux = |words: &str, more: &[&str]| {
        let line = format!("{KERNEL} {words}");
        let guest = ["ftvm", "run", "--kernel", "/guest/vmlinux", "--initrd", "/guest/initrd", "--cmdline", &line];
        machine.run(&[&guest, more].concat()).unwrap()
    };
    let output = linux("guest.run=uname,-a guest.run=nproc", &["--mode", "none", "--vcpus", "2"]);
    assert!(output.is_success(), "{}", output.text());
    let text = output.text();
    assert!(
        text.contains("Linux") && text.contains("init: nproc ended with 0") && text.contains("init: down"),
        "{text}"
    );
    assert!(text.lines().any(|line| line.trim() == "2"), "both processors are there: {text}");
    // Without a word of how: this kernel finds ACPI without old hardware, and no EFI.
    let output = linux("guest.run=reboot,-f", &["--mode", "none"]);
    assert!(output.is_success() && output.text().contains("Restarting system"), "{}", output.text());
    // The same kernel as one that was built without the entry for PVH.
    let entry = pvh_note(&nested::kernel::Kernel::of_guests().unwrap().vmlinux).to_string();
    let script = "printf '\\0' | dd of=/guest/vmlinux bs=1 seek=$1 conv=notrunc 2> /dev/null";
    assert!(machine.run(&["sh", "-c", script, "sh", &entry]).unwrap().is_success());
    let output = linux("guest.run=uname,-a", &["--mode", "none", "--vcpus", "2"]);
    assert!(output.is_success() && output.text().contains("init: down"), "{}", output.text());
    for mode in ["replay", "lockstep"] {
        let refused = linux("", &["--mode", mode]);
        assert!(!refused.is_success());
        assert!(refused.text().contains("not deterministic between exits"), "{}", refused.text());
    }
}

/// Where in this ELF file the type is of the note that names the entry for PVH (Xen's `XEN_ELFNOTE_PHYS32_ENTRY`).
fn pvh_note(vmlinux: &Path) -> usize {
    // Lengths of name and entry, type, name.
    const NOTE: [u8; 16] = *b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0";
    let bytes = fs::read(vmlinux).unwrap();
    let found: Vec<usize> =
        bytes.windows(NOTE.len()).enumerate().filter(|(_, at)| *at == NOTE).map(|(at, _)| at).collect();
    let [note] = found[..] else { panic!("notes at {found:x?}") };
    note + 8
}

#[test]
fn a_connection_to_linux_outlives_its_hosts() {
    let Some((cluster, _turn)) = boot(1, 0) else { return };
    let machine = &cluster.machines[0];
    machine.put("/tmp/kills", 0o755, KILLS.as_bytes()).unwrap();
    let words = format!("{KERNEL} guest.address=10.78.0.50/24 guest.run=echod,7 guest.run=diskwriter,/dev/vda,40");
    let run = machine.start(&["sh", "/tmp/kills", "3", "60", &words]).unwrap();
    run.close_input().unwrap();
    let output = run.wait(PATIENCE).unwrap();
    let text = output.text();
    assert!(output.is_success(), "{text}");
    assert!(text.contains("diskwriter ended with 0"), "the disk has what was written: {text}");
    assert!(!TROUBLE.iter().any(|word| text.contains(word)), "{text}");
}

/// A shell on the serial port does what is typed: the port tells its driver of it, which otherwise waits for ever.
#[test]
fn linux_does_what_is_typed() {
    let Some((cluster, _turn)) = boot(1, 0) else { return };
    let machine = &cluster.machines[0];
    let script =
        "printf 'echo answer $((6 * 7))\\nexit\\n' | ftvm run \"$@\" --kernel /guest/vmlinux --initrd /guest/initrd";
    for mode in [&["--mode", "none"][..], &["--hosts", "2", "--heartbeat-ms", "20000", "--epoch-ms", "100"]] {
        let output = machine.run(&[&["sh", "-c", script, "sh", "--cmdline", KERNEL], mode].concat()).unwrap();
        let text = output.text();
        assert!(output.is_success(), "{mode:?}: {text}");
        assert!(text.contains("answer 42") && text.contains("init: down"), "{mode:?}: {text}");
        assert!(!TROUBLE.iter().any(|word| text.contains(word)), "{mode:?}: {text}");
    }
}
