//! The limit at every moment, under activations and promises that come and go at random.

use proptest::prelude::*;
use riverbed::Error;
use riverbed::offload::WorkingMemory;
use riverbed::pool::Buffer;

use super::job::{compare, load, model, pass, peak};
use super::streaming::{Content, MIB, host, stream};

#[derive(Debug, Clone)]
enum Step {
    Allocate(usize),
    Free(usize),
    Promise(u64),
    Release(usize),
    Lease(usize),
    Pass,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..(12usize << 20)).prop_map(Step::Allocate),
        3 => any::<usize>().prop_map(Step::Free),
        2 => (0..(16 * MIB)).prop_map(Step::Promise),
        2 => any::<usize>().prop_map(Step::Release),
        3 => (0..9usize).prop_map(Step::Lease),
        1 => Just(Step::Pass),
    ]
}

fn clean(error: &Error) -> bool {
    matches!(error, Error::OutOfMemory(_) | Error::TooLarge { .. })
}

fn run(content: &Content, limit: u64, steps: &[Step]) {
    let (device, _) = host(64);
    let offloaded = load(&device, content, limit, 0);
    let stream = stream(&device);
    let mut buffers: Vec<Buffer<u8>> = Vec::new();
    let mut promises: Vec<WorkingMemory> = Vec::new();
    let mut leases = Vec::new();
    for step in steps {
        match *step {
            Step::Allocate(bytes) => match offloaded.allocator().alloc::<u8>(bytes, &stream) {
                Ok(buffer) => {
                    buffer.fill(7, &stream).unwrap();
                    buffers.push(buffer);
                }
                Err(error) => assert!(clean(&error), "{error}"),
            },
            Step::Free(at) if !buffers.is_empty() => {
                drop(buffers.swap_remove(at % buffers.len()));
            }
            Step::Promise(bytes) => match offloaded.reserve(bytes) {
                Ok(promise) => promises.push(promise),
                Err(error) => assert!(clean(&error), "{error}"),
            },
            Step::Release(at) if !promises.is_empty() => {
                drop(promises.swap_remove(at % promises.len()));
            }
            Step::Lease(unit) => {
                leases.truncate(0);
                let lease = offloaded.acquire(unit, &stream).unwrap();
                compare(&lease, &content.bytes);
                leases.push(lease);
            }
            Step::Pass => {
                leases.clear();
                pass(&offloaded, &stream, content);
            }
            Step::Free(_) | Step::Release(_) => {}
        }
        offloaded.check().unwrap();
        assert!(peak(&offloaded) <= limit);
        let used = device.memory().unwrap();
        assert!(used.total_bytes - used.free_bytes <= limit);
    }
    drop((leases, buffers, promises));
    pass(&offloaded, &stream, content);
}

#[test]
fn the_limit_holds_at_every_moment_and_all_bytes_are_right() {
    let content = model();
    let config = ProptestConfig { cases: 4, failure_persistence: None, ..Default::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let inputs = (6..20u64, prop::collection::vec(step(), 1..40));
    let outcome = runner.run(&inputs, |(pages, steps)| {
        run(&content, pages * 2 * MIB, &steps);
        Ok(())
    });
    outcome.unwrap();
}
