//! The units a mode streams, made of those described: groups of them, their parts, all of them,
//! or pieces of those too large for a ring.

use super::job::{Grains, Keep, UnitShape};
use super::planned::MadeOf;
use super::rules::Granularity;

/// A unit as it is streamed, and what it was made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Streamable {
    pub(super) shape: UnitShape,
    pub(super) made_of: MadeOf,
}

/// The units of a component as `granularity` wants them.
pub(super) fn regroup(units: &[UnitShape], granularity: Granularity) -> Vec<Streamable> {
    let size = match granularity {
        Granularity::Layer => 1,
        Granularity::Group(size) => (size as usize).max(1),
        Granularity::Component => units.len().max(1),
        Granularity::Leaf => {
            let parts = units.iter().enumerate().map(|(at, unit)| (at, unit, part_count(unit)));
            return parts.flat_map(|(at, unit, count)| cut(at, unit, 0..count, count)).collect();
        }
    };
    let groups = units.chunks(size).enumerate();
    groups.map(|(number, group)| join(group, number * size)).collect()
}

/// Units larger than `most_bytes` cut into as few pieces as do, where they can be cut.
pub(super) fn split(units: Vec<Streamable>, most_bytes: u64) -> Vec<Streamable> {
    let pieces = |unit: Streamable| {
        let whole = unit.made_of.units.len() == 1 && unit.made_of.parts.is_none();
        if unit.shape.bytes <= most_bytes || most_bytes == 0 || !whole {
            return vec![unit];
        }
        let at = unit.made_of.units.start;
        match &unit.shape.grains {
            Grains::Whole => vec![unit],
            Grains::Slices(grain) => {
                let grain = (*grain).max(1);
                let fitting = (most_bytes / grain).max(1) * grain;
                let count = unit.shape.bytes.div_ceil(fitting);
                slices(at, &unit.shape, count, grain)
            }
            Grains::Parts(parts) => {
                let cuts = runs(parts, most_bytes);
                let count = cuts.len();
                cuts.into_iter().flat_map(|run| cut(at, &unit.shape, run, count)).collect()
            }
        }
    };
    units.into_iter().flat_map(pieces).collect()
}

/// How many pieces a unit falls into by itself.
fn part_count(unit: &UnitShape) -> usize {
    match &unit.grains {
        Grains::Parts(parts) => parts.len(),
        Grains::Whole | Grains::Slices(_) => 1,
    }
}

/// Several units as one; one stays as it is.
fn join(group: &[UnitShape], first: usize) -> Streamable {
    let made_of = MadeOf { units: first..first + group.len(), parts: None };
    if let [unit] = group {
        return Streamable { shape: unit.clone(), made_of };
    }
    let name = match group {
        [first, .., last] => format!("{}..{}", first.name, last.name),
        _ => String::new(),
    };
    let sum = |of: fn(&UnitShape) -> u64| group.iter().map(of).fold(0, u64::saturating_add);
    let grains = match group.iter().map(|unit| &unit.grains).collect::<Vec<_>>().as_slice() {
        [Grains::Slices(grain), rest @ ..]
            if rest.iter().all(|other| *other == &Grains::Slices(*grain)) =>
        {
            Grains::Slices(*grain)
        }
        all => Grains::Parts(
            all.iter().zip(group).flat_map(|(grains, unit)| parts_of(grains, unit)).collect(),
        ),
    };
    let keep = if group.iter().any(|unit| unit.keep == Keep::Never) {
        Keep::Never
    } else if group.iter().all(|unit| unit.keep == Keep::Always) {
        Keep::Always
    } else {
        Keep::Planned
    };
    let gflop = group.iter().map(|unit| unit.gflop).sum();
    let shape = UnitShape {
        name,
        bytes: sum(|unit| unit.bytes),
        wire_bytes: sum(|unit| unit.wire_bytes),
        gflop,
        grains,
        keep,
    };
    Streamable { shape, made_of }
}

fn parts_of(grains: &Grains, unit: &UnitShape) -> Vec<u64> {
    match grains {
        Grains::Parts(parts) => parts.clone(),
        Grains::Whole | Grains::Slices(_) => vec![unit.bytes],
    }
}

/// Parts of a unit as a unit, one for each run of them; as one unit where `parts` is a run of
/// `split` the unit is cut into.
fn cut(
    at: usize,
    unit: &UnitShape,
    parts: std::ops::Range<usize>,
    count: usize,
) -> Vec<Streamable> {
    let Grains::Parts(sizes) = &unit.grains else {
        let made_of = MadeOf { units: at..at + 1, parts: None };
        return vec![Streamable { shape: unit.clone(), made_of }];
    };
    let leaves = parts.len() == sizes.len() && count == sizes.len();
    let runs: Vec<_> =
        if leaves { parts.map(|part| part..part + 1).collect() } else { vec![parts] };
    let piece = |run: std::ops::Range<usize>| {
        let sizes = sizes[run.clone()].to_vec();
        let bytes = sizes.iter().sum();
        let shape = UnitShape {
            name: format!("{}[{}..{}]", unit.name, run.start, run.end),
            grains: Grains::Parts(sizes),
            ..share(unit, bytes)
        };
        Streamable { shape, made_of: MadeOf { units: at..at + 1, parts: Some(run) } }
    };
    runs.into_iter().map(piece).collect()
}

/// Equal slices of a unit.
fn slices(at: usize, unit: &UnitShape, count: u64, grain: u64) -> Vec<Streamable> {
    let each = unit.bytes.div_ceil(count).div_ceil(grain) * grain;
    let mut pieces = Vec::new();
    let mut from = 0;
    while from < unit.bytes {
        let bytes = each.min(unit.bytes - from);
        let name = format!("{}[{}]", unit.name, pieces.len());
        let shape = UnitShape { name, ..share(unit, bytes) };
        pieces.push(Streamable { shape, made_of: MadeOf { units: at..at + 1, parts: None } });
        from += bytes;
    }
    pieces
}

/// So many bytes of a unit, with as much of its work.
fn share(unit: &UnitShape, bytes: u64) -> UnitShape {
    let share = if unit.bytes == 0 { 0.0 } else { bytes as f64 / unit.bytes as f64 };
    let wire_bytes = (unit.wire_bytes as f64 * share).round() as u64;
    UnitShape { bytes, wire_bytes, gflop: unit.gflop * share, ..unit.clone() }
}

/// Runs of parts of about equal bytes, none above `most_bytes` unless one part is.
fn runs(parts: &[u64], most_bytes: u64) -> Vec<std::ops::Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (at, &part) in parts.iter().enumerate() {
        if at > start && bytes.saturating_add(part) > most_bytes {
            runs.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes = bytes.saturating_add(part);
    }
    runs.push(start..parts.len());
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, parts: &[u64]) -> UnitShape {
        let bytes = parts.iter().sum();
        UnitShape { grains: Grains::Parts(parts.to_vec()), ..UnitShape::new(name, bytes, 1.0) }
    }

    #[test]
    fn groups_hold_the_parts_of_all_their_units() {
        let units = [unit("a", &[1, 2]), unit("b", &[3]), unit("c", &[4])];
        let groups = regroup(&units, Granularity::Group(2));
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].shape.grains, Grains::Parts(vec![1, 2, 3]));
        assert_eq!((groups[0].shape.bytes, groups[0].shape.gflop), (6, 2.0));
        assert_eq!(groups[1].made_of, MadeOf { units: 2..3, parts: None });
        assert_eq!(regroup(&units, Granularity::Component).len(), 1);
    }

    #[test]
    fn leaves_are_parts_and_share_the_work_by_bytes() {
        let leaves = regroup(&[unit("a", &[1, 3])], Granularity::Leaf);
        assert_eq!(leaves.len(), 2);
        assert_eq!(leaves[1].made_of, MadeOf { units: 0..1, parts: Some(1..2) });
        assert_eq!((leaves[1].shape.bytes, leaves[1].shape.gflop), (3, 0.75));
    }

    #[test]
    fn large_units_fall_into_pieces_and_small_ones_stay() {
        let units = regroup(&[unit("a", &[4, 4, 4, 4]), unit("b", &[5])], Granularity::Layer);
        let pieces = split(units, 8);
        let bytes: Vec<u64> = pieces.iter().map(|piece| piece.shape.bytes).collect();
        assert_eq!(bytes, [8, 8, 5]);
        let sliced = regroup(&[UnitShape::new("s", 3 * 4096 + 1, 1.0)], Granularity::Layer);
        let pieces = split(sliced, 2 * 4096);
        let bytes: Vec<u64> = pieces.iter().map(|piece| piece.shape.bytes).collect();
        assert_eq!(bytes, [8192, 4097]);
    }
}
