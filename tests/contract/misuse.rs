//! What real drivers may crash on, the devices without a driver report: handles and addresses
//! that are none of their own, or no longer.

use std::ptr::NonNull;

use riverbed::base::DeviceError;
use riverbed::device::{Device, DevicePtr, EventId, GateId, Kernel, PageId, Priority, StreamId};

use crate::support::{Memory, Pinned, status};

const HANDLES: [u64; 6] = [0, 1, 2, 15, 4711, u64::MAX];

pub(crate) fn streams_that_are_none_are_refused(device: &Device) {
    let driver = device.driver();
    let (memory, pinned) = (Memory::new(device, 64), Pinned::new(device, 64));
    let event = driver.create_event(false).unwrap();
    let gate = driver.create_gate().unwrap();
    let before = device.memory().unwrap();
    let gone = driver.create_stream(Priority::Normal).unwrap();
    // SAFETY: only handed to calls that must refuse it from here on.
    unsafe { driver.destroy_stream(gone) }.unwrap();
    for raw in HANDLES.into_iter().chain([gone.raw()]) {
        // SAFETY: these devices look handles up; nothing is enqueued.
        unsafe {
            let stream = StreamId::from_raw(raw);
            let (host, at) = (pinned.address(), memory.ptr);
            let results = [
                driver.synchronize_stream(stream),
                driver.launch_host(stream, Box::new(|| ())),
                driver.launch(stream, &Kernel::Busy { ns: 1 }),
                driver.record_event(event, stream),
                driver.wait_event(stream, event),
                driver.wait_gate(stream, gate, 1),
                driver.copy_h2d(stream, at, host, 64),
                driver.copy_d2h(stream, host, at, 64),
                driver.copy_d2d(stream, at, at.offset(32), 32),
                driver.copy_d2d(stream, at, at, 0),
                driver.destroy_stream(stream),
            ];
            for (index, result) in results.into_iter().enumerate() {
                assert_eq!(status(result), DeviceError::INVALID_HANDLE, "call {index} of {raw}");
            }
        }
    }
    assert!(driver.query_event(event).unwrap(), "a refused recording makes no mark");
    assert_eq!(device.memory().unwrap(), before);
}

pub(crate) fn events_and_gates_that_are_none_are_refused(device: &Device) {
    let driver = device.driver();
    let stream = driver.create_stream(Priority::Normal).unwrap();
    let (gone_event, gone_gate) =
        (driver.create_event(true).unwrap(), driver.create_gate().unwrap());
    // SAFETY: only handed to calls that must refuse them from here on.
    unsafe {
        driver.destroy_event(gone_event).unwrap();
        driver.destroy_gate(gone_gate).unwrap();
    }
    for raw in HANDLES.into_iter().chain([gone_event.raw(), gone_gate.raw()]) {
        // SAFETY: these devices look handles up; nothing is enqueued.
        unsafe {
            let (event, gate) = (EventId::from_raw(raw), GateId::from_raw(raw));
            let results = [
                driver.record_event(event, stream),
                driver.query_event(event).map(drop),
                driver.synchronize_event(event),
                driver.wait_event(stream, event),
                driver.elapsed_ns(event, event).map(drop),
                driver.destroy_event(event),
                driver.open_gate(gate, 1),
                driver.wait_gate(stream, gate, 1),
                driver.destroy_gate(gate),
            ];
            for (index, result) in results.into_iter().enumerate() {
                assert_eq!(status(result), DeviceError::INVALID_HANDLE, "call {index} of {raw}");
            }
        }
    }
    driver.synchronize_stream(stream).expect("nothing refused holds the stream up");
}

pub(crate) fn addresses_that_are_none_are_refused(device: &Device) {
    let driver = device.driver();
    let page_bytes = device.info().granularity_bytes;
    let memory = Memory::new(device, 2 * page_bytes);
    let freed = driver.alloc(1).unwrap();
    // SAFETY: from `alloc`, used by nobody.
    unsafe { driver.free(freed) }.unwrap();
    let space = driver.reserve(2 * page_bytes).unwrap();
    let before = device.memory().unwrap();
    let nowhere = [DevicePtr(0), DevicePtr(u64::MAX), DevicePtr(page_bytes), freed];
    for at in nowhere.into_iter().chain([memory.ptr.offset(1), memory.ptr.offset(page_bytes)]) {
        // SAFETY: these devices look addresses up; each call is refused.
        unsafe {
            assert_eq!(status(driver.free(at)), DeviceError::INVALID_VALUE, "free {at:?}");
            let released = driver.release(at, page_bytes);
            assert_eq!(status(released), DeviceError::INVALID_VALUE, "release {at:?}");
        }
    }
    for at in nowhere {
        // SAFETY: as above.
        let unmapped = unsafe { driver.unmap(at, page_bytes) };
        assert_eq!(status(unmapped), DeviceError::INVALID_VALUE, "unmap {at:?}");
    }
    // SAFETY: as above.
    unsafe {
        for (at, bytes) in [(space, page_bytes), (space.offset(page_bytes), page_bytes)] {
            let released = driver.release(at, bytes);
            assert_eq!(status(released), DeviceError::INVALID_VALUE, "a part of a reservation");
        }
        driver.release(space, 2 * page_bytes).unwrap();
        let again = driver.release(space, 2 * page_bytes);
        assert_eq!(status(again), DeviceError::INVALID_VALUE, "released twice");
    }
    assert_eq!(device.memory().unwrap(), before, "a failed call changes nothing");
}

pub(crate) fn pages_that_are_none_are_refused(device: &Device) {
    let driver = device.driver();
    let page_bytes = device.info().granularity_bytes;
    let space = driver.reserve(page_bytes).unwrap();
    let gone = driver.create_page(page_bytes).unwrap();
    // SAFETY: only handed to calls that must refuse it from here on.
    unsafe { driver.destroy_page(gone) }.unwrap();
    let before = device.memory().unwrap();
    for raw in HANDLES.into_iter().chain([gone.raw()]) {
        // SAFETY: these devices look handles up; each call is refused.
        unsafe {
            let page = PageId::from_raw(raw);
            assert_eq!(status(driver.map(space, page)), DeviceError::INVALID_HANDLE);
            assert_eq!(status(driver.destroy_page(page)), DeviceError::INVALID_HANDLE);
        }
    }
    assert_eq!(device.memory().unwrap(), before);
    // SAFETY: as reserved, with nothing mapped.
    unsafe { driver.release(space, page_bytes) }.unwrap();
}

pub(crate) fn pinned_ranges_that_are_none_are_refused(device: &Device) {
    let driver = device.driver();
    let pinned = Pinned::new(device, 8192);
    let inside = NonNull::new(pinned.address().wrapping_add(4096)).unwrap();
    let mut byte = 0u8;
    let own = NonNull::from(&mut byte);
    // SAFETY: these devices look addresses up; the refused calls change nothing.
    unsafe {
        for at in [inside, own, NonNull::dangling()] {
            assert_eq!(status(driver.free_pinned(at)), DeviceError::INVALID_VALUE);
            assert_eq!(status(driver.unregister(at)), DeviceError::INVALID_VALUE);
        }
        driver.register(own, 1).unwrap();
        assert_eq!(status(driver.free_pinned(own)), DeviceError::INVALID_VALUE);
        driver.unregister(own).unwrap();
    }
    assert!(pinned.iter().all(|&byte| byte == 0), "what is pinned is unharmed");
}

pub(crate) fn a_page_of_an_allocation_cannot_be_taken_from_it(device: &Device) {
    let driver = device.driver();
    let page_bytes = device.info().granularity_bytes;
    let memory = Memory::new(device, page_bytes);
    let page = driver.create_page(page_bytes).unwrap();
    assert_eq!(status(driver.map(memory.ptr, page)), DeviceError::INVALID_VALUE);
    // SAFETY: made above, mapped nowhere.
    unsafe { driver.destroy_page(page) }.unwrap();
}
