//! One component in the room one phase leaves it: which parts stay, how large the ring is, how
//! long a pass takes.

use super::cycle::Computes;
use super::division::{Stays, divide};
use super::job::{Component, Grains, Keep};
use super::optimum::Problem;
use super::planned::{ComponentPlan, UnitPlan};
use super::profile::DeviceRates;
use super::regroup::{Streamable, regroup, split};
use super::rules::{Retention, Rules, Source};
use crate::base::align_up;

/// A component's units as they are streamed, with what a mode demands of them.
#[derive(Debug, Clone)]
pub(super) struct Units {
    name: String,
    units: Vec<Streamable>,
    /// Bytes a second over the link, or from disk if that is slower and where they come from,
    /// in bytes of device memory.
    rate: f64,
    per_copy_seconds: f64,
    compute_seconds: Vec<f64>,
    /// What the streamed part comes from, of each unit.
    sources: Vec<Source>,
}

/// What a component needs at the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    /// All of it.
    pub(super) whole_bytes: u64,
    /// What has to stay, and a ring for the rest.
    pub(super) least_bytes: u64,
    /// The largest unit that may be streamed.
    pub(super) largest_bytes: u64,
}

/// A component in its room.
#[derive(Debug, Clone)]
pub(super) struct Fitted {
    pub(super) plan: ComponentPlan,
    pub(super) pass_seconds: f64,
    pub(super) compute_seconds: f64,
    /// Seconds the link takes for the streamed part and for all of each unit.
    pub(super) link_seconds: Vec<[f64; 2]>,
}

impl Fitted {
    /// Seconds the link takes for what a pass streams.
    pub(super) fn copy_seconds(&self) -> f64 {
        self.link_seconds.iter().map(|[own, _]| own).sum()
    }
}

impl Units {
    /// The units of a component under `rules`, with `room_bytes` at the most for a split.
    pub(super) fn new(
        component: &Component,
        rates: &DeviceRates,
        rules: &Rules,
        room_bytes: u64,
        sources: Vec<Source>,
    ) -> Self {
        let mut units = regroup(&component.units, rules.granularity);
        if rules.split {
            let slots = if rules.single_buffer { 1 } else { 2 };
            units = split(units, room_bytes / slots);
        }
        let source = |unit: &Streamable| {
            let of_unit = |at| sources.get(at).copied().unwrap_or(rules.source);
            let from_disk = unit.made_of.units.clone().any(|at| of_unit(at) == Source::Disk);
            if from_disk { Source::Disk } else { Source::Ram }
        };
        let sources: Vec<Source> = units.iter().map(source).collect();
        let (mut bytes, mut seconds) = (0.0, 0.0);
        for (unit, source) in units.iter().zip(&sources) {
            bytes += unit.shape.bytes as f64;
            seconds += unit.shape.wire_bytes as f64 / wire_rate(rates, *source);
        }
        let rate = if bytes > 0.0 && seconds > 0.0 {
            bytes / seconds
        } else {
            rates.link_bytes_per_second
        };
        let compute = |unit: &Streamable| rates.compute_seconds(unit.shape.gflop);
        Self {
            name: component.name.clone(),
            compute_seconds: units.iter().map(compute).collect(),
            units,
            rate,
            per_copy_seconds: rates.copy_seconds,
            sources,
        }
    }

    pub(super) fn needs(&self, rules: &Rules, page_bytes: u64) -> Needs {
        let sum = |keeps: fn(Keep) -> bool| {
            let kept = self.units.iter().filter(|unit| keeps(unit.shape.keep));
            kept.map(|unit| unit.shape.bytes).fold(0, u64::saturating_add)
        };
        let streams = |unit: &&Streamable| {
            unit.shape.keep != Keep::Always || rules.retention == Retention::None
        };
        let streamable = self.units.iter().filter(streams).map(|unit| unit.shape.bytes);
        let largest_bytes = streamable.max().unwrap_or(0);
        let always =
            if rules.retention == Retention::None { 0 } else { sum(|keep| keep == Keep::Always) };
        let slots = if rules.single_buffer || !rules.prefetch { 1 } else { 2 };
        let ring = largest_bytes.saturating_mul(slots).min(sum(|_| true));
        let pages = |bytes| align_up(bytes, page_bytes).unwrap_or(u64::MAX);
        Needs {
            whole_bytes: pages(sum(|_| true)),
            least_bytes: pages(always).saturating_add(pages(ring)),
            largest_bytes,
        }
    }

    /// Seconds of compute in a pass.
    pub(super) fn compute(&self) -> f64 {
        self.compute_seconds.iter().sum()
    }

    /// What no plan goes below with `limit_bytes` of device memory.
    pub(super) fn bound(&self, limit_bytes: u64) -> f64 {
        let bytes: u64 = self.units.iter().map(|unit| unit.shape.bytes).sum();
        self.compute().max(bytes.saturating_sub(limit_bytes) as f64 / self.rate)
    }

    /// The best plan within `room_bytes`; `None` if there is none.
    pub(super) fn fit(&self, rules: &Rules, room_bytes: u64, page_bytes: u64) -> Option<Fitted> {
        let needs = self.needs(rules, page_bytes);
        let never = self.units.iter().any(|unit| unit.shape.keep == Keep::Never);
        let may_stay = rules.retention != Retention::None && !never;
        if may_stay && needs.whole_bytes <= room_bytes {
            let all = |unit: &Streamable| Stays { bytes: unit.shape.bytes, parts: Vec::new() };
            let stays: Vec<Stays> = self.units.iter().map(all).collect();
            return Some(self.fitted(&stays, 0, rules));
        }
        if needs.least_bytes > room_bytes {
            return None;
        }
        let ring_cap = match rules.ring_units {
            Some(units) => {
                let slots = needs.largest_bytes.saturating_mul(u64::from(units));
                align_up(slots, page_bytes).unwrap_or(u64::MAX).min(room_bytes)
            }
            None if rules.prefetch => room_bytes,
            None => align_up(needs.largest_bytes, page_bytes).unwrap_or(u64::MAX),
        };
        // What is rounded up to pages, twice.
        let slack = if page_bytes > 1 { 2 * page_bytes } else { 0 };
        let room = room_bytes.saturating_sub(slack).max(needs.least_bytes.min(room_bytes));
        let stays = if rules.retention == Retention::None {
            vec![Stays { bytes: 0, parts: Vec::new() }; self.units.len()]
        } else if rules.prefetch {
            let shapes: Vec<_> = self.units.iter().map(|unit| unit.shape.clone()).collect();
            divide(&shapes, rules.partial_units, &self.problem(room as f64, ring_cap as f64))
        } else {
            self.first_fit(room.saturating_sub(ring_cap), rules.partial_units)
        };
        let in_pages = |stays: &[Stays]| {
            let resident: u64 = stays.iter().map(|stays| stays.bytes).sum();
            let resident = align_up(resident, page_bytes)?;
            let left = room_bytes.checked_sub(resident)? / page_bytes * page_bytes;
            let fitted = self.fitted(stays, left.min(ring_cap), rules);
            fitted.pass_seconds.is_finite().then_some(fitted)
        };
        // In few pages, what stays beside that may leave the ring a page too little.
        in_pages(&stays).or_else(|| in_pages(&self.what_has_to_stay()))
    }

    fn what_has_to_stay(&self) -> Vec<Stays> {
        let stays = |unit: &Streamable| {
            let bytes = if unit.shape.keep == Keep::Always { unit.shape.bytes } else { 0 };
            Stays { bytes, parts: Vec::new() }
        };
        self.units.iter().map(stays).collect()
    }

    /// What has to stay, then the units in order as far as they fit: where nothing is hidden, it
    /// is all one which stay.
    fn first_fit(&self, room: u64, partial: bool) -> Vec<Stays> {
        let always = self.units.iter().filter(|unit| unit.shape.keep == Keep::Always);
        let mut room = room.saturating_sub(always.map(|unit| unit.shape.bytes).sum());
        let keep = |unit: &Streamable| {
            let bytes = unit.shape.bytes;
            let stays = match &unit.shape.grains {
                _ if unit.shape.keep == Keep::Never => Stays { bytes: 0, parts: Vec::new() },
                _ if unit.shape.keep == Keep::Always => {
                    return Stays { bytes, parts: Vec::new() };
                }
                Grains::Parts(parts) if partial => {
                    let mut stays = Stays { bytes: 0, parts: Vec::new() };
                    for (at, &part) in parts.iter().enumerate() {
                        if part <= room - stays.bytes {
                            stays.bytes += part;
                            stays.parts.push(at);
                        }
                    }
                    stays
                }
                Grains::Slices(grain) if partial && bytes > room => {
                    Stays { bytes: room / grain * grain, parts: Vec::new() }
                }
                _ => Stays { bytes: if bytes <= room { bytes } else { 0 }, parts: Vec::new() },
            };
            room -= stays.bytes;
            stays
        };
        self.units.iter().map(keep).collect()
    }

    fn problem(&self, room: f64, ring_cap: f64) -> Problem {
        let bytes = |unit: &Streamable| unit.shape.bytes as f64;
        let least =
            |unit: &Streamable| if unit.shape.keep == Keep::Never { bytes(unit) } else { 0.0 };
        let most =
            |unit: &Streamable| if unit.shape.keep == Keep::Always { 0.0 } else { bytes(unit) };
        let kept = self.units.iter().filter(|unit| unit.shape.keep == Keep::Always);
        Problem {
            computes: Computes(self.compute_seconds.iter().map(|s| s * self.rate).collect()),
            least: self.units.iter().map(least).collect(),
            most: self.units.iter().map(most).collect(),
            room: room - kept.map(bytes).sum::<f64>(),
            ring_cap,
            per_copy: self.per_copy_seconds * self.rate,
        }
    }

    fn fitted(&self, stays: &[Stays], ring_bytes: u64, rules: &Rules) -> Fitted {
        let streamed: Vec<f64> = self
            .units
            .iter()
            .zip(stays)
            .map(|(unit, stays)| unit.shape.bytes.saturating_sub(stays.bytes) as f64)
            .collect();
        let mut problem = self.problem(0.0, ring_bytes as f64);
        problem.most = self.units.iter().map(|unit| unit.shape.bytes as f64).collect();
        problem.room =
            problem.most.iter().sum::<f64>() - streamed.iter().sum::<f64>() + ring_bytes as f64;
        let link_seconds: Vec<[f64; 2]> = self
            .units
            .iter()
            .zip(&streamed)
            .map(|(unit, &own)| self.link_seconds(unit, own))
            .collect();
        let copying: f64 = link_seconds.iter().map(|[own, _]| own).sum();
        let pass_seconds = if rules.prefetch {
            problem.length(&streamed) / self.rate
        } else {
            self.compute() + copying
        };
        let plan = |(at, stays): (usize, &Stays)| {
            let Streamable { shape, made_of } = &self.units[at];
            let divided = stays.bytes > 0 && stays.bytes < shape.bytes;
            UnitPlan {
                name: shape.name.clone(),
                made_of: made_of.clone(),
                bytes: shape.bytes,
                resident_bytes: stays.bytes,
                resident_parts: if divided { stays.parts.clone() } else { Vec::new() },
                wire_bytes: shape.wire_bytes,
                compute_seconds: self.compute_seconds[at],
                source: self.sources[at],
                seconds_per_resident_byte: self.worth(&problem, &streamed, at, pass_seconds, stays),
            }
        };
        let units: Vec<UnitPlan> = stays.iter().enumerate().map(plan).collect();
        let wire = |unit: &UnitPlan| match unit.bytes {
            0 => 0.0,
            bytes => (bytes - unit.resident_bytes) as f64 * (unit.wire_bytes as f64 / bytes as f64),
        };
        Fitted {
            plan: ComponentPlan {
                name: self.name.clone(),
                resident_bytes: stays.iter().map(|stays| stays.bytes).sum(),
                ring_bytes,
                streamed_bytes: units.iter().map(wire).sum::<f64>().round() as u64,
                units,
            },
            pass_seconds,
            compute_seconds: self.compute(),
            link_seconds,
        }
    }

    /// Seconds the link takes for so many of a unit's bytes, and for all.
    fn link_seconds(&self, unit: &Streamable, own: f64) -> [f64; 2] {
        let seconds = |bytes: f64| match bytes > 0.0 {
            true => bytes / self.rate + self.per_copy_seconds,
            false => 0.0,
        };
        [seconds(own), seconds(unit.shape.bytes as f64)]
    }

    /// What a pass gains for each byte of a unit that stays, while the ring is what it is.
    fn worth(
        &self,
        problem: &Problem,
        streamed: &[f64],
        unit: usize,
        pass_seconds: f64,
        stays: &Stays,
    ) -> f64 {
        if stays.bytes == 0 {
            return 0.0;
        }
        let bytes = stays.bytes as f64;
        let mut without = streamed.to_vec();
        without[unit] += bytes;
        let seconds = problem.length(&without) / self.rate;
        // No room in the ring for all of it: it is worth more than any copy of it takes.
        let gained =
            if seconds.is_finite() { seconds - pass_seconds } else { 2.0 * bytes / self.rate };
        gained.max(0.0) / bytes
    }
}

/// Bytes a second from there to the device.
fn wire_rate(rates: &DeviceRates, source: Source) -> f64 {
    match source {
        Source::Ram => rates.link_bytes_per_second,
        Source::Disk => rates.link_bytes_per_second.min(rates.disk_bytes_per_second),
    }
}
