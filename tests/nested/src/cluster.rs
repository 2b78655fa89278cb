//! One to several machines with a segment and a pool device among them.

use crate::image::{ImageError, Images};
use crate::machine::{Booting, Hardware, Machine, MachineError};
use crate::pool_device;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use vmm::net::{Faults, Switch, SwitchError};

/// Addresses on the segment: machine n (from 1) is 10.77.0.n; the rest is free for guests and tests.
pub const NETWORK: &str = "10.77.0";
/// The bits of the network.
pub const NETWORK_BITS: u8 = 24;
/// Most machines in one cluster.
pub const MACHINES_MAX: usize = 8;

/// What is to be booted.
#[derive(Debug, Clone)]
pub struct Setup {
    /// How many machines: a, b, c and so on.
    pub machines: usize,
    /// The memory of each.
    pub memory_mib: u64,
    /// The size of the pool device; zero for none.
    pub pool_mib: u64,
    /// An ftvm that is there already, for the machines; `None`: what `FTVM_NESTED_FTVM` names, or a static one, which is built.
    pub ftvm: Option<PathBuf>,
    /// Whether the machines have a QEMU of their own, to compare with: this machine's.
    pub has_qemu: bool,
}

/// Machines cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Too many or none.
    #[error("{0} machines cannot be booted: say 1 to {MACHINES_MAX}")]
    Count(usize),
    /// No images.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A machine does not boot.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// No segment.
    #[error("the segment between the machines cannot be made")]
    Segment(#[from] SwitchError),
    /// No place for them.
    #[error("the machines' directory {path} cannot be used")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Machines that run. All end when this is dropped.
pub struct Cluster {
    /// The machines, in the order of their names.
    pub machines: Vec<Machine>,
    images: Images,
    place: TempDir,
    // Dropped after the machines.
    switch: Switch,
    setup: Setup,
}

impl Cluster {
    /// Makes the images if need be, and boots the machines side by side. They end with the thread that calls this.
    ///
    /// # Errors
    /// QEMU, the kernel package or the programs cannot be had; a machine does not answer.
    pub fn boot(setup: Setup) -> Result<Self, ClusterError> {
        if !(1..=MACHINES_MAX).contains(&setup.machines) {
            return Err(ClusterError::Count(setup.machines));
        }
        let images = Images::make(setup.ftvm.as_deref(), setup.has_qemu)?;
        let directory = |source| ClusterError::Directory { path: std::env::temp_dir(), source };
        // Socket names are short: the path must be too.
        let place = tempfile::Builder::new().prefix("ftvm-nested-").tempdir().map_err(directory)?;
        let switch = Switch::start(&place.path().join("segment"), Faults::default())?;
        if setup.pool_mib > 0 {
            pool_device::make(&place.path().join("pool"), setup.pool_mib << 20).map_err(directory)?;
        }
        let mut cluster = Self { machines: Vec::new(), images, place, switch, setup };
        let mut booting = Vec::new();
        for index in 0..cluster.setup.machines {
            booting.push(cluster.start(index, 0)?);
        }
        for machine in booting {
            cluster.machines.push(machine.ready()?);
        }
        Ok(cluster)
    }

    /// Boots a machine again that was killed, with nothing left in its memory.
    ///
    /// # Errors
    /// It does not boot.
    pub fn reboot(&mut self, index: usize) -> Result<(), ClusterError> {
        self.machines[index].kill();
        let life = self.lives(index);
        self.machines[index] = self.start(index, life)?.ready()?;
        Ok(())
    }

    /// The socket of the segment that the machines are on, for `vmm::net::client` and `ftvm load`.
    #[must_use]
    pub fn segment(&self) -> PathBuf {
        self.place.path().join("segment")
    }

    /// The pool device's file, if there is one.
    #[must_use]
    pub fn pool_file(&self) -> PathBuf {
        self.place.path().join("pool")
    }

    /// Cuts the segment, or mends it.
    pub fn cut_segment(&self, cut: bool) {
        self.switch.set_cut(cut);
    }

    /// The longest that any machine took to boot.
    #[must_use]
    pub fn boot_time(&self) -> Duration {
        self.machines.iter().map(Machine::boot_time).max().unwrap_or_default()
    }

    /// The kernel and images they run.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.images
    }

    fn start(&self, index: usize, life: usize) -> Result<Booting, ClusterError> {
        let name = name(index);
        let place = self.place.path().join(if life == 0 { name.clone() } else { format!("{name}{life}") });
        let pool = (self.setup.pool_mib > 0).then(|| (self.pool_file(), self.setup.pool_mib << 20));
        let hardware = Hardware {
            name,
            kernel: self.images.kernel.vmlinux.clone(),
            initrd: self.images.host_initrd.clone(),
            memory_mib: self.setup.memory_mib,
            pool,
            address: Some(format!("{NETWORK}.{}/{NETWORK_BITS}", index + 1)),
            mac: Some(format!("52:54:00:77:00:{:02x}", index + 1)),
        };
        Ok(Booting::start(&hardware, &place, Some(&self.segment()))?)
    }

    /// How often a machine has been started.
    fn lives(&self, index: usize) -> usize {
        let name = name(index);
        (1..).find(|life| !self.place.path().join(format!("{name}{life}")).exists()).expect("numbers do not end")
    }
}

/// a, b, c and so on.
fn name(index: usize) -> String {
    let letter =
        u8::try_from(index).ok().filter(|&index| usize::from(index) < MACHINES_MAX).expect("a machine's index");
    char::from(b'a' + letter).to_string()
}
