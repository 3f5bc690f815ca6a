//! Streams: order within one, none between two.

use std::sync::mpsc::channel;

use crate::selftest::check::checks;
use crate::selftest::finding::{Finding, ensure};
use crate::selftest::lab::{Found, Lab, Log};

checks! { "streams":
    work_on_one_stream_runs_in_order [Bytes],
    a_blocked_stream_holds_up_no_other [],
    enqueueing_never_waits [],
    host_functions_see_what_came_before_them [Bytes],
    a_panic_in_a_host_function_does_not_end_the_stream [Unwinding],
    a_stream_given_up_still_runs_what_it_was_given [],
    a_stream_takes_work_from_many_threads [],
    clones_name_the_same_stream [],
}

fn work_on_one_stream_runs_in_order(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let memory = lab.alloc(4096)?;
    let seen = lab.pinned(256)?;
    for value in 0..=255u8 {
        lab.fill(&stream, memory, 4096, value)?;
        let from = memory.offset(u64::from(value) * 16);
        lab.d2h(&stream, seen.offset(usize::from(value)), from, 1)?;
    }
    lab.sync(&stream)?;
    let seen = lab.read(seen, 256)?;
    ensure!(seen == (0..=255).collect::<Vec<u8>>(), "a copy did not see the fill before it");
    Ok(())
}

fn a_blocked_stream_holds_up_no_other(lab: &Lab) -> Found {
    let (blocked, free) = (lab.stream()?, lab.stream()?);
    let gate = lab.gate()?;
    let log = Log::default();
    gate.hold(&blocked, 1)?;
    log.push_on(&blocked, "blocked")?;
    let behind = lab.event()?;
    behind.record(&blocked)?;
    log.push_on(&free, "free")?;
    lab.sync(&free)?;
    ensure!(log.words() == ["free"], "{:?} ran while a gate was closed", log.words());
    ensure!(!behind.query()?, "an event behind a closed gate was reached");
    gate.open(1)?;
    lab.sync(&blocked)?;
    ensure!(log.words() == ["free", "blocked"], "{:?} ran", log.words());
    Ok(())
}

fn enqueueing_never_waits(lab: &Lab) -> Found {
    /// Drivers have room for about a thousand operations that cannot run yet.
    const ROUNDS: usize = 40;
    let (blocked, other) = (lab.stream()?, lab.stream()?);
    let gate = lab.gate()?;
    let event = lab.event()?;
    let memory = lab.alloc(4096)?;
    let pinned = lab.pinned(4096)?;
    gate.hold(&blocked, 1)?;
    // All of this returns although nothing of it can run.
    for _ in 0..ROUNDS {
        lab.fill(&blocked, memory, 4096, 1)?;
        lab.h2d(&blocked, memory, pinned, 4096)?;
        lab.d2h(&blocked, pinned, memory, 4096)?;
        lab.d2d(&blocked, memory, memory.offset(2048), 2048)?;
        event.record(&blocked)?;
        other.wait(&event)?;
        blocked.launch_host(Box::new(|| ()))?;
        blocked.busy(1)?;
    }
    ensure!(!event.query()?, "the gate is still closed");
    gate.open(1)?;
    lab.sync(&other)?;
    lab.sync(&blocked)
}

fn host_functions_see_what_came_before_them(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let memory = lab.alloc(64)?;
    let pinned = lab.pinned(64)?;
    let (sender, seen) = channel();
    for value in 1..=20u8 {
        lab.fill(&stream, memory, 64, value)?;
        lab.d2h(&stream, pinned, memory, 64)?;
        let (sender, peek) = (sender.clone(), lab.peek(pinned.offset(63))?);
        stream.launch_host(Box::new(move || sender.send(peek()).unwrap_or(())))?;
    }
    lab.sync(&stream)?;
    let seen: Vec<u8> = seen.try_iter().collect();
    ensure!(seen == (1..=20).collect::<Vec<u8>>(), "host functions saw {seen:?}, not 1 to 20");
    Ok(())
}

fn a_panic_in_a_host_function_does_not_end_the_stream(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let log = Log::default();
    log.push_on(&stream, "before")?;
    // Without the message a panic prints: it is meant.
    stream.launch_host(Box::new(|| std::panic::resume_unwind(Box::new("meant"))))?;
    log.push_on(&stream, "after")?;
    lab.sync(&stream)?;
    ensure!(log.words() == ["before", "after"], "only {:?} ran", log.words());
    Ok(())
}

fn a_stream_given_up_still_runs_what_it_was_given(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let gate = lab.gate()?;
    let (sender, ran) = channel();
    gate.hold(&stream, 1)?;
    stream.launch_host(Box::new(move || sender.send(()).unwrap_or(())))?;
    lab.give_up(stream)?; // does not wait: the gate is closed
    ensure!(ran.try_recv().is_err(), "work behind a closed gate ran");
    gate.open(1)?;
    let ran = ran.recv_timeout(lab.patience());
    ran.map_err(|_| Finding::new("what was enqueued on a stream given up never ran"))
}

fn a_stream_takes_work_from_many_threads(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let (sender, ran) = channel();
    let threads = (0..4).map(|thread: usize| {
        let (stream, sender) = (&stream, sender.clone());
        move || {
            for round in 0..100 {
                let sender = sender.clone();
                let send = move || sender.send((thread, round)).unwrap_or(());
                stream.launch_host(Box::new(send))?;
            }
            lab.sync(stream)
        }
    });
    lab.beside(threads.collect(), || Ok(()))?;
    let ran: Vec<(usize, i32)> = ran.try_iter().collect();
    ensure!(ran.len() == 400, "{} of 400 ran before their threads' synchronize", ran.len());
    for thread in 0..4 {
        let rounds: Vec<i32> = ran.iter().filter(|r| r.0 == thread).map(|r| r.1).collect();
        ensure!(rounds.is_sorted(), "work of one thread ran out of order: {rounds:?}");
    }
    Ok(())
}

fn clones_name_the_same_stream(lab: &Lab) -> Found {
    let (one, two) = (lab.stream()?, lab.stream()?);
    let clone = one.clone();
    ensure!(one == clone && one != two, "clones are the same stream, others are not");
    let log = Log::default();
    log.push_on(&one, "one")?;
    drop(one);
    log.push_on(&clone, "clone")?;
    lab.sync(&clone)?;
    ensure!(log.words() == ["one", "clone"], "{:?} ran", log.words());
    Ok(())
}
