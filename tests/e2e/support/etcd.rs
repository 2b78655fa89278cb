//! An etcd of one member, for one test.

use super::{await_true, free_port};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const PROGRAM: &str = "etcd";

pub(crate) struct Etcd {
    data: TempDir,
    ports: [u16; 2],
    child: Option<Child>,
}

impl Etcd {
    /// Starts one; `None`: it is not installed, and the test is skipped, aloud.
    pub(crate) fn start() -> Option<Self> {
        let installed = std::env::split_paths(&std::env::var_os("PATH")?).any(|place| place.join(PROGRAM).is_file());
        if !installed {
            assert!(std::env::var_os("FTVM_REQUIRE_ETCD").is_none(), "FTVM_REQUIRE_ETCD is set, but there is no etcd");
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("a test");
            eprintln!("SKIPPED {name}: there is no etcd here (apt-get install etcd-server)");
            return None;
        }
        let mut etcd =
            Self { data: tempfile::tempdir().expect("there is room"), ports: [free_port(), free_port()], child: None };
        etcd.start_again();
        Some(etcd)
    }

    /// Where it serves.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }

    /// Starts it over what it has written down.
    pub(crate) fn start_again(&mut self) {
        let [client, peer] = self.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let mut command = Command::new(PROGRAM);
        command.args(["--name", "one", "--data-dir"]).arg(self.data.path().join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("one={peer}"), "--unsafe-no-fsync"]);
        let log = std::fs::File::create(self.log()).expect("there is room");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("it can be started"));
        await_true("etcd", || {
            let ended = self.child.as_mut().expect("it was started").try_wait().expect("it is ours");
            let said = || std::fs::read_to_string(self.log()).unwrap_or_default();
            assert!(ended.is_none(), "etcd has ended: {}", said());
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports[0])).is_ok()
        });
    }

    fn log(&self) -> PathBuf {
        self.data.path().join("log")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
