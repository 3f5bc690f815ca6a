//! What does an operation of a real program cost? A trace replayed again and again, blocks from a
//! stream's handle, by every policy there is. `RIVERBED_BENCH_TRACE` names a trace of one's own
//! (as `riverbed replay` reads it), `RIVERBED_BENCH_CONF` a conf to replay it with in place of
//! each policy's default, `RIVERBED_BENCH_DEVICE` a device in place of the simulated one, with room
//! for the trace. An element is one operation.

mod common;
#[path = "common/inputs.rs"]
mod inputs;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use riverbed::device::{Priority, Stream};
use riverbed::pool::{Block, StreamAllocator};
use riverbed::replay::{OpKind, Trace};

use inputs::{confs, traces};

/// Every operation of the trace, in its order. Frees what it leaves live.
fn replay<'a>(trace: &Trace, streams: &'a [StreamAllocator], live: &mut [Option<Block<'a>>]) {
    for op in trace.ops() {
        let place = &mut live[op.slot as usize];
        let stream = &streams[usize::from(op.stream)];
        match op.kind {
            OpKind::Alloc => *place = Some(stream.block(op.bytes).expect("room")),
            OpKind::Free => *place = None,
            OpKind::FreeElsewhere => {
                if let Some(block) = place.take() {
                    block.record_use(stream.stream()).expect("a stream of the device");
                }
            }
        }
    }
    live.fill_with(|| None);
}

fn replays(criterion: &mut Criterion) {
    let device = common::device(common::SIMULATED);
    let mut group = criterion.benchmark_group(common::group("allocator/replay", &device));
    group.sample_size(20);
    for (trace, conf) in
        traces().iter().flat_map(|trace| confs().into_iter().map(move |c| (trace, c)))
    {
        if !common::has_room(&device, trace.peak_live_bytes(), trace.name()) {
            continue;
        }
        let Some(allocator) = inputs::allocator(&device, &conf) else { continue };
        let handle = |_| {
            let stream = Stream::new(&device, Priority::Normal).expect("a stream");
            allocator.on(&stream).expect("a handle")
        };
        let streams: Vec<StreamAllocator> = (0..trace.streams()).map(handle).collect();
        let mut live: Vec<Option<Block<'_>>> = (0..trace.slots()).map(|_| None).collect();
        replay(trace, &streams, &mut live);
        group.throughput(Throughput::Elements(trace.ops().len() as u64));
        group.bench_function(BenchmarkId::new(conf, trace.name()), |bencher| {
            bencher.iter(|| replay(trace, &streams, &mut live));
        });
    }
    group.finish();
}

criterion_group!(benches, replays);
criterion_main!(benches);
