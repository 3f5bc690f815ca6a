//! Pinned memory of captured graphs.

use riverbed::device::{Call, Device};

use crate::pool;
use crate::support::stream;

#[test]
fn what_a_graph_uses_is_nobody_elses_before_it_is_gone() {
    let device = Device::open("sim:1GiB").unwrap();
    let (captured, other) = (stream(&device), stream(&device));
    let pool = pool(&device, "pinned_limit_mb:64");
    let graph = pool.graph();
    let capture = graph.begin_capture(&captured).unwrap();
    assert!(graph.begin_capture(&captured).is_err(), "it is captured already");

    let block = pool.alloc(1 << 20).unwrap();
    let address = block.as_ptr();
    block.record_use(&captured).unwrap();
    drop(block);
    let elsewhere = pool.alloc(1 << 20).unwrap();
    elsewhere.record_use(&other).unwrap();
    drop(elsewhere);
    let asked = || device.calls().sum(&[Call::RecordEvent, Call::QueryEvent]);
    assert_eq!(asked(), 0, "nothing is asked of the driver during a capture");
    assert_eq!(pool.trim(), 0);
    assert_eq!((graph.kept_bytes(), pool.stats().retired_bytes), (1 << 20, 2 << 20));
    drop(capture);
    let others: Vec<_> = (0..8).map(|_| pool.alloc(1 << 20).unwrap()).collect();
    assert!(others.iter().all(|other| other.as_ptr() != address));
    assert_eq!(pool.stats().retired_bytes, 1 << 20, "the other stream's is back");
    drop(graph);
    assert_eq!(pool.stats().retired_bytes, 0);
    drop(others);
    pool.check().unwrap();
}

#[test]
fn a_block_of_two_graphs_outlasts_both_in_either_order() {
    for first in [0, 1] {
        let device = Device::open("sim:1GiB").unwrap();
        let (one, two) = (stream(&device), stream(&device));
        let pool = pool(&device, "pinned_limit_mb:64");
        let mut graphs = vec![pool.graph(), pool.graph()];
        let captures =
            (graphs[0].begin_capture(&one).unwrap(), graphs[1].begin_capture(&two).unwrap());
        for order in [[&one, &two], [&two, &one]] {
            let block = pool.alloc(4096).unwrap();
            order.iter().for_each(|stream| block.record_use(stream).unwrap());
        }
        drop(captures);
        drop(graphs.remove(first));
        assert_eq!(pool.stats().retired_bytes, 8192);
        drop(graphs);
        assert_eq!(pool.stats().retired_bytes, 0);
        pool.check().unwrap();
    }
}
