//! Guests that test KVM itself, started by Multiboot: what they find is the same on a machine of ftvm's that dies meanwhile.

use crate::{PATIENCE, boot, chain};
use nested::Machine;

/// Where the guest is in the machine.
const GUEST: &str = "/tmp/kvm-guest";
const MODULE: &str = "/tmp/module";

/// Runs the tests of the words given over and over, in a cluster whose primary's host dies each time another round has passed, and
/// ends the guest when one more has passed behind the last death: no guest is too fast for that.
const KILLS: &str = r#"
kills=$1 vcpus=$2 words="$3"
ftvm run --kernel /tmp/kvm-guest --vcpus $vcpus --memory 32MiB --heartbeat-ms 20000 --epoch-ms 100 --respawn \
    --events /tmp/events --cmdline "$words" > /tmp/console 2> /tmp/errors &
run=$!
await() { until eval "$1"; do kill -0 $run || { echo "the run ended before: $1"; cat /tmp/console /tmp/errors; exit 11; }; sleep 0.2; done; }
killed=0
while [ $killed -lt $kills ]; do
    rounds=$(grep -c '^round' /tmp/console)
    killed=$((killed + 1))
    await '[ $(grep -c "^round" /tmp/console) -gt $rounds ]'
    host=$(grep -o '"live":{[^}]*"host":[0-9]' /tmp/events | tail -n 1 | sed 's/.*://' | tr 0-4 a-e)
    pid=$(ps | grep "ftvm host" | grep -- "--id $host " | grep -v grep | sed 's/^ *//; s/ .*//')
    kill -9 $pid
    await "[ \$(grep -c '\"live\":' /tmp/events) -gt $killed ]"
done
rounds=$(grep -c '^round' /tmp/console)
await '[ $(grep -c "^round" /tmp/console) -gt $((rounds + 1)) ]'
kill $run
wait $run
cat /tmp/console
"#;

fn put_guest(machine: &Machine) {
    let guest = nested::kvm_guest::build().unwrap_or_else(|error| panic!("{}", chain(&error)));
    machine.put(GUEST, 0o644, &guest).unwrap();
    machine.put(MODULE, 0o644, b"module").unwrap();
}

#[test]
fn tests_of_kvm_pass_alone_and_over_the_deaths_of_hosts() {
    let Some((cluster, _turn)) = boot(1, 0) else { return };
    let machine = &cluster.machines[0];
    put_guest(machine);
    for vcpus in ["1", "2"] {
        let run = ["ftvm", "run", "--mode", "none", "--kernel", GUEST, "--initrd", MODULE, "--vcpus", vcpus];
        let output = machine.run(&run).unwrap();
        assert!(output.is_success() && output.text().contains("0 failures"), "{}", output.text());
    }
    machine.put("/tmp/kills.sh", 0o755, KILLS.as_bytes()).unwrap();
    // Not those that set the clock: what they do is to be seen by those that look at it.
    let words = "keep apic ioapic tsc kvmclock smp emulator rounds=1000000";
    let run = machine.start(&["sh", "/tmp/kills.sh", "2", "2", words]).unwrap();
    run.close_input().unwrap();
    let output = run.wait(PATIENCE).unwrap();
    let text = output.text();
    assert!(output.is_success() && text.contains("PASS keep") && !text.contains("FAIL"), "{text}");
}
