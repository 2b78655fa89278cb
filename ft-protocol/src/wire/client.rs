//! What clients ask and are answered.

use super::Status;
use crate::commit_meta::GuestEnd;
use crate::console_input::InputAt;
use crate::ids::VmId;
use crate::spec::{Mode, VmSpec};
use crate::time::Time;
use crate::timeline::Happening;
use serde::{Deserialize, Serialize};

/// What a client can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Make a VM and run it; the file to boot from travels beside it.
    CreateVm(VmSpec),
    /// End a VM's life, whatever it does, and give back its part of the pool.
    DeleteVm(VmId),
    /// The state of everything.
    Status,
    /// Send the latest happenings of this controller's life, and from now on all.
    Watch,
    /// Read a VM's console without loss; answered with a descriptor of its console ring.
    AttachConsole {
        /// The VM.
        vm: VmId,
        /// What the reader has consumed already, in bytes since the guest's birth.
        from: u64,
    },
    /// This connection has consumed a console up to this position.
    ConsoleConsumed {
        /// The VM.
        vm: VmId,
        /// Bytes since the guest's birth.
        position: u64,
    },
    /// Protect a VM in another mode. Answered when it is.
    SetMode {
        /// The VM.
        vm: VmId,
        /// The mode.
        mode: Mode,
    },
    /// Move a VM to another host, as planned: nothing is lost or run again. Answered when the guest runs there.
    Switchover {
        /// The VM.
        vm: VmId,
        /// Name of the host; `None`: the secondary's.
        to: Option<String>,
    },
    /// Take all roles from a host and give it no new ones; or let it have roles again.
    Drain {
        /// Name of the host.
        host: String,
        /// `false` ends the draining.
        on: bool,
    },
    /// End the whole cluster: hosts and controller.
    Shutdown,
    /// The VM's guest shall no longer wait for readers of its console while none is attached: what nobody reads is
    /// overwritten, oldest first.
    ReleaseConsole(VmId),
    /// Read the disk of a VM that has ended; answered with a descriptor of its disk image.
    ReadDisk(VmId),
    /// Feed a VM's console from this connection, which nobody else does as long as it lasts. Answered when it may;
    /// [`ToClient::InputAt`] says from where on, as soon as the guest runs.
    OpenInput(VmId),
    /// Console input. No answer; what is lost on the way is asked for again.
    Input {
        /// The VM.
        vm: VmId,
        /// Where it belongs in all that the guest is ever given.
        position: u64,
        /// At most [`MESSAGE_INPUT_MAX`](crate::console_input::MESSAGE_INPUT_MAX) bytes.
        bytes: Vec<u8>,
    },
    /// Feed it no more. No answer.
    CloseInput(VmId),
}

/// A numbered request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromClient {
    /// Chosen by the client, repeated in the answer.
    pub id: u64,
    /// What it asks for.
    pub request: Request,
}

/// Answers to requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing more to say.
    Done,
    /// The VM is made.
    VmCreated(VmId),
    /// Everything.
    Status(Status),
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RequestError {
    /// No such VM.
    #[error("there is no VM {0}")]
    UnknownVm(VmId),
    /// No such host.
    #[error("there is no host `{0}`")]
    UnknownHost(String),
    /// The VM's creator wants a spare for it, and there is none.
    #[error("the VM is to have a spare, but no capacity can be reserved for its re-protection: {0}")]
    NoSpare(String),
    /// No host has the memory.
    #[error("no host has {0} bytes of memory left for the guest: start one that has")]
    NoCapacity(u64),
    /// A VM of this name exists.
    #[error("a VM named `{0}` exists already")]
    NameTaken(String),
    /// The description makes no sense.
    #[error("bad VM description: {0}")]
    BadSpec(String),
    /// The pool cannot hold the VM.
    #[error("the pool cannot hold the VM: {0}")]
    PoolRefused(String),
    /// A request that is allowed only after something else.
    #[error("{0}")]
    NotNow(String),
    /// The VM cannot be recovered from what the pool holds.
    #[error("{0} is lost: its part of the pool is damaged (`ftvm pool check DIR` says where)")]
    Damaged(VmId),
}

/// To a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToClient {
    /// The connection stands.
    Welcome,
    /// The connection cannot be used.
    Rejected {
        /// One line.
        reason: String,
    },
    /// Answer to a request.
    Answer {
        /// The request's number.
        id: u64,
        /// The answer.
        answer: Result<Answer, RequestError>,
    },
    /// Something happened (after [`Request::Watch`]).
    Happened {
        /// When, on the controller's monotonic clock.
        at: Time,
        /// What.
        happening: Happening,
    },
    /// An attached console has grown.
    ConsoleMoved {
        /// The VM.
        vm: VmId,
        /// Its end, in bytes since the guest's birth.
        tail: u64,
    },
    /// An attached VM's life has ended, all of its console is in the ring.
    VmEnded {
        /// The VM.
        vm: VmId,
        /// How it ended.
        end: GuestEnd,
        /// The console's end.
        console_end: u64,
    },
    /// How far a VM's console input has come (after [`Request::OpenInput`]).
    InputAt {
        /// The VM.
        vm: VmId,
        /// How far.
        at: InputAt,
    },
    /// No more input from this connection reaches the VM.
    InputEnded {
        /// The VM.
        vm: VmId,
        /// One line: why.
        reason: String,
    },
}
