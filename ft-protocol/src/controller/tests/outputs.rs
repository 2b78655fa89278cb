//! How long outputs waited.

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
