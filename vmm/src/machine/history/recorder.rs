//! Writes down every input before the guest sees it.

use super::HistoryError;
use crate::machine::inputs::{ExitNumber, InputError, InputKind, InputSource, NicIndex, Produced, ResumePoint};
use crate::machine::time::GuestTime;
use ft_protocol::record::{Entry, EntryBody, OutputsLogged, frame_digest, sent_digest};

/// Where entries go.
pub trait HistorySink: Send {
    /// Takes an entry. Once this returns, the guest sees the input, and what it computes from it may leave.
    ///
    /// # Errors
    /// The entry is not safe; the guest must not see the input.
    fn append(&mut self, entry: &Entry<'_>) -> Result<(), HistoryError>;

    /// Whether there is room for all entries of one more exit. If not, the guest pauses before its next exit.
    fn has_room(&self) -> bool;

    /// Whether somebody follows the guest by the entries and wants to know of exits that bring none.
    fn wants_marks(&self) -> bool {
        false
    }

    /// The guest is at this exit; nothing has come yet.
    ///
    /// # Errors
    /// It cannot be noted.
    fn exit(&mut self, _at: ExitNumber, _digest: u32) -> Result<(), HistoryError> {
        Ok(())
    }
}

/// Gives the guest the inputs of another source, and each one first to a sink.
#[derive(Debug)]
pub struct Recorder<S, K> {
    source: S,
    sink: K,
    outputs: OutputsLogged,
    /// The history's digest at the last exit.
    digest: u32,
    /// A device asked for a packet that the sink has no room for; it is still to be given.
    held_back: bool,
    at: ExitNumber,
    /// The last exit that an entry was written for.
    marked: ExitNumber,
}

/// A guest whose exits bring no inputs leaves a mark this often: whoever follows it is at most so many exits behind.
const EXITS_BETWEEN_MARKS: u64 = 64;

impl<S: InputSource, K: HistorySink> Recorder<S, K> {
    /// Records what comes from `source`. With [`OutputsLogged::Yes`] marks of outputs are recorded exit by exit; else that
    /// is left to the caller, or to nobody.
    #[must_use]
    pub fn new(source: S, sink: K, outputs: OutputsLogged) -> Self {
        Self { source, sink, outputs, digest: 0, held_back: false, at: ExitNumber(0), marked: ExitNumber(0) }
    }

    /// The sink.
    pub fn sink(&mut self) -> &mut K {
        &mut self.sink
    }

    fn record(&mut self, at: ExitNumber, asked: InputKind, body: EntryBody<'_>) -> Result<(), InputError> {
        let entry = Entry { at_exit: at.0, digest: self.digest, body };
        self.marked = at;
        self.sink.append(&entry).map_err(|source| InputError::Unrecorded { at, asked, source })
    }
}

impl<S: InputSource, K: HistorySink> InputSource for Recorder<S, K> {
    fn begin_exit(&mut self, at: ExitNumber, digest: u32) -> Result<(), InputError> {
        (self.digest, self.at) = (digest, at);
        self.sink.exit(at, digest).map_err(|source| InputError::Unrecorded { at, asked: InputKind::Output, source })?;
        self.source.begin_exit(at, digest)
    }

    fn begin_poll(&mut self) {
        self.held_back = false;
        self.source.begin_poll();
    }

    fn produced(&mut self, at: ExitNumber, output: &Produced<'_>) -> Result<(), InputError> {
        if self.outputs == OutputsLogged::Yes {
            if !output.console.is_empty() {
                let body = EntryBody::Output { position: output.console_position, bytes: output.console.into() };
                self.record(at, InputKind::Output, body)?;
            }
            if !output.packets.is_empty() {
                let count = u32::try_from(output.packets.len()).expect("devices bound what they send at an exit");
                let digest = sent_digest(output.packets.iter().map(|packet| frame_digest(packet.nic.0, &packet.frame)));
                let body = EntryBody::Sent { position: output.packet_position, count, digest };
                self.record(at, InputKind::Output, body)?;
            }
        }
        self.source.produced(at, output)
    }

    fn clock(&mut self, at: ExitNumber) -> Result<GuestTime, InputError> {
        let now = self.source.clock(at)?;
        self.record(at, InputKind::Clock, EntryBody::Clock(now.0))?;
        Ok(now)
    }

    fn entropy(&mut self, at: ExitNumber, bytes: &mut [u8]) -> Result<(), InputError> {
        self.source.entropy(at, bytes)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let result = self.record(at, InputKind::Entropy, EntryBody::Entropy((&*bytes).into()));
        if result.is_err() {
            bytes.fill(0);
        }
        result
    }

    fn packet(&mut self, at: ExitNumber, nic: NicIndex) -> Result<Option<Vec<u8>>, InputError> {
        // A packet can wait; what an exit brings has a bound.
        if !self.sink.has_room() {
            self.held_back = true;
            return Ok(None);
        }
        let packet = self.source.packet(at, nic)?.filter(|frame| !frame.is_empty());
        if let Some(frame) = &packet {
            self.record(at, InputKind::Packet, EntryBody::Packet { nic: nic.0, frame: frame.into() })?;
        }
        Ok(packet)
    }

    fn console(&mut self, at: ExitNumber, room: usize) -> Result<Vec<u8>, InputError> {
        let bytes = self.source.console(at, room)?;
        if !bytes.is_empty() {
            self.record(at, InputKind::Console, EntryBody::ConsoleInput((&bytes).into()))?;
        }
        Ok(bytes)
    }

    fn offer_console(&mut self, bytes: &[u8]) -> usize {
        self.source.offer_console(bytes)
    }

    fn wakes(&self) -> bool {
        self.held_back || self.source.wakes()
    }

    fn wait_ends(&mut self) {
        self.source.wait_ends();
    }

    fn has_news(&self) -> bool {
        self.held_back || self.source.has_news()
    }

    fn must_pause(&mut self) -> bool {
        if self.sink.wants_marks() && self.at.0 >= self.marked.0 + EXITS_BETWEEN_MARKS {
            // Who cannot write is told so by the next input.
            let _ = self.record(self.at, InputKind::Output, EntryBody::Mark);
        }
        !self.sink.has_room() || self.source.must_pause()
    }

    fn owes(&mut self) -> Option<u64> {
        self.source.owes()
    }

    fn now(&self) -> GuestTime {
        self.source.now()
    }

    fn waiting_console(&self) -> Vec<u8> {
        self.source.waiting_console()
    }

    fn resume(&mut self, from: &ResumePoint<'_>) {
        (self.digest, self.at, self.marked) = (from.digest, from.exits, from.exits);
        self.source.resume(from);
    }
}
