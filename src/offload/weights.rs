//! The weights a plan is about: one model a component, with its units in the order of a pass.

use std::sync::Arc;

use super::describe::{Backing, DescribedJob};
use crate::base::{Error, Result};
use crate::plan::Component;
use crate::weights::{Model, Unit};

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

    /// The weights of a described job's components.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a component that is a shape, without weights.
    pub fn of_job(described: &DescribedJob) -> Result<Vec<Self>> {
        let components = described.job.components.iter().zip(&described.backings);
        let weights = |(component, backing): (&Component, &Backing)| match backing {
            Backing::Model { model, units, .. } => {
                Ok(Self::new(&component.name, Arc::clone(model), units.clone()))
            }
            Backing::Shape => Err(Error::Unsupported {
                what: format!("loading '{}'", component.name),
                by: "a shape, which has no weights".into(),
                way_out: "describe the job with model files".into(),
            }),
        };
        components.map(weights).collect()
    }
}
