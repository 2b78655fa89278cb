//! Guests on a real KVM. Without `/dev/kvm` these tests skip aloud; `FTVM_REQUIRE_KVM=1` makes that a failure.

#![allow(unsafe_code, reason = "the guests' machine code is taken from between two labels")]

mod access;
mod crash;
mod dirty;
mod documentation;
mod history;
mod inputs;
mod kick;
mod moves;
mod restore;
mod run;
mod support;
mod wait;
