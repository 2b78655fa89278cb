//! A secondary that follows its primary, in lockstep mode: it executes what the primary executes, with the inputs from
//! the record log, on its own copy-on-write view, and compares at every commit.
//!
//! The stable image stands still under it until it says that it has come to an epoch. Where the primary was stopped
//! somewhere between two exits, no replay can stop at the same place: there it goes on from the record.

use super::examine::{self, Scene};
use super::followed_log::{FollowedLog, SharedLog};
use super::kicks::Kicks;
use super::parts::FollowParts;
use super::primary::lock;
use super::record::RecordLog;
use super::vm_thread::{Command, Promotion, Standby, Surroundings, VmEvent};
use super::working_set::WorkingSet;
use crate::clock;
use crate::failpoint;
use crate::machine::history::{LateSource, Recorder, ReplayMeter, ReplayThenLive, Replayer};
use crate::machine::{DirtyPages, InputError, LiveInputs, MachineError, MachineState, Stop};
use crossbeam_channel::RecvTimeoutError;
use ft_protocol::Epoch;
use ft_protocol::commit_meta::CommitMeta;
use ft_protocol::controller::Word;
use ft_protocol::follower::{Follower as FollowerCore, Stand};
use ft_protocol::record::{CommitPoint, OutputsLogged, Patience};
use ft_protocol::wire::{FollowStep, Order};
use shared_mem::journal::Record;
use shared_mem::{Mapping, Offset, PAGE_BYTES, PageIndex, PagePlace, PoolRead, ReadOnly, RecordLimits};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Time between two looks at a log that has nothing new, at first and when that goes on.
const LOOK_SOON: Duration = Duration::from_micros(100);
const LOOK_LATER: Duration = Duration::from_millis(1);
/// Looks after which it is later.
const LOOKS_SOON: u32 = 100;

/// Largest meta part of a commit record that makes sense; the controller's bound, too.
const META_BYTES_MAX: u64 = 8 << 20;

/// Registers of a difference that are named.
const REGISTERS_NAMED: usize = 8;

/// Pages of a difference that are named.
const PAGES_NAMED: usize = 4;

/// The guest's own source of inputs, once this host is primary.
pub(super) type Live = Recorder<LiveInputs, RecordLog>;

/// A machine that has followed, for the promotion that ended that.
pub(super) struct Warm {
    /// Where it is. It may have run on from the last epoch that it has come to.
    pub(super) core: FollowerCore,
    pub(super) meter: Arc<ReplayMeter>,
    pub(super) live: LateSource<Live>,
    pub(super) log: SharedLog,
    /// Copies of pages that are held.
    pub(super) working_set: Option<WorkingSet>,
}

/// Why a secondary follows no more.
pub(super) enum FollowEnd {
    Promoted(Box<Promotion>, Warm),
    /// It only stands by again, with a new machine.
    Reset,
    Discarded,
}

struct Follower<'a> {
    standby: &'a mut Standby,
    parts: FollowParts,
    order: &'a Order,
    image: Mapping<ReadOnly>,
    limits: RecordLimits,
    around: &'a Surroundings,
    warm: Warm,
    dirty: DirtyPages,
    buffer: Vec<u8>,
    ended: bool,
    idle_looks: u32,
    patience: Patience,
}

/// What comes next.
enum Next {
    GoOn,
    End(FollowEnd),
}

/// Follows until told otherwise.
pub(super) fn run(
    standby: &mut Standby,
    parts: FollowParts,
    order: &Order,
    around: &Surroundings,
) -> Result<FollowEnd, Failure> {
    let base = shared_mem::Epoch::new(parts.base.get());
    let state = MachineState::decode(&standby.parts.state.read(base)?)?;
    let log = SharedLog::new(FollowedLog::new(parts.log.try_clone()?, order.spec.log_bytes, &state)?);
    let replay = Replayer::new(log.clone(), OutputsLogged::Yes).standing_at_commits_of(parts.generation);
    let (meter, live) = (replay.meter(), LateSource::default());
    standby.machine.replace_inputs(Box::new(ReplayThenLive::new(replay, live.clone())));
    standby.machine.restore(&state)?;
    if !FollowerCore::new(parts.generation, parts.base).is_awaited(Epoch::new(standby.parts.control.freed()?.get())) {
        // The order is an old one: the stable image has gone on since.
        return Ok(FollowEnd::Reset);
    }
    failpoint::pass("host.follow.loaded");
    let kicker = standby.machine.kicker();
    *around.kicker.lock().expect("nothing panics under this lock") = Some(kicker.clone());
    let _kicks = Kicks::start(kicker);
    let image = Mapping::read_only(&standby.parts.image)?;
    let limits = RecordLimits {
        image_pages: PoolRead::len(&image) / shared_mem::PAGE_SIZE,
        disk_blocks: order.spec.disk_bytes / shared_mem::PAGE_SIZE,
        meta_bytes_max: META_BYTES_MAX,
    };
    let bytes_max = order.spec.working_set_bytes_max.and_then(|bytes| usize::try_from(bytes).ok());
    let working_set = bytes_max.map(|bytes| WorkingSet::new(bytes / PAGE_BYTES));
    let core = FollowerCore::new(parts.generation, parts.base);
    let warm = Warm { core, meter, live, log, working_set };
    let mut follower = Follower {
        dirty: DirtyPages::new(order.spec.memory_bytes),
        standby,
        parts,
        order,
        image,
        limits,
        around,
        warm,
        buffer: Vec::new(),
        ended: false,
        idle_looks: 0,
        patience: Patience::with_follower(0, clock::spent_by_this_thread()),
    };
    loop {
        match follower.step()? {
            Next::GoOn => {}
            Next::End(end) => return Ok(end),
        }
    }
}

impl Follower<'_> {
    fn step(&mut self) -> Result<Next, Failure> {
        while let Ok(command) = self.around.commands.try_recv() {
            if let Some(end) = self.command(command) {
                return Ok(Next::End(end));
            }
        }
        let stands = self.standby.machine.inputs().must_pause();
        if stands && let Some(point) = self.warm.meter.commit() {
            return self.stand_at(point);
        }
        if stands && self.deliver_before_commit()? {
            return Ok(Next::GoOn);
        }
        if stands || self.ended {
            return Ok(self.look_later());
        }
        self.idle_looks = 0;
        if self.warm.core.take_delivery() {
            self.standby.machine.deliver()?;
            return Ok(Next::GoOn);
        }
        let stop = match self.standby.machine.run() {
            Ok(stop) => stop,
            Err(MachineError::Input(InputError::Diverged(divergence))) => {
                let more = self.examined(divergence.exit)?;
                return Ok(self.diverged(format!("{divergence}{more}")));
            }
            Err(error) => return Err(error.into()),
        };
        match stop {
            Stop::Kicked => return Ok(self.check_progress()),
            // Its end is in a record to come.
            Stop::Exited(_) | Stop::Crashed(_) => self.ended = true,
            Stop::Output | Stop::Flush | Stop::SourcePaused | Stop::Wait { .. } => {}
        }
        // The primary has sent them, and what stands in the log of the console is not needed here.
        self.standby.machine.take_packets();
        self.standby.machine.drop_console_before(self.warm.meter.console_marked_to());
        Ok(Next::GoOn)
    }

    /// The primary's guest was given something at this exit, at the end of a wait or behind a commit, and committed before it
    /// came to another one: the guest is given it here, and does not run on. Says whether there was anything. Whether its wait
    /// was over then, the record says.
    fn deliver_before_commit(&mut self) -> Result<bool, Failure> {
        let machine = &mut self.standby.machine;
        if !self.warm.log.has_commit_at(machine.exits().0) {
            return Ok(false);
        }
        let taken = self.warm.meter.entries();
        self.warm.core.stands_before_commit();
        machine.complete_pending()?;
        machine.deliver()?;
        Ok(self.warm.meter.entries() != taken)
    }

    fn command(&mut self, command: Command) -> Option<FollowEnd> {
        match command {
            Command::Promote(promotion) => {
                let warm = Warm {
                    core: self.warm.core.clone(),
                    meter: Arc::clone(&self.warm.meter),
                    live: self.warm.live.clone(),
                    log: self.warm.log.clone(),
                    working_set: self.warm.working_set.take(),
                };
                Some(FollowEnd::Promoted(promotion, warm))
            }
            Command::Unfollow => Some(FollowEnd::Reset),
            Command::Discard => Some(FollowEnd::Discarded),
            // A secondary that follows is told to follow again only after it was told not to.
            Command::Follow(_)
            | Command::Look
            | Command::Yield
            | Command::Turn(_)
            | Command::OpenInput
            | Command::TakeInput(..) => None,
        }
    }

    fn look_later(&mut self) -> Next {
        self.idle_looks = self.idle_looks.saturating_add(1);
        let bound = if self.idle_looks < LOOKS_SOON { LOOK_SOON } else { LOOK_LATER };
        match self.around.commands.recv_timeout(bound) {
            Ok(command) => self.command(command).map_or(Next::GoOn, Next::End),
            Err(RecvTimeoutError::Timeout) => Next::GoOn,
            Err(RecvTimeoutError::Disconnected) => Next::End(FollowEnd::Discarded),
        }
    }

    /// The guest is where the primary has made a commit.
    fn stand_at(&mut self, point: CommitPoint) -> Result<Next, Failure> {
        let word = self.parts.journal.peek_word().ok();
        let word = word.map(|word| Word { epoch: Epoch::new(word.epoch.get()), sealed: word.sealed });
        match self.warm.core.at_commit(point, word) {
            Stand::Pass => {
                self.warm.meter.pass_commit();
                Ok(Next::GoOn)
            }
            Stand::Later => Ok(self.look_later()),
            Stand::Compare(epoch) => {
                self.idle_looks = 0;
                self.compare(epoch)
            }
            Stand::Adopt(epoch) => {
                self.idle_looks = 0;
                self.adopt(epoch)
            }
            Stand::Broken => {
                Err(format!("the log has a commit of {} after {}", point.epoch, self.warm.core.reached()).into())
            }
        }
    }

    fn compare(&mut self, epoch: Epoch) -> Result<Next, Failure> {
        failpoint::pass("host.follow.comparing");
        let raw = shared_mem::Epoch::new(epoch.get());
        if !self.is_awaited()? {
            return Ok(Next::End(FollowEnd::Reset));
        }
        let machine = &mut self.standby.machine;
        machine.complete_pending()?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let (own, difference) = {
            let record = self.parts.journal.load(raw, &self.limits, &mut buffer)?;
            let state = MachineState::decode(CommitMeta::decode(record.meta())?.machine_state)?;
            if state.wait_until().is_none() {
                // The primary's guest may have ended its wait right before the commit.
                machine.end_wait()?;
            }
            self.dirty.clear();
            machine.harvest(&mut self.dirty)?;
            let own = machine.save()?;
            let mut differences: Vec<String> = Vec::new();
            let registers = state.differences(&own);
            let registers =
                registers.iter().map(|one| format!("{}: expected {}, got {}", one.what, one.expected, one.got));
            let registers: Vec<String> = registers.collect();
            differences.extend(examine::listed(&registers, REGISTERS_NAMED));
            differences.extend(self.other_pages(&record)?);
            (own, (!differences.is_empty()).then(|| differences.join("; ")))
        };
        if !self.is_awaited()? {
            return Ok(Next::End(FollowEnd::Reset));
        }
        self.buffer = buffer;
        if let Some(difference) = difference {
            let exit = own.exits().0;
            return Ok(self.diverged(format!("exit {exit}, at the end of {epoch}: {difference}")));
        }
        if let Some(set) = &mut self.warm.working_set {
            let applied = self.standby.parts.control.freed()?;
            set.trim(&self.standby.memory, &self.dirty, epoch.get(), applied.get())?;
        }
        if let Some(disk) = &self.standby.disk {
            let applied = self.standby.parts.control.freed()?;
            let mut disk = lock(disk);
            disk.committed(epoch);
            disk.applied(Epoch::new(applied.get()));
        }
        self.reach(epoch, FollowStep::Compared);
        Ok(Next::GoOn)
    }

    /// Whether the stable image waits for this one: else what it sees may be of another epoch.
    fn is_awaited(&self) -> Result<bool, Failure> {
        Ok(self.warm.core.is_awaited(Epoch::new(self.standby.parts.control.freed()?.get())))
    }

    /// Pages that are not what the record, or where it has none the stable image, says: in one line.
    fn other_pages(&self, record: &Record<'_>) -> Result<Option<String>, Failure> {
        let mut others = Vec::new();
        let (mut own, mut expected) = (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]);
        let mut recorded = std::collections::HashSet::new();
        let mut blocks = BTreeMap::new();
        let mut check = |page: PageIndex, expected: &[u8]| {
            let content = self.standby.memory.page(page).ok_or("a page beyond the guest's memory")?;
            content.copy_to(&mut own[..]);
            if let Some(at) = own.iter().zip(expected).position(|(got, expected)| got != expected) {
                others.push(format!(
                    "byte {at:#x} of page {:#x}: expected {:#04x}, got {:#04x}",
                    page.get(),
                    expected[at],
                    own[at]
                ));
            }
            Ok::<_, Failure>(())
        };
        for (index, content) in record.pages() {
            match index.place() {
                PagePlace::Image(page) => {
                    recorded.insert(page.get());
                    check(page, content)?;
                }
                PagePlace::Disk(block) => {
                    blocks.insert(block, content);
                }
            }
        }
        for page in self.dirty.iter().filter(|page| !recorded.contains(&page.0)) {
            self.image.read(Offset::new(page.0 * shared_mem::PAGE_SIZE), &mut expected)?;
            check(PageIndex::new(page.0), &expected)?;
        }
        if let Some(disk) = &self.standby.disk {
            // A disk's device notes what the guest writes, nothing else: the same blocks, with the same content.
            let disk = lock(disk);
            for (block, own) in disk.dirty_blocks() {
                if blocks.remove(&block) != Some(&own[..]) {
                    others.push(format!("block {:#x} of the disk is another one", block.get()));
                }
            }
            others.extend(blocks.keys().map(|block| format!("block {:#x} of the disk was not written", block.get())));
        }
        Ok(examine::listed(&others, PAGES_NAMED))
    }

    /// Goes on from the record of an epoch whose end no replay comes by.
    fn adopt(&mut self, epoch: Epoch) -> Result<Next, Failure> {
        self.standby.machine.complete_pending()?;
        // From here to the restored state the guest does not run: the stable image may go on.
        self.tell(epoch, FollowStep::Adopted);
        let raw = shared_mem::Epoch::new(epoch.get());
        while self.standby.parts.control.freed()? < raw {
            if let Next::End(end) = self.look_later() {
                // It has come to the epoch only when it was applied.
                return Ok(Next::End(end));
            }
        }
        let pages = PageIndex::new(0)..PageIndex::new(self.standby.memory.pages());
        self.standby.memory.drop_private(pages)?;
        if let Some(disk) = &self.standby.disk {
            lock(disk).forget();
        }
        let state = MachineState::decode(&self.standby.parts.state.read(raw)?)?;
        self.warm.meter.pass_commit();
        self.standby.machine.restore(&state)?;
        self.dirty.clear();
        self.standby.machine.harvest(&mut self.dirty)?;
        if let Some(set) = &mut self.warm.working_set {
            set.forget();
        }
        self.warm.core.reach(epoch);
        self.ended = false;
        Ok(Next::GoOn)
    }

    fn reach(&mut self, epoch: Epoch, step: FollowStep) {
        self.warm.core.reach(epoch);
        self.warm.meter.pass_commit();
        self.tell(epoch, step);
        failpoint::pass("host.follow.compared");
    }

    fn tell(&self, epoch: Epoch, step: FollowStep) {
        self.around.say(VmEvent::Followed { turn: self.parts.turn, epoch, step });
    }

    fn check_progress(&mut self) -> Next {
        let exit = self.standby.machine.exits().0;
        let spent = clock::spent_by_this_thread();
        self.patience.stands_at(exit, spent);
        match self.patience.is_over(spent) {
            None => Next::GoOn,
            Some(bound) => self
                .diverged(format!("exit {exit}: expected to come to the next one, got {bound} of computing without")),
        }
    }

    /// What is behind a divergence at this exit, as far as it can be found out while the stable image waits.
    fn examined(&self, exit: u64) -> Result<String, Failure> {
        if !self.is_awaited()? {
            return Ok(String::new());
        }
        let (order, parts) = (self.order, &self.standby.parts);
        let scene = Scene { around: self.around, order, parts, log: &self.parts.log };
        let found = examine::while_following(&scene, self.warm.core.reached(), exit);
        // Otherwise it may have been of two epochs.
        Ok(if self.is_awaited()? { format!("; {found}") } else { String::new() })
    }

    /// The guest is not deterministic between its exits, or one of the two hosts is broken.
    fn diverged(&self, report: String) -> Next {
        tracing::warn!("{} of {} diverged: {report}", self.parts.generation, self.order.vm);
        let (generation, turn) = (self.parts.generation, Some(self.parts.turn));
        self.around.say(VmEvent::Diverged { generation, turn, report });
        Next::End(FollowEnd::Reset)
    }
}
