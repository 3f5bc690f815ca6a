//! Events: marks in streams, and what waits for them.

use riverbed::Error;
use riverbed::base::DeviceError;
use riverbed::device::{Device, Event, Gate, Kernel};

use crate::support::{Log, Memory, Pinned, give_others_a_chance, status, stream};

pub(crate) fn an_event_never_recorded_holds_nobody_up(device: &Device) {
    let event = Event::new(device).unwrap();
    let stream = stream(device);
    assert!(event.query().unwrap());
    event.synchronize().unwrap();
    stream.wait(&event).unwrap();
    stream.synchronize().unwrap();
}

pub(crate) fn an_event_is_reached_when_its_stream_gets_there(device: &Device) {
    let stream = stream(device);
    let gate = Gate::new(device).unwrap();
    let (before, behind) = (Event::new(device).unwrap(), Event::new(device).unwrap());
    before.record(&stream).unwrap();
    stream.wait_gate(&gate, 1).unwrap();
    behind.record(&stream).unwrap();
    before.synchronize().unwrap();
    assert!(before.query().unwrap());
    assert!(!behind.query().unwrap(), "the gate is closed");
    gate.open(1).unwrap();
    behind.synchronize().unwrap();
    assert!(behind.query().unwrap());
}

pub(crate) fn a_wait_orders_two_streams(device: &Device) {
    let (writer, reader) = (stream(device), stream(device));
    let gate = Gate::new(device).unwrap();
    let written = Event::new(device).unwrap();
    let memory = Memory::new(device, 4096);
    let seen = Pinned::new(device, 4096);
    writer.wait_gate(&gate, 1).unwrap();
    let fill = Kernel::Fill { dst: memory.ptr, bytes: 4096, value: 0x5a };
    // SAFETY: both ends live past `synchronize` below, and the event orders the two streams.
    unsafe {
        device.driver().launch(writer.id(), &fill).unwrap();
        written.record(&writer).unwrap();
        reader.wait(&written).unwrap();
        device.driver().copy_d2h(reader.id(), seen.address(), memory.ptr, 4096).unwrap();
    }
    let read = Event::new(device).unwrap();
    read.record(&reader).unwrap();
    give_others_a_chance(device);
    assert!(!read.query().unwrap(), "the reader waits for the writer");
    gate.open(1).unwrap();
    reader.synchronize().unwrap();
    assert!(seen.iter().all(|&byte| byte == 0x5a));
}

pub(crate) fn one_event_orders_many_streams(device: &Device) {
    let first = stream(device);
    let others: Vec<_> = (0..4).map(|_| stream(device)).collect();
    let gate = Gate::new(device).unwrap();
    let event = Event::new(device).unwrap();
    let log = Log::default();
    first.wait_gate(&gate, 1).unwrap();
    log.push_on(&first, "first");
    event.record(&first).unwrap();
    for other in &others {
        other.wait(&event).unwrap();
        log.push_on(other, "other");
    }
    gate.open(1).unwrap();
    others.iter().for_each(|other| other.synchronize().unwrap());
    assert_eq!(log.words(), ["first", "other", "other", "other", "other"]);
}

pub(crate) fn recording_again_moves_the_mark(device: &Device) {
    let (blocked, free, waiting) = (stream(device), stream(device), stream(device));
    let gate = Gate::new(device).unwrap();
    let event = Event::new(device).unwrap();
    blocked.wait_gate(&gate, 1).unwrap();
    event.record(&blocked).unwrap();
    assert!(!event.query().unwrap(), "the gate is closed");
    event.record(&free).unwrap();
    event.synchronize().unwrap();
    assert!(event.query().unwrap(), "the latest mark counts");
    waiting.wait(&event).unwrap();
    waiting.synchronize().unwrap(); // would stand still if the old mark counted

    free.wait_gate(&gate, 1).unwrap();
    event.record(&free).unwrap();
    assert!(!event.query().unwrap(), "a reached event is open again once recorded");
    gate.open(1).unwrap();
    event.synchronize().unwrap();
}

pub(crate) fn an_earlier_wait_keeps_its_own_mark(device: &Device) {
    let (slow, fast, waiting) = (stream(device), stream(device), stream(device));
    let gate = Gate::new(device).unwrap();
    let event = Event::new(device).unwrap();
    let log = Log::default();
    slow.wait_gate(&gate, 1).unwrap();
    log.push_on(&slow, "slow");
    event.record(&slow).unwrap();
    waiting.wait(&event).unwrap();
    log.push_on(&waiting, "waiting");
    // The event goes on to mark another stream, which gets there first.
    event.record(&fast).unwrap();
    event.synchronize().unwrap();
    give_others_a_chance(device);
    assert!(log.words().is_empty(), "the wait is for the mark it was enqueued with");
    gate.open(1).unwrap();
    waiting.synchronize().unwrap();
    assert_eq!(log.words(), ["slow", "waiting"]);
}

pub(crate) fn a_wait_stays_good_when_its_event_is_given_up(device: &Device) {
    let (slow, waiting) = (stream(device), stream(device));
    let gate = Gate::new(device).unwrap();
    let log = Log::default();
    let event = Event::new(device).unwrap();
    slow.wait_gate(&gate, 1).unwrap();
    log.push_on(&slow, "slow");
    event.record(&slow).unwrap();
    waiting.wait(&event).unwrap();
    drop(event);
    // The next event may get the old one's handle, and must not be taken for it.
    let next = Event::new(device).unwrap();
    next.record(&waiting).unwrap();
    log.push_on(&waiting, "waiting");
    give_others_a_chance(device);
    assert!(log.words().is_empty() && !next.query().unwrap());
    gate.open(1).unwrap();
    waiting.synchronize().unwrap();
    assert_eq!(log.words(), ["slow", "waiting"]);
}

pub(crate) fn synchronize_blocks_until_the_mark(device: &Device) {
    let stream = stream(device);
    let gate = Gate::new(device).unwrap();
    let event = Event::new(device).unwrap();
    let log = Log::default();
    stream.wait_gate(&gate, 1).unwrap();
    event.record(&stream).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            event.synchronize().unwrap();
            log.push("through");
        });
        scope.spawn(|| {
            stream.synchronize().unwrap();
            log.push("through");
        });
        give_others_a_chance(device);
        log.push("open");
        gate.open(1).unwrap();
    });
    assert_eq!(log.words(), ["open", "through", "through"]);
}

pub(crate) fn elapsed_time_covers_the_work_between(device: &Device) {
    const BUSY_NS: u64 = 3_000_000;
    let stream = stream(device);
    let (start, end) = (Event::with_timing(device).unwrap(), Event::with_timing(device).unwrap());
    start.record(&stream).unwrap();
    stream.busy(BUSY_NS).unwrap();
    end.record(&stream).unwrap();
    end.synchronize().unwrap();
    let elapsed_ns = end.elapsed_ns_since(&start).unwrap();
    assert!(elapsed_ns >= BUSY_NS, "{elapsed_ns} ns of device time");
    assert_eq!(start.elapsed_ns_since(&end).unwrap(), 0, "backwards is 0");
    assert_eq!(start.elapsed_ns_since(&start).unwrap(), 0);
}

pub(crate) fn elapsed_time_needs_two_reached_marks_with_timing(device: &Device) {
    let stream = stream(device);
    let gate = Gate::new(device).unwrap();
    let (timed, plain) = (Event::with_timing(device).unwrap(), Event::new(device).unwrap());
    let never = Event::with_timing(device).unwrap();
    timed.record(&stream).unwrap();
    plain.record(&stream).unwrap();
    stream.synchronize().unwrap();
    for (end, start) in [(&plain, &timed), (&timed, &plain)] {
        let error = end.elapsed_ns_since(start).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        assert!(error.to_string().contains("with_timing"), "{error}");
    }
    assert!(timed.elapsed_ns_since(&never).is_err(), "a mark never made has no time");
    let behind = Event::with_timing(device).unwrap();
    stream.wait_gate(&gate, 1).unwrap();
    behind.record(&stream).unwrap();
    assert!(behind.elapsed_ns_since(&timed).is_err(), "a mark not reached has no time");
    gate.open(1).unwrap();
    behind.synchronize().unwrap();
    behind.elapsed_ns_since(&timed).unwrap();

    let driver = device.driver();
    let (one, two) = (driver.create_event(false).unwrap(), driver.create_event(false).unwrap());
    driver.record_event(one, stream.id()).unwrap();
    driver.record_event(two, stream.id()).unwrap();
    stream.synchronize().unwrap();
    let failed = driver.elapsed_ns(one, two);
    assert_ne!(status(failed), DeviceError::UNKNOWN, "no timing is the caller's mistake");
    // SAFETY: neither is used again.
    unsafe {
        driver.destroy_event(one).unwrap();
        driver.destroy_event(two).unwrap();
    }
}
