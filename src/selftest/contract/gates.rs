//! Gates: numbers the host raises and streams wait for.

use crate::selftest::check::checks;
use crate::selftest::finding::ensure;
use crate::selftest::lab::{Found, Lab, Log};

checks! { "gates":
    a_gate_lets_through_at_its_value_and_above [],
    a_gate_never_falls [],
    a_gate_begins_at_zero [],
    a_gate_given_up_lets_everybody_through [],
    writes_before_opening_are_seen_behind_the_gate [Bytes],
    streams_wait_at_values_of_their_own [],
}

fn a_gate_lets_through_at_its_value_and_above(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let gate = lab.gate()?;
    let log = Log::default();
    for (value, word) in [(3, "three"), (5, "five"), (6, "six")] {
        gate.hold(&stream, value)?;
        log.push_on(&stream, word)?;
    }
    gate.open(2)?;
    lab.give_others_a_chance()?;
    ensure!(log.words().is_empty(), "a gate at 2 let through who waits for 3");
    gate.open(3)?;
    let ended = lab.event()?;
    ended.record(&stream)?;
    lab.give_others_a_chance()?;
    ensure!(!ended.query()?, "a gate at 3 let through who waits for 5");
    gate.open(9)?;
    lab.sync(&stream)?;
    ensure!(log.words() == ["three", "five", "six"], "{:?} ran", log.words());
    Ok(())
}

fn a_gate_never_falls(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let gate = lab.gate()?;
    gate.open(5)?;
    gate.open(2)?;
    gate.open(0)?;
    gate.hold(&stream, 5)?;
    lab.sync(&stream) // would stand still if the gate had fallen
}

fn a_gate_begins_at_zero(lab: &Lab) -> Found {
    let stream = lab.stream()?;
    let gate = lab.gate()?;
    gate.hold(&stream, 0)?;
    lab.sync(&stream)?;
    gate.hold(&stream, 1)?;
    let behind = lab.event()?;
    behind.record(&stream)?;
    lab.give_others_a_chance()?;
    ensure!(!behind.query()?, "a new gate let through who waits for 1");
    Ok(())
}

fn a_gate_given_up_lets_everybody_through(lab: &Lab) -> Found {
    let streams = [lab.stream()?, lab.stream()?, lab.stream()?];
    let gate = lab.gate()?;
    for (value, stream) in (1..).zip(&streams) {
        gate.hold(stream, value << 40)?;
    }
    gate.give_up()?;
    for stream in &streams {
        lab.sync(stream)?;
    }
    Ok(())
}

fn writes_before_opening_are_seen_behind_the_gate(lab: &Lab) -> Found {
    const ROUNDS: u64 = 60;
    let stream = lab.stream()?;
    let gate = lab.gate()?;
    let memory = lab.alloc(64 * ROUNDS)?;
    let source = lab.pinned(64 * ROUNDS as usize)?;
    for round in 0..ROUNDS {
        gate.hold(&stream, round + 1)?;
        lab.h2d(&stream, memory.offset(64 * round), source.offset(64 * round as usize), 64)?;
    }
    for round in 0..ROUNDS {
        lab.write(source.offset(64 * round as usize), &[round as u8 + 1; 64])?;
        gate.open(round + 1)?;
    }
    lab.sync(&stream)?;
    let found = lab.download(&stream, memory, 64 * ROUNDS as usize)?;
    for (round, bytes) in found.chunks(64).enumerate() {
        let right = bytes.iter().all(|&byte| byte == round as u8 + 1);
        ensure!(right, "what was written before opening {round} arrived as {bytes:?}");
    }
    Ok(())
}

fn streams_wait_at_values_of_their_own(lab: &Lab) -> Found {
    let (early, late) = (lab.stream()?, lab.stream()?);
    let gate = lab.gate()?;
    let log = Log::default();
    gate.hold(&early, 1)?;
    log.push_on(&early, "early")?;
    gate.hold(&late, 2)?;
    log.push_on(&late, "late")?;
    gate.open(1)?;
    lab.sync(&early)?;
    ensure!(log.words() == ["early"], "{:?} ran at 1", log.words());
    gate.open(2)?;
    lab.sync(&late)?;
    ensure!(log.words() == ["early", "late"], "{:?} ran at 2", log.words());
    Ok(())
}
