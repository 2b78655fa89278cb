use super::*;
use crate::console_input::InputAt;
use crate::cpu::CpuProfile;
use crate::ids::Incarnation;
use crate::ids::{Epoch, FollowId, HostId};
use crate::spec::{JournalShape, Mode, VmSpec};
use crate::timeline::Wanted;
use crate::wire::{FollowStep, LOG_LOST_SINCE, LiveReport, StateFormats, TakeoverReason, UNFIT_SINCE};

const VM: VmId = VmId::new(3);

fn order(generation: u64) -> Order {
    Order {
        vm: VM,
        generation: Generation::new(generation),
        spec: VmSpec {
            name: "vm".to_owned(),
            memory_bytes: 4096,
            mode: Mode::Checkpoint,
            epoch_interval: Span::from_ms(10),
            args: Vec::new(),
            journal: JournalShape { slots: 2, slot_bytes: 8192, reserved_bytes: 8192 },
            console_lossless: true,
            working_set_bytes_max: None,
            policy: crate::policy::Policy::default(),
            nets: Vec::new(),
            disk_bytes: 0,
            log_bytes: crate::spec::LOG_BYTES_DEFAULT,
        },
        primary: Some(HostId::new(0)),
        base: Epoch::ZERO,
        cpu: CpuProfile::default(),
    }
}

fn welcome(protocol: u32) -> ToHost {
    ToHost::Welcome {
        host: HostId::new(1),
        heartbeat_bound: Span::from_ms(50),
        heartbeat_interval: Span::from_ms(5),
        suspicion: None,
        protocol,
    }
}

struct Bench(Host);

impl Bench {
    fn joined() -> Self {
        let mut bench = Self(Host::new(HostProfile {
            name: "b".to_owned(),
            incarnation: Incarnation::new(1),
            memory_bytes: 1 << 30,
            cpu: CpuProfile::default(),
            states: StateFormats { writes: 1, reads_from: 1 },
            labels: Vec::new(),
        }));
        bench.input(Input::LinkUp);
        bench.message(welcome(1));
        bench
    }
    fn input(&mut self, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        self.0.handle(Time::ZERO, input, &mut actions);
        actions
    }
    fn message(&mut self, message: ToHost) -> Vec<Action> {
        self.input(Input::Message(message))
    }
    fn made(&mut self, generation: u64) -> Vec<Action> {
        self.input(Input::StandbyMade { vm: VM, generation: Generation::new(generation) })
    }
}

#[test]
fn a_standby_asks_when_its_primary_is_gone_and_is_promoted() {
    let mut bench = Bench::joined();
    assert_eq!(bench.message(ToHost::Standby(order(1))), [Action::MakeStandby(order(1))]);
    let generation = Generation::new(1);
    assert_eq!(bench.made(1), [Action::Send(FromHost::StandbyReady { vm: VM, generation })]);
    let reason = TakeoverReason::LinkClosed;
    assert_eq!(
        bench.message(ToHost::PrimaryGone { vm: VM, generation, reason }),
        [Action::Send(FromHost::AskTakeover { vm: VM, generation, reason })]
    );
    assert_eq!(bench.message(ToHost::Promote(order(2))), [Action::RunPrimary(order(2))]);
    assert_eq!(bench.message(ToHost::Promote(order(2))), [], "an order that was given before");
}

#[test]
fn a_seal_ends_the_process() {
    let mut bench = Bench::joined();
    bench.message(ToHost::Promote(order(2)));
    let generation = Generation::new(2);
    assert_eq!(
        bench.input(Input::Fenced { vm: VM, generation }),
        [
            Action::Send(FromHost::Fenced { vm: VM, generation }),
            Action::Exit(ExitReason::Fenced { vm: VM, generation })
        ]
    );
}

#[test]
fn a_deposed_primary_that_idles_is_ended_too() {
    let mut bench = Bench::joined();
    bench.message(ToHost::Promote(order(2)));
    let actions = bench.message(ToHost::Release { vm: VM, generation: Generation::new(2), deposed: true });
    let fenced = FromHost::Fenced { vm: VM, generation: Generation::new(2) };
    let reason = ExitReason::Fenced { vm: VM, generation: Generation::new(2) };
    assert_eq!(actions, [Action::Send(fenced), Action::Exit(reason)], "a machine that hangs is not waited for");
}

#[test]
fn a_release_for_an_older_generation_is_void() {
    let mut bench = Bench::joined();
    bench.message(ToHost::Promote(order(2)));
    assert_eq!(bench.message(ToHost::Release { vm: VM, generation: Generation::new(1), deposed: true }), []);
    assert_eq!(bench.message(ToHost::Standby(order(1))), []);
}

#[test]
fn roles_survive_a_lost_connection() {
    let mut bench = Bench::joined();
    bench.message(ToHost::Promote(order(2)));
    bench.input(Input::LinkDown);
    let report = LiveReport::default();
    assert_eq!(bench.input(Input::Live { vm: VM, generation: Generation::new(2), report }), []);
    let roles = vec![HeldRole { vm: VM, generation: Generation::new(2), role: Role::Primary { live: true } }];
    let hello = bench.input(Input::LinkUp);
    assert!(matches!(&hello[..], [Action::SayHello(hello)] if hello.roles == roles));
}

#[test]
fn a_guest_that_cannot_be_booted_is_told_from_a_host_that_cannot_boot_it() {
    let (generation, reason) = (Generation::new(1), "no ELF file".to_owned());
    for (protocol, told) in [
        (UNFIT_SINCE, FromHost::Unfit { vm: VM, generation, reason: reason.clone() }),
        (UNFIT_SINCE - 1, FromHost::GaveUp { vm: VM, generation, reason: reason.clone() }),
    ] {
        let mut bench = Bench::joined();
        bench.message(welcome(protocol));
        bench.message(ToHost::Promote(order(1)));
        let actions = bench.input(Input::Unfit { vm: VM, generation, reason: reason.clone() });
        assert_eq!(actions, [Action::Discard(VM), Action::Send(told)]);
    }
}

#[test]
fn a_standby_that_cannot_be_made_is_given_up() {
    let mut bench = Bench::joined();
    bench.message(ToHost::Standby(order(1)));
    let (generation, reason) = (Generation::new(1), "no KVM".to_owned());
    assert_eq!(
        bench.input(Input::Failed { vm: VM, generation, reason: reason.clone() }),
        [Action::Discard(VM), Action::Send(FromHost::GaveUp { vm: VM, generation, reason })]
    );
}

#[test]
fn a_yielded_guest_leaves_the_host_free() {
    let (generation, stood) = (Generation::new(2), Span::from_us(700));
    let said = FromHost::Stood { vm: VM, generation, stood };
    for (protocol, said) in [(STOOD_SINCE, Some(said)), (STOOD_SINCE - 1, None)] {
        let mut bench = Bench::joined();
        bench.message(welcome(protocol));
        bench.message(ToHost::Promote(order(2)));
        assert_eq!(bench.message(ToHost::Yield { vm: VM, generation: Generation::new(1) }), []);
        assert_eq!(bench.message(ToHost::Yield { vm: VM, generation }), [Action::Yield(VM)]);
        let said = said.into_iter().chain([FromHost::Yielded { vm: VM, generation }]).map(Action::Send);
        let expected: Vec<Action> = [Action::Discard(VM)].into_iter().chain(said).collect();
        assert_eq!(bench.input(Input::Yielded { vm: VM, generation, stood }), expected);
        assert_eq!(bench.message(ToHost::Standby(order(3))), [Action::MakeStandby(order(3))]);
    }
}

#[test]
fn a_shortage_is_said_once_to_each_controller_that_understands_it() {
    let said = |actions: Vec<Action>| -> Vec<FromHost> {
        let said = actions.into_iter().filter_map(|action| match action {
            Action::Send(message) => Some(message),
            _ => None,
        });
        said.collect()
    };
    let generation = Generation::new(2);
    let shortage = Shortage { wanted: Wanted::Record(Epoch::new(9)), needed: 4104, available: 0 };
    let full = [FromHost::OutOfSpace { vm: VM, generation, shortage }];
    let mut bench = Bench::joined();
    bench.message(ToHost::Promote(order(2)));
    let waits = Input::Space { vm: VM, generation, shortage: Some(shortage) };
    assert_eq!(said(bench.input(waits.clone())), [], "an old controller is told nothing that it does not know");
    bench.input(Input::LinkDown);
    bench.input(Input::LinkUp);
    assert_eq!(said(bench.message(welcome(SPACE_SINCE))), full, "a new one is told what still holds");
    assert_eq!(said(bench.input(waits)), full);
    let again = Input::Space { vm: VM, generation, shortage: None };
    assert_eq!(said(bench.input(again)), [FromHost::SpaceAgain { vm: VM, generation }]);
    bench.input(Input::LinkDown);
    bench.input(Input::LinkUp);
    assert_eq!(said(bench.message(welcome(SPACE_SINCE))), [], "it is over");
    let of_another = Input::Space { vm: VM, generation: Generation::new(1), shortage: Some(shortage) };
    assert_eq!(said(bench.input(of_another)), [], "that reign is over");
}

/// A machine's word of an order to follow that is over may come when there is another order already, of another controller even.
#[test]
fn what_a_machine_says_of_an_earlier_order_to_follow_is_not_passed_on() {
    let mut bench = Bench::joined();
    bench.message(ToHost::Standby(order(2)));
    let generation = Generation::new(2);
    bench.input(Input::StandbyMade { vm: VM, generation });
    let base = Epoch::new(4);
    let told = |bench: &mut Bench, follow| {
        let actions = bench.message(ToHost::FollowAs { follow, vm: VM, generation, base });
        let [Action::Follow(VM, _, _, turn)] = actions[..] else { panic!("it does not follow: {actions:?}") };
        turn
    };
    let follow = FollowId::new(1);
    let first = told(&mut bench, follow);
    assert_eq!(bench.input(Input::LinkDown), [Action::Unfollow(VM)]);
    bench.input(Input::LinkUp);
    let second = told(&mut bench, follow);
    assert_ne!(first, second, "a new controller counts from the beginning");
    let (epoch, step) = (Epoch::new(5), FollowStep::Compared);
    let diverged = |turn| Input::Diverged { vm: VM, generation, turn: Some(turn), report: "exit 9".to_owned() };
    assert_eq!(bench.input(Input::Followed { vm: VM, turn: first, epoch, step }), []);
    assert_eq!(bench.input(diverged(first)), []);
    let said = FromHost::FollowedAs { follow, vm: VM, generation, epoch, step };
    assert_eq!(bench.input(Input::Followed { vm: VM, turn: second, epoch, step }), [Action::Send(said)]);
    let said = FromHost::DivergedAs { follow, vm: VM, generation, report: "exit 9".to_owned() };
    assert_eq!(bench.input(diverged(second)), [Action::Send(said)]);
}

#[cfg(feature = "planted-bugs")]
#[test]
fn what_is_passed_on_of_an_earlier_order_is_noticed() {
    let bug = crate::planted::PlantedBug::StaleReportSent;
    let test = what_a_machine_says_of_an_earlier_order_to_follow_is_not_passed_on;
    assert!(crate::planted::is_noticed_by(bug, test), "{bug:?} does nothing that its test sees");
}

#[test]
fn a_machine_that_cannot_follow_says_why_and_a_damaged_log_is_no_divergence() {
    let mut bench = Bench::joined();
    bench.message(ToHost::Welcome {
        host: HostId::new(1),
        heartbeat_bound: Span::from_ms(50),
        heartbeat_interval: Span::from_ms(5),
        suspicion: None,
        protocol: LOG_LOST_SINCE,
    });
    bench.message(ToHost::Standby(order(2)));
    let (generation, follow, reason) = (Generation::new(2), FollowId::new(1), "no log".to_owned());
    bench.input(Input::StandbyMade { vm: VM, generation });
    let actions = bench.message(ToHost::FollowAs { follow, vm: VM, generation, base: Epoch::new(4) });
    let [Action::Follow(VM, _, _, turn)] = actions[..] else { panic!("it does not follow: {actions:?}") };
    let said = FromHost::FollowFailed { follow, vm: VM, generation, reason: reason.clone() };
    assert_eq!(bench.input(Input::FollowFailed { vm: VM, turn, reason: reason.clone() }), [Action::Send(said)]);
    let lost = || Input::LogLost { vm: VM, generation: Generation::new(3), report: reason.clone() };
    assert_eq!(bench.input(lost()), [], "it does not reign");
    bench.message(ToHost::Promote(order(3)));
    let said = FromHost::LogLost { vm: VM, generation: Generation::new(3), report: reason.clone() };
    assert_eq!(bench.input(lost()), [Action::Send(said)]);
}

/// A controller of protocol 4 gives no numbers and understands none.
#[test]
fn an_older_controller_is_answered_in_its_own_words() {
    let mut bench = Bench::joined();
    bench.message(ToHost::Standby(order(2)));
    let generation = Generation::new(2);
    bench.input(Input::StandbyMade { vm: VM, generation });
    let actions = bench.message(ToHost::Follow { vm: VM, generation, base: Epoch::new(4) });
    let [Action::Follow(VM, _, _, turn)] = actions[..] else { panic!("it does not follow: {actions:?}") };
    let (epoch, step) = (Epoch::new(5), FollowStep::Compared);
    let said = FromHost::Followed { vm: VM, generation, epoch, step };
    assert_eq!(bench.input(Input::Followed { vm: VM, turn, epoch, step }), [Action::Send(said)]);
    let (epoch, step) = (Epoch::ZERO, FollowStep::Adopted);
    let said = FromHost::Followed { vm: VM, generation, epoch, step };
    let failed = Input::FollowFailed { vm: VM, turn, reason: "no log".to_owned() };
    assert_eq!(bench.input(failed), [Action::Send(said)], "a step that cannot be");
}

#[test]
fn a_host_that_is_not_wanted_for_reasons_that_pass_gives_up_after_a_while() {
    let mut bench = Bench::joined();
    let mut rejected = |ms: u64| {
        let mut actions = Vec::new();
        let message = ToHost::Rejected { reason: "its name is taken".to_owned(), retry: true };
        bench.0.handle(Time::ZERO + Span::from_ms(ms), Input::Message(message), &mut actions);
        actions
    };
    let again = [Action::TryAgain("its name is taken".to_owned())];
    assert_eq!((rejected(100), rejected(3_100)), (again.to_vec(), again.to_vec()));
    assert_eq!(rejected(3_101), [Action::Exit(ExitReason::Rejected("its name is taken".to_owned()))]);
}

#[test]
fn console_input_is_for_the_primary_of_its_generation() {
    let mut bench = Bench::joined();
    let generation = Generation::new(3);
    let input = |generation| ToHost::Input { vm: VM, generation, position: 9, bytes: b"typed".to_vec() };
    bench.message(ToHost::Standby(order(2)));
    assert_eq!(bench.message(ToHost::OpenInput { vm: VM, generation: Generation::new(2) }), [], "it stands by");
    bench.message(ToHost::Promote(order(3)));
    assert_eq!(bench.message(input(Generation::new(2))), [], "for the primary before");
    assert_eq!(bench.message(ToHost::OpenInput { vm: VM, generation }), [Action::OpenInput(VM)]);
    assert_eq!(bench.message(input(generation)), [Action::TakeInput(VM, 9, b"typed".to_vec())]);
    let at = InputAt { have: None, safe: 9, room_to: 100 };
    let said = |generation| Input::InputAt { vm: VM, generation, at };
    assert_eq!(bench.input(said(generation)), [], "its controller understands nothing of it");
    bench.message(ToHost::Welcome {
        host: HostId::new(1),
        heartbeat_bound: Span::from_ms(50),
        heartbeat_interval: Span::from_ms(5),
        suspicion: None,
        protocol: INPUT_SINCE,
    });
    assert_eq!(bench.input(said(generation)), [Action::Send(FromHost::InputAt { vm: VM, generation, at })]);
    assert_eq!(bench.input(said(Generation::new(2))), [], "it reigns no more");
}
