//! What is checked in a pass: every tensor of a component, each with a checksum of its own.

use std::collections::HashMap;

use riverbed::offload::ComponentWeights;

/// A job's tensors; the index of one is the slot of its checksum.
pub(super) struct Parts {
    /// By component, the slots by name.
    slots: Vec<HashMap<String, usize>>,
    /// By component, the slots of what is planned: tables may stay in host memory.
    planned: Vec<Vec<usize>>,
    /// By slot, bytes.
    pub(super) len_bytes: Vec<u64>,
    /// By slot, the name for people.
    pub(super) names: Vec<String>,
}

impl Parts {
    pub(super) fn of(weights: &[ComponentWeights]) -> Self {
        let mut parts = Self { slots: vec![], planned: vec![], len_bytes: vec![], names: vec![] };
        for component in weights {
            let first = parts.names.len();
            let tensors = component.model.tensors();
            let slots =
                tensors.iter().zip(first..).map(|(tensor, slot)| (tensor.name.clone(), slot));
            parts.slots.push(slots.collect());
            parts.len_bytes.extend(tensors.iter().map(|tensor| tensor.len_bytes));
            parts.names.extend(tensors.iter().map(|tensor| match weights.len() {
                1 => tensor.name.clone(),
                _ => format!("{}/{}", component.name, tensor.name),
            }));
            let tensors = component.units.iter().flat_map(|unit| &unit.tensors);
            parts.planned.push(tensors.map(|&tensor| first + tensor).collect());
        }
        parts
    }

    /// The slot of a tensor of a component.
    pub(super) fn slot(&self, component: usize, tensor: &str) -> Option<usize> {
        self.slots.get(component)?.get(tensor).copied()
    }

    /// What a pass over a component checks.
    pub(super) fn checked(&self, component: usize) -> &[usize] {
        self.planned.get(component).map_or(&[], Vec::as_slice)
    }
}
