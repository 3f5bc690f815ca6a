//! The weights a plan is about: one model a component, with its units in the order of a pass.

use std::sync::Arc;

use crate::weights::{Grouping, Model, Unit};

/// The weights of one component of a plan.
#[derive(Debug, Clone)]
pub struct ComponentWeights {
    /// The component's name, as in the plan.
    pub name: String,
    /// The model.
    pub model: Arc<Model>,
    /// Its units in the order of a pass.
    pub units: Vec<Unit>,
}

impl ComponentWeights {
    /// A component of these units, in the order of a pass.
    #[must_use]
    pub fn new(name: impl Into<String>, model: Arc<Model>, units: Vec<Unit>) -> Self {
        Self { name: name.into(), model, units }
    }

    /// A component whose layers run in their order, after what stands before the first of them in
    /// the file and before everything else.
    #[must_use]
    pub fn of(name: impl Into<String>, model: Arc<Model>, grouping: &Grouping) -> Self {
        let first_layer = grouping.layers.iter().filter_map(|unit| unit.tensors.first()).min();
        let is_before = |unit: &&Unit| unit.tensors.first() < first_layer;
        let (before, after): (Vec<&Unit>, Vec<&Unit>) = grouping.rest.iter().partition(is_before);
        let units = before.into_iter().chain(&grouping.layers).chain(after).cloned().collect();
        Self::new(name, model, units)
    }
}
