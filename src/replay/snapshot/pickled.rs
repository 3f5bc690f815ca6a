//! The pickled form.

use super::super::pickle::{Pickle, Value};
use super::{Action, Block, Event, Snapshot, is_live};

/// No entry of a snapshot has as many keys. Entries may be one dictionary named again and
/// again, and each is searched by key.
const KEYS_MAX: usize = 64;

pub(super) fn read(bytes: &[u8]) -> Result<Snapshot, (Option<u64>, String)> {
    let pickle = Pickle::read(bytes).map_err(|(at, reason)| (Some(at), reason))?;
    Reader { pickle, budget: bytes.len() }.read().map_err(|reason| (None, reason))
}

struct Reader<'a> {
    pickle: Pickle<'a>,
    /// How many entries may still be read. Each is at least a byte of the file, unless lists
    /// are named again and again to make a small file a large one.
    budget: usize,
}

impl<'a> Reader<'a> {
    fn read(&mut self) -> Result<Snapshot, String> {
        let root = self.pickle.root;
        let key = |key: &str| self.pickle.get(root, key);
        let traces = key("device_traces").ok_or(super::window::NO_TRACES)?;
        let (segments, host) = (key("segments"), key("host_traces"));
        let mut snapshot = Snapshot::default();
        for device in 0..self.len(traces)? {
            let list = self.item(traces, device);
            let mut events = Vec::new();
            for at in 0..self.len(list)? {
                let event = self.event(self.item(list, at));
                events.push(
                    event.map_err(|error| format!("device_traces[{device}][{at}]: {error}"))?,
                );
            }
            snapshot.devices.push(events);
        }
        let segments = segments.unwrap_or(Value::None);
        for at in 0..self.len(segments)? {
            self.segment(self.item(segments, at), &mut snapshot.blocks)
                .map_err(|error| format!("segments[{at}]: {error}"))?;
        }
        let host = host.unwrap_or(Value::None);
        for at in 0..self.len(host)? {
            snapshot.host_events += self.len(self.item(host, at))? as u64;
        }
        Ok(snapshot)
    }

    /// The length of a list, taken off the budget.
    fn len(&mut self, list: Value<'a>) -> Result<usize, String> {
        let len = self.pickle.items(list).len();
        self.budget = self.budget.checked_sub(len).ok_or(
            "its lists name the same entries again and again, more often than the file has bytes",
        )?;
        Ok(len)
    }

    fn item(&self, list: Value<'a>, at: usize) -> Value<'a> {
        self.pickle.items(list).get(at).copied().unwrap_or(Value::None)
    }

    fn event(&self, entry: Value<'a>) -> Result<Event, String> {
        self.check(entry)?;
        let action = match self.pickle.get(entry, "action") {
            Some(Value::Text(name)) => Action::of(name),
            _ => return Err("no 'action'".into()),
        };
        let needed =
            matches!(action, Action::Alloc | Action::FreeRequested | Action::FreeCompleted);
        let number = |key: &str| match self.number(entry, key)? {
            None if needed => Err(format!("no '{key}'")),
            number => Ok(number.unwrap_or(0)),
        };
        Ok(Event {
            action,
            address: number("addr")?,
            bytes: number("size")?,
            stream: self.number(entry, "stream")?.unwrap_or(0),
        })
    }

    fn segment(&mut self, segment: Value<'a>, live: &mut Vec<Block>) -> Result<(), String> {
        self.check(segment)?;
        let device = self.number(segment, "device")?.unwrap_or(0);
        let stream = self.number(segment, "stream")?.unwrap_or(0);
        let mut end = self.number(segment, "address")?.unwrap_or(0);
        let blocks = self.pickle.get(segment, "blocks").unwrap_or(Value::None);
        for at in 0..self.len(blocks)? {
            let block = self.item(blocks, at);
            self.check(block)?;
            let size = self.number(block, "size")?.unwrap_or(0);
            // Older versions give no addresses: blocks tile their segment.
            let address = self.number(block, "address")?.unwrap_or(end);
            end = address.wrapping_add(size);
            let requested = self.number(block, "requested_size")?.filter(|&bytes| bytes > 0);
            let state = self.pickle.get(block, "state");
            if matches!(state, Some(Value::Text(state)) if is_live(state)) {
                let bytes = requested.unwrap_or(size);
                live.push(Block { device, address, bytes, stream });
            }
        }
        Ok(())
    }

    fn check(&self, entry: Value<'a>) -> Result<(), String> {
        match (entry, self.pickle.key_count(entry)) {
            (Value::Dict(_), 0..=KEYS_MAX) => Ok(()),
            (Value::Dict(_), keys) => Err(format!("{keys} keys; at most {KEYS_MAX} are read")),
            _ => Err("it is no dictionary".into()),
        }
    }

    fn number(&self, entry: Value<'a>, key: &str) -> Result<Option<u64>, String> {
        match self.pickle.get(entry, key) {
            None | Some(Value::None) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(format!("'{key}' is no number of 64 bits")),
            },
        }
    }
}
