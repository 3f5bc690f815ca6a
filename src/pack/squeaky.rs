//! Squeaky wheel optimization (Joslin and Clements, 1999): pack greedily in an order, move what
//! ends too high forward in it, pack again. It proves nothing, and closes most of the gap that a
//! static order leaves, also where a problem is far too large to be searched.

use std::sync::Mutex;

use super::core::{Core, PAIRS_MAX};
use super::effort::Effort;
use super::first_fit::{UNPLACED, first_fit};
use super::instance::Instance;
use super::orders::Order;
use super::race::{Lost, race};
use super::search::{Lists, neighbours};
use crate::base::Random;
use crate::base::lock;

/// Orders that are begun with, each a wheel of its own.
const ORDERS: [Order; 2] = [Order::PeakLifetimeArea, Order::Area];
/// Items packed first; the rest is placed around them.
const CORE_FIRST: usize = 600;
/// Steps of a wheel's first round; each later round has twice as many.
const STEPS_FIRST: u64 = 2_000_000;
/// How far forward an item is moved, as a part of the whole order, and at least half of it.
const MOVE: f64 = 0.1;
/// What ends above this part of the way from the goal to the best height is moved.
const HIGH: (u64, u64) = (3, 4);
/// Packings without progress, after which one goes back to the best order and shakes it.
const PATIENCE: u32 = 200;
/// One item in so many is moved by shaking, by up to so much of the order.
const SHAKEN: (f64, f64) = (0.02, 0.3);

/// Wheels over the fullest part of a problem, which go on where they were stopped.
pub(super) struct Squeaky<'a> {
    instance: &'a Instance,
    core: Core<'a>,
    orders: [Vec<u32>; ORDERS.len()],
    steps: u64,
}

impl<'a> Squeaky<'a> {
    /// For a problem that was packed at `height`, with hope for `goal`.
    pub(super) fn new(instance: &'a Instance, goal: u64, height: u64) -> Self {
        // What is as far below the goal as the height is above it will fit by itself.
        let full = (u128::from(goal) * u128::from(goal) / u128::from(height.max(1))) as u64;
        let mut wanted = instance.peaks().iter().filter(|&&peak| peak >= full).count();
        let core = loop {
            let mut core = Core::new(instance);
            core.grow(wanted.max(CORE_FIRST));
            if wanted <= CORE_FIRST || core.pairs() <= PAIRS_MAX {
                break core;
            }
            wanted = wanted / 3 * 2;
        };
        let orders = ORDERS.map(|order| order.sorted(instance));
        Self { instance, core, orders, steps: STEPS_FIRST }
    }

    /// Looks for a packing lower than `height`, down to `goal`: its offsets, if there was one.
    pub(super) fn squeeze(
        &mut self,
        goal: u64,
        height: u64,
        effort: &mut Effort<'_>,
    ) -> Option<Vec<u64>> {
        let (mut lowest, mut best) = (height, None);
        let stop = effort.stop();
        while lowest > goal && effort.left() > 0 && self.core.pairs() <= PAIRS_MAX {
            let (core_height, mut offsets) = self.round(goal, effort);
            self.steps *= 2;
            if core_height >= lowest {
                continue;
            }
            // The core is placed: what is left are the others, in their order.
            let order = &self.orders[0];
            let Some(steps) = first_fit(self.instance, order, &mut offsets, || stop.is_set())
            else {
                break;
            };
            effort.spend(steps);
            let within = core_height.max(goal);
            let ends = self.instance.items.iter().zip(&offsets);
            let above =
                (0..).zip(ends).filter(|(_, (item, offset))| **offset + item.bytes > within);
            let above: Vec<u32> = above.map(|(at, _)| at).collect();
            let reached = self.instance.height(&offsets);
            if reached < lowest {
                lowest = reached;
                best = Some(offsets);
            }
            if !above.is_empty() {
                self.core.add(&above);
                self.core.grow(self.core.items.len() / 4 * 5);
            }
        }
        best
    }

    /// Lets the wheels run; gives the best packing of the core so far and its height.
    fn round(&mut self, goal: u64, effort: &mut Effort<'_>) -> (u64, Vec<u64>) {
        let Self { instance, core, orders, steps } = self;
        let part = instance.part(&core.items);
        let near = neighbours(&part);
        let places = places(instance, &core.items);
        let wheels = orders.each_ref().map(|order| {
            let of_core = order.iter().map(|&item| places[item as usize]);
            let of_core: Vec<u32> = of_core.filter(|&place| place != OUTSIDE).collect();
            Mutex::new(Wheel::new(&part, &near, of_core, *steps))
        });
        let share = effort.share(ORDERS.len() as u64).min(*steps);
        spin(&wheels, goal, share, effort);
        let wheels = wheels
            .map(|wheel| wheel.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
        for (order, wheel) in orders.iter_mut().zip(&wheels) {
            follow(order, &core.items, &places, &wheel.best_order());
        }
        let mut offsets = vec![UNPLACED; instance.items.len()];
        let Some(wheel) = wheels.iter().min_by_key(|wheel| wheel.best) else {
            return (u64::MAX, offsets);
        };
        for (&item, &offset) in core.items.iter().zip(&wheel.best_offsets) {
            offsets[item as usize] = offset;
        }
        (wheel.best, offsets)
    }
}

/// Lets each wheel run for `steps`.
fn spin(wheels: &[Mutex<Wheel<'_>>], goal: u64, steps: u64, effort: &mut Effort<'_>) {
    let stop = effort.stop();
    let run = |(): &mut (), job: usize, lost: &Lost<'_>| {
        let mut wheel = lock(&wheels[job]);
        wheel.run(goal, steps, || lost.is_lost() || stop.is_set());
        (wheel.best, wheel.steps)
    };
    let results = race(wheels.len(), effort.threads(), || (), run, |&(best, _)| best <= goal);
    effort.spend(results.iter().map(|&(_, steps)| steps).sum());
}

const OUTSIDE: u32 = u32::MAX;

/// The place of each item in `chosen`.
fn places(instance: &Instance, chosen: &[u32]) -> Vec<u32> {
    let mut places = vec![OUTSIDE; instance.items.len()];
    for (place, &item) in chosen.iter().enumerate() {
        places[item as usize] = place as u32;
    }
    places
}

/// Puts the items of the core into the order a wheel found, before all others.
fn follow(order: &mut Vec<u32>, core: &[u32], places: &[u32], found: &[u32]) {
    let rest: Vec<u32> =
        order.iter().copied().filter(|&item| places[item as usize] == OUTSIDE).collect();
    *order = found.iter().map(|&place| core[place as usize]).chain(rest).collect();
}

/// An order of the items of one problem, and the best packing it led to.
struct Wheel<'a> {
    part: &'a Instance,
    near: &'a Lists,
    /// What is packed first has the lowest.
    keys: Vec<f64>,
    /// Packed last in this order.
    order: Vec<u32>,
    offsets: Vec<u64>,
    taken: Vec<(u64, u64)>,
    random: Random,
    steps: u64,
    best: u64,
    best_keys: Vec<f64>,
    best_offsets: Vec<u64>,
}

impl<'a> Wheel<'a> {
    fn new(part: &'a Instance, near: &'a Lists, order: Vec<u32>, seed: u64) -> Self {
        let mut keys = vec![0.0; order.len()];
        for (place, &item) in order.iter().enumerate() {
            keys[item as usize] = place as f64;
        }
        Self {
            part,
            near,
            best_keys: keys.clone(),
            keys,
            offsets: vec![UNPLACED; order.len()],
            taken: Vec::new(),
            random: Random::new(seed),
            steps: 0,
            best: u64::MAX,
            best_offsets: vec![UNPLACED; order.len()],
            order,
        }
    }

    fn best_order(&self) -> Vec<u32> {
        sorted(&self.best_keys)
    }

    /// Packs again and again until `goal` is reached or `steps` are spent; at least once.
    fn run(&mut self, goal: u64, steps: u64, is_stopped: impl Fn() -> bool) {
        let mut patience = PATIENCE;
        let mut from = 0;
        loop {
            let height = self.pack(from);
            if height < self.best {
                self.best = height;
                self.best_keys.copy_from_slice(&self.keys);
                self.best_offsets.copy_from_slice(&self.offsets);
                patience = PATIENCE;
            }
            if self.best <= goal || self.steps >= steps || is_stopped() {
                return;
            }
            patience -= 1;
            if patience == 0 {
                patience = PATIENCE;
                self.shake();
            } else {
                self.move_forward(goal);
            }
            let order = sorted(&self.keys);
            let is_same = |(a, b): &(&u32, &u32)| a == b;
            from = self.order.iter().zip(&order).take_while(is_same).count();
            self.order = order;
        }
    }

    /// First fit in the present order, of which what is before `from` is packed already; gives
    /// the height.
    fn pack(&mut self, from: usize) -> u64 {
        let (packed, rest) = self.order.split_at(from);
        let end = |&item: &u32| self.offsets[item as usize] + self.part.items[item as usize].bytes;
        let mut height = packed.iter().map(end).max().unwrap_or(0);
        for &item in rest {
            self.offsets[item as usize] = UNPLACED;
        }
        for &item in rest {
            self.taken.clear();
            for &other in self.near.list(item) {
                let offset = self.offsets[other as usize];
                if offset != UNPLACED {
                    self.taken.push((offset, offset + self.part.items[other as usize].bytes));
                }
            }
            self.steps += 4 * self.near.list(item).len() as u64 + 4;
            self.taken.sort_unstable();
            let bytes = self.part.items[item as usize].bytes;
            let mut offset = 0;
            for &(start, end) in &self.taken {
                if start >= offset + bytes {
                    break;
                }
                offset = offset.max(end);
            }
            self.offsets[item as usize] = offset;
            height = height.max(offset + bytes);
        }
        height
    }

    fn move_forward(&mut self, goal: u64) {
        let high = goal + (self.best - goal) / HIGH.1 * HIGH.0;
        let reach = self.keys.len() as f64 * MOVE;
        for (at, item) in self.part.items.iter().enumerate() {
            if self.offsets[at] + item.bytes > high {
                self.keys[at] -= reach * (0.5 + self.random.unit());
            }
        }
    }

    fn shake(&mut self) {
        self.keys.copy_from_slice(&self.best_keys);
        let (part, reach) = (SHAKEN.0, self.keys.len() as f64 * SHAKEN.1);
        for key in &mut self.keys {
            if self.random.unit() < part {
                *key -= reach * self.random.unit();
            }
        }
    }
}

/// The items by their keys, equal ones by their number.
fn sorted(keys: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..keys.len() as u32).collect();
    order.sort_unstable_by(|&a, &b| keys[a as usize].total_cmp(&keys[b as usize]).then(a.cmp(&b)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::effort::Stop;
    use crate::pack::first_fit::first_fit;
    use crate::pack::{Buffer, Watch, verify};

    /// Buffers of many sizes that come and go, none of which lives long.
    fn buffers(count: u64) -> Vec<Buffer> {
        let mut random = Random::new(7);
        let mut below = |end: u64| (random.unit() * end as f64) as u64;
        let one = |lower| Buffer {
            lower,
            upper: lower + 1 + below(60),
            bytes: (1 << below(12)) + below(4096),
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn what_a_static_order_wastes_is_won_back() {
        let buffers = buffers(3000);
        let sizes: Vec<u64> = buffers.iter().map(|buffer| buffer.bytes).collect();
        let instance = Instance::new(&buffers, &sizes);
        let mut offsets = vec![UNPLACED; buffers.len()];
        first_fit(&instance, &Order::ALL[0].sorted(&instance), &mut offsets, || false).unwrap();
        let (goal, height) = (instance.peak_load(), instance.height(&offsets));
        assert!(height > goal, "nothing to win");

        let watch = Watch::new();
        let packed = |threads| {
            let stop = Stop { watch: &watch, deadline: None };
            let mut effort = Effort::new(20_000_000, threads, stop);
            Squeaky::new(&instance, goal, height).squeeze(goal, height, &mut effort).unwrap()
        };
        let offsets = packed(1);
        verify(&buffers, &offsets, instance.height(&offsets)).unwrap();
        assert!(height - instance.height(&offsets) > (height - goal) / 4);
        assert_eq!(offsets, packed(2));
    }
}
