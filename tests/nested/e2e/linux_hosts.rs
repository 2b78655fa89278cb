//! A Linux guest over machines: one connection to it outlives the QEMU that ran it, and it is protected again on the third.

use crate::hosts::{POOL, await_output, start_cluster};
use crate::linux_guests::{KERNEL, TROUBLE};
use crate::{PATIENCE, boot};

/// A machine's segment as a bridge, with a TAP device for the guest that may come to run there.
const BRIDGE: &str = "brctl addbr br0 && brctl addif br0 eth0 && ip addr flush dev eth0 && \
                      ip addr add $1/24 dev br0 && ip link set br0 up && \
                      tunctl -t tap0 && brctl addif br0 tap0 && ip link set tap0 up";

/// One connection, and what has come back of it: lines, one after the other, for as long as somebody listens.
const CLIENT: &str = r#"
until ping -c 1 -W 2 10.77.0.50 > /dev/null; do sleep 0.5; done
(i=0; while [ $i -lt $1 ]; do echo "message $i of one connection"; i=$((i + 1)); sleep 0.2; done; sleep 100000) 2> /dev/null |
    nc 10.77.0.50 7 > /tmp/echoed 2> /dev/null
echo "the connection has ended"
"#;

/// Lines of the whole connection, and how many of them come back before the machine is killed.
const LINES: usize = 120;
const LINES_BEFORE: usize = 20;

#[test]
fn a_connection_to_linux_outlives_the_machine_that_runs_it() {
    let Some((mut cluster, _turn)) = boot(3, 3072) else { return };
    for (machine, address) in cluster.machines.iter().zip(["10.77.0.1", "10.77.0.2", "10.77.0.3"]) {
        machine.check(&["sh", "-c", BRIDGE, "bridge", address]).unwrap();
    }
    let _processes = start_cluster(&cluster);
    let first = &cluster.machines[0];
    let _spare = first.start(&["ftvm", "host", "--name", "a", "--pool", POOL]).unwrap();
    let status = ["ftvm", "status", "--pool", "/run/ftvm.sock"];
    await_output(first, &status, "three hosts", |text| hosts(text) == 3);
    let line = format!("{KERNEL} guest.address=10.77.0.50/24 guest.run=echod,7 guest.run=burner,20");
    let guest = [
        "--kernel",
        "/guest/vmlinux",
        "--initrd",
        "/guest/initrd",
        "--memory",
        "160MiB",
        "--net",
        "tap=tap0",
        "--cmdline",
        &line,
    ];
    let run = ["ftvm", "run", "--pool", "/run/ftvm.sock", "--name", "one", "--prefer", "b", "--epoch-ms", "200"];
    let mut run = first.start(&[&run[..], &guest].concat()).unwrap();
    run.close_input().unwrap();
    let client = first.start(&["sh", "-c", CLIENT, "client", &LINES.to_string()]).unwrap();
    client.close_input().unwrap();
    let echoed = ["sh", "-c", "wc -l < /tmp/echoed || echo 0"];
    let lines = |text: &str| text.trim().parse::<usize>().unwrap_or(0);
    await_output(first, &status, "protection", |text| text.contains("primary b") && is_protected(text));
    await_output(first, &echoed, "the first lines", |text| lines(text) >= LINES_BEFORE);
    cluster.machines[1].kill();
    let first = &cluster.machines[0];
    await_output(first, &echoed, "all lines", |text| lines(text) >= LINES);
    let found = String::from_utf8(first.get("/tmp/echoed").unwrap()).unwrap();
    let expected: String = (0..LINES).map(|number| format!("message {number} of one connection\n")).collect();
    assert_eq!(found, expected);
    await_output(first, &status, "protection on what is left", |text| {
        text.contains("takeovers 1") && is_protected(text)
    });
    let console = run.look().unwrap().text();
    assert!(!TROUBLE.iter().any(|word| console.contains(word)), "{console}");
    run.signal(15).unwrap();
    let output = run.wait(PATIENCE).unwrap();
    assert!(output.end.is_some());
}

fn hosts(status: &str) -> usize {
    status.lines().filter(|line| line.trim_start().starts_with("host ")).count()
}

fn is_protected(status: &str) -> bool {
    status.contains("vm one") && !status.contains("NOT protected")
}
