use crate::base::MIB;
use crate::device::{Call, Device, Priority, Stream};
use crate::pool::{Allocator, Buffer};

/// A small generator: the figures do not matter, that they repeat does.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

#[test]
fn views_beyond_the_bound_are_unmapped_when_their_stream_is_done() {
    const MOST: usize = 40;
    let device = Device::open("host:vram=64MiB").unwrap();
    let stream = Stream::new(&device, Priority::Normal).unwrap();
    let conf = "expandable_segments:True,limit_mb:48";
    let allocator = Allocator::builder(&device).conf_str(conf).unwrap().build().unwrap();
    allocator.inner().shared.expandable.as_ref().unwrap().book().unwrap().most_views = MOST;
    let (mut seed, mut most) = (1, 0);
    let mut live: Vec<Buffer> = Vec::new();
    for step in 0..3000u64 {
        let bytes = (1 + next(&mut seed) % (9 * MIB)) as usize;
        match allocator.alloc::<u8>(bytes, &stream) {
            Ok(buffer) => {
                buffer.fill(step as u8, &stream).unwrap();
                live.push(buffer);
            }
            Err(error) => assert!(error.is_retryable() && !live.is_empty(), "{error}"),
        }
        if live.len() > 7 || next(&mut seed).is_multiple_of(3) {
            // Still filling when it is freed: the memory has to stay mapped meanwhile.
            let buffer = live.swap_remove(next(&mut seed) as usize % live.len());
            buffer.fill(1, &stream).unwrap();
        }
        if step % 32 == 0 {
            stream.synchronize().unwrap();
        }
        most = most.max(allocator.stats().mappings);
        allocator.check().unwrap();
    }
    assert!(device.calls().get(Call::Unmap) > 20, "at most {most} views: the test shows nothing");
    // Address space nothing is mapped in any more serves later chains.
    let (unmapped, reserved) = (device.calls().get(Call::Unmap), device.calls().get(Call::Reserve));
    assert!(reserved <= MOST as u64 && reserved * 8 < unmapped, "{reserved} of {unmapped}");
    // One request may pass the bound, by at most its own pages; the next miss sees to it.
    assert!(most <= MOST as u64 + 24, "{most} views");
    live.clear();
    allocator.close().unwrap();
}
