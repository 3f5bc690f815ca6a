//! Several models as one: the components of a pipeline that share a ring and an order.

use super::model::Model;
use super::tensor::{Tensor, duplicate, shown};
use super::units::{Grouping, Unit};
use crate::base::{Error, Result};

impl Model {
    /// Joins the components of a pipeline (text encoder, transformer, decoder) into one model,
    /// so that units of one can be loaded while another is in use. A tensor of component `name`
    /// is called `name.` and what it is called there. Path, format, architecture and name are
    /// those of the first.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when there are no components, or two tensors would have one
    /// name.
    pub fn join(components: &[(&str, &Self)]) -> Result<Self> {
        let Some((_, first)) = components.first() else {
            return Err(Error::invalid("components", "none", "name at least one"));
        };
        let mut joined =
            Self { files: Vec::new(), tensors: Vec::new(), total_bytes: 0, ..(*first).clone() };
        joined.kept.clear();
        for (component, model) in components {
            let (files_before, before) = (joined.files.len(), joined.tensors.len());
            joined.kept.extend(model.kept.iter().map(|(index, dtype)| (before + index, *dtype)));
            joined.files.extend_from_slice(&model.files);
            joined.tensors.extend(model.tensors.iter().map(|tensor| Tensor {
                name: format!("{component}.{}", tensor.name),
                file: tensor.file + files_before,
                ..tensor.clone()
            }));
            let total = joined.total_bytes.checked_add(model.total_bytes);
            joined.total_bytes = total.ok_or_else(|| {
                Error::invalid("components", component, "they have more than 2^64 bytes in all")
            })?;
        }
        match duplicate(joined.tensors.iter().map(|tensor| &tensor.name[..])) {
            Some(name) => Err(Error::invalid(
                "components",
                shown(name),
                "two tensors would be called so; give the components other names",
            )),
            None => Ok(joined),
        }
    }
}

impl Grouping {
    /// The same units with the layers in the order of these components of a
    /// [joined](Model::join) model, each component's in the order they were; layers of no
    /// component named come last.
    #[must_use]
    pub fn by_component(mut self, components: &[&str]) -> Self {
        let rank = |unit: &Unit| {
            let of = |component: &&str| {
                unit.name.strip_prefix(*component).is_some_and(|rest| rest.starts_with('.'))
            };
            components.iter().position(of).unwrap_or(components.len())
        };
        self.layers.sort_by_key(rank);
        self
    }
}
