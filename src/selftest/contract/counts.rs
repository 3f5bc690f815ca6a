//! Counting: each call of the contract, once.

use crate::device::{Call, PoolAttribute, Stream};
use crate::selftest::check::checks;
use crate::selftest::finding::ensure;
use crate::selftest::lab::{End, Found, Lab, Rows};

checks! { "counts":
    every_call_counts_once [VirtualMemory, Pools, ProcessPool],
    calls_that_fail_count_too [],
}

/// Makes every call of the contract once.
fn each_call_once(lab: &Lab) -> Found {
    let memory = lab.alloc(64)?;
    let space = lab.reserve(1)?;
    let page = lab.create_page(1)?;
    lab.map(space, &[page])?;
    let (pinned, own) = (lab.pinned(64)?, lab.registered(64)?);
    let stream = lab.stream()?;
    lab.h2d(&stream, memory, pinned, 64)?;
    lab.d2h(&stream, own, memory, 64)?;
    lab.d2d(&stream, memory, space, 64)?;
    let to = Rows { at: End::Device(memory), pitch: 8 };
    lab.copy_rows(&stream, to, Rows { at: End::Host(pinned), ..to }, (8, 8))?;
    lab.batch(&stream, &[(memory, pinned, 64)])?;
    lab.copy_from_itself(&stream, memory, space, 64)?;
    stream.busy(1)?;
    ensure!(!stream.is_capturing()?, "a stream that nobody captures");
    stream.launch_host(Box::new(|| ()))?;
    each_order_call_once(lab, &stream)?;
    let pool = lab.pool(0)?;
    let pooled = lab.pool_alloc(pool, 64, &stream)?;
    lab.pool_free(pooled, &stream)?;
    lab.pool_trim(pool, 0)?;
    lab.pool_get(pool, PoolAttribute::UsedHigh)?;
    lab.pool_set(pool, PoolAttribute::UsedHigh, 0)?;
    lab.default_pool()?;
    let current = lab.current_pool()?;
    lab.set_current_pool(current)?;
    lab.sync(&stream)?;
    lab.destroy_pool(pool)?;
    lab.drop_idle(stream);
    lab.unregister(own)?;
    lab.free_pinned(pinned)?;
    lab.unmap(space, 1)?;
    lab.destroy_page(page)?;
    lab.release(space)?;
    lab.free(memory)
}

/// Those of events and gates.
fn each_order_call_once(lab: &Lab, stream: &Stream) -> Found {
    let event = lab.timed_event()?;
    event.record(stream)?;
    lab.reach(&event)?;
    event.query()?;
    stream.wait(&event)?;
    event.elapsed_ns_since(&event)?;
    let gate = lab.gate()?;
    gate.open(1)?;
    gate.hold(stream, 1)?;
    gate.give_up()
}

fn every_call_counts_once(lab: &Lab) -> Found {
    let calls = lab.device().calls();
    let counts = || Call::ALL.iter().map(|&call| calls.get(call)).collect::<Vec<u64>>();
    let before = counts();
    each_call_once(lab)?;
    for ((call, before), after) in Call::ALL.iter().zip(before).zip(counts()) {
        ensure!(after == before + 1, "one {call} counted as {}", after.wrapping_sub(before));
    }
    let all = calls.sum(Call::ALL);
    lab.device().memory()?;
    ensure!(calls.sum(Call::ALL) == all, "asking for figures is no call");
    Ok(())
}

fn calls_that_fail_count_too(lab: &Lab) -> Found {
    let calls = lab.device().calls();
    let before = calls.get(Call::Alloc);
    ensure!(lab.alloc(0).is_err(), "nothing was allocated");
    let counted = calls.get(Call::Alloc) - before;
    ensure!(counted == 1, "one alloc that failed counted as {counted}");
    Ok(())
}
