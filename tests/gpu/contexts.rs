//! The device's context is the one everybody else in the process uses, and a thread's current
//! one is left as it was.

use crate::fake::{FakeDriver, fake_cuda, fake_hip};
use crate::support::{Memory, stream};
use crate::{call, open};

fn current(fake: &FakeDriver) -> u64 {
    let mut context = 0;
    call!(fake, cuCtxGetCurrent(&raw mut context => *mut u64));
    context
}

#[test]
fn a_threads_context_is_left_as_it_was() {
    let fake = fake_cuda("devices=2");
    let device = open(&fake);
    assert_eq!(current(&fake), 0, "opening leaves none");
    let mut other = 0;
    call!(fake, cuDevicePrimaryCtxRetain(&raw mut other => *mut u64, 1 => i32));
    for mine in [0, other] {
        call!(fake, cuCtxSetCurrent(mine => u64));
        let stream = stream(&device);
        let memory = Memory::new(&device, 4096);
        stream.synchronize().unwrap();
        drop((memory, stream));
        device.memory().unwrap();
        device.driver().alloc(1 << 60).unwrap_err();
        assert_eq!(current(&fake), mine);
    }
    call!(fake, cuCtxSetCurrent(0 => u64));
    call!(fake, cuDevicePrimaryCtxRelease_v2(1 => i32));
    drop(device);
    fake.assert_clean();
}

#[test]
fn the_primary_context_is_shared_and_outlives_us() {
    let fake = fake_cuda("");
    let mut theirs = 0;
    let device = open(&fake);
    call!(fake, cuDevicePrimaryCtxRetain(&raw mut theirs => *mut u64, 0 => i32));
    call!(fake, cuCtxSetCurrent(theirs => u64));
    // Memory of theirs is memory of ours.
    let mut at = 0_u64;
    call!(fake, cuMemAlloc_v2(&raw mut at => *mut u64, 4096 => usize));
    let ours = stream(&device);
    let memory = riverbed::device::DevicePtr(at);
    crate::support::upload(&ours, memory, &[3; 4096]);
    assert_eq!(crate::support::download(&ours, memory, 4096), [3; 4096]);
    drop((ours, device));
    let (mut flags, mut active) = (0, 0);
    call!(fake, cuDevicePrimaryCtxGetState(0 => i32, &raw mut flags => *mut u32, &raw mut active => *mut i32));
    assert_eq!(active, 1, "they still hold it");
    call!(fake, cuMemFree_v2(at => u64));
    call!(fake, cuCtxSetCurrent(0 => u64));
    call!(fake, cuDevicePrimaryCtxRelease_v2(0 => i32));
    fake.assert_clean();
}

#[test]
fn the_current_device_of_hip_is_left_as_it_was() {
    let fake = fake_hip("devices=2");
    let device = open(&fake);
    call!(fake, hipSetDevice(1 => i32));
    let stream = stream(&device);
    let memory = Memory::new(&device, 4096);
    stream.synchronize().unwrap();
    drop((memory, stream));
    let mut current = 7;
    call!(fake, hipGetDevice(&raw mut current => *mut i32));
    assert_eq!(current, 1);
    drop(device);
    fake.assert_clean();
}

#[test]
fn every_thread_may_use_a_device_and_free_what_another_took() {
    let fake = fake_cuda("");
    let device = open(&fake);
    let allocator = riverbed::pool::Allocator::builder(&device).build().unwrap();
    let buffers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let stream = stream(&device);
                    let buffers: Vec<_> = (1..20)
                        .map(|pages| allocator.alloc::<u8>(pages * 4096, &stream).unwrap())
                        .collect();
                    (buffers, stream)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    std::thread::spawn(move || drop(buffers)).join().unwrap();
    allocator.check().unwrap();
    allocator.close().unwrap();
    drop(device);
    crate::support::wait_until("all is given back", || fake.report().leaks.is_empty());
    fake.assert_clean();
}
