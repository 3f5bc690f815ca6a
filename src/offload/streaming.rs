//! What passes through the ring: for each unit what of it does not stay, as one piece, and beside
//! that each piece that stays, so that it can be streamed the moment it has to leave.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use super::pieces::Pieces;
use super::unit_lease::Part;
use crate::base::Result;
use crate::device::Stream;
use crate::pinned::PinnedPool;
use crate::pool::Allocator;
use crate::prefetch::{PrefetchOptions, Prefetcher};
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
        let mut streamed = Vec::new();
        let mut in_ring = vec![InRing::TooLarge; pieces.pieces.len()];
        let mut units = Vec::with_capacity(pieces.units.len());
        let mut of = Vec::new();
        for (number, unit) in pieces.units.iter().enumerate() {
            let leaves = |at: &usize| !stays[*at];
            let bytes: u64 =
                unit.pieces.clone().filter(leaves).map(|at| pieces.pieces[at].bytes).sum();
            for at in unit.pieces.clone() {
                let piece = &pieces.pieces[at];
                if !stays[at] {
                    in_ring[at] = InRing::OfUnit;
                } else if piece.bytes <= ring_bytes {
                    // Behind all units, so that these keep their order.
                    in_ring[at] = InRing::OfItsOwn(at);
                }
            }
            units.push((bytes <= ring_bytes).then(|| {
                let mut tensors: Vec<usize> = unit
                    .pieces
                    .clone()
                    .filter(leaves)
                    .flat_map(|at| pieces.pieces[at].tensors.iter().copied())
                    .collect();
                tensors.sort_unstable();
                of.push(number);
                streamed.push(Unit::of(model, &unit.name, tensors));
                streamed.len() - 1
            }));
        }
        for (at, place) in in_ring.iter_mut().enumerate() {
            if let InRing::OfItsOwn(_) = place {
                *place = InRing::OfItsOwn(streamed.len());
                let piece = &pieces.pieces[at];
                of.push(piece.unit);
                let name = format!("{} ({})", pieces.units[piece.unit].name, piece.tensors.len());
                streamed.push(Unit::of(model, name, piece.tensors.clone()));
            }
        }
        let loader = Loader::new(home.device(), pinned, Files::open(model)?, *loader)?;
        let ring = allocator.alloc_dedicated::<u8>(ring_bytes as usize, home)?;
        let model = Arc::clone(model);
        let prefetcher = Prefetcher::new(model, &streamed, ring, loader, *prefetch)?;
        let sizes = prefetcher.units().into_iter().map(|(_, bytes)| bytes).collect();
        Ok(Self { prefetcher, ring_bytes, units, pieces: in_ring, of, sizes })
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
        numbers.iter().map(lease).collect()
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
