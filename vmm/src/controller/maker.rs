//! VMs' parts of the pool are made and removed beside the controller's thread: both take as long as the VM's memory is large, seconds for
//! some GiB, and other VMs' takeovers do not wait for that.

use super::applier::Event;
use super::partition::{Partition, read_upload};
use super::worker::Worker;
use crate::failpoint;
use crate::machine::check_guest;
use crate::slice;
use crate::wake::WakingSender;
use ft_protocol::VmId;
use ft_protocol::spec::VmSpec;
use shared_mem::{Access, Extent, LeavingVm, Mapping, NewVm, PoolError, boot_image};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

type Failure = Box<dyn std::error::Error + Send + Sync>;

enum Work {
    Make { vm: VmId, new: NewVm, spec: Box<VmSpec>, boot: Extent },
    Remove { vm: VmId, partition: Option<Box<Partition>>, leaving: Vec<LeavingVm> },
}

/// Handle of the thread. It has nothing of the pool that the controller's thread waits for.
pub(super) struct Maker {
    /// Nobody will enter what is being made into the directory.
    ends: Arc<AtomicBool>,
    worker: Worker<Work>,
}

impl Maker {
    pub(super) fn start(done: WakingSender<Event>) -> std::io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let worker = Worker::start("maker".to_owned(), move |work| {
            slice::run_long();
            match work {
                Work::Make { vm, new, spec, boot } => match make(&new, &spec, &boot) {
                    Ok(()) if told.load(Ordering::SeqCst) => new.give_up(),
                    Ok(()) => done.send(Event::PartMade { vm, result: Ok(new) }),
                    Err(error) => {
                        // Nothing of a VM that was not made may stay, when whoever asked for it hears of that.
                        new.give_up();
                        done.send(Event::PartMade { vm, result: Err(error) });
                    }
                },
                Work::Remove { vm, partition, leaving } => {
                    // What is mapped of the files is given back with them.
                    partition.into_iter().for_each(|partition| partition.close());
                    failpoint::pass("controller.vm.removing");
                    let removed = |leaving: LeavingVm| leaving.remove_files().map(|()| leaving);
                    let result = leaving.into_iter().map(removed).collect();
                    done.send(Event::PartRemoved { vm, result });
                }
            }
        })?;
        Ok(Self { ends, worker })
    }

    /// Makes a VM's files; the answer is [`Event::PartMade`].
    pub(super) fn make(&self, vm: VmId, new: NewVm, spec: VmSpec, boot: Extent) {
        self.worker.hand_on(Work::Make { vm, new, spec: Box::new(spec), boot });
    }

    /// Removes VMs' files; the answer is [`Event::PartRemoved`].
    pub(super) fn remove(&self, vm: VmId, partition: Option<Box<Partition>>, leaving: Vec<LeavingVm>) {
        self.worker.hand_on(Work::Remove { vm, partition, leaving });
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
    }
}

/// What became of the removal of files.
pub(super) type Removed = Result<Vec<LeavingVm>, PoolError>;

/// Makes a VM's files with a copy of what its guest is booted from, and sees whether it can be: found by its hosts, it would be told
/// of each of them, one generation after the other.
fn make(new: &NewVm, spec: &VmSpec, boot: &Extent) -> Result<(), Failure> {
    failpoint::pass("controller.vm.making");
    let boot = read_upload(boot)?;
    new.make()?;
    new.parts().store_boot(&boot)?;
    let stored = new.parts().boot(Access::ReadOnly)?;
    let image = boot_image::load(&Mapping::read_only(&stored)?)?;
    check_guest(&image, spec.memory_bytes, &spec.args)?;
    failpoint::pass("controller.vm.made");
    Ok(())
}
