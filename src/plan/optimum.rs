//! How many bytes of each unit to stream, where any number will do: the shortest pass, found by
//! going down along what the worst cycle hangs on.
//!
//! The pass's length is convex in the streamed bytes (a minimum over a linear program), so the
//! way down from anywhere leads to the least. Each step goes as far as a target would need that
//! is known not to be beaten; where it is found not to be reached, the target is moved half-way
//! to the best length known.

use super::cycle::Computes;

/// A component and the room it has, with bytes and time in bytes of link time.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    /// Compute of each unit.
    pub(super) computes: Computes,
    /// Bytes of each unit that have to be streamed.
    pub(super) least: Vec<f64>,
    /// Bytes of each unit.
    pub(super) most: Vec<f64>,
    /// Residents and ring together.
    pub(super) room: f64,
    /// The ring takes no more than this.
    pub(super) ring_cap: f64,
    /// What each copy takes beside its bytes.
    pub(super) per_copy: f64,
}

/// Streamed bytes of each unit, and how long the pass then is.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    pub(super) streamed: Vec<f64>,
    pub(super) length: f64,
}

/// Steps of the search. Each is a run over the units: the search takes as long for the same
/// input on any machine, and gives the same.
const STEPS: usize = 2000;
/// Steps without a shorter pass after which the target is taken to be out of reach.
const PATIENCE: usize = 80;
/// Nearer to the target than this share of it, the search is over.
const CLOSE: f64 = 1e-5;
/// Halvings of the last search, for the fewest streamed bytes.
const HALVINGS: usize = 30;

impl Problem {
    /// The ring that is left beside the residents.
    pub(super) fn ring(&self, streamed: &[f64]) -> f64 {
        let resident: f64 = self.most.iter().zip(streamed).map(|(most, own)| most - own).sum();
        (self.room - resident).min(self.ring_cap)
    }

    /// How long a pass is; without end where a unit has no room in the ring.
    pub(super) fn length(&self, streamed: &[f64]) -> f64 {
        let ring = self.ring(streamed);
        if streamed.iter().any(|&own| own > ring + 0.5) {
            return f64::INFINITY;
        }
        let on_link = self.on_link(streamed);
        on_link.iter().sum::<f64>() + self.computes.excess(&on_link, ring)
    }

    /// Compute alone.
    pub(super) fn compute(&self) -> f64 {
        self.computes.0.iter().sum()
    }

    /// What each unit takes of the link's time.
    fn on_link(&self, streamed: &[f64]) -> Vec<f64> {
        let cost = |&own: &f64| if own > 0.0 { own + self.per_copy } else { 0.0 };
        streamed.iter().map(cost).collect()
    }

    /// The streamed bytes of a pass as short as is found, and among those as few as is found.
    pub(super) fn solve(&self) -> Streams {
        let target = self.target();
        let mut best = self.descend(target);
        if best.length.is_finite() {
            self.stream_fewer(&mut best);
        }
        best
    }

    /// A length no choice goes below: the constraints of [`Computes`] with each unit's streamed
    /// bytes left open on their own. It is convex in the ring, so a search by thirds finds it.
    fn target(&self) -> f64 {
        let (all, least): (f64, f64) = (self.most.iter().sum(), self.least.iter().sum());
        let length = |ring: f64| {
            let streamed = (all - self.room + ring).max(least);
            streamed + self.computes.least_excess(&self.least, &self.most, ring)
        };
        let (mut from, mut to) = (0.0, self.room.min(self.ring_cap).max(0.0));
        for _ in 0..2 * HALVINGS {
            let third = (to - from) / 3.0;
            let (low, high) = (from + third, to - third);
            if length(low) <= length(high) { to = high } else { from = low }
        }
        length(from.midpoint(to)).max(self.compute())
    }

    fn descend(&self, mut target: f64) -> Streams {
        let floor = target;
        let mut streamed = self.first_guess();
        let mut best = Streams { length: f64::INFINITY, streamed: streamed.clone() };
        let mut since_best = 0;
        for _ in 0..STEPS {
            let ring = self.ring(&streamed);
            let (widest, &own) = match streamed.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))
            {
                Some(widest) => widest,
                None => break,
            };
            if own > ring + 0.5 {
                if !self.make_room(&mut streamed, widest, own - ring) {
                    break;
                }
                continue;
            }
            let on_link = self.on_link(&streamed);
            let worst = self.computes.worst(&on_link, ring);
            let length = on_link.iter().sum::<f64>() + worst.excess;
            if length < best.length * (1.0 - 1e-9) {
                best = Streams { length, streamed: streamed.clone() };
                since_best = 0;
            } else {
                since_best += 1;
            }
            if best.length <= floor * (1.0 + CLOSE) {
                break;
            }
            if since_best > PATIENCE {
                target = target.midpoint(best.length);
                streamed.clone_from(&best.streamed);
                since_best = 0;
                if best.length - target < best.length * CLOSE {
                    break;
                }
                continue;
            }
            let grows = ring < self.ring_cap;
            let slopes: Vec<f64> = (0..streamed.len())
                .map(|unit| self.inward(unit, streamed[unit], worst.slope(unit, grows)))
                .collect();
            let steepness: f64 = slopes.iter().map(|slope| slope * slope).sum();
            if steepness == 0.0 {
                break;
            }
            let step = (length - target) / steepness;
            for (unit, slope) in slopes.iter().enumerate() {
                streamed[unit] = self.within(unit, streamed[unit] - step * slope);
            }
        }
        best
    }

    /// The same share of each unit, so that what is left for the ring holds two of them.
    fn first_guess(&self) -> Vec<f64> {
        let all: f64 = self.most.iter().sum();
        let widest = self.most.iter().copied().fold(0.0, f64::max);
        let resident = (self.room - 2.0 * widest).max(0.0);
        let share = if all > 0.0 { (1.0 - resident / all).clamp(0.0, 1.0) } else { 0.0 };
        (0..self.most.len()).map(|unit| self.within(unit, self.most[unit] * share)).collect()
    }

    /// Streams more of the other units, which leaves the ring more room, or, where the ring does
    /// not grow, less of the one that is too wide for it. False if nothing can.
    fn make_room(&self, streamed: &mut [f64], widest: usize, missing: f64) -> bool {
        let can_stream =
            |unit: usize, streamed: &[f64]| unit != widest && streamed[unit] < self.most[unit];
        let others = (0..streamed.len()).filter(|&unit| can_stream(unit, streamed)).count();
        let cannot_shrink = streamed[widest] <= self.least[widest];
        if others == 0 || self.ring(streamed) >= self.ring_cap {
            if cannot_shrink {
                return false;
            }
            streamed[widest] = self.within(widest, streamed[widest] - missing.max(1.0));
            return true;
        }
        let more = missing.max(1.0) / others as f64;
        for unit in 0..streamed.len() {
            if can_stream(unit, streamed) {
                streamed[unit] = self.within(unit, streamed[unit] + more);
            }
        }
        true
    }

    /// The slope, or nothing where it leads out of what the unit can stream.
    fn inward(&self, unit: usize, own: f64, slope: f64) -> f64 {
        let outward =
            (slope > 0.0 && own <= self.least[unit]) || (slope < 0.0 && own >= self.most[unit]);
        if outward { 0.0 } else { slope }
    }

    fn within(&self, unit: usize, own: f64) -> f64 {
        own.clamp(self.least[unit], self.most[unit])
    }

    /// Keeps more of every unit while the pass gets no longer: what the ring does not need.
    fn stream_fewer(&self, best: &mut Streams) {
        let share = |share: f64| -> Vec<f64> {
            let own = |unit: usize| self.within(unit, best.streamed[unit] * share);
            (0..best.streamed.len()).map(own).collect()
        };
        let (mut too_few, mut enough) = (0.0, 1.0);
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(too_few, enough);
            let does = self.length(&share(middle)) <= best.length * (1.0 + 1e-9);
            if does { enough = middle } else { too_few = middle }
        }
        let streamed = share(enough);
        *best = Streams { length: self.length(&streamed), streamed };
    }
}
