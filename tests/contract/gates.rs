//! Gates: numbers the host raises and streams wait for.

use riverbed::device::{Device, Event, Gate};

use crate::support::{Log, Memory, Pinned, download, give_others_a_chance, stream};

pub(crate) fn a_gate_lets_through_at_its_value_and_above(device: &Device) {
    let stream = stream(device);
    let gate = Gate::new(device).unwrap();
    let log = Log::default();
    for (value, word) in [(3, "three"), (5, "five"), (6, "six")] {
        stream.wait_gate(&gate, value).unwrap();
        log.push_on(&stream, word);
    }
    gate.open(2).unwrap();
    give_others_a_chance(device);
    assert!(log.words().is_empty(), "2 is below 3");
    gate.open(3).unwrap();
    let ended = Event::new(device).unwrap();
    ended.record(&stream).unwrap();
    give_others_a_chance(device);
    assert!(!ended.query().unwrap(), "3 is below 5");
    gate.open(9).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(log.words(), ["three", "five", "six"]);
}

pub(crate) fn a_gate_never_falls(device: &Device) {
    let stream = stream(device);
    let gate = Gate::new(device).unwrap();
    gate.open(5).unwrap();
    gate.open(2).unwrap();
    gate.open(0).unwrap();
    stream.wait_gate(&gate, 5).unwrap();
    stream.synchronize().unwrap(); // would stand still if the gate had fallen
}

pub(crate) fn a_gate_begins_at_zero(device: &Device) {
    let stream = stream(device);
    let gate = Gate::new(device).unwrap();
    stream.wait_gate(&gate, 0).unwrap();
    stream.synchronize().unwrap();
    stream.wait_gate(&gate, 1).unwrap();
    let behind = Event::new(device).unwrap();
    behind.record(&stream).unwrap();
    give_others_a_chance(device);
    assert!(!behind.query().unwrap());
}

pub(crate) fn a_gate_given_up_lets_everybody_through(device: &Device) {
    let streams: Vec<_> = (0..3).map(|_| stream(device)).collect();
    let gate = Gate::new(device).unwrap();
    for (value, stream) in (1..).zip(&streams) {
        stream.wait_gate(&gate, value << 40).unwrap();
    }
    drop(gate);
    streams.iter().for_each(|stream| stream.synchronize().unwrap());
}

pub(crate) fn writes_before_opening_are_seen_behind_the_gate(device: &Device) {
    let stream = stream(device);
    let gate = Gate::new(device).unwrap();
    let memory = Memory::new(device, 64 * 100);
    let source = Pinned::new(device, 64 * 100);
    for round in 0..100u64 {
        stream.wait_gate(&gate, round + 1).unwrap();
        let (to, from) = (memory.ptr.offset(64 * round), 64 * round as usize);
        // SAFETY: both ends live past `synchronize` below; the source is written before the
        // gate opens and not after.
        unsafe {
            let from = source.address().add(from);
            device.driver().copy_h2d(stream.id(), to, from, 64).unwrap();
        }
    }
    for round in 0..100u64 {
        // SAFETY: the copy that reads these bytes is behind the gate, which is below its value.
        unsafe { source.address().add(64 * round as usize).write_bytes(round as u8 + 1, 64) };
        gate.open(round + 1).unwrap();
    }
    stream.synchronize().unwrap();
    for (round, bytes) in download(&stream, memory.ptr, 64 * 100).chunks(64).enumerate() {
        assert!(bytes.iter().all(|&byte| byte == round as u8 + 1), "round {round}: {bytes:?}");
    }
}

pub(crate) fn streams_wait_at_values_of_their_own(device: &Device) {
    let (early, late) = (stream(device), stream(device));
    let gate = Gate::new(device).unwrap();
    let log = Log::default();
    early.wait_gate(&gate, 1).unwrap();
    log.push_on(&early, "early");
    late.wait_gate(&gate, 2).unwrap();
    log.push_on(&late, "late");
    gate.open(1).unwrap();
    early.synchronize().unwrap();
    assert_eq!(log.words(), ["early"]);
    gate.open(2).unwrap();
    late.synchronize().unwrap();
    assert_eq!(log.words(), ["early", "late"]);
}
