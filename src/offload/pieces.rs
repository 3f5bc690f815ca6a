//! A plan laid over the tensors it is about: each unit's tensors in pieces that stay on the
//! device or pass through the ring as one. A pure function; where plan and model do not agree, it
//! says in what.
//!
//! A unit's first piece is what no phase lets stay. The others stay in the same phases each, and
//! are cut at about a page, so that they can leave one by one when memory gets short.

use std::ops::Range;

use super::weights::ComponentWeights;
use crate::base::{Error, Result, align_up};
use crate::plan::{PhasePlan, Plan, UnitPlan};
use crate::weights::{ALIGN_BYTES, Tensor};

/// Differences an error quotes.
const QUOTED: usize = 6;

/// Tensors that come and go together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    /// Number of its unit, counted over all components.
    pub(super) unit: usize,
    /// Indices into the joined model's tensors, ascending.
    pub(super) tensors: Vec<usize>,
    /// Padded.
    pub(super) bytes: u64,
    /// What the job gains by each byte of it that stays, in seconds.
    pub(super) value: f64,
    /// By phase: whether the plan has it stay.
    pub(super) stays: Vec<bool>,
}

/// A unit in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PiecedUnit {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// Numbers of its pieces; the first is what is never resident, and may be empty.
    pub(super) pieces: Range<usize>,
}

/// A phase, with what the plan gives it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PiecedPhase {
    pub(super) name: String,
    pub(super) component: usize,
    /// Its component's units, by their numbers over all components.
    pub(super) units: Range<usize>,
    pub(super) passes: u32,
    pub(super) ring_bytes: u64,
    pub(super) working_bytes: u64,
}

/// All of a plan.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pieces {
    pub(super) pieces: Vec<Piece>,
    pub(super) units: Vec<PiecedUnit>,
    pub(super) phases: Vec<PiecedPhase>,
}

impl Pieces {
    /// Lays `plan` over `weights`, one for each component, whose tensors are joined in this
    /// order.
    ///
    /// # Errors
    /// Where plan and weights differ: which units, in what.
    pub(super) fn new(plan: &Plan, weights: &[ComponentWeights], page_bytes: u64) -> Result<Self> {
        let mut laid = Self { pieces: Vec::new(), units: Vec::new(), phases: Vec::new() };
        let mut differences = Vec::new();
        let mut ranges = Vec::new();
        let mut tensors_before = 0;
        for (component, weights) in weights.iter().enumerate() {
            let of = |phase: &&PhasePlan| phase.component == component;
            let phases: Vec<(usize, &PhasePlan)> =
                plan.phases.iter().enumerate().filter(|(_, phase)| of(phase)).collect();
            let first_unit = laid.units.len();
            laid.lay(
                &phases,
                plan.phases.len(),
                weights,
                (tensors_before, page_bytes),
                &mut differences,
            )?;
            ranges.push(first_unit..laid.units.len());
            tensors_before += weights.model.tensors().len();
        }
        for phase in &plan.phases {
            let Some(units) = ranges.get(phase.component) else {
                let (name, at) = (&phase.name, phase.component);
                differences.push(format!("phase {name} is of component {at}, which was not given"));
                continue;
            };
            laid.phases.push(PiecedPhase {
                name: phase.name.clone(),
                component: phase.component,
                units: units.clone(),
                passes: phase.passes,
                ring_bytes: phase.plan.ring_bytes,
                working_bytes: phase.working_bytes.max(plan.budgets.working_bytes),
            });
        }
        if plan.phases.is_empty() {
            differences.push("the plan has no phases".into());
        }
        differs(&differences).map_or(Ok(laid), Err)
    }

    /// Lays the units of one component.
    fn lay(
        &mut self,
        phases: &[(usize, &PhasePlan)],
        phase_count: usize,
        weights: &ComponentWeights,
        (tensors_before, page_bytes): (usize, u64),
        differences: &mut Vec<String>,
    ) -> Result<()> {
        let Some((_, first)) = phases.first() else { return Ok(()) };
        let component = &first.plan.name;
        if *component != weights.name {
            differences.push(format!("component {component} was given as {}", weights.name));
        }
        let planned = &first.plan.units;
        for (_, other) in &phases[1..] {
            let same = |(a, b): (&UnitPlan, &UnitPlan)| a.name == b.name && a.bytes == b.bytes;
            let units = &other.plan.units;
            if units.len() != planned.len() || !units.iter().zip(planned).all(same) {
                return Err(Error::Unsupported {
                    what: format!(
                        "dividing {component} otherwise in {} than in {}",
                        other.name, first.name
                    ),
                    by: "one load".into(),
                    way_out: "load the phases one by one".into(),
                });
            }
        }
        let Some(matched) = match_units(planned, weights, differences) else { return Ok(()) };
        for (at, (unit, tensors)) in planned.iter().zip(matched).enumerate() {
            let by_phase = phases.iter().map(|&(phase, plan)| (phase, &plan.plan.units[at]));
            let all = weights.model.tensors();
            let sizes: Vec<u64> = tensors.iter().map(|&tensor| padded(&all[tensor])).collect();
            let mut stays = vec![vec![false; phase_count]; tensors.len()];
            let mut value = 0.0f64;
            for (phase, unit) in by_phase {
                match resident_tensors(unit, &sizes) {
                    Ok(resident) => {
                        resident.into_iter().for_each(|tensor| stays[tensor][phase] = true)
                    }
                    Err(difference) => differences.push(format!("{component}: {difference}")),
                }
                value = value.max(unit.seconds_per_resident_byte);
            }
            let tensors = tensors.iter().map(|&tensor| tensor + tensors_before).collect();
            self.cut(unit, Members { tensors, sizes, stays }, value, page_bytes);
        }
        Ok(())
    }

    /// Cuts a unit into its pieces.
    fn cut(&mut self, unit: &UnitPlan, members: Members, value: f64, page_bytes: u64) {
        let (first, number) = (self.pieces.len(), self.units.len());
        let phase_count = members.stays.first().map_or(0, Vec::len);
        let piece =
            |stays: Vec<bool>| Piece { unit: number, tensors: Vec::new(), bytes: 0, value, stays };
        self.pieces.push(piece(vec![false; phase_count]));
        let Members { tensors, sizes, stays } = members;
        for ((tensor, bytes), stays) in tensors.into_iter().zip(sizes).zip(stays) {
            let is_streamed = !stays.contains(&true);
            let open = |piece: &Piece| piece.stays == stays && piece.bytes < page_bytes;
            let at = match self.pieces[first + 1..].iter().rposition(open) {
                _ if is_streamed => first,
                Some(at) => first + 1 + at,
                None => {
                    self.pieces.push(piece(stays));
                    self.pieces.len() - 1
                }
            };
            self.pieces[at].tensors.push(tensor);
            self.pieces[at].bytes += bytes;
        }
        let pieces = first..self.pieces.len();
        self.units.push(PiecedUnit { name: unit.name.clone(), bytes: unit.bytes, pieces });
    }

    /// The pieces that ever stay, in the order in which they are packed: by the phase that first
    /// wants them, the most valuable first.
    pub(super) fn packed(&self) -> Vec<usize> {
        let mut packed: Vec<usize> =
            (0..self.pieces.len()).filter(|&at| self.pieces[at].stays.contains(&true)).collect();
        packed.sort_by(|&a, &b| {
            let (a, b) = (&self.pieces[a], &self.pieces[b]);
            let component = |piece: &Piece| self.component_of(piece.unit);
            component(a).cmp(&component(b)).then(b.value.total_cmp(&a.value))
        });
        packed
    }

    /// Whether the same bytes stay and pass through the same rings in both.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let same = |(a, b): (&Piece, &Piece)| a.tensors == b.tensors && a.stays == b.stays;
        self.phases == other.phases
            && self.units == other.units
            && self.pieces.len() == other.pieces.len()
            && self.pieces.iter().zip(&other.pieces).all(same)
    }

    /// The component that a unit belongs to; `usize::MAX` for one of no phase.
    pub(super) fn component_of(&self, unit: usize) -> usize {
        let phase = self.phases.iter().find(|phase| phase.units.contains(&unit));
        phase.map_or(usize::MAX, |phase| phase.component)
    }

    /// How many phases from `phase` on, going round, a unit is used next: 0 is in it.
    pub(super) fn next_use(&self, unit: usize, phase: usize) -> usize {
        let count = self.phases.len();
        let uses = |steps: &usize| self.phases[(phase + steps) % count].units.contains(&unit);
        (0..count).find(uses).unwrap_or(count)
    }
}

/// The tensors of a unit, side by side.
struct Members {
    tensors: Vec<usize>,
    sizes: Vec<u64>,
    stays: Vec<Vec<bool>>,
}

fn padded(tensor: &Tensor) -> u64 {
    align_up(tensor.len_bytes, ALIGN_BYTES).unwrap_or(u64::MAX)
}

/// The tensors of each planned unit, in the order of its parts.
fn match_units(
    planned: &[UnitPlan],
    weights: &ComponentWeights,
    differences: &mut Vec<String>,
) -> Option<Vec<Vec<usize>>> {
    let before = differences.len();
    let mut seen = vec![0u32; weights.model.tensors().len()];
    let mut matched = Vec::with_capacity(planned.len());
    for unit in planned {
        let tensors = tensors_of(unit, weights);
        let sizes = tensors.iter().map(|&at| weights.model.tensors().get(at).map(padded));
        match sizes.sum::<Option<u64>>() {
            Some(bytes) if bytes == unit.bytes => {}
            Some(bytes) => differences.push(format!(
                "{}: unit {} has {} bytes in the plan, and its tensors {bytes}",
                weights.name, unit.name, unit.bytes
            )),
            None => {
                differences.push(format!("unit {} names tensors its model has not", unit.name));
                return None;
            }
        }
        tensors.iter().for_each(|&at| seen[at] += 1);
        matched.push(tensors);
    }
    let wanted = weights.units.iter().flat_map(|unit| &unit.tensors);
    let missed = wanted.filter(|&&at| seen.get(at) != Some(&1)).count();
    if missed > 0 {
        differences.push(format!(
            "{}: {missed} tensor(s) are not in exactly one unit of the plan",
            weights.name
        ));
    }
    (differences.len() == before).then_some(matched)
}

/// What a planned unit is made of.
fn tensors_of(unit: &UnitPlan, weights: &ComponentWeights) -> Vec<usize> {
    let described = weights.units.get(unit.made_of.units.clone()).unwrap_or_default();
    let all: Vec<usize> = described.iter().flat_map(|unit| unit.tensors.iter().copied()).collect();
    match &unit.made_of.parts {
        Some(parts) => all.get(parts.clone()).unwrap_or_default().to_vec(),
        None => all,
    }
}

/// Which tensors of a unit stay, by position.
fn resident_tensors(unit: &UnitPlan, sizes: &[u64]) -> Result<Vec<usize>, String> {
    let UnitPlan { name, bytes, resident_bytes, resident_parts, .. } = unit;
    let resident: Vec<usize> = match &resident_parts[..] {
        [] if *resident_bytes == 0 => Vec::new(),
        [] if resident_bytes == bytes => (0..sizes.len()).collect(),
        [] => {
            return Err(format!(
                "unit {name} is to stay by {resident_bytes} of its {bytes} bytes, which are no \
                 tensors; describe it with its parts"
            ));
        }
        parts => parts.to_vec(),
    };
    if let Some(part) = resident.iter().find(|&&part| part >= sizes.len()) {
        return Err(format!("part {part} of unit {name} is to stay; it has {}", sizes.len()));
    }
    let mut distinct = resident.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let sum: u64 = distinct.iter().map(|&part| sizes[part]).sum();
    if sum != *resident_bytes || distinct.len() != resident.len() {
        return Err(format!(
            "the parts of unit {name} that stay make {sum} bytes, {resident_bytes} in the plan"
        ));
    }
    Ok(distinct)
}

/// The error for a plan that differs from what there is, if it does.
pub(super) fn differs(differences: &[String]) -> Option<Error> {
    if differences.is_empty() {
        return None;
    }
    let mut text = differences[..differences.len().min(QUOTED)].join("; ");
    if differences.len() > QUOTED {
        text += &format!("; and {} more", differences.len() - QUOTED);
    }
    let way_out = "make the plan of these weights, for this device";
    Some(Error::invalid("plan", "differs from what there is", format!("{text}; {way_out}")))
}
