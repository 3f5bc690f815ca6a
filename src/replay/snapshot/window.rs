//! A snapshot's events are a window: blocks from before it are freed in it, or outlive it. Both
//! are allocated at the start, in the order of their addresses.
//!
//! A block ends where its free was completed: until then streams it was recorded on still used
//! it, and no allocator could have handed it out again. Where completions were not recorded, it
//! ends where it was given up.

use std::collections::{HashMap, HashSet};

use super::super::trace::{Builder, Trace};
use super::{Action, Block, Event, Snapshot};

pub(super) const NO_TRACES: &str = "no 'device_traces': it is no memory snapshot, or one of a \
    PyTorch before 2.0; torch.cuda.memory._dump_snapshot() writes them";

/// A trace for each device with events, or for `device` alone.
pub(super) fn traces(
    snapshot: &Snapshot,
    name: &str,
    device: Option<usize>,
) -> Result<Vec<Trace>, String> {
    let with_events: Vec<usize> =
        (0..snapshot.devices.len()).filter(|&at| !snapshot.devices[at].is_empty()).collect();
    if with_events.is_empty() {
        return Err("no event was recorded; call torch.cuda.memory._record_memory_history() \
                    before the work and dump the snapshot after it"
            .into());
    }
    if let Some(device) = device.filter(|device| !with_events.contains(device)) {
        return Err(format!("device {device} has no events; devices with events: {with_events:?}"));
    }
    let mut traces = Vec::new();
    for &at in with_events.iter().filter(|&&at| device.is_none_or(|device| device == at)) {
        let name = match with_events.len() {
            1 => name.to_string(),
            _ => format!("{name}:{at}"),
        };
        traces.extend(trace(snapshot, at, &name)?);
    }
    if traces.is_empty() {
        return Err("no event allocates or frees anything".into());
    }
    Ok(traces)
}

fn trace(snapshot: &Snapshot, device: usize, name: &str) -> Result<Option<Trace>, String> {
    let events = &snapshot.devices[device];
    let blocks = snapshot.blocks.iter().filter(|block| block.device == device as u64);
    let completed = events.iter().any(|event| event.action == Action::FreeCompleted);
    let end = if completed { Action::FreeCompleted } else { Action::FreeRequested };
    let before = blocks_before(events, end, blocks, device as u64);
    let mut builder = Builder::default();
    builder.note(before.len() as u64, "block(s) from before the events allocated at the start");
    let mut live = HashMap::new();
    for block in &before {
        let stream = builder.stream(block.stream)?;
        let block_live = builder.alloc(block.bytes, stream)?;
        live.insert(block.address, block_live);
    }
    let mut counts = Counts::default();
    for (at, event) in events.iter().enumerate() {
        match event.action {
            Action::Alloc if event.bytes > 0 => {
                if let Some(old) = live.remove(&event.address) {
                    counts.again += 1;
                    builder.free(old, None)?;
                }
                let stream = builder.stream(event.stream)?;
                live.insert(event.address, builder.alloc(event.bytes, stream)?);
            }
            Action::Alloc => counts.empty += 1,
            action if action == end => match live.remove(&event.address) {
                Some(block) => builder.free(block, None)?,
                None => counts.unknown += 1,
            },
            Action::FreeRequested => {
                let done = events.get(at + 1).is_none_or(|next| {
                    next.action == Action::FreeCompleted && next.address == event.address
                });
                counts.late += u64::from(!done);
            }
            Action::OutOfMemory => counts.out_of_memory += 1,
            Action::FreeCompleted | Action::Other => {}
        }
    }
    counts.note(&mut builder);
    builder.note(snapshot.host_events, "event(s) of pinned host memory skipped");
    Ok(builder.finish(name))
}

/// Blocks alive before the first event.
fn blocks_before<'a>(
    events: &[Event],
    end: Action,
    blocks: impl Iterator<Item = &'a Block>,
    device: u64,
) -> Vec<Block> {
    // What is said of an address first tells whether a block was there before.
    let mut seen = HashSet::new();
    let mut before = Vec::new();
    for event in events {
        match event.action {
            Action::Alloc => {
                seen.insert(event.address);
            }
            action if action == end && event.bytes > 0 && seen.insert(event.address) => {
                let Event { address, bytes, stream, .. } = *event;
                before.push(Block { device, address, bytes, stream });
            }
            _ => {}
        }
    }
    for block in blocks.filter(|block| block.bytes > 0) {
        if seen.insert(block.address) {
            before.push(*block);
        }
    }
    before.sort_by_key(|block| block.address);
    before
}

/// How many events were read in a way of their own.
#[derive(Default)]
struct Counts {
    again: u64,
    empty: u64,
    late: u64,
    unknown: u64,
    out_of_memory: u64,
}

impl Counts {
    fn note(&self, builder: &mut Builder) {
        builder.note(self.again, "block(s) ended by a second allocation of their address");
        builder.note(self.empty, "allocation(s) of 0 bytes left out");
        builder.note(self.late, "block(s) in use by other streams when freed: kept until then");
        builder.note(self.unknown, "free(s) of unknown blocks skipped");
        builder.note(self.out_of_memory, "out-of-memory event(s) in it");
    }
}
