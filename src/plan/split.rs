//! A row of units over a row of devices: contiguous ranges, so that what the slowest device takes
//! is least. Knows costs alone.

use std::collections::BTreeMap;
use std::ops::Range;

/// How near to the least the slowest device's time is sought, as a part of it.
const TOLERANCE: f64 = 5e-4;

/// Halvings of the gap between what is known to do and what is known not to. Enough for the
/// tolerance from any start, and an end for costs that are no numbers.
const HALVINGS: usize = 64;

/// Ranges of `units` units for each of `devices` devices, in order, some of them empty. None where
/// no division has a finite cost.
///
/// `cost(device, range)` is what a device takes for a range, infinite where it cannot have it, and
/// no less for more units. `guess` is cheap, and no more than the cost. What is called is asked for
/// about 100 costs for two devices and 60 units.
pub(super) fn split(
    units: usize,
    devices: usize,
    guess: impl Fn(usize, Range<usize>) -> f64,
    cost: impl FnMut(usize, Range<usize>) -> f64,
) -> Option<Vec<Range<usize>>> {
    let mut guessed = Costs::new(units, devices, guess);
    let mut costs = Costs::new(units, devices, cost);
    let coarse = guessed.least(0.0, None)?;
    // No division is faster than the best by a guess that is never too much.
    let least = guessed.slowest(&coarse) * (1.0 - 2.0 * TOLERANCE);
    costs.least(least, Some(coarse))
}

/// Costs that were asked for, by device and range.
struct Costs<F> {
    units: usize,
    devices: usize,
    cost: F,
    known: BTreeMap<(usize, usize, usize), f64>,
}

impl<F: FnMut(usize, Range<usize>) -> f64> Costs<F> {
    fn new(units: usize, devices: usize, cost: F) -> Self {
        Self { units, devices, cost, known: BTreeMap::new() }
    }

    fn of(&mut self, device: usize, range: Range<usize>) -> f64 {
        if range.is_empty() {
            return 0.0;
        }
        let key = (device, range.start, range.end);
        if let Some(&known) = self.known.get(&key) {
            return known;
        }
        let cost = (self.cost)(device, range);
        let cost = if cost.is_nan() { f64::INFINITY } else { cost };
        self.known.insert(key, cost);
        cost
    }

    fn slowest(&mut self, ranges: &[Range<usize>]) -> f64 {
        let costs = ranges.iter().enumerate().map(|(device, range)| self.of(device, range.clone()));
        costs.fold(0.0, f64::max)
    }

    /// A division whose slowest device is within the tolerance of the least, given that none is
    /// faster than `least`; with one to begin with.
    fn least(&mut self, least: f64, first: Option<Vec<Range<usize>>>) -> Option<Vec<Range<usize>>> {
        let first = first.filter(|ranges| self.slowest(ranges).is_finite());
        let mut best = match first {
            Some(ranges) => ranges,
            // Every device takes what it can.
            None => self.within(f64::MAX)?,
        };
        let (mut below, mut reached) = (least.max(0.0), self.slowest(&best));
        for _ in 0..HALVINGS {
            if reached - below <= TOLERANCE * reached {
                break;
            }
            let middle = f64::midpoint(below, reached);
            match self.within(middle) {
                Some(ranges) => {
                    reached = self.slowest(&ranges).min(middle);
                    best = ranges;
                }
                None => below = middle,
            }
        }
        Some(best)
    }

    /// A division in which no device takes longer than `most`: each takes as many units as it can
    /// in that time, which leaves the fewest for those behind it.
    fn within(&mut self, most: f64) -> Option<Vec<Range<usize>>> {
        let mut start = 0;
        let mut ranges = Vec::with_capacity(self.devices);
        for device in 0..self.devices {
            let (mut can, mut cannot) = (start, self.units + 1);
            while cannot - can > 1 {
                let end = can.midpoint(cannot);
                match self.of(device, start..end) <= most {
                    true => can = end,
                    false => cannot = end,
                }
            }
            ranges.push(start..can);
            start = can;
        }
        (start == self.units).then_some(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;

    /// What streaming takes: all compute, or the copies of what exceeds the room.
    struct Device {
        link: f64,
        speed: f64,
        room: f64,
    }

    fn bound(device: &Device, bytes: &[f64], work: &[f64], range: Range<usize>) -> f64 {
        let sum = |of: &[f64]| of[range.clone()].iter().sum::<f64>();
        (sum(work) / device.speed).max((sum(bytes) - device.room).max(0.0) / device.link)
    }

    /// The slowest device of the best division.
    fn best(units: usize, devices: usize, cost: &dyn Fn(usize, Range<usize>) -> f64) -> f64 {
        fn go(
            start: usize,
            device: usize,
            (units, devices): (usize, usize),
            cost: &dyn Fn(usize, Range<usize>) -> f64,
        ) -> f64 {
            if device + 1 == devices {
                return if start == units { 0.0 } else { cost(device, start..units) };
            }
            let ends = start..=units;
            let of = |end| if end == start { 0.0 } else { cost(device, start..end) };
            ends.map(|end| of(end).max(go(end, device + 1, (units, devices), cost)))
                .fold(f64::INFINITY, f64::min)
        }
        go(0, 0, (units, devices), cost)
    }

    #[test]
    fn no_division_is_faster() {
        let mut random = Random::new(3);
        for round in 0..200 {
            let units = 1 + random.below(9) as usize;
            let devices: Vec<Device> = (0..1 + random.below(3))
                .map(|_| Device {
                    link: 0.2 + random.unit(),
                    speed: 0.2 + random.unit(),
                    room: 3.0 * random.unit(),
                })
                .collect();
            let [bytes, work] =
                [1.0, 2.0].map(|most| (0..units).map(|_| most * random.unit()).collect::<Vec<_>>());
            let guess = |device: usize, range| bound(&devices[device], &bytes, &work, range);
            // More than the bound, by something that only rises with the range.
            let cost = |device: usize, range: Range<usize>| {
                let least = guess(device, range.clone());
                least + 0.1 * bytes[range].iter().copied().fold(0.0, f64::max)
            };
            let ranges = split(units, devices.len(), guess, cost).unwrap();
            let slowest = ranges.iter().enumerate();
            let slowest = slowest.filter(|(_, range)| !range.is_empty());
            let slowest = slowest.map(|(at, range)| cost(at, range.clone())).fold(0.0, f64::max);
            let best = best(units, devices.len(), &cost);
            assert!(slowest <= best * (1.0 + 2.0 * TOLERANCE), "{round}: {slowest} {best}");
            assert_eq!(ranges.iter().map(ExactSizeIterator::len).sum::<usize>(), units);
        }
    }

    #[test]
    fn a_device_that_can_have_nothing_is_passed_over_and_none_is_no_division() {
        let cost = |device: usize, range: Range<usize>| match device {
            1 => f64::INFINITY,
            _ => range.len() as f64,
        };
        let ranges = split(10, 3, |_, _| 0.0, cost).unwrap();
        assert_eq!(ranges, [0..5, 5..5, 5..10]);
        assert_eq!(split(3, 2, |_, _| 0.0, |_, _| f64::INFINITY), None);
        assert_eq!(split(0, 2, |_, _| 0.0, |_, _| 1.0), Some(vec![0..0, 0..0]));
        assert_eq!(split(3, 0, |_, _| 0.0, |_, _| 1.0), None);
    }

    #[test]
    fn costs_are_asked_for_seldom() {
        let mut asked = 0;
        let ranges = split(
            60,
            2,
            |_, range| range.len() as f64,
            |_, range| {
                asked += 1;
                1.2 * range.len() as f64
            },
        );
        assert_eq!(ranges.unwrap(), [0..30, 30..60]);
        assert!(asked <= 120, "{asked}");
    }
}
