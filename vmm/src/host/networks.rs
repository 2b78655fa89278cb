//! The networks of a guest, on the host that runs it.
//!
//! They are opened when the host is promoted, never by a standby: a network hears of the guest from one place. One that
//! cannot be opened is no reason not to run the guest. Its packets are lost, as on any network, and it is tried again: a
//! TAP device may be held for a moment longer by the process of a primary that has just died.
//!
//! The guest's addresses are announced several times: what is behind a TAP device, a bridge for one, loses frames for a
//! moment after it was opened. A guest that only listens would not be found until its peers' switches have forgotten it.
//! Each time it is asked whether this host still reigns: a zombie's announcement would undo its successor's.

use super::arrivals::Arrivals;
use crate::machine::device::SentPacket;
use crate::net::{MacAddress, NetPort, frame_queue};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ft_protocol::spec::{NetBackend, NetSpec};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two tries to open a network.
const OPEN_INTERVAL: Duration = Duration::from_millis(20);
/// Times between two announcements of an address, in milliseconds: those of other hypervisors.
const ANNOUNCE_GAPS_MS: [u64; 4] = [50, 150, 250, 350];

/// A network device of the guest.
#[derive(Clone)]
struct Nic {
    mac: MacAddress,
    /// There once the network is open.
    port: Arc<OnceLock<NetPort>>,
}

/// What a guest's network devices are connected to.
pub(super) struct Networks {
    nics: Vec<Nic>,
    opener: Option<Upkeep>,
    announcer: Mutex<Option<Upkeep>>,
    reigns: Reigns,
}

/// Whether this host's reign has not been sealed. Not there before the guest runs here.
type Reigns = Arc<OnceLock<Box<dyn Fn() -> bool + Send + Sync>>>;

/// A network that is still to be opened.
struct Unopened {
    nic: Nic,
    backend: NetBackend,
    queue: Sender<Vec<u8>>,
    arrivals: Arc<Arrivals>,
}

impl Networks {
    /// Opens them; what comes from each is in its queue.
    pub(super) fn open(nets: &[NetSpec], arrivals: &Arc<Arrivals>) -> (Self, Vec<Receiver<Vec<u8>>>) {
        let (mut nics, mut queues, mut unopened) = (Vec::new(), Vec::new(), Vec::new());
        for net in nets {
            let nic = Nic { mac: MacAddress(net.mac), port: Arc::default() };
            let (queue, packets) = frame_queue();
            nics.push(nic.clone());
            queues.push(packets);
            let network = Unopened { nic, backend: net.backend.clone(), queue, arrivals: arrivals.clone() };
            if let Err(error) = network.open() {
                tracing::warn!(
                    "the guest is without its network device {}, whose network is tried again: {}",
                    network.nic.mac,
                    crate::chain(&error)
                );
                unopened.push(network);
            }
        }
        let reigns = Reigns::default();
        let opener = (!unopened.is_empty()).then(|| Upkeep::start(unopened, Vec::new(), reigns.clone()));
        (Self { nics, opener, announcer: Mutex::default(), reigns }, queues)
    }

    /// Sends packets in their order. What a network has no room for is lost, as networks do.
    pub(super) fn send(&self, packets: &[SentPacket]) {
        for packet in packets {
            let nic = self.nics.get(usize::from(packet.nic.0));
            if let Some(port) = nic.and_then(|nic| nic.port.get()) {
                port.send(&packet.frame);
            }
        }
    }

    /// Says on every network that the guest's addresses are here now, and some times again while this host reigns. A
    /// network that is opened later is told then.
    pub(super) fn announce(&self, reigns: impl Fn() -> bool + Send + Sync + 'static) {
        let first = self.reigns.set(Box::new(reigns));
        assert!(first.is_ok(), "a reign begins once");
        let open = self.nics.iter().filter(|nic| nic.port.get().is_some());
        let announcing: Vec<Announcing> = open.map(|nic| Announcing::begin(nic, &self.reigns)).collect();
        if !announcing.is_empty() {
            let announcer = Upkeep::start(Vec::new(), announcing, self.reigns.clone());
            *self.announcer.lock().unwrap_or_else(PoisonError::into_inner) = Some(announcer);
        }
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        // Before the ports: what it opens meanwhile is closed with them.
        self.opener = None;
        *self.announcer.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// An address that is announced again from time to time.
struct Announcing {
    nic: Nic,
    next: Instant,
    gaps: std::slice::Iter<'static, u64>,
}

impl Announcing {
    /// Announces it, and will again.
    fn begin(nic: &Nic, reigns: &Reigns) -> Self {
        let mut announcing = Self { nic: nic.clone(), next: Instant::now(), gaps: ANNOUNCE_GAPS_MS.iter() };
        announcing.go_on(reigns);
        announcing
    }

    /// Announces it if it is time; false: that was the last time.
    fn go_on(&mut self, reigns: &Reigns) -> bool {
        if Instant::now() < self.next {
            return true;
        }
        if !reigns.get().is_some_and(|reigns| reigns()) {
            return false;
        }
        if let Some(port) = self.nic.port.get() {
            port.announce(self.nic.mac);
        }
        let Some(&gap) = self.gaps.next() else { return false };
        self.next = Instant::now() + Duration::from_millis(gap);
        true
    }
}

impl Unopened {
    fn open(&self) -> Result<(), crate::net::NetError> {
        let arrivals = self.arrivals.clone();
        let port = NetPort::open_into(&self.backend, self.queue.clone(), move || arrivals.came())?;
        assert!(self.nic.port.set(port).is_ok(), "a network is opened once");
        Ok(())
    }
}

/// A thread that tries to open networks and announces addresses until all is done, or it is dropped.
struct Upkeep {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    fn start(mut unopened: Vec<Unopened>, mut announcing: Vec<Announcing>, reigns: Reigns) -> Self {
        let (stop, stopped) = bounded::<()>(0);
        let thread = std::thread::spawn(move || {
            while !(unopened.is_empty() && announcing.is_empty())
                && stopped.recv_timeout(OPEN_INTERVAL) == Err(RecvTimeoutError::Timeout)
            {
                announcing.retain_mut(|announcing| announcing.go_on(&reigns));
                unopened.retain(|network| {
                    let opened = network.open().is_ok();
                    if opened {
                        tracing::info!("the guest has its network device {} now", network.nic.mac);
                        // Before the guest runs here there is nothing to be said; then it is said of all that are open.
                        if reigns.get().is_some() {
                            announcing.push(Announcing::begin(&network.nic, &reigns));
                        }
                    }
                    !opened
                });
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its hook.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::NicIndex;
    use crate::net::{Faults, Switch};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    /// A segment with a guest's network device, and somebody else who listens there.
    fn segment() -> ((tempfile::TempDir, Switch), [NetSpec; 1], NetPort, Receiver<Vec<u8>>) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("switch");
        let switch = Switch::start(&path, Faults::default()).unwrap();
        let backend = NetBackend::Segment(path.to_string_lossy().into_owned());
        let (probe, heard) = NetPort::open(&backend, || {}).unwrap();
        ((place, switch), [NetSpec { mac: [2, 0, 0, 0, 0, 7], backend }], probe, heard)
    }

    #[test]
    fn packets_go_both_ways_and_the_guest_is_announced() {
        let (_segment, nets, probe, heard) = segment();
        let (commands, woken) = crate::mailbox::channel();
        let arrivals = Arc::new(Arrivals::new(commands, None));
        let (networks, queues) = Networks::open(&nets, &arrivals);
        networks.announce(|| true);
        // What is lost of them is made up for by the others.
        for _ in 0..=ANNOUNCE_GAPS_MS.len() {
            let announcement = heard.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!(announcement, MacAddress([2, 0, 0, 0, 0, 7]).announcement());
        }
        let frame: Vec<u8> = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 7], &[0x88, 0xb5], &[1; 46]].concat();
        networks.send(&[SentPacket { nic: NicIndex(0), frame: frame.clone() }]);
        assert_eq!(heard.recv_timeout(Duration::from_secs(10)).unwrap(), frame);
        arrivals.sleeps();
        let reply: Vec<u8> = [&[2, 0, 0, 0, 0, 7][..], &[2, 0, 0, 0, 0, 8], &[0x88, 0xb5], &[2; 46]].concat();
        probe.send(&reply);
        assert_eq!(queues[0].recv_timeout(Duration::from_secs(10)).unwrap(), reply);
        woken.recv_timeout(Duration::from_secs(10)).expect("who sleeps is woken");
    }

    /// A zombie, between two announcements.
    #[test]
    fn who_no_longer_reigns_announces_nothing() {
        let (_segment, nets, _probe, heard) = segment();
        let (commands, _woken) = crate::mailbox::channel();
        let (networks, _queues) = Networks::open(&nets, &Arc::new(Arrivals::new(commands, None)));
        let (asked, asks) = crossbeam_channel::unbounded();
        let questions = AtomicU32::new(0);
        networks.announce(move || {
            let question = questions.fetch_add(1, Ordering::Relaxed);
            asked.send(question).unwrap();
            question < 2
        });
        let asked: Vec<u32> = (0..3).map(|_| asks.recv_timeout(Duration::from_secs(10)).unwrap()).collect();
        assert_eq!(asked, [0, 1, 2]);
        for _ in 0..2 {
            heard.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        let gaps_ms = ANNOUNCE_GAPS_MS.iter().sum();
        assert!(asks.recv_timeout(Duration::from_millis(gaps_ms)).is_err(), "the seal is for good");
        assert_eq!(heard.try_recv().ok(), None);
    }

    /// As after a kill: the successor is told before the kernel has closed what the dead process had.
    #[test]
    fn a_tap_device_that_its_last_holder_has_not_let_go_yet_is_had_as_soon_as_it_has() {
        crate::net::tap::tests::in_own_network(|| {
            crate::net::tap::tests::make("tap7").expect("it is not there");
            let backend = NetBackend::Tap("tap7".to_owned());
            let (holder, _frames) = NetPort::open(&backend, || {}).expect("nobody has it");
            let nets = [NetSpec { mac: [2, 0, 0, 0, 0, 7], backend }];
            let (commands, _woken) = crate::mailbox::channel();
            let (networks, _queues) = Networks::open(&nets, &Arc::new(Arrivals::new(commands, None)));
            assert!(networks.nics[0].port.get().is_none(), "it is in use");
            // Nothing is there to be announced, and nobody waits for it.
            networks.announce(|| true);
            drop(holder);
            let deadline = Instant::now() + Duration::from_secs(60);
            while networks.nics[0].port.get().is_none() {
                assert!(Instant::now() < deadline, "the guest has no network though nobody else has the device");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    }

    #[test]
    fn a_network_that_cannot_be_had_does_not_stop_the_guest() {
        let nets = [NetSpec { mac: [2, 0, 0, 0, 0, 7], backend: NetBackend::Tap("no/such/tap".to_owned()) }];
        let (commands, _woken) = crate::mailbox::channel();
        let (networks, queues) = Networks::open(&nets, &Arc::new(Arrivals::new(commands, None)));
        networks.send(&[SentPacket { nic: NicIndex(0), frame: vec![0; 60] }]);
        networks.announce(|| true);
        assert_eq!(queues.len(), 1);
        let began = Instant::now();
        drop(networks);
        assert!(began.elapsed() < Duration::from_secs(10), "the thread that tries again is told to end");
    }
}
