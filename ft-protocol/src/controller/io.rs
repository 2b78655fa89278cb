//! What goes into the controller's core and what comes out of it.

use crate::activity::Activity;
use crate::commit_meta::GuestEnd;
use crate::controller::state::{ClusterState, VmRecord};
use crate::fence::FenceOutcome;
use crate::ids::{Epoch, Generation, HostId, LinkId, VmId};
use crate::spec::VmSpec;
use crate::time::Time;
use crate::timeline::{Happening, Shortage};
use crate::wire::{FromClient, FromHost, Grant, HostHello, ToClient, ToHost};

/// What the pool says of a VM when a controller starts over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The VM.
    pub vm: VmId,
    /// The commit word of the persisted generation; `None` when its journal was never made.
    pub word: Option<Word>,
    /// The last applied epoch.
    pub applied: Epoch,
    /// The console's end.
    pub console_end: u64,
    /// The oldest console output that the ring still holds.
    pub console_oldest: u64,
}

/// What a controller finds of a VM in the pool when it starts over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// The generation that was last given to a host.
    pub opened: Generation,
    /// The commit word of the persisted generation.
    pub word: LeftWord,
    /// The last applied epoch.
    pub applied: Epoch,
    /// The epoch that image and disk are at, or on their way to.
    pub reached: Epoch,
    /// The console's end.
    pub console_end: u64,
    /// How many bytes the console keeps.
    pub console_ring_bytes: u64,
}

/// What is left of a generation's commit word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftWord {
    /// There is no journal, or none that can be used.
    Missing,
    /// It cannot be read.
    Damaged,
    /// It is as it was written.
    Whole(Word),
}

impl Recovered {
    /// What follows from it.
    ///
    /// Only the persisted generation matters: one is opened only after all of the one before is applied.
    #[must_use]
    pub fn of(record: &VmRecord, left: Left) -> Self {
        let is_open = left.opened >= record.generation;
        let word = match left.word {
            // A journal that was only reserved, or never made, was given to nobody.
            _ if !is_open => None,
            LeftWord::Whole(word) => Some(word),
            // Nobody can publish under it, or be shown to have: as good as sealed, and sealed again by what follows. Its
            // number is not used again.
            LeftWord::Missing | LeftWord::Damaged => Some(Word { epoch: Epoch::ZERO, sealed: true }),
        };
        Self {
            vm: record.vm,
            // What an earlier controller has begun to apply was committed, whatever the word says by now.
            word: word.map(|word| Word { epoch: word.epoch.max(left.reached), ..word }),
            applied: left.applied,
            console_end: left.console_end,
            console_oldest: left.console_end.saturating_sub(left.console_ring_bytes),
        }
    }
}

/// A commit word as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// The last published epoch.
    pub epoch: Epoch,
    /// Whether the word is sealed.
    pub sealed: bool,
}

/// Files of a VM that are gone, or a part of which is. Who has them open goes on with what there was when it opened them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostFiles {
    /// One line: which.
    pub what: String,
    /// Something that a takeover needs was cut off, and so is lost to those that have it open, too: whether any host can go on from
    /// what is left is luck.
    pub to_all: bool,
}

/// What happens to a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A host's first message on a connection.
    HostHello {
        /// The connection.
        link: LinkId,
        /// The message.
        hello: HostHello,
    },
    /// A later message of a host.
    FromHost {
        /// The connection.
        link: LinkId,
        /// The message.
        message: FromHost,
    },
    /// A client's first message on a connection.
    ClientHello {
        /// The connection.
        link: LinkId,
        /// The client's protocol version.
        protocol: u32,
    },
    /// A later message of a client. The file of a [`crate::wire::Request::CreateVm`] is the driver's to keep.
    FromClient {
        /// The connection.
        link: LinkId,
        /// The message.
        message: FromClient,
    },
    /// A connection closed, or sent what cannot be read.
    LinkClosed {
        /// The connection.
        link: LinkId,
    },
    /// A host's process is dead; its connection will close when the kernel has taken it apart.
    HostDied {
        /// The host.
        host: HostId,
    },
    /// Answer to [`Action::Fence`], at some later time or never.
    FenceTried {
        /// The host.
        host: HostId,
        /// Its name then: by now the number may be another host's.
        name: String,
        /// What came of it.
        outcome: FenceOutcome,
    },
    /// A sample of a host's heartbeat counter.
    Beat {
        /// The host.
        host: HostId,
        /// The counter; `None` when the page cannot be read.
        count: Option<u64>,
    },
    /// A look at a VM's commit word.
    Committed {
        /// The VM.
        vm: VmId,
        /// The generation of the word.
        generation: Generation,
        /// The last published epoch.
        epoch: Epoch,
    },
    /// A look at what the primary of a VM of [`super::Controller::running`] says of itself; after [`Input::Committed`] of the
    /// same look.
    Activity {
        /// The VM.
        vm: VmId,
        /// The generation that reigned at the look.
        generation: Generation,
        /// What it says; `None` when it says nothing, or cannot be read.
        said: Option<Activity>,
    },
    /// What only the controller writes of a VM's part of the pool is damaged, or out of reach: nobody can go on from it. May
    /// be the answer to [`Action::Seal`] and [`Action::OpenGeneration`], or come by itself.
    PartitionDamaged {
        /// The VM.
        vm: VmId,
        /// One line: what is wrong with it.
        reason: String,
    },
    /// A part that only the controller writes, which a host was to be given with an order, is not there any more. The order was
    /// not sent.
    PartGone {
        /// The VM.
        vm: VmId,
        /// One line: what is gone.
        reason: String,
    },
    /// What is gone of a VM's files, or that nothing is any more.
    FilesGone {
        /// The VM.
        vm: VmId,
        /// What is gone.
        gone: Option<LostFiles>,
    },
    /// Something in the pool that is there twice was damaged, and is whole again.
    PoolMended {
        /// One line: what it was.
        what: String,
    },
    /// A look at a VM's commit word found what no sane primary writes.
    WordDamaged {
        /// The VM.
        vm: VmId,
        /// The generation of the word.
        generation: Generation,
    },
    /// Answer to [`Action::CreatePartition`].
    PartitionCreated {
        /// The VM.
        vm: VmId,
        /// One line when it failed.
        result: Result<(), String>,
    },
    /// Answer to [`Action::DeletePartition`]: as much of it as could be is given back.
    PartitionDeleted {
        /// The VM.
        vm: VmId,
    },
    /// Answer to [`Action::CreatePartition`], too: what came to be booted is no guest, and nothing was made.
    GuestUnfit {
        /// The VM.
        vm: VmId,
        /// One line.
        reason: String,
    },
    /// Answer to [`Action::Seal`].
    Sealed {
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
        /// The last published epoch.
        final_epoch: Epoch,
    },
    /// Answer to [`Action::OpenGeneration`]: one line when it failed.
    GenerationOpened {
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
        /// One line when it failed.
        result: Result<(), String>,
    },
    /// The log of the generation before the one that [`Input::GenerationOpened`] tells of, which follows, is damaged.
    LogLost {
        /// The VM.
        vm: VmId,
        /// The generation whose log it is.
        generation: Generation,
        /// One line: from where on, and what is wrong there.
        report: String,
    },
    /// Why the [`Input::GenerationOpened`] that follows failed: the pool is full.
    NoSpace {
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
        /// What is missing.
        shortage: Shortage,
    },
    /// Answer to [`Action::Apply`].
    Applied {
        /// The VM.
        vm: VmId,
        /// The generation of the record.
        generation: Generation,
        /// What became of it.
        outcome: ApplyOutcome,
    },
    /// Answer to [`Action::DrainLog`].
    LogDrained {
        /// The VM.
        vm: VmId,
        /// The generation of the log.
        generation: Generation,
        /// What came of it.
        outcome: DrainOutcome,
    },
    /// A record was applied that has what entries of the log before it should have brought, and did not.
    LogDamaged {
        /// The VM.
        vm: VmId,
        /// The generation of the log.
        generation: Generation,
        /// One line.
        reason: String,
    },
    /// Time has passed; wanted at least every heartbeat interval.
    Tick,
    /// Whoever started this controller wants it to end, and the cluster with it, whoever is away.
    End,
}

/// What became of console output in a record log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrainOutcome {
    /// All of it is in the console ring.
    Done {
        /// The console's end after it.
        console_end: u64,
    },
    /// The console ring has no room that its lossless readers have given back.
    ConsoleFull {
        /// The console's end so far.
        console_end: u64,
    },
    /// The log holds what no sane primary writes.
    Refused {
        /// The console's end so far.
        console_end: u64,
        /// One line.
        reason: String,
    },
    /// As [`Input::PartitionDamaged`].
    Damaged {
        /// One line.
        reason: String,
    },
}

/// What became of a commit record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyOutcome {
    /// It is in the stable image, machine state and console.
    Done {
        /// Its epoch.
        epoch: Epoch,
        /// The console's end after it.
        console_end: u64,
        /// The guest's end, in its last record.
        ended: Option<GuestEnd>,
    },
    /// The commit word does not cover the epoch: whoever said so was wrong.
    NotCommitted,
    /// The console ring has no room that its lossless readers have given back.
    ConsoleFull {
        /// The record's epoch.
        epoch: Epoch,
        /// The console's end so far: output that is in the record log may have come, and its readers are to hear of it, or they
        /// never give room back.
        console_end: u64,
    },
    /// The record is not what a sane primary writes; nothing of it was applied.
    Refused {
        /// The record's epoch.
        epoch: Epoch,
        /// One line.
        reason: String,
    },
    /// As [`Input::PartitionDamaged`]: not the record is at fault, or a part of it was applied and the rest is lost.
    Damaged {
        /// One line.
        reason: String,
    },
}

/// What a controller wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store the cluster state in the pool before anything that follows.
    Persist(ClusterState),
    /// Send to a host, with these descriptors.
    ToHost {
        /// The connection.
        link: LinkId,
        /// The message.
        message: ToHost,
        /// What travels beside it.
        grants: Vec<Grant>,
    },
    /// Send to a client, with these descriptors.
    ToClient {
        /// The connection.
        link: LinkId,
        /// The message.
        message: ToClient,
        /// What travels beside it.
        grants: Vec<Grant>,
    },
    /// Close a connection.
    CloseLink(LinkId),
    /// Make a VM's part of the pool; its boot file came over `uploader`. Answer: [`Input::PartitionCreated`].
    CreatePartition {
        /// The VM.
        vm: VmId,
        /// What it is.
        spec: VmSpec,
        /// The connection with the file.
        uploader: LinkId,
    },
    /// Give a VM's part of the pool back. Answer: [`Input::PartitionDeleted`].
    DeletePartition(VmId),
    /// Make journal and log of a generation, its words at `base`, and make it the reigning one; idempotent.
    /// Answer: [`Input::GenerationOpened`], or [`Input::PartitionDamaged`].
    OpenGeneration {
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
        /// The epoch that it goes on from.
        base: Epoch,
    },
    /// Reserve the space that journal and log of a generation to come will need: a takeover must not find the pool full,
    /// and should not spend its time on it. Not being able to is no reason to stop.
    ReserveGeneration {
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
    },
    /// Give a record that has found no space what the pool keeps for such. Not being able to is no reason to stop: it is
    /// asked for again.
    GiveSpace {
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
        /// The record's epoch.
        epoch: Epoch,
        /// How many bytes it has not found.
        needed: u64,
    },
    /// Give back what the slots of the VM's generations hold beyond their own: all records are applied, and whoever wrote
    /// them writes no more.
    ReleaseSpace {
        /// The VM.
        vm: VmId,
    },
    /// Forget journal and log of a generation that is over and applied.
    CloseGeneration {
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
    },
    /// Seal commit word and log; idempotent. Answer: [`Input::Sealed`], or [`Input::PartitionDamaged`]. Where the word is damaged, the final epoch is that
    /// of the last whole record in the journal: its writer can publish no more, and outputs of unpublished records were
    /// never released.
    Seal {
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
    },
    /// Apply one commit record. Answer, at some later time: [`Input::Applied`].
    Apply {
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
        /// The record's epoch: the last applied one's successor.
        epoch: Epoch,
        /// Console position up to which all lossless readers have read; `None` without any.
        console_floor: Option<u64>,
    },
    /// Move console output from the record log to the console ring. Answer, at some later time: [`Input::LogDrained`].
    DrainLog {
        /// The VM.
        vm: VmId,
        /// The generation of the log.
        generation: Generation,
        /// Console position up to which all lossless readers have read; `None` without any.
        console_floor: Option<u64>,
    },
    /// This number is another host's from now on: whoever had it must not be able to beat in the other's name. To be done
    /// before the state is stored that says so.
    ForgetHost {
        /// The number.
        host: HostId,
        /// Who had it.
        name: String,
    },
    /// Watch the heartbeat page of this host.
    WatchHost {
        /// The host.
        host: HostId,
        /// The connection over which it has just come: what its page says of an earlier life is void.
        link: Option<LinkId>,
    },
    /// Have the fence agent, if there is one, end this host. Its generation is sealed already; nothing waits for this.
    Fence {
        /// The host.
        host: HostId,
        /// Its name.
        name: String,
    },
    /// Something happened, for the log (watchers are told by [`Action::ToClient`]).
    Tell {
        /// When.
        at: Time,
        /// What.
        happening: Happening,
    },
    /// The controller's work is over.
    Exit,
}
