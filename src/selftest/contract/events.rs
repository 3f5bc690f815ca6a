//! Events: marks in streams, and what waits for them.

use std::sync::mpsc::channel;
use std::time::Duration;

use crate::base::{DeviceError, Error};
use crate::selftest::check::checks;
use crate::selftest::finding::ensure;
use crate::selftest::lab::{Found, Lab, Log};

checks! { "events":
    an_event_never_recorded_holds_nobody_up [],
    an_event_is_reached_when_its_stream_gets_there [],
    a_wait_orders_two_streams [Bytes],
    one_event_orders_many_streams [],
    recording_again_moves_the_mark [],
    an_earlier_wait_keeps_its_own_mark [],
    a_wait_stays_good_when_its_event_is_given_up [],
    synchronize_blocks_until_the_mark [],
    elapsed_time_covers_the_work_between [],
    elapsed_time_needs_two_reached_marks_with_timing [],
}

fn an_event_never_recorded_holds_nobody_up(lab: &Lab) -> Found {
    let event = lab.event()?;
    let stream = lab.stream()?;
    ensure!(event.query()?, "an event never recorded counts as reached");
    lab.reach(&event)?;
    stream.wait(&event)?;
    lab.sync(&stream)
}

fn an_event_is_reached_when_its_stream_gets_there(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let gate = lab.gate()?;
    let (before, behind) = (lab.event()?, lab.event()?);
    before.record(&stream)?;
    gate.hold(&stream, 1)?;
    behind.record(&stream)?;
    lab.reach(&before)?;
    ensure!(before.query()?, "an event was waited for and is not reached");
    ensure!(!behind.query()?, "an event behind a closed gate is reached");
    gate.open(1)?;
    lab.reach(&behind)?;
    ensure!(behind.query()?, "an event was waited for and is not reached");
    Ok(())
}

fn a_wait_orders_two_streams(lab: &Lab) -> Found {
    let (writer, reader) = (lab.stream()?, lab.stream()?);
    let gate = lab.gate()?;
    let written = lab.event()?;
    let memory = lab.alloc(4096)?;
    let seen = lab.pinned(4096)?;
    lab.fill(&writer, memory, 4096, 0)?;
    gate.hold(&writer, 1)?;
    lab.fill(&writer, memory, 4096, 0x5a)?;
    written.record(&writer)?;
    reader.wait(&written)?;
    lab.d2h(&reader, seen, memory, 4096)?;
    let read = lab.event()?;
    read.record(&reader)?;
    lab.give_others_a_chance()?;
    ensure!(!read.query()?, "the reader did not wait for the writer");
    gate.open(1)?;
    lab.sync(&reader)?;
    let seen = lab.read(seen, 4096)?;
    ensure!(seen.iter().all(|&byte| byte == 0x5a), "the reader did not see what was written");
    Ok(())
}

fn one_event_orders_many_streams(lab: &Lab) -> Found {
    let first = lab.stream()?;
    let others = [lab.stream()?, lab.stream()?, lab.stream()?, lab.stream()?];
    let gate = lab.gate()?;
    let event = lab.event()?;
    let log = Log::default();
    gate.hold(&first, 1)?;
    log.push_on(&first, "first")?;
    event.record(&first)?;
    for other in &others {
        other.wait(&event)?;
        log.push_on(other, "other")?;
    }
    gate.open(1)?;
    for other in &others {
        lab.sync(other)?;
    }
    let words = log.words();
    ensure!(words == ["first", "other", "other", "other", "other"], "{words:?} ran");
    Ok(())
}

fn recording_again_moves_the_mark(lab: &Lab) -> Found {
    let (blocked, free, waiting) = (lab.stream()?, lab.stream()?, lab.stream()?);
    let gate = lab.gate()?;
    let event = lab.event()?;
    gate.hold(&blocked, 1)?;
    event.record(&blocked)?;
    ensure!(!event.query()?, "the gate is closed");
    event.record(&free)?;
    lab.reach(&event)?;
    ensure!(event.query()?, "the latest mark counts");
    waiting.wait(&event)?;
    lab.sync(&waiting)?; // would stand still if the old mark counted

    gate.hold(&free, 1)?;
    event.record(&free)?;
    ensure!(!event.query()?, "a reached event is open again once recorded");
    gate.open(1)?;
    lab.reach(&event)
}

fn an_earlier_wait_keeps_its_own_mark(lab: &Lab) -> Found {
    let (slow, fast, waiting) = (lab.stream()?, lab.stream()?, lab.stream()?);
    let gate = lab.gate()?;
    let event = lab.event()?;
    let log = Log::default();
    gate.hold(&slow, 1)?;
    log.push_on(&slow, "slow")?;
    event.record(&slow)?;
    waiting.wait(&event)?;
    log.push_on(&waiting, "waiting")?;
    // The event goes on to mark another stream, which gets there first.
    event.record(&fast)?;
    lab.reach(&event)?;
    lab.give_others_a_chance()?;
    let words = log.words();
    ensure!(words.is_empty(), "{words:?} ran: a wait is for the mark it was enqueued with");
    gate.open(1)?;
    lab.sync(&waiting)?;
    ensure!(log.words() == ["slow", "waiting"], "{:?} ran", log.words());
    Ok(())
}

fn a_wait_stays_good_when_its_event_is_given_up(lab: &Lab) -> Found {
    let (slow, waiting) = (lab.stream()?, lab.stream()?);
    let gate = lab.gate()?;
    let log = Log::default();
    let event = lab.event()?;
    gate.hold(&slow, 1)?;
    log.push_on(&slow, "slow")?;
    event.record(&slow)?;
    waiting.wait(&event)?;
    drop(event);
    // The next event may get the old one's handle, and must not be taken for it.
    let next = lab.event()?;
    next.record(&waiting)?;
    log.push_on(&waiting, "waiting")?;
    lab.give_others_a_chance()?;
    ensure!(log.words().is_empty() && !next.query()?, "a wait ended with its event");
    gate.open(1)?;
    lab.sync(&waiting)?;
    ensure!(log.words() == ["slow", "waiting"], "{:?} ran", log.words());
    Ok(())
}

fn synchronize_blocks_until_the_mark(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let gate = lab.gate()?;
    let event = lab.event()?;
    let log = Log::default();
    gate.hold(&stream, 1)?;
    event.record(&stream)?;
    let (event, stream, log) = (&event, &stream, &log);
    let (sender, asked) = channel();
    let helper = |whole: bool| {
        let sender = sender.clone();
        move || {
            let _ = sender.send(());
            if whole {
                lab.sync(stream)?
            } else {
                lab.reach(event)?
            }
            log.push("through");
            Ok(())
        }
    };
    lab.beside(vec![helper(true), helper(false)], || {
        // Both are about to ask; what returns at once has time to.
        let _ = asked.recv_timeout(lab.patience()).and(asked.recv_timeout(lab.patience()));
        std::thread::sleep(Duration::from_millis(10));
        lab.give_others_a_chance()?;
        log.push("open");
        gate.open(1)
    })?;
    let words = log.words();
    ensure!(words == ["open", "through", "through"], "in this order: {words:?}");
    Ok(())
}

fn elapsed_time_covers_the_work_between(lab: &Lab) -> Found {
    const BUSY_NS: u64 = 3_000_000;
    let stream = lab.stream()?;
    let (start, end) = (lab.timed_event()?, lab.timed_event()?);
    start.record(&stream)?;
    stream.busy(BUSY_NS)?;
    end.record(&stream)?;
    lab.reach(&end)?;
    let elapsed_ns = end.elapsed_ns_since(&start)?;
    // Clocks of events and of kernels may differ a little.
    ensure!(elapsed_ns >= BUSY_NS / 100 * 98, "{BUSY_NS} ns of work took {elapsed_ns} ns");
    ensure!(start.elapsed_ns_since(&end)? == 0, "backwards is 0");
    ensure!(start.elapsed_ns_since(&start)? == 0, "from an event to itself is 0");
    Ok(())
}

fn elapsed_time_needs_two_reached_marks_with_timing(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let gate = lab.gate()?;
    let (timed, plain) = (lab.timed_event()?, lab.event()?);
    let never = lab.timed_event()?;
    timed.record(&stream)?;
    plain.record(&stream)?;
    lab.sync(&stream)?;
    for (end, start) in [(&plain, &timed), (&timed, &plain)] {
        let told = end.elapsed_ns_since(start);
        ensure!(matches!(told, Err(Error::InvalidArgument { .. })), "no timing, but {told:?}");
    }
    ensure!(timed.elapsed_ns_since(&never).is_err(), "a mark never made has no time");
    let behind = lab.timed_event()?;
    gate.hold(&stream, 1)?;
    behind.record(&stream)?;
    ensure!(behind.elapsed_ns_since(&timed).is_err(), "a mark not reached has no time");
    gate.open(1)?;
    lab.reach(&behind)?;
    behind.elapsed_ns_since(&timed)?;
    untimed_events_are_refused(lab, &stream)
}

/// What the driver itself says, without the handles' own check.
fn untimed_events_are_refused(lab: &Lab, stream: &crate::device::Stream) -> Found {
    let told = lab.elapsed_without_timing(stream)?;
    let unknown = told.as_ref().is_err_and(|error| error.status == DeviceError::UNKNOWN);
    ensure!(told.is_err() && !unknown, "events without timing: {told:?}");
    Ok(())
}
