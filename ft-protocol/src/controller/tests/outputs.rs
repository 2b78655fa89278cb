//! How long outputs waited.

use super::restart::{recovered, restart};
use super::*;
use crate::latency::OutputLatency;

fn of_times(ms: &[u64]) -> OutputLatency {
    let mut latency = OutputLatency::default();
    ms.iter().for_each(|ms| latency.note(Span::from_ms(*ms)));
    latency
}

#[test]
fn what_primaries_measure_is_shown_and_told_when_their_generation_ends() {
    let mut cluster = Cluster::protected();
    let generation = Generation::FIRST;
    assert_eq!(cluster.status().output_latency, None);
    cluster.said(0, FromHost::OutputsMeasured { vm: VM, generation, latency: of_times(&[1]) });
    cluster.said(0, FromHost::OutputsMeasured { vm: VM, generation, latency: of_times(&[1, 3]) });
    // Others have no say in it.
    cluster.said(1, FromHost::OutputsMeasured { vm: VM, generation, latency: of_times(&[9]) });
    let next = Generation::new(2);
    cluster.said(0, FromHost::OutputsMeasured { vm: VM, generation: next, latency: of_times(&[9]) });
    let summary = cluster.status().output_latency.unwrap();
    assert_eq!((summary.count, summary.max), (2, Span::from_ms(3)));
    cluster.happened.clear();
    cluster.ask(1, 1);
    cluster.input(Input::Sealed { vm: VM, generation, final_epoch: Epoch::ZERO });
    let told = cluster.happened.iter().filter_map(|happening| match happening {
        Happening::OutputsMeasured { generation, summary, latency, .. } => {
            Some((*generation, *summary, latency.count()))
        }
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [(generation, summary, 2)]);
    // What the next one measures comes on top.
    cluster.input(Input::GenerationOpened { vm: VM, generation: next, result: Ok(()) });
    cluster.live(1, 2);
    cluster.said(1, FromHost::OutputsMeasured { vm: VM, generation: next, latency: of_times(&[2]) });
    let summary = cluster.status().output_latency.unwrap();
    assert_eq!((summary.count, summary.max), (3, Span::from_ms(3)));
}

/// What was told of outputs since the last look: generation, mode, how many.
fn told(cluster: &mut Cluster) -> Vec<(u64, Mode, u64)> {
    let measured = |happening| match happening {
        Happening::OutputsMeasured { generation, mode: Some(mode), summary, latency, .. } => {
            assert_eq!(latency.summary(), Some(summary));
            Some((generation.get(), mode, summary.count))
        }
        _ => None,
    };
    cluster.happened.drain(..).filter_map(measured).collect()
}

fn measured(cluster: &mut Cluster, ms: &[u64]) {
    cluster.said(0, FromHost::OutputsMeasured { vm: VM, generation: Generation::FIRST, latency: of_times(ms) });
}

#[test]
fn each_mode_has_its_own_outputs() {
    let mut cluster = Cluster::protected();
    let turn = |cluster: &mut Cluster, mode| {
        cluster.request(Request::SetMode { vm: VM, mode });
        cluster.said(0, FromHost::ModeIs { vm: VM, generation: Generation::FIRST, mode });
    };
    measured(&mut cluster, &[9, 8]);
    turn(&mut cluster, Mode::Replay);
    assert_eq!(told(&mut cluster), [(1, Mode::Checkpoint, 2)]);
    measured(&mut cluster, &[9, 8, 1]);
    turn(&mut cluster, Mode::Lockstep);
    assert_eq!(told(&mut cluster), [(1, Mode::Replay, 1)]);
    turn(&mut cluster, Mode::Checkpoint);
    assert_eq!(told(&mut cluster), [], "nothing left in lockstep mode");
    measured(&mut cluster, &[9, 8, 1, 9]);
    assert_eq!(cluster.status().output_latency.unwrap().count, 4);
    cluster.ask(1, 1);
    assert_eq!(told(&mut cluster), [(1, Mode::Checkpoint, 1)]);
}

#[test]
fn what_ends_in_good_order_tells_of_its_outputs_first() {
    let mut cluster = Cluster::protected();
    measured(&mut cluster, &[3]);
    cluster.request(Request::DeleteVm(VM));
    let last = cluster.happened.last_chunk().expect("both are told");
    assert!(matches!(last, [Happening::OutputsMeasured { .. }, Happening::VmDeleted { .. }]), "{last:?}");
    for by_signal in [false, true] {
        let mut cluster = Cluster::protected();
        measured(&mut cluster, &[3]);
        match by_signal {
            true => cluster.input(Input::End),
            false => cluster.request(Request::Shutdown),
        }
        assert_eq!((told(&mut cluster), cluster.exits), (vec![(1, Mode::Checkpoint, 1)], 1));
        let ended = cluster.told.iter().filter(|(_, message)| *message == ToHost::Shutdown).count();
        assert_eq!(ended, 3);
    }
}

/// A primary says how long all outputs of its generation waited: who has not seen all of it cannot say in which modes.
#[test]
fn a_controller_that_comes_back_tells_of_the_whole_generation() {
    let mut cluster = Cluster::protected();
    measured(&mut cluster, &[9, 8]);
    let mut next = restart(&cluster, &recovered(Some(Word { epoch: Epoch::ZERO, sealed: false }), 0));
    let role = |role| [HeldRole { vm: VM, generation: Generation::FIRST, role }];
    next.join(0, &role(Role::Primary { live: true }));
    next.join(1, &role(Role::Secondary { prepared: true }));
    measured(&mut next, &[9, 8, 1]);
    next.happened.clear();
    next.close(0);
    next.ask(1, 1);
    let all = next.happened.iter().filter_map(|happening| match happening {
        Happening::OutputsMeasured { mode, summary, .. } => Some((*mode, summary.count)),
        _ => None,
    });
    assert_eq!(all.collect::<Vec<_>>(), [(None, 3)]);
    next.live(1, 2);
    let latency = of_times(&[1]);
    next.said(1, FromHost::OutputsMeasured { vm: VM, generation: Generation::new(2), latency });
    next.happened.clear();
    next.input(Input::End);
    assert_eq!(told(&mut next), [(2, Mode::Checkpoint, 1)]);
}
