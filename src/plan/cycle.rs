//! How long a pass takes, exactly, once passes are alike.
//!
//! One link copies the units' streamed bytes in order, without end; a unit's compute starts when
//! the one before it has ended and its bytes are there; a byte is copied when the ring has room
//! for it; a unit's room is free when its compute has ended. Time is counted in bytes the link
//! moves in it, so that one number serves for both.
//!
//! Let `y` be the bytes streamed up to and with unit `i`, `z` the start of its compute. With
//! `u = y - z` and `v` the same without unit `i`'s own bytes `s`, everything above is a difference
//! of two unknowns:
//!
//! - the unit's own bytes: `u[i] - v[i] = s[i]`;
//! - compute follows compute: `v[i+1] <= u[i] - compute[i]`;
//! - room: for every `k < i`, `u[i] <= v[k] + ring - compute[k]`; the least of the right sides is
//!   carried along as `g`;
//! - a pass later, `u` is less by the excess: the pass's length over its streamed bytes.
//!
//! Such constraints can be met if no cycle of them adds up to less than nothing, so the least
//! excess is that of the worst cycle. Between two passes only `u` and `g` are carried: the worst
//! cycle is found from a table of two by two, in one run over the units.

const FAR: f64 = f64::INFINITY;

/// Compute of each unit of a pass, in bytes of link time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Computes(pub(super) Vec<f64>);

/// The worst cycle: how long it makes the pass, and how that changes with what it goes through.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Worst {
    /// The pass's length less its streamed bytes.
    pub(super) excess: f64,
    /// Passes the cycle goes through.
    passes: f64,
    /// Times it goes through the ring's room.
    rings: f64,
    /// Times it goes through each unit's bytes.
    units: Vec<f64>,
}

/// Which way a least value came.
#[derive(Debug, Clone, Copy)]
struct Came {
    /// `v` from `g`, not from the `u` before.
    v_from_room: bool,
    /// `g` from this unit's `v`, not from the `g` before.
    g_from_unit: bool,
}

impl Computes {
    /// The pass's length less its streamed bytes, for units that stream these bytes through a
    /// ring of so many.
    pub(super) fn excess(&self, streamed: &[f64], ring: f64) -> f64 {
        let table = [0, 1].map(|from| self.lap(streamed, ring, from, |_| {}));
        -least_cycle(table).0
    }

    /// The same, with what it hangs on.
    pub(super) fn worst(&self, streamed: &[f64], ring: f64) -> Worst {
        let mut ways = [0, 1].map(|_| Vec::with_capacity(streamed.len()));
        let table = [0, 1].map(|from| {
            let way = &mut ways[from];
            self.lap(streamed, ring, from, |came| way.push(came))
        });
        let (least, laps) = least_cycle(table);
        let mut worst = Worst {
            excess: -least,
            passes: laps.len() as f64,
            rings: 0.0,
            units: vec![0.0; streamed.len()],
        };
        for &(from, to) in laps {
            worst.trace(&ways[from], to);
        }
        worst
    }

    /// What no choice of streamed bytes between `least` and `most` goes below, whatever they add
    /// up to.
    pub(super) fn least_excess(&self, least: &[f64], most: &[f64], ring: f64) -> f64 {
        let table = [(0.0, FAR), (FAR, 0.0)].map(|(mut u, mut g)| {
            let mut before = self.0.last().copied().unwrap_or(0.0);
            for ((&least, &most), &compute) in least.iter().zip(most).zip(&self.0) {
                let first = (u - before).min(g - least);
                u = (first + most.min(ring)).min(g);
                let v = first.min(u - least);
                g = g.min(v + ring - compute);
                before = compute;
            }
            [u, g]
        });
        -least_cycle(table).0
    }

    /// `u` and `g` at the end of a pass that began with one of them at 0 (`from` is 0 for `u`)
    /// and the other out of reach.
    fn lap(
        &self,
        streamed: &[f64],
        ring: f64,
        from: usize,
        mut note: impl FnMut(Came),
    ) -> [f64; 2] {
        let (mut u, mut g) = if from == 0 { (0.0, FAR) } else { (FAR, 0.0) };
        let mut before = self.0.last().copied().unwrap_or(0.0);
        for (&own, &compute) in streamed.iter().zip(&self.0) {
            let (in_turn, in_room) = (u - before, g - own);
            let v = in_turn.min(in_room);
            let freed = v + ring - compute;
            note(Came { v_from_room: in_room < in_turn, g_from_unit: freed < g });
            (u, g, before) = (v + own, g.min(freed), compute);
        }
        [u, g]
    }
}

/// The least mean weight of a cycle through the table, and its laps (from, to).
fn least_cycle(table: [[f64; 2]; 2]) -> (f64, &'static [(usize, usize)]) {
    let [[uu, ug], [gu, gg]] = table;
    let mut least: (f64, &[(usize, usize)]) = (uu, &[(0, 0)]);
    if gg < least.0 {
        least = (gg, &[(1, 1)]);
    }
    let both = (ug + gu) / 2.0;
    if both < least.0 {
        least = (both, &[(0, 1), (1, 0)]);
    }
    least
}

impl Worst {
    /// Follows a lap from its end (0 for `u`) back to its start.
    fn trace(&mut self, way: &[Came], to: usize) {
        let mut in_g = to == 1;
        for (unit, came) in way.iter().enumerate().rev() {
            if in_g && !came.g_from_unit {
                continue;
            }
            if in_g {
                self.rings += 1.0;
            } else {
                self.units[unit] += 1.0;
            }
            if came.v_from_room {
                self.units[unit] -= 1.0;
            }
            in_g = came.v_from_room;
        }
    }

    /// How much longer the pass gets with each byte of `unit` streamed and not resident: the
    /// byte itself, what it does to the cycle, and, where a byte that leaves makes the ring
    /// larger, that.
    pub(super) fn slope(&self, unit: usize, ring_grows: bool) -> f64 {
        let rings = if ring_grows { self.rings } else { 0.0 };
        1.0 - (self.units[unit] + rings) / self.passes
    }
}
