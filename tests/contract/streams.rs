//! Streams: order within one, none between two.

use std::sync::mpsc;
use std::time::Duration;

use riverbed::device::{Device, Event, Gate, Kernel};

use crate::support::{Log, Memory, Pinned, pattern, stream};

pub(crate) fn work_on_one_stream_runs_in_order(device: &Device) {
    let stream = stream(device);
    let memory = Memory::new(device, 4096);
    let seen = Pinned::new(device, 256);
    for value in 0..=255u8 {
        let fill = Kernel::Fill { dst: memory.ptr, bytes: 4096, value };
        // SAFETY: both ends live past `synchronize` below, and only this stream touches them.
        unsafe {
            device.driver().launch(stream.id(), &fill).unwrap();
            let to = seen.address().add(usize::from(value));
            let from = memory.ptr.offset(u64::from(value) * 16);
            device.driver().copy_d2h(stream.id(), to, from, 1).unwrap();
        }
    }
    stream.synchronize().unwrap();
    assert_eq!(*seen, *(0..=255).collect::<Vec<u8>>(), "each copy sees the fill before it");
}

pub(crate) fn a_blocked_stream_holds_up_no_other(device: &Device) {
    let (blocked, free) = (stream(device), stream(device));
    let gate = Gate::new(device).unwrap();
    let log = Log::default();
    blocked.wait_gate(&gate, 1).unwrap();
    log.push_on(&blocked, "blocked");
    let behind = Event::new(device).unwrap();
    behind.record(&blocked).unwrap();
    log.push_on(&free, "free");
    free.synchronize().unwrap();
    assert_eq!(log.words(), ["free"]);
    assert!(!behind.query().unwrap(), "work behind a closed gate does not run");
    gate.open(1).unwrap();
    blocked.synchronize().unwrap();
    assert_eq!(log.words(), ["free", "blocked"]);
}

pub(crate) fn enqueueing_never_waits(device: &Device) {
    let (blocked, other) = (stream(device), stream(device));
    let gate = Gate::new(device).unwrap();
    let event = Event::new(device).unwrap();
    let memory = Memory::new(device, 4096);
    let pinned = Pinned::with(device, &pattern(4096, 1));
    blocked.wait_gate(&gate, 1).unwrap();
    // All of this returns although nothing of it can run.
    for _ in 0..200 {
        let fill = Kernel::Fill { dst: memory.ptr, bytes: 4096, value: 1 };
        // SAFETY: memory and pinned live past `synchronize` below; one stream touches them.
        unsafe {
            device.driver().launch(blocked.id(), &fill).unwrap();
            device.driver().copy_h2d(blocked.id(), memory.ptr, pinned.address(), 4096).unwrap();
            device.driver().copy_d2h(blocked.id(), pinned.address(), memory.ptr, 4096).unwrap();
            device.driver().copy_d2d(blocked.id(), memory.ptr, memory.ptr.offset(2048), 2048)
        }
        .unwrap();
        event.record(&blocked).unwrap();
        other.wait(&event).unwrap();
        blocked.launch_host(Box::new(|| ())).unwrap();
        blocked.busy(1).unwrap();
    }
    assert!(!event.query().unwrap(), "the gate is still closed");
    gate.open(1).unwrap();
    other.synchronize().unwrap();
    blocked.synchronize().unwrap();
}

pub(crate) fn host_functions_see_what_came_before_them(device: &Device) {
    let stream = stream(device);
    let memory = Memory::new(device, 64);
    let pinned = Pinned::new(device, 64);
    let (sender, seen) = mpsc::channel();
    for value in 1..=20u8 {
        let fill = Kernel::Fill { dst: memory.ptr, bytes: 64, value };
        // SAFETY: both ends live past `synchronize` below, and only this stream touches them.
        unsafe {
            device.driver().launch(stream.id(), &fill).unwrap();
            device.driver().copy_d2h(stream.id(), pinned.address(), memory.ptr, 64).unwrap();
        }
        let (sender, at) = (sender.clone(), pinned.address() as usize);
        let look = move || {
            // SAFETY: the copy into this memory ran just before, on this stream.
            sender.send(unsafe { *(at as *const u8).add(63) }).unwrap();
        };
        stream.launch_host(Box::new(look)).unwrap();
    }
    stream.synchronize().unwrap();
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), (1..=20).collect::<Vec<u8>>());
}

pub(crate) fn a_panic_in_a_host_function_does_not_end_the_stream(device: &Device) {
    let stream = stream(device);
    let log = Log::default();
    log.push_on(&stream, "before");
    stream.launch_host(Box::new(|| panic!("meant to happen"))).unwrap();
    log.push_on(&stream, "after");
    stream.synchronize().unwrap();
    assert_eq!(log.words(), ["before", "after"]);
}

pub(crate) fn a_stream_given_up_still_runs_what_it_was_given(device: &Device) {
    let stream = stream(device);
    let gate = Gate::new(device).unwrap();
    let (sender, ran) = mpsc::channel();
    stream.wait_gate(&gate, 1).unwrap();
    stream.launch_host(Box::new(move || sender.send(()).unwrap())).unwrap();
    drop(stream); // does not wait: the gate is closed
    assert!(ran.try_recv().is_err(), "the gate is closed");
    gate.open(1).unwrap();
    ran.recv_timeout(Duration::from_secs(60)).expect("what was enqueued runs");
}

pub(crate) fn a_stream_takes_work_from_many_threads(device: &Device) {
    let stream = stream(device);
    let (sender, ran) = mpsc::channel();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (stream, sender) = (&stream, sender.clone());
            scope.spawn(move || {
                for round in 0..100 {
                    let sender = sender.clone();
                    let send = move || sender.send((thread, round)).unwrap();
                    stream.launch_host(Box::new(send)).unwrap();
                }
                stream.synchronize().unwrap();
            });
        }
    });
    let ran: Vec<(i32, i32)> = ran.try_iter().collect();
    assert_eq!(ran.len(), 400, "every thread's synchronize waits for its own work");
    for thread in 0..4 {
        let rounds: Vec<i32> = ran.iter().filter(|r| r.0 == thread).map(|r| r.1).collect();
        assert!(rounds.is_sorted(), "thread {thread}: {rounds:?}");
    }
}

pub(crate) fn clones_name_the_same_stream(device: &Device) {
    let (one, two) = (stream(device), stream(device));
    assert_eq!(one, one.clone());
    assert_ne!(one, two);
    let log = Log::default();
    let clone = one.clone();
    log.push_on(&one, "one");
    drop(one);
    log.push_on(&clone, "clone");
    clone.synchronize().unwrap();
    assert_eq!(log.words(), ["one", "clone"]);
}
