//! Guests on a real KVM. Without `/dev/kvm` these tests skip aloud; `FTVM_REQUIRE_KVM=1` makes that a failure.

mod dirty;
mod moves;
mod run;
mod support;
