//! What other systems do with the same units and the same limit: their own rules as simulations,
//! so that plans can be compared with them.
//!
//! Each takes one component's pass in its steady state. Copies are blocking where that system's
//! are, and run at a fraction of the link: those systems copy from memory that is not pinned,
//! at half of the pinned rate or less. None of them holds the limit at all times:
//! [`ReferencePass::peak_bytes`] says what it comes to. Activations are not counted.

use crate::plan::{Component, DeviceRates, UnitShape};

/// A rule for what stays, and a way of copying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// InvokeAI: whatever still fits stays, in order; the rest is copied in each pass.
    Invoke,
    /// SD.Next balanced, the limit its high watermark: the first units stay as far as they fit
    /// beside the largest that does not (accelerate's device map).
    SdnextBalanced,
    /// SD.Next and diffusers, model: all of the component, or nothing runs.
    Model,
    /// SD.Next and diffusers, sequential: nothing stays.
    Sequential,
    /// diffusers' groups without a stream: nothing stays, and weights are copied back.
    Group,
    /// diffusers' groups with a stream: the next one's copy, from pinned memory, beside compute.
    GroupStream,
    /// AUTOMATIC1111 medvram: all of the component, or nothing runs.
    A1111Medvram,
    /// AUTOMATIC1111 lowvram: one unit at a time, copied back after it.
    A1111Lowvram,
    /// DiffSynth's `vram_limit`: who comes first stays, as long as less than the limit is in use
    /// before it.
    Diffsynth,
}

/// One pass under such a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferencePass {
    /// Which units stay, in order.
    pub residents: Vec<bool>,
    /// Their bytes.
    pub resident_bytes: u64,
    /// Bytes copied to the device.
    pub copied_bytes: u64,
    /// Bytes copied back, though they did not change.
    pub copied_back_bytes: u64,
    /// The most weights on the device at any time, in bytes; may be above the limit.
    pub peak_bytes: u64,
    /// Seconds of the pass.
    pub seconds: f64,
}

impl Policy {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Invoke,
        Self::SdnextBalanced,
        Self::Model,
        Self::Sequential,
        Self::Group,
        Self::GroupStream,
        Self::A1111Medvram,
        Self::A1111Lowvram,
        Self::Diffsynth,
    ];

    /// Its name, as modes are called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invoke => "invoke:partial",
            Self::SdnextBalanced => "sdnext:balanced",
            Self::Model => "sdnext:model",
            Self::Sequential => "sdnext:sequential",
            Self::Group => "diffusers:group=leaf,no-stream",
            Self::GroupStream => "diffusers:group=leaf,stream",
            Self::A1111Medvram => "a1111:medvram",
            Self::A1111Lowvram => "a1111:lowvram",
            Self::Diffsynth => "diffsynth:vram_limit",
        }
    }

    /// Whether its copies are waited for.
    #[must_use]
    pub const fn blocks(self) -> bool {
        !matches!(self, Self::GroupStream)
    }

    /// Whether weights are copied back to RAM.
    const fn copies_back(self) -> bool {
        matches!(self, Self::Group | Self::A1111Lowvram)
    }

    /// Which units stay under this limit; `None` where the system could not run.
    fn residents(self, units: &[UnitShape], limit_bytes: u64) -> Option<Vec<bool>> {
        match self {
            Self::Model | Self::A1111Medvram => {
                (sum(units, |_| true) <= limit_bytes).then(|| vec![true; units.len()])
            }
            Self::Sequential | Self::Group | Self::GroupStream | Self::A1111Lowvram => {
                Some(vec![false; units.len()])
            }
            Self::Invoke => Some(taken(units, limit_bytes, |used, bytes, limit| {
                used + u128::from(bytes) <= limit
            })),
            Self::Diffsynth => Some(taken(units, limit_bytes, |used, _, limit| used < limit)),
            Self::SdnextBalanced => Some(prefix(units, limit_bytes)),
        }
    }
}

/// One pass of a component under this rule and limit, its blocking copies at `copy_fraction` of
/// the link (1 for the pinned rate, 0.5 for what pageable memory reaches at best). `None` where
/// the system could not run at all: its component does not fit.
///
/// ```
/// use riverbed::modes::reference::{Policy, pass};
/// use riverbed::plan::{Component, DeviceRates, UnitShape};
/// // Four units of 1 GB, 10 ms of compute each, over 10 GB/s.
/// let units = (0..4).map(|i| UnitShape::new(format!("u{i}"), 1_000_000_000, 100.0)).collect();
/// let rates = DeviceRates::of_link(10e9, 10e12);
/// let pass = pass(Policy::Invoke, &Component::new("c", units), 2_000_000_000, &rates, 0.5);
/// assert!(pass.is_some_and(|pass| (pass.seconds - (0.04 + 2.0 / 5.0)).abs() < 1e-9));
/// ```
#[must_use]
pub fn pass(
    policy: Policy,
    component: &Component,
    limit_bytes: u64,
    rates: &DeviceRates,
    copy_fraction: f64,
) -> Option<ReferencePass> {
    let units = &component.units;
    let residents = policy.residents(units, limit_bytes)?;
    let streamed = || units.iter().zip(&residents).filter(|(_, stays)| !**stays).map(|(u, _)| u);
    let resident_bytes = sum(units, |at| residents[at]);
    let copied_bytes = streamed().map(|unit| unit.wire_bytes).fold(0, u64::saturating_add);
    let copied_back_bytes = if policy.copies_back() { copied_bytes } else { 0 };
    let largest = streamed().map(|unit| unit.bytes).max().unwrap_or(0);
    let (seconds, in_flight) = if policy.blocks() {
        let back = if policy.copies_back() { 2.0 } else { 1.0 };
        let copies: f64 = streamed().map(|unit| copy_seconds(unit, rates, copy_fraction)).sum();
        let compute: f64 = units.iter().map(|unit| rates.compute_seconds(unit.gflop)).sum();
        (compute + back * copies, largest)
    } else {
        let pairs = units.windows(2).map(|pair| pair[0].bytes.saturating_add(pair[1].bytes));
        (one_ahead(units, rates), pairs.max().unwrap_or(largest))
    };
    let peak_bytes = resident_bytes.saturating_add(in_flight);
    Some(ReferencePass {
        residents,
        resident_bytes,
        copied_bytes,
        copied_back_bytes,
        peak_bytes,
        seconds,
    })
}

/// The first unit's copy is waited for; each other one's runs beside the compute before it. The
/// next pass begins anew: no copy reaches over its start.
fn one_ahead(units: &[UnitShape], rates: &DeviceRates) -> f64 {
    let copy = |unit| copy_seconds(unit, rates, 1.0);
    let compute = |unit: &UnitShape| rates.compute_seconds(unit.gflop);
    let beside: f64 = units.windows(2).map(|pair| compute(&pair[0]).max(copy(&pair[1]))).sum();
    units.first().map_or(0.0, copy) + beside + units.last().map_or(0.0, compute)
}

fn copy_seconds(unit: &UnitShape, rates: &DeviceRates, fraction: f64) -> f64 {
    unit.wire_bytes as f64 / (rates.link_bytes_per_second * fraction) + rates.copy_seconds
}

/// Takes units in order wherever the rule lets it: used so far, bytes of this one, limit.
fn taken(
    units: &[UnitShape],
    limit_bytes: u64,
    may_stay: impl Fn(u128, u64, u128) -> bool,
) -> Vec<bool> {
    let mut used = 0u128;
    let take = |unit: &UnitShape| {
        let stays = may_stay(used, unit.bytes, u128::from(limit_bytes));
        used += if stays { u128::from(unit.bytes) } else { 0 };
        stays
    };
    units.iter().map(take).collect()
}

/// The longest run of first units that leaves room for the largest of the rest.
fn prefix(units: &[UnitShape], limit_bytes: u64) -> Vec<bool> {
    let fits = |count: &usize| {
        let held = sum(units, |at| at < *count);
        let largest = units[*count..].iter().map(|unit| unit.bytes).max().unwrap_or(0);
        held.saturating_add(largest) <= limit_bytes
    };
    let count = (0..=units.len()).rev().find(fits).unwrap_or(0);
    (0..units.len()).map(|at| at < count).collect()
}

fn sum(units: &[UnitShape], counts: impl Fn(usize) -> bool) -> u64 {
    let counted = units.iter().enumerate().filter(|(at, _)| counts(*at));
    counted.map(|(_, unit)| unit.bytes).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: f64 = 1e9;

    /// So many units of these bytes and this work, in 10^9 operations.
    type Kinds = &'static [(u32, u64, f64)];

    /// Such units, with their bytes and their work multiplied.
    fn component(kinds: &[(u32, u64, f64)], bytes: f64, work: f64) -> Component {
        let units = kinds.iter().flat_map(|&(count, unit_bytes, gflop)| {
            let shape = UnitShape::new("unit", (unit_bytes as f64 * bytes) as u64, gflop * work);
            (0..count).map(move |_| shape.clone())
        });
        Component::new("model", units.collect())
    }

    const FLUX: Kinds = &[(19, 679_662_592, 1305.0), (38, 283_183_616, 1305.0)];
    const QWEN: Kinds = &[(60, 679_662_592, 1218.0)];
    const SD35: Kinds = &[(37, 425_999_360, 820.0), (1, 272_170_496, 760.0)];

    /// A shape, what its bytes and its work are multiplied by, the link in GB/s, TFLOP/s; then
    /// limits in GB, each with the milliseconds of a pass with first-fit residents and blocking
    /// copies at the pinned rate.
    type Case = (Kinds, [f64; 2], [f64; 2], &'static [(u32, u32)]);

    #[rustfmt::skip]
    const FIRST_FIT: &[Case] = &[
        (FLUX, [1.0, 1.0], [25.0, 90.0],
         &[(2, 1696), (4, 1615), (6, 1544), (8, 1463), (12, 1300), (16, 1143)]),
        (FLUX, [1.0, 1.0], [12.5, 45.0], &[(6, 3089), (8, 2926)]),
        (FLUX, [1.0, 1.0], [52.0, 450.0], &[(8, 471), (16, 318)]),
        (FLUX, [1.0, 1.0], [25.0, 45.0], &[(2, 2522)]),
        (FLUX, [0.5, 1.0], [25.0, 90.0], &[(2, 1220)]),
        (QWEN, [1.0, 1.0], [25.0, 90.0], &[(4, 2307), (8, 2144), (16, 1818), (22, 1573)]),
        (SD35, [1.0, 2.0], [25.0, 90.0], &[(1, 1306)]),
        (QWEN, [0.5, 2.0], [25.0, 22.0], &[(1, 7432)]),
    ];

    #[test]
    fn first_fit_with_blocking_copies_takes_what_was_computed_by_hand() {
        for &(kinds, [bytes, work], [link, tera], limits) in FIRST_FIT {
            let rates = DeviceRates::of_link(link * GB, tera * 1e12);
            let component = component(kinds, bytes, work);
            for &(limit_gb, expected_ms) in limits {
                let limit = u64::from(limit_gb) * 1_000_000_000;
                let pass = pass(Policy::Invoke, &component, limit, &rates, 1.0).unwrap();
                let off = (pass.seconds * 1e3 / f64::from(expected_ms) - 1.0).abs();
                assert!(off < 0.01, "{limit_gb} GB: {} s, not {expected_ms} ms", pass.seconds);
                assert!(pass.resident_bytes <= limit);
            }
        }
    }

    /// Units of 4, 1, 3, 2 GB and a second of compute each, over 1 GB/s.
    fn small(policy: Policy, limit_gb: u64) -> Option<ReferencePass> {
        let gb = 1_000_000_000;
        let kinds = [(1, 4 * gb, 1.0), (1, gb, 1.0), (1, 3 * gb, 1.0), (1, 2 * gb, 1.0)];
        let rates = DeviceRates::of_link(GB, GB);
        pass(policy, &component(&kinds, 1.0, 1.0), limit_gb * gb, &rates, 1.0)
    }

    #[track_caller]
    fn assert_pass(policy: Policy, limit_gb: u64, stay: [u8; 4], seconds: f64, peak_gb: u64) {
        let pass = small(policy, limit_gb).unwrap();
        let expected: Vec<bool> = stay.iter().map(|&stays| stays == 1).collect();
        assert_eq!(pass.residents, expected, "{policy:?}");
        assert!((pass.seconds - seconds).abs() < 1e-9, "{policy:?}: {}", pass.seconds);
        assert_eq!(pass.peak_bytes, peak_gb * 1_000_000_000, "{policy:?}");
    }

    #[test]
    fn each_policy_keeps_what_its_system_keeps() {
        // First fit goes on past what does not fit, and forgets what it copies.
        assert_pass(Policy::Invoke, 6, [1, 1, 0, 0], 4.0 + 5.0, 8);
        assert_pass(Policy::Invoke, 3, [0, 1, 0, 1], 4.0 + 7.0, 7);
        // A prefix that leaves room for the largest of the rest.
        assert_pass(Policy::SdnextBalanced, 8, [1, 1, 0, 0], 4.0 + 5.0, 8);
        assert_pass(Policy::SdnextBalanced, 10, [1, 1, 1, 1], 4.0, 10);
        // Who comes first stays, even where it does not fit.
        assert_pass(Policy::Diffsynth, 6, [1, 1, 1, 0], 4.0 + 2.0, 10);
        assert_pass(Policy::Diffsynth, 0, [0, 0, 0, 0], 4.0 + 10.0, 4);
        assert_pass(Policy::Sequential, 6, [0, 0, 0, 0], 4.0 + 10.0, 4);
    }

    #[test]
    fn lowvram_and_groups_without_a_stream_copy_back() {
        for policy in [Policy::A1111Lowvram, Policy::Group] {
            assert_pass(policy, 6, [0, 0, 0, 0], 4.0 + 20.0, 4);
            assert_eq!(small(policy, 6).unwrap().copied_back_bytes, 10_000_000_000);
        }
    }

    #[test]
    fn a_stream_hides_copies_behind_the_compute_before_them() {
        // 4 s for the first copy, then 1, 3 and 2 s of copies beside 1 s of compute each, then
        // the last compute.
        assert_pass(Policy::GroupStream, 6, [0, 0, 0, 0], 4.0 + 1.0 + 3.0 + 2.0 + 1.0, 5);
    }

    #[test]
    fn whole_components_run_where_they_fit() {
        for policy in [Policy::Model, Policy::A1111Medvram] {
            assert_eq!(small(policy, 9), None);
            assert_pass(policy, 10, [1, 1, 1, 1], 4.0, 10);
        }
    }

    #[test]
    fn copies_at_half_the_rate_take_twice_as_long() {
        let flux = component(FLUX, 1.0, 1.0);
        let rates = DeviceRates::of_link(25.0 * GB, 90e12);
        let seconds =
            |fraction| pass(Policy::Sequential, &flux, 0, &rates, fraction).unwrap().seconds;
        let copies = flux.bytes() as f64 / (25.0 * GB);
        assert!((seconds(0.5) - seconds(1.0) - copies).abs() < 1e-9);
        assert!((seconds(1.0) - 1.773).abs() < 0.001);
    }

    #[test]
    fn policies_are_called_as_the_modes_that_stand_for_them() {
        for policy in Policy::ALL {
            assert!(crate::modes::Mode::parse(policy.name()).is_ok(), "{}", policy.name());
        }
    }

    #[test]
    fn an_empty_component_takes_no_time() {
        let empty = Component::new("none", Vec::new());
        let rates = DeviceRates::of_link(GB, GB);
        for &policy in Policy::ALL {
            assert_eq!(pass(policy, &empty, 1, &rates, 1.0).unwrap().seconds, 0.0, "{policy:?}");
        }
    }
}
