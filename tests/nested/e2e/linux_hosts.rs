//! A Linux guest over machines: one connection to it outlives the QEMUs that ran it, the second of which was given its place
//! as the guest's secondary only when the first had died.

use crate::device_cluster::{SOCKET, STATUS, await_hosts, await_protection, said, start_controller, start_host};
use crate::linux_guests::{KERNEL, TROUBLE};
use crate::{PATIENCE, boot};
use nested::Machine;
use nested::machine::Process;
use std::thread;
use std::time::{Duration, Instant};

/// A machine's network device in a bridge with the TAP device of a guest that may come to run there. The bridge keeps the
/// machine's own address, whatever else is in it: by default it has the lowest one.
const BRIDGE: &str = "address=$(cat /sys/class/net/eth0/address) && brctl addbr br0 && ip link set br0 address $address && \
                      brctl addif br0 eth0 && ip addr flush dev eth0 && ip addr add $1/24 dev br0 && ip link set br0 up && \
                      tunctl -t tap0 && brctl addif br0 tap0 && ip link set tap0 up";

/// One connection, and what comes back over it: lines, one after the other, for as long as somebody listens. A guest that can
/// be reached does not listen yet.
const CLIENT: &str = r#"
until ping -c 1 -W 2 10.77.0.50 > /dev/null; do sleep 0.5; done
echo "the guest can be reached"
until echo heard | nc -w 5 10.77.0.50 7 2> /dev/null | grep -q heard; do sleep 0.5; done
echo "the guest listens"
(i=0; while [ $i -lt $1 ]; do echo "message $i of one connection"; i=$((i + 1)); sleep 0.1; done; sleep 100000) 2> /dev/null |
    nc 10.77.0.50 7 > /tmp/echoed 2> /dev/null
echo "the connection has ended"
"#;

/// Lines of the whole connection.
const LINES: usize = 150;

#[test]
fn a_connection_to_linux_outlives_the_machines_that_run_it() {
    let Some((mut cluster, _turn)) = boot(3, 2560) else { return };
    let [a, b, c] = &cluster.machines[..] else { panic!("three were asked for") };
    for (machine, address) in [(a, "10.77.0.1"), (b, "10.77.0.2"), (c, "10.77.0.3")] {
        machine.check(&["sh", "-c", BRIDGE, "bridge", address]).unwrap();
    }
    let mut processes = vec![start_controller(a), start_host(b), start_host(c)];
    await_hosts(a, &["b", "c"]);
    let client = a.start(&["sh", "-c", CLIENT, "client", &LINES.to_string()]).unwrap();
    client.close_input().unwrap();
    let mut ends = [start_guest(a), client];
    await_protection(a, "b", "c");
    // A spare from now on.
    processes.push(start_host(a));
    await_hosts(a, &["a"]);
    await_lines(a, LINES / 3, &mut ends);
    cluster.machines[1].kill();
    let a = &cluster.machines[0];
    let protected = await_protection(a, "c", "a");
    assert!(protected.contains("takeovers 1"), "{protected}");
    await_lines(a, 2 * LINES / 3, &mut ends);
    cluster.machines[2].kill();
    let a = &cluster.machines[0];
    await_lines(a, LINES, &mut ends);
    let [mut run, mut client] = ends;
    let found = String::from_utf8(a.get("/tmp/echoed").unwrap()).unwrap();
    let expected: String = (0..LINES).map(|number| format!("message {number} of one connection\n")).collect();
    assert_eq!(found, expected, "{}", said(&mut processes));
    assert!(client.look().unwrap().end.is_none(), "the connection is still there: {}", said(&mut processes));
    let after = a.check(&STATUS).unwrap();
    assert!(after.contains("primary a") && after.contains("takeovers 2"), "{after}");
    let console = run.await_output(PATIENCE, |output| output.text().contains("diskwriter ended with")).unwrap().text();
    assert!(console.contains("diskwriter ended with 0"), "the disk has what was written: {console}");
    assert!(!TROUBLE.iter().any(|word| console.contains(word)), "{console}");
}

/// Starts the guest on the second machine; its console is what the process says.
fn start_guest(machine: &Machine) -> Process {
    let words = format!("{KERNEL} guest.address=10.77.0.50/24 guest.run=echod,7 guest.run=diskwriter,/dev/vda,40");
    let cluster = ["ftvm", "run", "--pool", SOCKET, "--name", "one", "--prefer", "b", "--epoch-ms", "200"];
    let kernel = ["--kernel", "/guest/vmlinux", "--initrd", "/guest/initrd", "--cmdline", &words];
    let hardware = ["--memory", "128MiB", "--net", "tap=tap0", "--disk", "/tmp/disk,size=4MiB"];
    let run = machine.start(&[&cluster[..], &kernel, &hardware].concat()).unwrap();
    run.close_input().unwrap();
    run
}

/// Waits until so many lines have come back to the client; neither it nor the guest may end meanwhile.
fn await_lines(machine: &Machine, count: usize, ends: &mut [Process; 2]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = machine.run(&["sh", "-c", "wc -l < /tmp/echoed || echo 0"]).unwrap().text();
        if text.trim().parse().is_ok_and(|lines: usize| lines >= count) {
            return;
        }
        let over = ends.iter_mut().any(|process| process.look().unwrap().end.is_some());
        if over || Instant::now() > deadline {
            let status = machine.run(&STATUS).unwrap().text();
            panic!("no {count} lines have come back: {text}{status}{}", said(ends));
        }
        thread::sleep(Duration::from_millis(500));
    }
}
