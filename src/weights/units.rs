//! Units: what is streamed as one piece. A layer is one unit; every tensor outside the layers
//! is a unit of its own, because whether it stays resident is decided tensor by tensor. How a
//! unit is packed is in `layout`.

use std::collections::BTreeMap;

use crate::base::{Error, FileError, Result};

use super::model::Model;
use super::pattern::{PRESETS, Pattern, Place, pattern_of, place_by_preset};
use super::tensor::shown;

/// Names and patterns an error text quotes.
const QUOTED: usize = 6;

/// Tensors that are moved together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The layer's name (`model.layers.3`), or the tensor's outside the layers.
    pub name: String,
    /// Indices into [`Model::tensors`], ascending, which is file order.
    pub tensors: Vec<usize>,
    /// Bytes of the tensors together, without padding.
    pub bytes: u64,
}

impl Unit {
    /// Tensors of `model` by their indices, ascending; one that the model does not have counts
    /// no bytes.
    #[must_use]
    pub fn of(model: &Model, name: impl Into<String>, tensors: Vec<usize>) -> Self {
        let bytes = tensors.iter().filter_map(|&at| Some(model.tensors().get(at)?.len_bytes)).sum();
        Self { name: name.into(), tensors, bytes }
    }

    /// Every tensor of `model`.
    #[must_use]
    pub fn whole(model: &Model) -> Self {
        Self::of(model, "model", (0..model.tensors().len()).collect())
    }
}

/// A model's tensors as layers and the rest. Every tensor is in exactly one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grouping {
    /// The layers in the order in which they run: stack after stack, each by number.
    pub layers: Vec<Unit>,
    /// Every other tensor, each of its own, in file order.
    pub rest: Vec<Unit>,
}

impl Grouping {
    /// Groups by the presets for common model families. A preset may follow any dotted prefix;
    /// stacks with different prefixes are different stacks. Stacks run in the order of the
    /// presets (FLUX's double blocks before its single ones), and those of one preset in file
    /// order.
    ///
    /// # Errors
    /// [`Error::File`] when no tensor's name fits a preset, with what was tried.
    pub fn by_preset(model: &Model) -> Result<Self> {
        let grouping = Self::by(model, place_by_preset);
        if !grouping.layers.is_empty() {
            return Ok(grouping);
        }
        Err(FileError::new(
            model.path(),
            format!(
                "no layers found in {} tensors{}; tried {}, each behind any prefix; say how \
                 layers are named with --layers PATTERN, like 'stages.{{i}}.'",
                model.tensors().len(),
                names_of(model),
                PRESETS.join(" ")
            ),
        )
        .into())
    }

    /// Groups by one pattern: the start of a tensor's name, with `{i}` where the layer's number
    /// stands (`model.layers.{i}.`).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the pattern has not exactly one `{i}`, or when no tensor's
    /// name starts so: then with names the model has and the patterns that would match.
    pub fn by_pattern(model: &Model, pattern: &str) -> Result<Self> {
        let parsed = Pattern::parse(pattern)?;
        let grouping = Self::by(model, |name| parsed.place(name));
        if !grouping.layers.is_empty() {
            return Ok(grouping);
        }
        let mut fitting: Vec<String> = Vec::new();
        for place in model.tensors().iter().filter_map(|tensor| place_by_preset(&tensor.name)) {
            let fit = shown(&pattern_of(&place));
            if fitting.len() < QUOTED && !fitting.contains(&fit) {
                fitting.push(fit);
            }
        }
        let way_out = if fitting.is_empty() {
            "no preset fits either".to_owned()
        } else {
            format!("these would: {}", fitting.join(" "))
        };
        Err(Error::invalid(
            "layers",
            shown(pattern),
            format!(
                "none of {} tensor names starts so{}; {way_out}",
                model.tensors().len(),
                names_of(model)
            ),
        ))
    }

    fn by<'m>(model: &'m Model, place: impl Fn(&'m str) -> Option<Place<'m>>) -> Self {
        // Stack name -> its order: the preset's rank, then first appearance in the file.
        let mut stacks: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let mut layers: BTreeMap<((usize, usize), u64, &str), Unit> = BTreeMap::new();
        let mut rest = Vec::new();
        for (index, tensor) in model.tensors().iter().enumerate() {
            let Some(place) = place(&tensor.name) else {
                rest.push(Unit {
                    name: tensor.name.clone(),
                    tensors: vec![index],
                    bytes: tensor.len_bytes,
                });
                continue;
            };
            let order = *stacks.entry(place.stack).or_insert((place.rank, index));
            let unit = layers.entry((order, place.number, place.layer)).or_insert_with(|| Unit {
                name: place.layer.to_owned(),
                tensors: Vec::new(),
                bytes: 0,
            });
            unit.tensors.push(index);
            // The model's total is known not to overflow, and this is a part of it.
            unit.bytes = unit.bytes.saturating_add(tensor.len_bytes);
        }
        Self { layers: layers.into_values().collect(), rest }
    }

    /// All units: the layers, then the rest.
    pub fn units(&self) -> impl Iterator<Item = &Unit> {
        self.layers.iter().chain(&self.rest)
    }

    /// Bytes of the layers together.
    #[must_use]
    pub fn layer_bytes(&self) -> u64 {
        self.layers.iter().map(|unit| unit.bytes).sum()
    }

    /// Bytes of the largest layer, which a window must hold.
    #[must_use]
    pub fn largest_layer_bytes(&self) -> u64 {
        self.layers.iter().map(|unit| unit.bytes).max().unwrap_or(0)
    }
}

/// Some of the model's names, for errors.
fn names_of(model: &Model) -> String {
    let names: Vec<String> = model
        .tensors()
        .iter()
        .take(QUOTED)
        .map(|tensor| format!("'{}'", shown(&tensor.name)))
        .collect();
    if names.is_empty() { String::new() } else { format!(" (such as {})", names.join(", ")) }
}
