//! What passes through the ring: for each unit what of it does not stay, as one piece, and beside
//! that each piece that stays, so that it can be streamed the moment it has to leave.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use super::pieces::Pieces;
use super::unit_lease::Part;
use crate::base::{Error, Result};
use crate::device::Stream;
use crate::pinned::PinnedPool;
use crate::pool::Allocator;
use crate::prefetch::{PrefetchOptions, Prefetcher, RingMemory};
use crate::transfer::{Files, Loader, LoaderOptions};
use crate::weights::{Model, Unit};

/// What a ring is made of.
#[derive(Debug)]
pub(super) struct Supplies {
    pub(super) model: Arc<Model>,
    pub(super) allocator: Allocator,
    pub(super) pinned: PinnedPool,
    /// What memory is allocated on.
    pub(super) home: Stream,
    pub(super) loader: LoaderOptions,
    pub(super) prefetch: PrefetchOptions,
}

/// A ring, and what it can stream.
#[derive(Debug)]
pub(super) struct Streaming {
    pub(super) prefetcher: Prefetcher,
    pub(super) ring_bytes: u64,
    /// By unit: its number in the ring; none for what the ring is too small for.
    units: Vec<Option<usize>>,
    /// By piece: whether it is a part of its unit in the ring, or its own number there.
    pieces: Vec<InRing>,
    /// By number in the ring: the unit.
    of: Vec<usize>,
    /// By number in the ring: bytes.
    sizes: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InRing {
    OfUnit,
    OfItsOwn(usize),
    TooLarge,
}

/// What a ring is to stream.
struct Numbered {
    streamed: Vec<Unit>,
    units: Vec<Option<usize>>,
    pieces: Vec<InRing>,
    of: Vec<usize>,
}

impl Numbered {
    /// Every unit but for the pieces that `stays` names, as far as a ring of so many bytes holds
    /// it; and behind them those pieces.
    fn new(model: &Model, pieces: &Pieces, stays: &[bool], ring_bytes: u64) -> Self {
        let in_ring = vec![InRing::TooLarge; pieces.pieces.len()];
        let mut numbered =
            Self { streamed: Vec::new(), units: Vec::new(), pieces: in_ring, of: Vec::new() };
        for (number, unit) in pieces.units.iter().enumerate() {
            let leaves = unit.pieces.clone().filter(|&at| !stays[at]);
            let bytes: u64 = leaves.clone().map(|at| pieces.pieces[at].bytes).sum();
            leaves.clone().for_each(|at| numbered.pieces[at] = InRing::OfUnit);
            if bytes > ring_bytes {
                numbered.units.push(None);
                continue;
            }
            let tensors = leaves.flat_map(|at| pieces.pieces[at].tensors.iter().copied());
            let mut tensors: Vec<usize> = tensors.collect();
            tensors.sort_unstable();
            let at = numbered.push(number, Unit::of(model, &unit.name, tensors));
            numbered.units.push(Some(at));
        }
        let fits = |at: &usize| stays[*at] && pieces.pieces[*at].bytes <= ring_bytes;
        for at in (0..stays.len()).filter(fits) {
            let piece = &pieces.pieces[at];
            let name = format!("{} (piece {at})", pieces.units[piece.unit].name);
            let number = numbered.push(piece.unit, Unit::of(model, name, piece.tensors.clone()));
            numbered.pieces[at] = InRing::OfItsOwn(number);
        }
        numbered
    }

    fn push(&mut self, of: usize, unit: Unit) -> usize {
        self.of.push(of);
        self.streamed.push(unit);
        self.streamed.len() - 1
    }
}

impl Streaming {
    /// A ring of so many bytes, through which every unit passes but for the pieces that `stays`
    /// names. Loads nothing yet.
    ///
    /// # Errors
    /// No room; a pinned budget without room for a window; what the driver says.
    pub(super) fn new(
        supplies: &Supplies,
        pieces: &Pieces,
        stays: &[bool],
        ring_bytes: u64,
    ) -> Result<Self> {
        let Supplies { model, allocator, pinned, home, loader, prefetch } = supplies;
        let Numbered { streamed, units, pieces, of } =
            Numbered::new(model, pieces, stays, ring_bytes);
        let loader = Loader::new(home.device(), pinned, Files::open(model)?, *loader)?;
        let ring = RingMemory::of(allocator, ring_bytes, home);
        let prefetcher = Prefetcher::new(Arc::clone(model), &streamed, ring, loader, *prefetch)?;
        let sizes = prefetcher.units().into_iter().map(|(_, bytes)| bytes).collect();
        Ok(Self { prefetcher, ring_bytes, units, pieces, of, sizes })
    }

    /// Gives the ring another size and other units, with no lease alive. What is streamed as before
    /// keeps its home in pinned memory. False, and the ring is as it was, without room for it.
    /// Blocks until the copies under way are done.
    ///
    /// # Errors
    /// What the driver says. The ring may then have its new size, with the units it had.
    pub(super) fn change(
        &mut self,
        supplies: &Supplies,
        pieces: &Pieces,
        stays: &[bool],
        ring_bytes: u64,
    ) -> Result<bool> {
        let next = Numbered::new(&supplies.model, pieces, stays, ring_bytes);
        let before = self.ring_bytes;
        // The units that there are, and those that come, fit in the larger of the two rings.
        if ring_bytes > before {
            self.ring_bytes = self.prefetcher.resize(ring_bytes)?;
            if self.ring_bytes < ring_bytes {
                return Ok(false);
            }
        }
        self.prefetcher.reconfigure(&next.streamed)?;
        (self.units, self.pieces, self.of) = (next.units, next.pieces, next.of);
        let sizes = self.prefetcher.units().into_iter();
        self.sizes = sizes.map(|(_, bytes)| bytes).collect();
        if ring_bytes < before {
            self.ring_bytes = self.prefetcher.resize(ring_bytes)?;
        }
        Ok(true)
    }

    /// A unit's number in the ring.
    pub(super) fn unit(&self, unit: usize) -> Option<usize> {
        self.units[unit]
    }

    /// The unit that a number in the ring is of, or a piece of.
    pub(super) fn unit_of(&self, number: usize) -> Option<usize> {
        self.of.get(number).copied()
    }

    /// The number in the ring of a piece that can be streamed beside its unit.
    pub(super) fn piece(&self, piece: usize) -> Option<usize> {
        match self.pieces[piece] {
            InRing::OfItsOwn(number) => Some(number),
            InRing::OfUnit | InRing::TooLarge => None,
        }
    }

    /// Whether a piece comes with its unit.
    pub(super) fn is_of_unit(&self, piece: usize) -> bool {
        self.pieces[piece] == InRing::OfUnit
    }

    /// Leases these numbers, the largest first: what comes later then finds room beside it.
    ///
    /// # Errors
    /// As [`Prefetcher::acquire`].
    pub(super) fn lease_all(
        &self,
        numbers: impl Iterator<Item = usize>,
        stream: &Stream,
    ) -> Result<Vec<Part>> {
        let mut numbers: Vec<usize> = numbers.collect();
        numbers.sort_by_key(|&number| Reverse(self.sizes[number]));
        let lease = |&number| Ok(Part::Ring(self.prefetcher.acquire(number, stream)?));
        match numbers.iter().map(lease).collect::<Result<Vec<_>>>() {
            // What was loaded ahead lay in the way; one behind the other they take no more than
            // their bytes.
            Err(Error::RingHeld { .. }) if numbers.len() > 1 => {
                self.prefetcher.forget(|number| numbers.contains(&number))?;
                numbers.iter().map(lease).collect()
            }
            leased => leased,
        }
    }

    /// What a pass over these units streams, in order, while the pieces in `there` stay.
    pub(super) fn order(&self, pieces: &Pieces, units: Range<usize>, there: &[bool]) -> Vec<usize> {
        let mut order = Vec::with_capacity(units.len());
        for unit in units {
            order.extend(self.units[unit]);
            let gone = pieces.units[unit].pieces.clone().filter(|&at| !there[at]);
            order.extend(gone.filter_map(|at| self.piece(at)));
        }
        order
    }
}
