//! Opening whatever describes a job: a model, a file of shapes, a file of a job. They are told
//! apart by content.

use std::path::Path;
use std::sync::Arc;

use crate::base::Result;
use crate::plan::{Component, Job};
use crate::weights::{Grouping, Model, Unit};

use super::fields::{Field, may_describe, read_json};
use super::{DescribeOptions, Described, job_file, shapes};

/// A job, and for each of its components where its weights are.
#[derive(Debug)]
#[non_exhaustive]
pub struct DescribedJob {
    /// What is planned.
    pub job: Job,
    /// One for each of the job's components.
    pub backings: Vec<Backing>,
    /// What was assumed, in sentences.
    pub notes: Vec<String>,
}

/// Where a component's weights are.
#[derive(Debug)]
pub enum Backing {
    /// In a model's files.
    Model {
        /// The model.
        model: Arc<Model>,
        /// The tensors of each of the component's units, part by part.
        units: Vec<Unit>,
        /// Tables that stay in host memory.
        host_tables: Vec<Unit>,
    },
    /// Nowhere: it is a shape.
    Shape,
}

/// A component with its backing, and what was assumed.
pub(super) struct Opened {
    pub(super) component: Component,
    pub(super) backing: Backing,
    pub(super) notes: Vec<String>,
}

impl DescribedJob {
    /// Describes what `path` names: a model (as for [`Model::open`]), a file of shapes (`{"units":
    /// [..]}`) or of a job (`{"components": [..], "phases": [..]}`). A model or shape is a job of one
    /// component that runs `passes` times; a job's file says so itself, and `None` is then all that is
    /// accepted. `layers` names the layers where the presets do not fit. The forms of the files are in
    /// `docs/offload.md`.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) with the file, the field and what is allowed; what
    /// [`Model::open`], [`Grouping::by_pattern`] and [`Described::new`] say;
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for an override that matches nothing,
    /// and for `passes` of a job that has its own.
    pub fn open(
        path: impl AsRef<Path>,
        layers: Option<&str>,
        passes: Option<u32>,
        options: &DescribeOptions,
    ) -> Result<Self> {
        let path = path.as_ref();
        let described = match description(path)? {
            Some(json) if json.get("components").is_some() => {
                job_file::read(&Field::root(path, &json), layers, passes, options)?
            }
            Some(json) => {
                let opened = open_shapes(&Field::root(path, &json), options)?;
                Self::of(opened, passes)
            }
            None => Self::of(open_model(path, None, layers, options)?, passes),
        };
        options.overrides.refuse_unmatched(&described.names())?;
        Ok(described)
    }

    fn of(opened: Opened, passes: Option<u32>) -> Self {
        let Opened { component, backing, notes } = opened;
        Self { job: Job::of(component, passes.unwrap_or(1)), backings: vec![backing], notes }
    }

    /// All that overrides can match.
    fn names(&self) -> Vec<&str> {
        let components = self.job.components.iter();
        let units = components.clone().flat_map(|component| &component.units);
        let tensors = self.backings.iter().flat_map(|backing| match backing {
            Backing::Model { model, .. } => model.tensors(),
            Backing::Shape => &[],
        });
        components
            .map(|component| component.name.as_str())
            .chain(units.map(|unit| unit.name.as_str()))
            .chain(tensors.map(|tensor| tensor.name.as_str()))
            .collect()
    }
}

/// The JSON of a file of shapes or of a job; `None` for what is a model, or is not there.
fn description(path: &Path) -> Result<Option<serde_json::Value>> {
    if !may_describe(path) {
        return Ok(None);
    }
    let json = read_json(path)?;
    // The index of a sharded model is a model.
    Ok(Some(json).filter(|json| json.get("weight_map").is_none()))
}

pub(super) fn open_shapes(root: &Field<'_>, options: &DescribeOptions) -> Result<Opened> {
    let (component, mut notes) = shapes::component(root, options.dtype, &options.overrides)?;
    if options.overrides.makes_units() {
        notes.push("shapes have no tensors: what makes units of them has no effect".into());
    }
    Ok(Opened { component, backing: Backing::Shape, notes })
}

pub(super) fn open_model(
    path: &Path,
    name: Option<&str>,
    layers: Option<&str>,
    options: &DescribeOptions,
) -> Result<Opened> {
    let model = Model::open(path)?;
    let mut assumed = None;
    let grouping = match layers {
        Some(pattern) => Grouping::by_pattern(&model, pattern)?,
        None => Grouping::by_preset(&model).unwrap_or_else(|_| {
            assumed =
                Some("no layers were found by their names, so that the whole model is one unit");
            Grouping { layers: vec![Unit::whole(&model)], rest: Vec::new() }
        }),
    };
    let own_name =
        || path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let name = name.map_or_else(own_name, str::to_owned);
    let described = Described::new(name, &model, &grouping, options)?;
    let Described { component, units, host_tables, mut notes } = described;
    notes.extend(assumed.map(str::to_owned));
    let backing = Backing::Model { model: Arc::new(model), units, host_tables };
    Ok(Opened { component, backing, notes })
}
