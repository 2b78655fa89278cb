//! A controller that is reached by TCP, as from another machine, and files that say where a cluster is.

use crate::support::{Ended, Place, Running, await_true, free_port};
use std::os::unix::fs::PermissionsExt;

/// A controller over a file in place of a device, which asks for a key.
struct Remote {
    place: Place,
    _pool: Running,
    address: String,
}

fn key(place: &Place, name: &str, content: &str) -> String {
    let path = place.write(name, content);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    path.to_str().expect("a plain path").to_owned()
}

impl Remote {
    fn start() -> Self {
        let place = Place::new();
        let device = place.pool().join("device");
        std::fs::File::create(&device).and_then(|file| file.set_len(64 << 20)).expect("there is room");
        let listen = format!("127.0.0.1:{}", free_port());
        let (device, key) = (device.to_str().expect("a plain path"), key(&place, "key", "a key of this cluster\n"));
        let arguments = ["pool", "--socket", "sock", "--dir", device, "--listen", &listen, "--key-file", &key];
        let pool = place.start(&arguments);
        await_true("the controller", || place.run(&["status", "--pool", "sock"]).code == Some(0));
        let address = format!("tcp:{listen},{device}");
        Self { place, _pool: pool, address }
    }

    fn status(&self, rest: &[&str]) -> Ended {
        self.place.run(&[&["status"], rest].concat())
    }
}

#[test]
fn who_does_not_have_the_key_is_refused_in_one_line() {
    let remote = Remote::start();
    let own = remote.place.file("key");
    let own = own.to_str().expect("a plain path");
    remote.status(&["--pool", &remote.address, "--key-file", own]).ok();
    let keyless = remote.status(&["--pool", &remote.address]);
    assert!(keyless.one_line(77).contains("a key is asked for: say --key-file"), "{keyless:?}");
    let other = key(&remote.place, "other", "a key of another cluster\n");
    let wrong = remote.status(&["--pool", &remote.address, "--key-file", &other]);
    assert!(wrong.one_line(77).contains("the other side has another key"), "{wrong:?}");
    let host = remote.place.run(&["host", "--name", "a", "--pool", &remote.address, "--key-file", &other]);
    assert!(matches!(host.code, Some(77 | 69)), "a host is refused like a client, or finds no KVM first: {host:?}");
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o644)).expect("it is ours");
    let exposed = remote.status(&["--pool", &remote.address, "--key-file", &other]);
    assert!(exposed.one_line(77).contains("can be read by others"), "{exposed:?}");
    // The socket of the machine itself asks for none.
    remote.status(&["--pool", "sock"]).ok();
}

#[test]
fn a_file_says_where_the_cluster_is() {
    let remote = Remote::start();
    let address = &remote.address;
    let text = format!("controller = [\"nobody\", \"{address}\"]\nkey-file = \"key\"\n");
    remote.place.write("cluster.toml", text);
    remote.status(&["--cluster", "cluster.toml"]).ok();
    let mut by_variable = remote.place.ftvm(&["status"]);
    by_variable.env("FTVM_CLUSTER", "cluster.toml").env("FTVM_POOL", "nowhere");
    let both = remote.place.start_command(by_variable).end();
    assert!(both.one_line(2).contains("unset one of them"), "{both:?}");
    let mut said = remote.place.ftvm(&["status", "--cluster", "cluster.toml"]);
    said.env("FTVM_POOL", "nowhere");
    remote.place.start_command(said).end().ok();
    let twice = remote.status(&["--cluster", "cluster.toml", "--pool", "sock"]);
    assert!(twice.one_line(2).contains("--pool and --cluster"), "{twice:?}");

    let nowhere = "controller = [\"nobody\", \"nobody either\"]\n";
    remote.place.write("cluster.toml", nowhere);
    let nobody = remote.status(&["--cluster", "cluster.toml"]);
    assert!(nobody.one_line(75).contains("no controller is reached at"), "{nobody:?}");
    remote.place.write("cluster.toml", "\ncontroler = \"sock\"\n");
    let typo = remote.status(&["--cluster", "cluster.toml"]);
    assert!(typo.one_line(2).contains("cluster.toml:2:1: ") && typo.stderr.contains("did you mean `controller`?"));
    let detached = remote.place.run(&["run", "--detach", "builtin:counter"]);
    assert_eq!(detached.code, Some(2), "{detached:?}");
    assert!(detached.stderr.contains("--cluster <FILE>"), "{detached:?}");
}
