//! What is on the device right now, and how that is changed: pieces come, pieces go, the ring is
//! made anew. Decides nothing; `fit` does.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::fit::{Fit, FixedRing, Question, fit};
use super::pieces::Pieces;
use super::room::Room;
use super::space::{Places, ResidentSpace, is_paged};
use super::stats::OffloadStats;
use super::streaming::{Streaming, Supplies};
use super::unit_lease::{Live, Part, ResidentPart};
use crate::base::{Error, Result, align_up};
use crate::device::Stream;
use crate::plan::{Plan, Retention};
use crate::prefetch::{PassReport, Prefetcher, UnitView};
use crate::weights::{Unit, UnitLayout};

/// A plan and all that is there of it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) plan: Plan,
    pub(super) pieces: Pieces,
    pub(super) space: ResidentSpace,
    /// By piece, what is on the device.
    residents: Vec<Option<ResidentPart>>,
    /// None while a ring could not be made.
    pub(super) streaming: Option<Streaming>,
    /// By unit, how many leases are alive.
    live: Vec<Arc<AtomicU32>>,
    pub(super) phase: usize,
    pub(super) passes: u32,
    /// Whether the ring was told what follows this pass.
    pub(super) announced: bool,
    pub(super) room: Room,
    pub(super) stats: OffloadStats,
}

/// How a [`Fit`] was come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// By phases: what is asked for comes as far as there is room.
    Phase,
    /// Down, for want of memory.
    Down,
    /// Up again.
    Up,
}

impl State {
    /// With nothing on the device yet.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) fn new(supplies: &Supplies, plan: Plan, pieces: Pieces, room: Room) -> Result<Self> {
        let allocator = &supplies.allocator;
        let packed = pieces.packed().into_iter();
        let packed = packed.map(|at| {
            let piece = &pieces.pieces[at];
            (at, piece.bytes, pieces.component_of(piece.unit))
        });
        let count = pieces.pieces.len();
        let places = Places::new(packed, count, room.page_bytes, is_paged(allocator))?;
        Ok(Self {
            space: ResidentSpace::new(allocator, &supplies.home, places)?,
            residents: vec![None; count],
            streaming: None,
            live: pieces.units.iter().map(|_| Arc::default()).collect(),
            plan,
            pieces,
            phase: 0,
            passes: 0,
            announced: false,
            room,
            stats: OffloadStats::default(),
        })
    }

    /// Leases a unit of the phase.
    pub(super) fn lease(&mut self, unit: usize, stream: &Stream) -> Result<(Vec<Part>, Live)> {
        let units = self.pieces.phases[self.phase].units.clone();
        let number = units.start.saturating_add(unit);
        let Some(pieced) = self.pieces.units.get(number).filter(|_| units.contains(&number)) else {
            return Err(Error::invalid("unit", unit, format!("the phase has {}", units.len())));
        };
        let streaming = self.streaming.as_ref().ok_or_else(no_ring)?;
        let live = Live::new(&self.live[number]);
        let in_ring = streaming.unit(number);
        let gone = pieced.pieces.clone().filter(|&at| self.residents[at].is_none());
        if let Some(lost) = gone.clone().find(|&at| {
            streaming.piece(at).is_none() && (in_ring.is_none() || !streaming.is_of_unit(at))
        }) {
            let bytes = self.pieces.pieces[lost].bytes;
            return Err(too_large(&pieced.name, bytes, streaming.ring_bytes));
        }
        let apart = gone.filter_map(|at| streaming.piece(at));
        let mut parts = streaming.lease_all(in_ring.into_iter().chain(apart), stream)?;
        for at in pieced.pieces.clone() {
            let Some(resident) = &mut self.residents[at] else { continue };
            if let Err(error) = order_after(resident, stream) {
                // Whoever asks again has it streamed, once nobody holds what failed.
                drop((parts, live));
                if !self.is_leased(number) {
                    self.give(&[at])?;
                    self.set_order()?;
                }
                return Err(error);
            }
            self.space.record_use(at, stream)?;
            parts.push(Part::Resident(resident.clone()));
        }
        self.announce()?;
        Ok((parts, live))
    }

    /// Whether a piece's load was enqueued.
    pub(super) fn is_resident(&self, piece: usize) -> bool {
        self.residents[piece].is_some()
    }

    /// The ring's prefetcher.
    pub(super) fn prefetcher(&self) -> Result<Prefetcher> {
        self.streaming.as_ref().map(|streaming| streaming.prefetcher.clone()).ok_or_else(no_ring)
    }

    /// Numbers the units of a pass's report as the phase does, in place of the ring.
    pub(super) fn number_by_phase(&self, report: &mut PassReport) {
        let first = self.pieces.phases[self.phase].units.start;
        let (Some(stalls), Some(streaming)) = (&mut report.stalls, &self.streaming) else { return };
        stalls.units.retain_mut(|part| {
            let unit = streaming.unit_of(part.unit).and_then(|unit| unit.checked_sub(first));
            unit.map(|unit| part.unit = unit).is_some()
        });
    }

    /// Whether a unit is leased now.
    pub(super) fn is_leased(&self, unit: usize) -> bool {
        self.live[unit].load(Ordering::Acquire) > 0
    }

    /// Whether any unit is.
    pub(super) fn is_in_use(&self) -> bool {
        (0..self.live.len()).any(|unit| self.is_leased(unit))
    }

    /// Memory of residents and ring.
    pub(super) fn managed_bytes(&self) -> u64 {
        self.space.committed_bytes() + self.ring_reserved_bytes()
    }

    /// Memory of the ring.
    pub(super) fn ring_reserved_bytes(&self) -> u64 {
        let bytes = self.streaming.as_ref().map_or(0, |streaming| streaming.ring_bytes);
        align_up(bytes, self.room.page_bytes).unwrap_or(u64::MAX)
    }

    /// What fits in so much room as things are.
    pub(super) fn fit(&self, room_bytes: u64) -> Option<Fit> {
        let in_use = self.streaming.as_ref().filter(|_| self.is_in_use());
        let is_of_unit = |at: usize| in_use.is_some_and(|streaming| streaming.is_of_unit(at));
        fit(&Question {
            pieces: &self.pieces,
            places: &self.space.places,
            page_bytes: self.room.page_bytes,
            phase: self.phase,
            room_bytes,
            is_leased: &|unit| self.is_leased(unit),
            fixed_ring: in_use.map(|streaming| FixedRing {
                bytes: streaming.ring_bytes,
                is_of_unit: &is_of_unit,
            }),
            there: self.space.there(),
            retention: self.retention(),
        })
    }

    pub(super) fn retention(&self) -> Retention {
        self.plan.rules.retention
    }

    /// Makes `fit` so: first what leaves, then the ring, then what comes. False if there was less
    /// room than thought, and then not all has come.
    ///
    /// # Errors
    /// What the driver says; files that cannot be opened. What is there then still agrees with
    /// the books, and the next try goes on from there.
    pub(super) fn apply(&mut self, supplies: &Supplies, fit: &Fit, bound: Bound) -> Result<bool> {
        let there = self.space.there();
        let leaves: Vec<usize> =
            (0..there.len()).filter(|&at| there[at] && !fit.keep[at]).collect();
        if bound == Bound::Down {
            self.stats.residents_dropped += leaves.len() as u64;
            self.stats.dropped_bytes += self.bytes_of(&leaves);
        }
        self.give(&leaves)?;
        let mut all_came = self.change_ring(supplies, fit, bound)?;
        let comes = if all_came { self.coming(fit) } else { Vec::new() };
        for at in comes {
            if !self.bring(supplies, at)? {
                all_came = false;
                break;
            }
            if bound == Bound::Up {
                self.stats.residents_restored += 1;
                self.stats.restored_bytes += self.pieces.pieces[at].bytes;
            }
        }
        self.set_order()?;
        self.note_sizes();
        Ok(all_came)
    }

    /// What a fit has come of the phase's own component, the most valuable first. Others come
    /// between passes, one by one.
    fn coming(&self, fit: &Fit) -> Vec<usize> {
        let all = self.retention() == Retention::All;
        let own = |at: &usize| all || self.pieces.pieces[*at].stays[self.phase];
        let there = self.space.there();
        let mut comes: Vec<usize> =
            (0..there.len()).filter(|&at| fit.keep[at] && !there[at]).filter(own).collect();
        let value = |at: usize| self.pieces.pieces[at].value;
        comes.sort_by(|&a, &b| value(b).total_cmp(&value(a)));
        comes
    }

    fn bytes_of(&self, pieces: &[usize]) -> u64 {
        pieces.iter().map(|&at| self.pieces.pieces[at].bytes).sum()
    }

    /// Gives the ring another size and other units if `fit` wants that, and nothing is leased.
    /// False if there was no room for a larger one.
    fn change_ring(&mut self, supplies: &Supplies, fit: &Fit, bound: Bound) -> Result<bool> {
        let stays = self.stays(fit);
        let is_in_use = self.is_in_use();
        let Some(streaming) = &mut self.streaming else {
            let pieces = &self.pieces;
            self.streaming = Some(Streaming::new(supplies, pieces, &stays, fit.ring_bytes)?);
            self.stats.rings_made += 1;
            return Ok(true);
        };
        let before = streaming.ring_bytes;
        let units = self.pieces.phases[self.phase].units.clone();
        let mut pieces = units.clone().flat_map(|unit| self.pieces.units[unit].pieces.clone());
        // What is to stay would be streamed too.
        let is_double =
            |at| fit.keep[at] && streaming.is_of_unit(at) && self.pieces.pieces[at].bytes > 0;
        let has_all = units.clone().all(|unit| streaming.unit(unit).is_some());
        let is_right = before == fit.ring_bytes && has_all && !pieces.any(is_double);
        if is_right || is_in_use {
            return Ok(true);
        }
        if fit.ring_bytes == 0 && !streaming.prefetcher.goes_round() {
            // A block of nothing is none.
            self.streaming = None;
            supplies.allocator.settle()?;
            return self.change_ring(supplies, fit, bound);
        }
        let has_room = streaming.change(supplies, &self.pieces, &stays, fit.ring_bytes)?;
        let after = streaming.ring_bytes;
        self.stats.ring_shrinks += u64::from(after < before && bound == Bound::Down);
        self.stats.ring_growths += u64::from(after > before && bound == Bound::Up);
        self.stats.single_buffers += u64::from(fit.is_single && bound == Bound::Down);
        Ok(has_room)
    }

    /// What does not pass through the ring with its unit: of the phase's component what fits, of
    /// others what the plan has stay when their turn comes.
    fn stays(&self, fit: &Fit) -> Vec<bool> {
        let phases = &self.pieces.phases;
        let stays = |at: usize| {
            let piece = &self.pieces.pieces[at];
            match self.pieces.next_use(piece.unit, self.phase) {
                0 => fit.keep[at],
                steps => piece.stays[(self.phase + steps) % phases.len()],
            }
        };
        (0..self.pieces.pieces.len()).map(stays).collect()
    }

    /// Loads a piece to its place; false without room. Never waits for the load.
    pub(super) fn bring(&mut self, supplies: &Supplies, at: usize) -> Result<bool> {
        let Some(streaming) = &self.streaming else { return Ok(false) };
        let prefetcher = streaming.prefetcher.clone();
        let Some(address) = self.space.take(at)? else { return Ok(false) };
        let piece = &self.pieces.pieces[at];
        let unit = Unit::of(&supplies.model, "", piece.tensors.clone());
        let copies = prefetcher.copy_stream();
        let loaded = UnitLayout::new(&supplies.model, &unit).and_then(|layout| {
            self.space.order_after_uses(&copies)?;
            self.space.record_use(at, &copies)?;
            // SAFETY: the place was taken for just this piece, and is given up only after the copy
            // stream, whose use was noted, is done with it. That stream was made to wait for all
            // that was enqueued on the page before; no lease of the piece is given before its
            // load is in `residents`.
            let load = unsafe { prefetcher.load_aside(&layout, address) }?;
            let view = UnitView::new(Arc::clone(&supplies.model), &layout, address);
            let (ready, status) = (Some(Arc::new(load.ready)), load.status);
            Ok(ResidentPart { view, ready, status })
        });
        match loaded {
            Ok(resident) => {
                self.residents[at] = Some(resident);
                Ok(true)
            }
            Err(error) => {
                self.space.give(&[at])?;
                Err(error)
            }
        }
    }

    /// Gives up pieces that no lease is alive of.
    pub(super) fn give(&mut self, pieces: &[usize]) -> Result<()> {
        pieces.iter().for_each(|&at| self.residents[at] = None);
        if pieces.is_empty() {
            return Ok(());
        }
        self.space.give(pieces)
    }

    /// Tells the ring what passes stream from the next one on.
    pub(super) fn set_order(&mut self) -> Result<()> {
        let Some(streaming) = &self.streaming else { return Ok(()) };
        let units = self.pieces.phases[self.phase].units.clone();
        let order = streaming.order(&self.pieces, units, self.space.there());
        if order.is_empty() { Ok(()) } else { streaming.prefetcher.set_order(&order) }
    }

    /// Blocks until what stays is loaded.
    ///
    /// # Errors
    /// A file that cannot be read, with the offset.
    pub(super) fn wait_loaded(&mut self) -> Result<()> {
        for resident in self.residents.iter_mut().flatten() {
            if let Some(ready) = resident.ready.take() {
                ready.synchronize()?;
            }
            resident.status.check()?;
        }
        Ok(())
    }

    pub(super) fn note_sizes(&mut self) {
        self.stats.resident_bytes = self.space.committed_bytes();
        self.stats.ring_bytes = self.ring_reserved_bytes();
    }
}

/// Makes `stream` wait for a resident's load, until that is known to be over.
fn order_after(resident: &mut ResidentPart, stream: &Stream) -> Result<()> {
    if let Some(ready) = &resident.ready {
        if ready.query()? {
            resident.ready = None;
        } else {
            stream.wait(ready)?;
        }
    }
    resident.status.check()
}

fn no_ring() -> Error {
    Error::invalid("phase", "none", "no phase is entered; enter one first")
}

fn too_large(name: &str, unit_bytes: u64, ring_bytes: u64) -> Error {
    Error::TooLarge {
        what: format!("streaming '{name}'"),
        requested_bytes: unit_bytes,
        available_bytes: ring_bytes,
        way_out: "give memory back, or enter the phase again".into(),
    }
}
