//! Pickles by hand: snapshots as PyTorch writes them, and what it never would.

/// A pickle being written.
#[derive(Clone, Default)]
pub(crate) struct Pickle(Vec<u8>);

/// An entry of `device_traces`: action, address, size, stream.
pub(crate) type Event = (&'static str, u64, u64, i32);

/// A block of a segment: size, requested size, state.
pub(crate) type Block = (u64, u64, &'static str);

impl Pickle {
    pub(crate) fn new(protocol: u8) -> Self {
        Self(vec![0x80, protocol])
    }

    pub(crate) fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        let len = (text.len() as u32).to_le_bytes();
        self.raw(b"X").raw(len).raw(text)
    }

    /// In the shortest form, as Python does it.
    pub(crate) fn int(self, value: u64) -> Self {
        if let Ok(byte) = u8::try_from(value) {
            return self.raw([b'K', byte]);
        }
        if let Ok(short) = u16::try_from(value) {
            return self.raw(b"M").raw(short.to_le_bytes());
        }
        if let Ok(int) = i32::try_from(value) {
            return self.raw(b"J").raw(int.to_le_bytes());
        }
        let mut bytes = value.to_le_bytes().to_vec();
        while bytes.len() > 1 && bytes.ends_with(&[0]) && bytes[bytes.len() - 2] < 0x80 {
            bytes.pop();
        }
        if bytes.last().is_some_and(|&top| top >= 0x80) {
            bytes.push(0);
        }
        self.raw([0x8a, bytes.len() as u8]).raw(bytes)
    }

    /// Items one after another in a list.
    pub(crate) fn list<T>(self, items: &[T], item: impl Fn(Self, &T) -> Self) -> Self {
        let opened = self.raw(b"](");
        items.iter().fold(opened, item).raw(b"e")
    }

    pub(crate) fn event(self, &(action, address, bytes, stream): &Event) -> Self {
        self.raw(b"}(")
            .text("action")
            .text(action)
            .text("addr")
            .int(address)
            .text("size")
            .int(bytes)
            .text("stream")
            .raw(b"J")
            .raw(stream.to_le_bytes())
            .text("frames")
            .raw(b"]u")
    }

    pub(crate) fn segment(self, device: u64, address: u64, blocks: &[Block]) -> Self {
        self.raw(b"}(")
            .text("device")
            .int(device)
            .text("address")
            .int(address)
            .text("stream")
            .int(0)
            .text("segment_pool_id")
            .raw(b"K\x00K\x00\x86")
            .text("blocks")
            .list(blocks, |pickle, &(size, requested, state)| {
                pickle
                    .raw(b"}(")
                    .text("size")
                    .int(size)
                    .text("requested_size")
                    .int(requested)
                    .text("state")
                    .text(state)
                    .raw(b"u")
            })
            .raw(b"u")
    }

    /// A whole snapshot.
    pub(crate) fn snapshot(
        protocol: u8,
        devices: &[&[Event]],
        segments: &[(u64, u64, &[Block])],
    ) -> Vec<u8> {
        Self::new(protocol)
            .raw(b"}(")
            .text("segments")
            .list(segments, |pickle, &(device, address, blocks)| {
                pickle.segment(device, address, blocks)
            })
            .text("device_traces")
            .list(devices, |pickle, events| pickle.list(events, Self::event))
            .raw(b"u")
            .end()
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(b".").0
    }
}
