//! Many short searches of one piece instead of a long one: what a search finds depends much on
//! the order it tries, and the time to find it has a heavy tail.

use super::decompose::Piece;
use super::effort::Effort;
use super::orders::Order;
use super::race::{Lost, race};
use super::search::{Limits, Outcome, Search};
use crate::base::Random;

/// Conflicts a search of the first round may have.
const CONFLICTS_FIRST: u64 = 200;
/// From round to round a search may have more, up to this: longer ones seldom pay.
const CONFLICTS_MAX: u64 = 100_000;
/// How far the items of each order are moved in the searches of a later round, as a part of all.
const NOISES: [f64; 4] = [0.2, 0.5, 0.05, 0.0];
/// Searches in an order as it is may have so many times the conflicts of the others.
const PLAIN_DEPTH: u64 = 4;

/// Looks for a packing of `piece` below `capacity`, which counts from the piece's base, until
/// `effort` is spent.
pub(super) fn solve(piece: &Piece, capacity: u64, effort: &mut Effort<'_>) -> Outcome {
    let instance = &piece.instance;
    let orders: Vec<Vec<u32>> = Order::ALL.iter().map(|order| order.sorted(instance)).collect();
    let mut conflicts = CONFLICTS_FIRST;
    for round in 0_u64.. {
        let count = if round == 0 { orders.len() } else { orders.len() * NOISES.len() };
        let steps = effort.share(count as u64);
        if steps == 0 {
            break;
        }
        let stop = effort.stop();
        let run = |search: &mut Search<'_>, job: usize, lost: &Lost<'_>| {
            let noise = if round == 0 { 0.0 } else { NOISES[job / orders.len()] };
            let seed = round << 32 | job as u64;
            let rank = shaken(&orders[job % orders.len()], noise, seed);
            let before = search.steps();
            let deeper = if round > 0 && noise == 0.0 { PLAIN_DEPTH } else { 1 };
            let limits = Limits { conflicts: conflicts * deeper, steps };
            let outcome = search.run(&rank, limits, || lost.is_lost() || stop.is_set());
            (outcome, search.steps() - before)
        };
        let start = || Search::new(instance, capacity);
        let is_win = |(outcome, _): &(Outcome, u64)| *outcome != Outcome::Unknown;
        let results = race(count, effort.threads(), start, run, is_win);
        effort.spend(results.iter().map(|&(_, steps)| steps).sum());
        if let Some((outcome, _)) = results.into_iter().rfind(is_win) {
            return outcome;
        }
        conflicts = (conflicts * 3 / 2).min(CONFLICTS_MAX);
    }
    Outcome::Unknown
}

/// The rank of each item in `order`, after each was moved by up to `noise` of the whole length.
fn shaken(order: &[u32], noise: f64, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    let reach = order.len() as f64 * noise;
    let mut keys: Vec<(f64, u32)> = Vec::with_capacity(order.len());
    for (place, &item) in order.iter().enumerate() {
        keys.push((place as f64 + reach * random.unit(), item));
    }
    keys.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut rank = vec![0; order.len()];
    for (place, &(_, item)) in keys.iter().enumerate() {
        rank[item as usize] = place as u32;
    }
    rank
}
