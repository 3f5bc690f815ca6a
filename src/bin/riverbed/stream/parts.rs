//! What is checked in a pass: every tensor of the model, cut into parts that each have a
//! checksum of their own. A streamed tensor is one part; residents are cut small and spread
//! over the units, as their use in a model is.

use riverbed::offload::StreamedModel;

use crate::expected::Part;

/// Residents are cut into parts of at most this many bytes: a fraction of a millisecond each.
const RESIDENT_PART_BYTES: u64 = 1 << 20;

/// All parts; a part's index is the slot of its checksum.
pub(super) struct Parts {
    pub(super) all: Vec<Part>,
    /// For each streamed unit, the slot of its first tensor; the others follow in order.
    pub(super) first_of_unit: Vec<usize>,
    /// For each streamed unit, the slots of the residents checked after it.
    pub(super) residents_of_unit: Vec<Vec<usize>>,
}

impl Parts {
    pub(super) fn of(streamed: &StreamedModel) -> Self {
        let tensors = streamed.model().tensors();
        let mut all = Vec::new();
        let mut first_of_unit = Vec::new();
        for unit in streamed.units() {
            first_of_unit.push(all.len());
            all.extend(unit.tensors.iter().map(|&tensor| Part {
                tensor,
                offset_bytes: 0,
                len_bytes: tensors[tensor].len_bytes,
            }));
        }
        let streamed_parts = all.len();
        for &tensor in &streamed.placement().residents {
            let len = tensors[tensor].len_bytes;
            // An empty tensor is one empty part, so that nothing of the model goes unchecked.
            for start in (0..len.max(1)).step_by(RESIDENT_PART_BYTES as usize) {
                let len_bytes = RESIDENT_PART_BYTES.min(len - start);
                all.push(Part { tensor, offset_bytes: start, len_bytes });
            }
        }
        let units = streamed.units().len();
        let residents = all.len() - streamed_parts;
        let residents_of_unit = (0..units)
            .map(|unit| {
                let slot = |unit: usize| streamed_parts + residents * unit / units;
                (slot(unit)..slot(unit + 1)).collect()
            })
            .collect();
        Self { all, first_of_unit, residents_of_unit }
    }
}
