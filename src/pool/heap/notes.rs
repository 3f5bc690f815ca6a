//! What is known of some blocks only: other streams that use them, and what their owners said of
//! them.

use std::num::NonZeroU32;

use slab::Slab;

use super::super::options::AllocOptions;
use super::super::shared::Shared;
use super::{HeapState, Taken, Which};
use crate::device::Stream;
use crate::fence::StreamKey;
use crate::ledger::{Block, BlockId};

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

/// Notes by number, as their blocks have them.
#[derive(Debug, Default)]
pub(super) struct Notes(Slab<Note>);

impl Notes {
    /// Numbers count from 1, and there are no more than blocks.
    fn at(number: NonZeroU32) -> usize {
        number.get() as usize - 1
    }

    /// The note of this number, or a new one, with its number.
    fn get_or_add(&mut self, number: Option<NonZeroU32>) -> (NonZeroU32, &mut Note) {
        let known = number.map(Self::at).filter(|&at| self.0.contains(at));
        let at = known.unwrap_or_else(|| self.0.insert(Note::default()));
        (NonZeroU32::MIN.saturating_add(at as u32), &mut self.0[at])
    }

    pub(super) fn get(&self, number: Option<NonZeroU32>) -> Option<&Note> {
        self.0.get(Self::at(number?))
    }

    fn remove(&mut self, number: Option<NonZeroU32>) -> Option<Note> {
        self.0.try_remove(Self::at(number?))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
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

    /// What the owner of a block said of it.
    pub(in crate::pool) fn label_of(&self, block: &Block) -> Option<&AllocOptions> {
        self.notes.get(block.note)?.label.as_deref()
    }

    fn note(&mut self, id: BlockId) -> &mut Note {
        if self.is_last(id) {
            self.forget_last();
        }
        self.ledger.set_marked(id, true);
        let (number, note) = self.notes.get_or_add(self.ledger[id].note);
        self.ledger.set_note(id, Some(number));
        note
    }

    /// Forgets what was noted of a block that its owner gives up. Gives the other streams that
    /// use it.
    pub(super) fn take_note(&mut self, shared: &Shared, id: BlockId, others: &[Stream]) -> Uses {
        let Block { note, bytes, .. } = self.ledger[id];
        self.ledger.set_marked(id, false);
        self.ledger.set_note(id, None);
        let Note { mut uses, label } = self.notes.remove(note).unwrap_or_default();
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
