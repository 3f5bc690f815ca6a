//! How much an expert is worth keeping: how often its layer was routed to it, the latest times
//! counting most. Pure.
//!
//! A layer's experts come round once a token, so that by the time of last use the experts of the
//! layer that ran last look best and will be wanted last: with fewer slots than a token uses, least
//! recently used never hits. How often is what routing is skewed in. A count halves while the layer
//! is routed to each of its experts so many times on average, so that what a conversation has left
//! behind is forgotten; and it is kept for experts that are not on the device, so that one that is
//! wanted now and then does not begin anew each time. Layers count time by their own uses, so that
//! figures of layers with many experts and with few can be compared.

/// Uses an expert of the layer has on average while counts halve. Long enough that figures of an
/// expert that is routed to as often as others do not depend on chance much (a quarter, by the
/// square root of about 23 uses that count).
const HALF_LIFE_USES: f64 = 16.0;

/// Every expert's score.
#[derive(Debug)]
pub(super) struct Scores(Vec<Layer>);

#[derive(Debug)]
struct Layer {
    /// Uses of its experts so far.
    clock: u64,
    /// Uses in which a count halves.
    half_life: f64,
    experts: Vec<Score>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Score {
    /// Uses, each by how old it was at `at`.
    count: f64,
    at: u64,
}

impl Scores {
    /// Nothing used so far, of layers with so many experts.
    pub(super) fn new(layers: impl IntoIterator<Item = usize>) -> Self {
        let layer = |experts: usize| Layer {
            clock: 0,
            half_life: HALF_LIFE_USES * experts.max(1) as f64,
            experts: vec![Score::default(); experts],
        };
        Self(layers.into_iter().map(layer).collect())
    }

    /// An expert was routed to.
    pub(super) fn note(&mut self, layer: usize, expert: usize) {
        let Some(layer) = self.0.get_mut(layer) else { return };
        layer.clock += 1;
        let count = layer.score(expert) + 1.0;
        if let Some(score) = layer.experts.get_mut(expert) {
            *score = Score { count, at: layer.clock };
        }
    }

    /// How much an expert is worth.
    pub(super) fn score(&self, layer: usize, expert: usize) -> f64 {
        self.0.get(layer).map_or(0.0, |layer| layer.score(expert))
    }
}

impl Layer {
    fn score(&self, expert: usize) -> f64 {
        let Some(score) = self.experts.get(expert) else { return 0.0 };
        score.count * (-((self.clock - score.at) as f64) / self.half_life).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;

    const LAYERS: usize = 6;
    const EXPERTS: usize = 32;
    const ROUTED: usize = 4;

    /// Tokens, each a few different experts of each layer, by Zipf's law: the expert of rank r with
    /// weight 1/r, each layer with ranks of its own, which a shift changes.
    fn tokens(random: &mut Random, tokens: usize, shift: usize) -> Vec<Vec<usize>> {
        let weights: Vec<f64> = (1..=EXPERTS).map(|rank| 1.0 / rank as f64).collect();
        let all: f64 = weights.iter().sum();
        let mut draw = || {
            let mut left = random.unit() * all;
            let rank = weights.iter().position(|weight| {
                left -= weight;
                left <= 0.0
            });
            rank.unwrap_or(EXPERTS - 1)
        };
        let mut passes = Vec::new();
        for _ in 0..tokens {
            for layer in 0..LAYERS {
                let mut routed: Vec<usize> = Vec::new();
                while routed.len() < ROUTED {
                    let expert = (draw() * 5 + layer * 7 + shift) % EXPERTS;
                    if !routed.contains(&expert) {
                        routed.push(expert);
                    }
                }
                passes.push(routed);
            }
        }
        passes
    }

    /// The share of uses that find their expert, if whatever is worth least by `worth` (layer,
    /// expert, last use) makes room.
    fn hit_rate(
        passes: &[Vec<usize>],
        slots: usize,
        mut note: impl FnMut(usize, usize),
        worth: impl Fn(usize, usize, u64) -> f64,
    ) -> f64 {
        let mut held: Vec<(usize, usize, u64)> = Vec::new();
        let (mut hits, mut uses) = (0, 0u64);
        for (at, routed) in passes.iter().enumerate() {
            let layer = at % LAYERS;
            for &expert in routed {
                note(layer, expert);
                uses += 1;
                if let Some(slot) = held.iter_mut().find(|(l, e, _)| (*l, *e) == (layer, expert)) {
                    slot.2 = uses;
                    hits += 1;
                    continue;
                }
                if held.len() == slots {
                    let least = (held.iter().enumerate())
                        .min_by(|(_, a), (_, b)| {
                            worth(a.0, a.1, a.2).total_cmp(&worth(b.0, b.1, b.2))
                        })
                        .unwrap();
                    let least = least.0;
                    held.swap_remove(least);
                }
                held.push((layer, expert, uses));
            }
        }
        f64::from(hits) / uses as f64
    }

    fn ours(passes: &[Vec<usize>], slots: usize) -> f64 {
        let scores = std::cell::RefCell::new(Scores::new([EXPERTS; LAYERS]));
        let worth = |layer, expert, _| scores.borrow().score(layer, expert);
        hit_rate(passes, slots, |layer, expert| scores.borrow_mut().note(layer, expert), worth)
    }

    fn lru(passes: &[Vec<usize>], slots: usize) -> f64 {
        hit_rate(passes, slots, |_, _| (), |_, _, used| used as f64)
    }

    fn counts_for_ever(passes: &[Vec<usize>], slots: usize) -> f64 {
        let counts = std::cell::RefCell::new([[0u64; EXPERTS]; LAYERS]);
        let note = |layer: usize, expert: usize| counts.borrow_mut()[layer][expert] += 1;
        hit_rate(passes, slots, note, |layer, expert, _| counts.borrow()[layer][expert] as f64)
    }

    #[test]
    fn skewed_routing_hits_more_often_than_by_last_use() {
        let mut random = Random::new(5);
        let passes = tokens(&mut random, 1000, 0);
        for (slots, more) in [(12, 0.2), (24, 0.1), (48, 0.08), (96, 0.03)] {
            let (ours, lru) = (ours(&passes, slots), lru(&passes, slots));
            assert!(ours > lru + more, "{slots}: {ours} {lru}");
        }
    }

    #[test]
    fn what_is_no_longer_routed_to_is_forgotten() {
        let mut random = Random::new(6);
        let mut passes = tokens(&mut random, 3000, 0);
        let drift = passes.len();
        passes.extend(tokens(&mut random, 1500, 11));
        let only_after = |rate: fn(&[Vec<usize>], usize) -> f64| {
            // Hits of all less those before the change.
            let (all, before) = (rate(&passes, 48), rate(&passes[..drift], 48));
            (all * passes.len() as f64 - before * drift as f64) / (passes.len() - drift) as f64
        };
        let (ours, kept, lru) = (only_after(ours), only_after(counts_for_ever), only_after(lru));
        assert!(ours > kept + 0.05 && ours > lru, "{ours} {kept} {lru}");
    }

    #[test]
    fn a_count_halves_in_its_time() {
        let mut scores = Scores::new([4]);
        scores.note(0, 1);
        let half_life = (HALF_LIFE_USES * 4.0) as usize;
        (0..half_life).for_each(|_| scores.note(0, 2));
        assert!((scores.score(0, 1) - 0.5).abs() < 1e-9);
        assert!(scores.score(0, 2) > 30.0);
        assert_eq!((scores.score(0, 9), scores.score(7, 0)), (0.0, 0.0));
        scores.note(9, 9);
    }
}
