//! Which units stay on the device and which are streamed, and how large the ring is: a pure
//! function of the model's header and the limit.

use std::sync::Arc;

use crate::base::{Error, Result, align_up, format_bytes};
use crate::prefetch::{Transform, UnitSizes};
use crate::weights::{Grouping, Model, Unit};

/// What lives where. All sizes in bytes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Placement {
    /// Indices into [`Model::tensors`] of what stays on the device, in file order.
    pub residents: Vec<usize>,
    /// What is streamed, in the order of a pass.
    pub streamed: Vec<Unit>,
    /// The residents' segment.
    pub resident_bytes: u64,
    /// The ring's segment.
    pub ring_bytes: u64,
    /// Left to the caller within the limit.
    pub working_bytes: u64,
    /// The smallest limit this model could be streamed under.
    pub least_limit_bytes: u64,
}

/// One unit with what the choice depends on.
struct Sized<'a> {
    unit: &'a Unit,
    packed_bytes: u64,
    /// Beside its place, while it is loaded.
    staging_bytes: u64,
}

impl Placement {
    /// Places the units of `grouping` under `limit_bytes`, in pages of `page_bytes`, keeping
    /// `working_bytes` free. What is in no layer stays on the device, the smallest first, as far
    /// as it fits beside two slots of the largest layer; the rest of it is streamed, each
    /// tensor as a unit of its own. The ring takes what `depth` units ahead can use of the room
    /// that is left.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when even the least does not fit: what is needed for what, and the
    /// limit that would do.
    pub fn new(
        model: &Model,
        grouping: &Grouping,
        limit_bytes: u64,
        working_bytes: u64,
        page_bytes: u64,
        depth: usize,
    ) -> Result<Self> {
        let of = (model, grouping);
        Self::with_transform(of, limit_bytes, working_bytes, page_bytes, depth, None)
    }

    /// As [`new`](Self::new), with units as a transform makes them, and room in the ring for the
    /// raw bytes of the largest that is made anew; residents are made there too, before the ring
    /// is used.
    ///
    /// # Errors
    /// As [`new`](Self::new); what the transform says.
    pub fn with_transform(
        (model, grouping): (&Model, &Grouping),
        limit_bytes: u64,
        working_bytes: u64,
        page_bytes: u64,
        depth: usize,
        transform: Option<&Arc<dyn Transform>>,
    ) -> Result<Self> {
        let sized = |unit| {
            let sizes = UnitSizes::of(model, unit, transform)?;
            let (packed_bytes, staging_bytes) = (sizes.place_bytes, sizes.staging_bytes);
            Ok(Sized { unit, packed_bytes, staging_bytes })
        };
        let layers = grouping.layers.iter().map(sized).collect::<Result<Vec<_>>>()?;
        let mut rest = grouping.rest.iter().map(sized).collect::<Result<Vec<_>>>()?;
        rest.sort_by_key(|sized| sized.packed_bytes);
        let pages = |bytes: u64| align_up(bytes, page_bytes).unwrap_or(u64::MAX);
        let layer_bytes = layers.iter().map(|layer| layer.packed_bytes).max().unwrap_or(0);
        let two_slots = layer_bytes.saturating_mul(2);
        let working_bytes = pages(working_bytes);

        let staging = |units: &[Sized<'_>]| units.iter().map(|unit| unit.staging_bytes).max();
        let layers_staging = staging(&layers).unwrap_or(0);
        // Raw bytes beside the places, with the first `kept` of the rest as residents.
        let staging_with =
            |kept: usize| staging(&rest[kept..]).map_or(layers_staging, |s| s.max(layers_staging));

        // What the first `kept` of the rest need as residents, with the others in the ring.
        let need = |kept: usize| {
            let resident: u64 = rest[..kept].iter().map(|sized| sized.packed_bytes).sum();
            let largest = rest[kept..].last().map_or(0, |sized| sized.packed_bytes);
            let ring = two_slots.max(largest).saturating_add(staging_with(kept));
            (pages(resident), pages(ring.max(staging(&rest[..kept]).unwrap_or(0))))
        };
        let total = |kept: usize| {
            let (resident, ring) = need(kept);
            resident.saturating_add(ring).saturating_add(working_bytes)
        };
        let least_limit_bytes = (0..=rest.len()).map(total).min().unwrap_or(0);
        let Some(kept) = (0..=rest.len()).rev().find(|&kept| total(kept) <= limit_bytes) else {
            return Err(refuse(limit_bytes, least_limit_bytes, layer_bytes, working_bytes));
        };

        let (resident_bytes, ring_least_bytes) = need(kept);
        let streamed = pass_order(model, grouping, &rest[kept..]);
        let sizes = layers.iter().chain(&rest[kept..]).map(|sized| sized.packed_bytes);
        let all: u64 = sizes.clone().sum();
        let largest = sizes.max().unwrap_or(0);
        let useful = largest.saturating_mul((depth as u64).saturating_add(1)).min(all);
        let useful = useful.saturating_add(staging_with(kept));
        let room_bytes = limit_bytes - resident_bytes - working_bytes;
        let ring_bytes = pages(useful).min(room_bytes / page_bytes * page_bytes);
        let mut residents: Vec<usize> =
            rest[..kept].iter().flat_map(|sized| sized.unit.tensors.iter().copied()).collect();
        residents.sort_unstable();
        Ok(Self {
            residents,
            streamed,
            resident_bytes,
            ring_bytes: ring_bytes.max(ring_least_bytes),
            working_bytes,
            least_limit_bytes,
        })
    }
}

/// The layers in their order, and around them the streamed rest: what stands before the first
/// layer in the file goes before, everything else after.
fn pass_order(model: &Model, grouping: &Grouping, rest: &[Sized<'_>]) -> Vec<Unit> {
    let first_layer = grouping.layers.iter().filter_map(|unit| unit.tensors.first()).min();
    let mut rest: Vec<&Unit> = rest.iter().map(|sized| sized.unit).collect();
    rest.sort_by_key(|unit| unit.tensors.first().copied());
    debug_assert!(rest.iter().flat_map(|unit| &unit.tensors).all(|&at| at < model.tensors().len()));
    let (before, after): (Vec<&Unit>, Vec<&Unit>) =
        rest.into_iter().partition(|unit| unit.tensors.first() < first_layer);
    before.into_iter().chain(&grouping.layers).chain(after).cloned().collect()
}

fn refuse(limit_bytes: u64, least_bytes: u64, layer_bytes: u64, working_bytes: u64) -> Error {
    Error::TooLarge {
        what: format!(
            "streaming this model (two slots of its largest layer of {}, {} to work in, and room \
             for what is in no layer)",
            format_bytes(layer_bytes),
            format_bytes(working_bytes)
        ),
        requested_bytes: least_bytes,
        available_bytes: limit_bytes,
        way_out: format!("a limit of {least_bytes} bytes or more would do"),
    }
}
