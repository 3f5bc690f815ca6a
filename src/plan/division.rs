//! From streamed bytes in any number to what units can really be divided into: their tensors,
//! slices, or the whole.

use super::job::{Grains, UnitShape};
use super::optimum::Problem;

/// What stays of one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stays {
    pub(super) bytes: u64,
    /// Which parts, if the unit has parts; ascending.
    pub(super) parts: Vec<usize>,
}

/// How one unit can be divided.
#[derive(Debug, Clone)]
enum Division {
    Slices { grain: u64 },
    Parts(Vec<u64>),
}

/// All choices up to this many parts are tried, one after the other.
const EXHAUSTIVE_PARTS: usize = 12;
/// Tries of the local search: so many for each part, up to this many.
const TRIES_A_PART: usize = 12;
const MOST_TRIES: usize = 6000;

/// Divides units so that about `streamed` bytes of each are streamed and the rest stays, and
/// improves what comes of it.
pub(super) fn divide(units: &[UnitShape], partial: bool, problem: &Problem) -> Vec<Stays> {
    let divisions: Vec<Division> = units.iter().map(|unit| division(unit, partial)).collect();
    let streamed = problem.solve().streamed;
    let mut search = Search::new(units, divisions, problem);
    search.round(&streamed);
    search.make_room();
    search.improve();
    search.stays
}

fn division(unit: &UnitShape, partial: bool) -> Division {
    match &unit.grains {
        Grains::Parts(parts) if partial => Division::Parts(parts.clone()),
        Grains::Slices(grain) if partial => Division::Slices { grain: (*grain).max(1) },
        _ => Division::Parts(vec![unit.bytes]),
    }
}

struct Search<'a> {
    units: &'a [UnitShape],
    divisions: Vec<Division>,
    problem: &'a Problem,
    stays: Vec<Stays>,
}

impl<'a> Search<'a> {
    fn new(units: &'a [UnitShape], divisions: Vec<Division>, problem: &'a Problem) -> Self {
        let stays = units.iter().map(|_| Stays { bytes: 0, parts: Vec::new() }).collect();
        Self { units, divisions, problem, stays }
    }

    /// The nearest division of each unit; what one is off is made up for by the next, so that
    /// whole units that stay are spread evenly.
    fn round(&mut self, streamed: &[f64]) {
        let mut owed = 0.0;
        for (unit, shape) in self.units.iter().enumerate() {
            let wanted = shape.bytes as f64 - streamed[unit];
            let (least, most) = self.range(unit);
            let aim = (wanted + owed).clamp(0.0, shape.bytes as f64) as u64;
            let stays = match &self.divisions[unit] {
                Division::Slices { grain } => {
                    let down = if aim >= shape.bytes { aim } else { aim / grain * grain };
                    Stays { bytes: down.clamp(least, most), parts: Vec::new() }
                }
                Division::Parts(_) if least == most && least == 0 => self.stays[unit].clone(),
                Division::Parts(parts) => nearest(parts, aim.clamp(least, most)),
            };
            owed += wanted - stays.bytes as f64;
            self.stays[unit] = stays;
        }
    }

    /// The fewest and the most bytes that may stay of a unit.
    fn range(&self, unit: usize) -> (u64, u64) {
        let stays = |streams: f64| self.units[unit].bytes.saturating_sub(streams.max(0.0) as u64);
        (stays(self.problem.most[unit]), stays(self.problem.least[unit]))
    }

    fn streamed(&self) -> Vec<f64> {
        let own = |(unit, stays): (&UnitShape, &Stays)| (unit.bytes - stays.bytes) as f64;
        self.units.iter().zip(&self.stays).map(own).collect()
    }

    fn length(&self) -> f64 {
        self.problem.length(&self.streamed())
    }

    /// Lets parts go until each unit's streamed bytes fit the ring: the largest of the widest
    /// unit's neighbours would do as well, but any smaller resident set leaves the ring more.
    fn make_room(&mut self) {
        let parts: usize = self.stays.iter().map(|stays| stays.parts.len()).sum();
        for _ in 0..parts {
            if self.length().is_finite() {
                return;
            }
            let streamed = self.streamed();
            let widest = (0..streamed.len()).max_by(|&a, &b| streamed[a].total_cmp(&streamed[b]));
            let lets_go = (0..self.units.len())
                .filter(|&unit| Some(unit) != widest && !self.stays[unit].parts.is_empty())
                .filter(|&unit| self.range(unit).0 == 0)
                .min_by(|&a, &b| streamed[a].total_cmp(&streamed[b]));
            let Some(unit) = lets_go else { return };
            let at = self.stays[unit].parts.len() - 1;
            self.toggle(unit, self.stays[unit].parts[at]);
        }
    }

    /// Keeps a part that is streamed, or the other way round.
    fn toggle(&mut self, unit: usize, part: usize) {
        let Division::Parts(parts) = &self.divisions[unit] else { return };
        let stays = &mut self.stays[unit];
        match stays.parts.binary_search(&part) {
            Ok(at) => {
                stays.parts.remove(at);
                stays.bytes -= parts[part];
            }
            Err(at) => {
                stays.parts.insert(at, part);
                stays.bytes += parts[part];
            }
        }
    }

    /// Parts that may be kept or streamed: unit and part.
    fn free_parts(&self) -> Vec<(usize, usize)> {
        let free = |unit: &usize| self.problem.least[*unit] < self.problem.most[*unit];
        let units = (0..self.units.len()).filter(free);
        let parts = units.flat_map(|unit| match &self.divisions[unit] {
            Division::Parts(parts) => (0..parts.len()).map(|part| (unit, part)).collect(),
            Division::Slices { .. } => Vec::new(),
        });
        parts.filter(|&(unit, part)| self.part_bytes(unit, part) > 0).collect()
    }

    fn part_bytes(&self, unit: usize, part: usize) -> u64 {
        match &self.divisions[unit] {
            Division::Parts(parts) => parts[part],
            Division::Slices { .. } => 0,
        }
    }

    fn improve(&mut self) {
        let free = self.free_parts();
        if free.is_empty() {
            return;
        }
        if free.len() <= EXHAUSTIVE_PARTS { self.try_all(&free) } else { self.try_near(&free) }
    }

    /// Every choice, in an order in which each differs from the one before in one part.
    fn try_all(&mut self, free: &[(usize, usize)]) {
        let mut best = (self.length(), self.stays.clone());
        for choice in 1..1u32 << free.len() {
            let (unit, part) = free[choice.trailing_zeros() as usize];
            self.toggle(unit, part);
            let length = self.length();
            if is_shorter(length, best.0) {
                best = (length, self.stays.clone());
            }
        }
        self.stays = best.1;
    }

    /// Single parts the other way round, and pairs of them exchanged, as long as the pass gets
    /// shorter and tries are left.
    fn try_near(&mut self, free: &[(usize, usize)]) {
        let mut tries = (free.len() * TRIES_A_PART).min(MOST_TRIES);
        let mut length = self.length();
        let floor = self.problem.compute() * (1.0 + 1e-6);
        let mut improved = true;
        while improved && tries > 0 && length > floor {
            improved = false;
            // First neighbours, then farther apart; a part with itself is a change of one.
            for apart in [0, 1, 2, 5, free.len() / 3, free.len() / 2] {
                for at in 0..free.len() {
                    let pair = [free[at], free[(at + apart) % free.len()]];
                    let changes = &pair[..if apart == 0 { 1 } else { 2 }];
                    if apart > 0 && self.stays_of(pair[0]) == self.stays_of(pair[1]) {
                        continue;
                    }
                    if tries == 0 {
                        return;
                    }
                    tries -= 1;
                    changes.iter().for_each(|&(unit, part)| self.toggle(unit, part));
                    let changed = self.length();
                    if is_shorter(changed, length) {
                        (length, improved) = (changed, true);
                    } else {
                        changes.iter().for_each(|&(unit, part)| self.toggle(unit, part));
                    }
                }
            }
        }
    }

    fn stays_of(&self, (unit, part): (usize, usize)) -> bool {
        self.stays[unit].parts.binary_search(&part).is_ok()
    }
}

fn is_shorter(length: f64, than: f64) -> bool {
    length < than * (1.0 - 1e-9) || (length.is_finite() && !than.is_finite())
}

/// Parts that add up to about `aim`, the largest first.
fn nearest(parts: &[u64], aim: u64) -> Stays {
    let mut by_size: Vec<usize> = (0..parts.len()).collect();
    by_size.sort_by_key(|&part| (std::cmp::Reverse(parts[part]), part));
    let mut stays = Stays { bytes: 0, parts: Vec::new() };
    let mut next_larger = None;
    for part in by_size {
        if parts[part] <= aim - stays.bytes {
            stays.bytes += parts[part];
            stays.parts.push(part);
        } else {
            next_larger = Some(part);
        }
    }
    // One part more, where that is nearer than one too few.
    let missing = aim - stays.bytes;
    if let Some(part) = next_larger.filter(|&part| parts[part] - missing < missing) {
        stays.bytes += parts[part];
        stays.parts.push(part);
    }
    stays.parts.sort_unstable();
    stays
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_about_what_is_aimed_at() {
        let bytes = |aim| nearest(&[10, 40, 30, 5], aim).bytes;
        assert_eq!([0, 2, 4, 41, 77, 85].map(bytes), [0, 0, 5, 40, 75, 85]);
        assert_eq!(nearest(&[10, 40, 30, 5], 44).parts, [1, 3]);
    }
}
