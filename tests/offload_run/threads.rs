//! Passes on one thread, activations and promises on others.

use std::sync::atomic::{AtomicBool, Ordering};

use super::job::{compare, load, model, peak};
use super::streaming::{MIB, Random, ends, host, stream};

#[test]
fn who_works_and_who_allocates_do_not_wait_for_each_other_for_ever() {
    ends(|| {
        let content = model();
        let (device, _) = host(64);
        let limit = 26 * MIB;
        let offloaded = load(&device, &content, limit, 0);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (offloaded, done, stream) = (&offloaded, &done, stream(&device));
                scope.spawn(move || {
                    let mut random = Random::new(thread);
                    while !done.load(Ordering::Relaxed) {
                        let bytes = random.below(6 << 20) + 1;
                        if random.below(3) == 0 {
                            drop(offloaded.reserve(bytes as u64));
                        } else if let Ok(buffer) = offloaded.allocator().alloc::<u8>(bytes, &stream)
                        {
                            buffer.fill(1, &stream).unwrap();
                        }
                    }
                });
            }
            let stream = stream(&device);
            for _ in 0..6 {
                for unit in 0..offloaded.units().len() {
                    let lease = offloaded.acquire(unit, &stream).unwrap();
                    compare(&lease, &content.bytes);
                }
                offloaded.finish_pass(&stream).unwrap().into_result().unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        offloaded.check().unwrap();
        assert!(peak(&offloaded) <= limit);
    });
}
