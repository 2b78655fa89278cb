//! The pool under attack, end to end: processes that die or freeze between any two steps, peers that lie, bytes that flip.
//! After each crash `ftvm pool check` must find the pool sound, and in the end the guest must have said what an unprotected
//! guest says.
//!
//! `FTVM_POOL_ROUNDS` makes the random parts longer (rounds, or freezes), `FTVM_POOL_SEED` repeats a run of them.

mod away;
mod chance;
mod damage;
mod disks;
mod failpoints;
mod flips;
mod flush;
mod freezes;
mod garbage;
mod golden;
mod hostile_hosts;
mod hostile_peers;
mod inspection;
#[path = "../shared/machine.rs"]
mod machine;
mod peer;
mod process;
mod removals;
mod replay;
mod run;
mod space;
mod storm;
mod support;
