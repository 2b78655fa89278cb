//! The vCPUs of a machine: one that the machine's own thread runs, or several with a thread each.
//!
//! ```text
//!   machine's thread             vCPU's thread
//!   order: run ────────────────> KVM_RUN
//!   serves the access <───────── exit
//!   order: run ────────────────> KVM_RUN ...
//!   kick ──────────────────────> (signal)
//!   stands still <────────────── interrupted
//! ```
//!
//! All accesses are served by the machine's thread, one after the other: devices know nothing of several vCPUs. A vCPU
//! that has left the guest stays where it is until the machine's thread orders it to run on.

use super::error::MachineError;
use super::kick::Kicker;
use super::vcpu::{Exit, Vcpu};
use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Number of a vCPU in its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VcpuIndex(pub(super) usize);

impl VcpuIndex {
    /// The one that starts the guest.
    pub(super) const FIRST: Self = Self(0);
}

/// All vCPUs of a machine.
pub(super) enum Vcpus {
    One(Box<Vcpu>),
    Several(Crew),
}

/// A vCPU that does not run.
pub(super) enum Still<'a> {
    Own(&'a mut Vcpu),
    Member(MutexGuard<'a, Vcpu>),
}

/// vCPUs with threads.
pub(super) struct Crew {
    members: Vec<Member>,
    left: Receiver<(VcpuIndex, Result<Exit, MachineError>)>,
    /// Rung by kicks of the machine.
    bell: Receiver<()>,
    kicker: Kicker,
}

struct Member {
    vcpu: Arc<Mutex<Vcpu>>,
    kicker: Kicker,
    /// Taken away to end the thread.
    orders: Option<Sender<Order>>,
    /// It was ordered to run, and has not left the guest since.
    runs: bool,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    Complete,
}

impl Vcpus {
    /// For these vCPUs, of which there is at least one.
    pub(super) fn new(mut vcpus: Vec<Vcpu>) -> Result<Self, MachineError> {
        match (vcpus.pop(), vcpus.is_empty()) {
            (Some(only), true) => Ok(Self::One(Box::new(only))),
            (last, _) => Ok(Self::Several(Crew::muster(vcpus.into_iter().chain(last))?)),
        }
    }

    /// Makes the machine's `run` return.
    pub(super) fn kicker(&self) -> &Kicker {
        match self {
            Self::One(vcpu) => vcpu.kicker(),
            Self::Several(crew) => &crew.kicker,
        }
    }

    pub(super) fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Several(crew) => crew.members.len(),
        }
    }

    /// A vCPU that does not run: all of them do not after [`Vcpus::stand_still`], and one whose exit was handed out does not
    /// until the next [`Vcpus::run`].
    pub(super) fn still(&mut self, index: VcpuIndex) -> Still<'_> {
        match self {
            Self::One(vcpu) => {
                assert_eq!(index, VcpuIndex::FIRST, "there is one");
                Still::Own(vcpu)
            }
            Self::Several(crew) => {
                assert!(!crew.members[index.0].runs, "{index:?} has left the guest");
                Still::Member(lock(&crew.members[index.0].vcpu))
            }
        }
    }

    /// Runs the guest until a vCPU leaves it. The others run on.
    pub(super) fn run(&mut self) -> Result<(VcpuIndex, Exit), MachineError> {
        match self {
            Self::One(vcpu) => Ok((VcpuIndex::FIRST, vcpu.run()?)),
            Self::Several(crew) => crew.run(),
        }
    }

    /// Brings the vCPUs to a stop. Hands out the exits on the way there, which are to be served; `None`: all stand still,
    /// between two instructions each.
    pub(super) fn stand_still(&mut self) -> Result<Option<(VcpuIndex, Exit)>, MachineError> {
        match self {
            Self::One(vcpu) if vcpu.is_unfinished() => Ok(Some((VcpuIndex::FIRST, vcpu.complete()?))),
            Self::One(_) => Ok(None),
            Self::Several(crew) => crew.stand_still(),
        }
    }
}

impl Crew {
    fn muster(vcpus: impl Iterator<Item = Vcpu>) -> Result<Self, MachineError> {
        let (leaving, left) = unbounded();
        let (ring, bell) = bounded(1);
        let mut crew = Self { members: Vec::new(), left, bell, kicker: Kicker::ringing(ring) };
        for (index, vcpu) in vcpus.enumerate() {
            let kicker = vcpu.kicker().clone();
            let vcpu = Arc::new(Mutex::new(vcpu));
            let (orders, received) = unbounded();
            let (own, leaving) = (Arc::clone(&vcpu), leaving.clone());
            let thread = std::thread::Builder::new()
                .name(format!("vcpu-{index}"))
                .spawn(move || serve(VcpuIndex(index), &own, &received, &leaving))
                .map_err(MachineError::Thread)?;
            crew.members.push(Member { vcpu, kicker, orders: Some(orders), runs: false, thread: Some(thread) });
        }
        Ok(crew)
    }

    fn run(&mut self) -> Result<(VcpuIndex, Exit), MachineError> {
        self.members.iter_mut().filter(|member| !member.runs).for_each(|member| member.order(Order::Run));
        select! {
            recv(self.left) -> left => self.take(left.expect("members tell until they are dismissed")),
            // Which of them it is said of is all the same.
            recv(self.bell) -> _ => Ok((VcpuIndex::FIRST, Exit::Interrupted)),
        }
    }

    fn stand_still(&mut self) -> Result<Option<(VcpuIndex, Exit)>, MachineError> {
        let mut running = false;
        for member in self.members.iter().filter(|member| member.runs) {
            member.kicker.kick();
            running = true;
        }
        if !running {
            let unfinished = self.members.iter_mut().find(|member| lock(&member.vcpu).is_unfinished());
            let Some(member) = unfinished else { return Ok(None) };
            member.order(Order::Complete);
        }
        let left = self.left.recv().expect("members tell until they are dismissed");
        self.take(left).map(Some)
    }

    fn take(
        &mut self,
        (index, exit): (VcpuIndex, Result<Exit, MachineError>),
    ) -> Result<(VcpuIndex, Exit), MachineError> {
        self.members[index.0].runs = false;
        Ok((index, exit?))
    }
}

impl Member {
    fn order(&mut self, order: Order) {
        // A kick that was for the last time.
        self.kicker.take();
        self.runs = true;
        let orders = self.orders.as_ref().expect("taken away when the crew goes");
        // A thread that is gone has panicked, and said so.
        let _ = orders.send(order);
    }
}

/// The life of a vCPU's thread.
fn serve(
    index: VcpuIndex,
    vcpu: &Mutex<Vcpu>,
    orders: &Receiver<Order>,
    leaving: &Sender<(VcpuIndex, Result<Exit, MachineError>)>,
) {
    let _farewell = Farewell { index, leaving };
    while let Ok(order) = orders.recv() {
        let exit = match order {
            Order::Run => lock(vcpu).run(),
            Order::Complete => lock(vcpu).complete(),
        };
        if leaving.send((index, exit)).is_err() {
            return;
        }
    }
}

/// The last word of a thread that panics: whoever waits for it is not to wait for ever.
struct Farewell<'a> {
    index: VcpuIndex,
    leaving: &'a Sender<(VcpuIndex, Result<Exit, MachineError>)>,
}

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = MachineError::Thread(std::io::Error::other("the thread of a vCPU panicked"));
            // Without a crew there is nobody to be told.
            let _ = self.leaving.send((self.index, Err(error)));
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in &mut self.members {
            member.orders = None;
            if member.runs {
                member.kicker.kick();
            }
        }
        for thread in self.members.iter_mut().filter_map(|member| member.thread.take()) {
            // A panic there has been reported by its hook.
            let _ = thread.join();
        }
    }
}

impl Deref for Still<'_> {
    type Target = Vcpu;

    fn deref(&self) -> &Vcpu {
        match self {
            Self::Own(vcpu) => vcpu,
            Self::Member(vcpu) => vcpu,
        }
    }
}

impl DerefMut for Still<'_> {
    fn deref_mut(&mut self) -> &mut Vcpu {
        match self {
            Self::Own(vcpu) => vcpu,
            Self::Member(vcpu) => vcpu,
        }
    }
}

fn lock(vcpu: &Mutex<Vcpu>) -> MutexGuard<'_, Vcpu> {
    // A thread that panics inside is found by what it does not say.
    vcpu.lock().unwrap_or_else(PoisonError::into_inner)
}
