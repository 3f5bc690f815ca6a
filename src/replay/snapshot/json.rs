//! The JSON form, which tools write after the pickled one.

use serde::Deserialize;

use super::{Action, Block, Event, Snapshot, is_live};

#[derive(Deserialize)]
struct Root {
    device_traces: Option<Vec<Vec<Entry>>>,
    #[serde(default)]
    segments: Vec<Segment>,
    #[serde(default)]
    host_traces: Vec<Vec<serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct Entry {
    action: String,
    addr: Option<u64>,
    size: Option<u64>,
    #[serde(default)]
    stream: i128,
}

#[derive(Deserialize)]
struct Segment {
    #[serde(default)]
    device: u64,
    #[serde(default)]
    address: u64,
    #[serde(default)]
    stream: i128,
    #[serde(default)]
    blocks: Vec<BlockEntry>,
}

#[derive(Deserialize)]
struct BlockEntry {
    address: Option<u64>,
    #[serde(default)]
    size: u64,
    requested_size: Option<u64>,
    #[serde(default)]
    state: String,
}

pub(super) fn read(bytes: &[u8]) -> Result<Snapshot, String> {
    let root: Root = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let traces = root.device_traces.ok_or(super::window::NO_TRACES)?;
    let mut snapshot = Snapshot::default();
    for (device, entries) in traces.iter().enumerate() {
        let events = entries.iter().enumerate().map(|(at, entry)| {
            event(entry).map_err(|error| format!("device_traces[{device}][{at}]: {error}"))
        });
        snapshot.devices.push(events.collect::<Result<_, _>>()?);
    }
    for segment in &root.segments {
        let mut end = segment.address;
        for block in &segment.blocks {
            let address = block.address.unwrap_or(end);
            end = address.wrapping_add(block.size);
            if is_live(block.state.as_bytes()) {
                snapshot.blocks.push(Block {
                    device: segment.device,
                    address,
                    bytes: block.requested_size.filter(|&bytes| bytes > 0).unwrap_or(block.size),
                    stream: segment.stream as u64,
                });
            }
        }
    }
    snapshot.host_events = root.host_traces.iter().map(|trace| trace.len() as u64).sum();
    Ok(snapshot)
}

fn event(entry: &Entry) -> Result<Event, String> {
    let action = Action::of(entry.action.as_bytes());
    let needed = matches!(action, Action::Alloc | Action::FreeRequested | Action::FreeCompleted);
    let number = |number: Option<u64>, key: &str| match number {
        None if needed => Err(format!("no '{key}'")),
        number => Ok(number.unwrap_or(0)),
    };
    Ok(Event {
        action,
        address: number(entry.addr, "addr")?,
        bytes: number(entry.size, "size")?,
        stream: entry.stream as u64,
    })
}
