//! What is known of some blocks only: other streams that use them, and what their owners said of
//! them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::super::options::AllocOptions;
use super::super::shared::Shared;
use super::{HeapState, Taken, Which};
use crate::device::Stream;
use crate::fence::StreamKey;
use crate::ledger::BlockId;

/// Something by the address of its block.
pub(super) type ByAddress<T> = HashMap<u64, T, BuildHasherDefault<AddressHasher>>;

/// What is known of a block that is marked.
#[derive(Debug, Default)]
pub(super) struct Note {
    /// Other streams that use the block.
    uses: Uses,
    /// Boxed, because few blocks have one and notes are moved about.
    label: Option<Box<AllocOptions>>,
}

/// Streams, each once. One, as nearly always, takes no memory of its own.
#[derive(Debug, Default)]
pub(super) struct Uses {
    first: Option<Stream>,
    others: Vec<Stream>,
}

impl Uses {
    fn add(&mut self, stream: &Stream) {
        if self.first.is_none() {
            self.first = Some(stream.clone());
        } else if !self.iter().any(|other| other == stream) {
            self.others.push(stream.clone());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> + Clone {
        self.first.iter().chain(&self.others)
    }
}

/// Addresses are multiples of 512 and spread by multiplying.
#[derive(Debug, Default)]
pub(super) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, value: u64) {
        let product = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ (product >> 32);
    }
}

impl HeapState {
    /// Lets `address` name the block just taken, for frees by address.
    #[inline]
    pub(in crate::pool) fn note_raw(&mut self, taken: Taken) {
        self.raw.insert(taken.ptr.0, taken.id);
    }

    /// Notes that `stream` uses a block. False if it is no live block.
    pub(in crate::pool) fn note_use(&mut self, block: Which, stream: &Stream) -> bool {
        let id = match block {
            Which::Id(id) => id,
            Which::Address(address) => match self.raw.get(address) {
                Some(id) => id,
                None => return false,
            },
        };
        if StreamKey::of(stream).raw() != self.key {
            self.note(id).uses.add(stream);
        }
        true
    }

    /// Notes what the owner of a block says of it.
    pub(in crate::pool) fn label(&mut self, shared: &Shared, taken: Taken, label: &AllocOptions) {
        if let Some(lifetime) = label.lifetime {
            shared.label(lifetime, self.ledger[taken.id].bytes);
        }
        self.note(taken.id).label = Some(Box::new(label.clone()));
    }

    /// What the owner of the block at `address` said of it.
    pub(in crate::pool) fn label_at(&self, address: u64) -> Option<&AllocOptions> {
        self.notes.get(&address)?.label.as_deref()
    }

    fn note(&mut self, id: BlockId) -> &mut Note {
        if self.is_last(id) {
            self.forget_last();
        }
        self.ledger.set_marked(id, true);
        self.notes.entry(self.ledger[id].address).or_default()
    }

    /// Forgets what was noted of a block that its owner gives up. Gives the other streams that
    /// use it.
    pub(super) fn take_note(&mut self, shared: &Shared, id: BlockId, others: &[Stream]) -> Uses {
        self.ledger.set_marked(id, false);
        let (address, bytes) = (self.ledger[id].address, self.ledger[id].bytes);
        let Note { mut uses, label } = self.notes.remove(&address).unwrap_or_default();
        if let Some(lifetime) = label.and_then(|label| label.lifetime) {
            shared.unlabel(lifetime, bytes);
        }
        for stream in others {
            if StreamKey::of(stream).raw() != self.key {
                uses.add(stream);
            }
        }
        uses
    }
}
