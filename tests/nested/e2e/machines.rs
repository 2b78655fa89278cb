//! The machines themselves.

use crate::boot;
use nested::fence::{self, Verdict};
use nested::machine::End;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn two_machines_have_kvm_a_pool_device_and_each_other() {
    let Some((mut cluster, _turn)) = boot(2, 256) else { return };
    for machine in &cluster.machines {
        let report = machine.shell("ftvm doctor; test -c /dev/dax0.0").expect("the doctor finds all that is needed");
        assert!(report.contains("hardware (AMD-V)"), "{report}");
        assert!(report.contains("kernel code (privilege level 0) was run"), "{report}");
    }
    cluster.machines[0].check(&["ping", "-c", "1", "-W", "20", "10.77.0.2"]).expect("they share a segment");

    let [a, b] = &cluster.machines[..] else { panic!("two were asked for") };
    let process = b.start(&["sh", "-c", "cat; echo err >&2; exit 7"]).unwrap();
    process.write(b"typed").unwrap();
    process.close_input().unwrap();
    let output = process.wait(crate::PATIENCE).unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (b"typed".as_slice(), b"err\n".as_slice()));
    assert_eq!(output.end, Some(End::Code(7)));

    let content: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    a.put("/tmp/deep/down", 0o600, &content).unwrap();
    assert_eq!(a.get("/tmp/deep/down").unwrap(), content);
    let error = a.check(&["/no/such/program"]).unwrap_err().to_string();
    assert!(error.contains("machine a") && error.contains("/no/such/program"), "{error}");

    let monitor = cluster.machines[1].monitor_path();
    let parameters = |action| format!("action={action}\nport=b\nmonitor={}", monitor.display());
    assert_eq!(fence::act(&parameters("status")), Ok(Verdict::Done));
    assert_eq!(fence::act(&parameters("off")), Ok(Verdict::Done));
    assert_eq!(fence::act(&parameters("status")), Ok(Verdict::Off));
    // Its listener goes before its process has been waited for.
    let deadline = Instant::now() + crate::PATIENCE;
    while cluster.machines[1].is_running() {
        assert!(Instant::now() < deadline, "the machine was told to end, and has not");
        thread::sleep(Duration::from_millis(50));
    }
    let error = cluster.machines[1].run(&["true"]).unwrap_err().to_string();
    assert!(error.contains("machine b"), "{error}");
    cluster.machines[0].check(&["true"]).expect("the other one goes on");
}
