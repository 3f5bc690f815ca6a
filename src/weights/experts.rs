//! The experts of mixture-of-experts layers: which tensors belong to which expert of which layer,
//! by their names. Files have them apart (`mlp.experts.7.up_proj.weight`) or stacked, an expert a
//! slice (`blk.3.ffn_up_exps.weight`, `mlp.experts.down_proj`).

use std::collections::BTreeMap;

use super::model::Model;
use super::tensor::{Tensor, shown};
use super::units::{Grouping, Unit};
use crate::base::{FileError, Result};

/// The experts of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpertLayer {
    /// The name they have in common (`model.layers.0.mlp`, `blk.3`).
    pub name: String,
    /// Each expert's tensors, by its number.
    pub experts: Vec<Unit>,
}

/// Ends of the names of tensors in which all experts of a layer are stacked, behind `experts.`.
const STACKED: &[&str] = &["gate_up_proj", "gate_proj", "up_proj", "down_proj"];
/// What these may be followed by: biases, and the parts of block-scaled types.
const STACKED_ENDS: &[&str] = &["", ".weight", "_bias", "_blocks", "_scales"];

impl Model {
    /// The same model with every stack of experts as tensors of their own: of
    /// `blk.3.ffn_up_exps.weight` with 8 experts, `blk.3.ffn_up_exps.0.weight` to
    /// `blk.3.ffn_up_exps.7.weight`, each a slice of the file. Other tensors stay as they are.
    #[must_use]
    pub fn with_experts_apart(&self) -> Self {
        let mut model = self.clone();
        model.tensors = Vec::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            match slices(tensor) {
                Some(slices) => model.tensors.extend(slices),
                None => model.tensors.push(tensor.clone()),
            }
        }
        model
    }

    /// The experts of its layers, in the order of the layers' numbers; none where it is no mixture
    /// of experts. Stacks count once they are [apart](Self::with_experts_apart).
    ///
    /// # Errors
    /// A layer in which an expert's number is missing.
    pub fn expert_layers(&self) -> Result<Vec<ExpertLayer>> {
        type Experts = BTreeMap<u64, Vec<usize>>;
        let mut layers: BTreeMap<(u64, &str), Experts> = BTreeMap::new();
        for (at, tensor) in self.tensors.iter().enumerate() {
            if let Some((layer, expert)) = expert_of(&tensor.name) {
                let experts = layers.entry((number_in(layer), layer)).or_default();
                experts.entry(expert).or_default().push(at);
            }
        }
        let layers = layers.into_iter().map(|((_, layer), experts)| {
            let whole = experts.keys().copied().eq(0..experts.len() as u64);
            if !whole {
                let reason = format!(
                    "layer '{}' has {} experts, whose numbers are not 0 to {}",
                    shown(layer),
                    experts.len(),
                    experts.len() - 1
                );
                return Err(FileError::new(self.path(), reason).into());
            }
            let unit =
                |(expert, tensors)| Unit::of(self, format!("{layer}.experts.{expert}"), tensors);
            let experts = experts.into_iter().map(unit).collect();
            Ok(ExpertLayer { name: layer.to_owned(), experts })
        });
        layers.collect()
    }
}

impl Grouping {
    /// The same units without the tensors of experts: what every token needs. Units of nothing else
    /// are left out.
    #[must_use]
    pub fn without_experts(&self, model: &Model) -> Self {
        let name_of = |at: usize| model.tensors().get(at).map(|tensor| &tensor.name[..]);
        let is_dense = |at: &usize| name_of(*at).is_none_or(|name| expert_of(name).is_none());
        let dense = |unit: &Unit| {
            let tensors: Vec<usize> = unit.tensors.iter().copied().filter(is_dense).collect();
            let is_left = !tensors.is_empty() || unit.tensors.is_empty();
            is_left.then(|| Unit::of(model, unit.name.clone(), tensors))
        };
        Self {
            layers: self.layers.iter().filter_map(dense).collect(),
            rest: self.rest.iter().filter_map(dense).collect(),
        }
    }
}

/// The layer and the number of the expert that a tensor of this name is of.
fn expert_of(name: &str) -> Option<(&str, u64)> {
    let mut start = 0;
    for part in name.split('.') {
        let end = start + part.len();
        if part == "experts" || is_stack_of_gguf(part) {
            let number = name.get(end + 1..)?.split('.').next().unwrap_or_default();
            if number.bytes().all(|byte| byte.is_ascii_digit())
                && let Ok(number) = number.parse()
            {
                return Some((name[..start].trim_end_matches('.'), number));
            }
        }
        start = end + 1;
    }
    None
}

/// `ffn_gate_exps`, `ffn_up_exps`, `ffn_down_exps`, `ffn_gate_up_exps`.
fn is_stack_of_gguf(part: &str) -> bool {
    part.starts_with("ffn_") && part.ends_with("_exps")
}

/// The first number in a layer's name.
fn number_in(layer: &str) -> u64 {
    layer.split('.').find_map(|part| part.parse().ok()).unwrap_or(u64::MAX)
}

/// The tensors that a stack consists of; none if it is none.
fn slices(tensor: &Tensor) -> Option<Vec<Tensor>> {
    let (before, after) = stack(&tensor.name)?;
    let (&experts, shape) = tensor.shape.split_first()?;
    // A vector is no stack: it has a number for each expert.
    let is_stack = !shape.is_empty() && experts > 0 && tensor.len_bytes.is_multiple_of(experts);
    if !is_stack {
        return None;
    }
    let len_bytes = tensor.len_bytes / experts;
    // As many as a file could name at most: what is empty takes no bytes of it.
    if len_bytes == 0 {
        return None;
    }
    let slice = |expert: u64| Tensor {
        name: format!("{before}.{expert}{after}"),
        dtype: tensor.dtype,
        shape: shape.to_vec(),
        file: tensor.file,
        offset_bytes: tensor.offset_bytes + expert * len_bytes,
        len_bytes,
    };
    (experts <= MOST_EXPERTS).then(|| (0..experts).map(slice).collect())
}

/// More experts to a layer than any model has: a hostile header makes no more tensors of one.
const MOST_EXPERTS: u64 = 65_536;

/// Where the number of an expert goes in the name of a stack.
fn stack(name: &str) -> Option<(&str, &str)> {
    let part_start = name.rfind("ffn_").filter(|&at| at == 0 || name[..at].ends_with('.'));
    if let Some(start) = part_start {
        let end = name[start..].find('.').map_or(name.len(), |dot| start + dot);
        return is_stack_of_gguf(&name[start..end]).then(|| name.split_at(end));
    }
    let at = name.rfind("experts.").filter(|&at| at == 0 || name[..at].ends_with('.'))?;
    let end = at + "experts".len();
    let rest = &name[end + 1..];
    let is_stacked = STACKED
        .iter()
        .any(|stacked| rest.strip_prefix(stacked).is_some_and(|end| STACKED_ENDS.contains(&end)));
    is_stacked.then(|| name.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_family_tell_layer_and_expert() {
        for (name, expected) in [
            (
                "model.layers.11.block_sparse_moe.experts.3.w1.weight",
                Some(("model.layers.11.block_sparse_moe", 3)),
            ),
            ("model.layers.0.mlp.experts.127.down_proj.weight", Some(("model.layers.0.mlp", 127))),
            ("blk.3.ffn_gate_exps.5.weight", Some(("blk.3", 5))),
            ("experts.0.w", Some(("", 0))),
            ("model.layers.0.mlp.shared_experts.up_proj.weight", None),
            ("model.layers.0.mlp.experts.up_proj", None),
            ("model.layers.0.mlp.experts.+3.up_proj", None),
            ("model.layers.0.mlp.experts.", None),
            ("model.layers.0.mlp.experts", None),
            ("blk.3.ffn_gate_inp.weight", None),
            ("blk.3.ffn_up_shexp.weight", None),
        ] {
            assert_eq!(expert_of(name), expected, "{name}");
        }
    }

    #[test]
    fn stacks_are_told_from_other_tensors() {
        for (name, expected) in [
            ("blk.3.ffn_gate_exps.weight", Some(("blk.3.ffn_gate_exps", ".weight"))),
            ("blk.3.ffn_gate_up_exps.bias", Some(("blk.3.ffn_gate_up_exps", ".bias"))),
            ("m.0.mlp.experts.gate_up_proj", Some(("m.0.mlp.experts", ".gate_up_proj"))),
            ("m.0.mlp.experts.down_proj_scales", Some(("m.0.mlp.experts", ".down_proj_scales"))),
            ("blk.3.ffn_gate.weight", None),
            ("blk.3.ffn_gate_inp.weight", None),
            ("m.0.mlp.experts.3.down_proj.weight", None),
            ("m.0.mlp.shared_experts.down_proj", None),
            ("experts.router", None),
        ] {
            assert_eq!(stack(name), expected, "{name}");
        }
    }

    #[test]
    fn slices_cover_a_stack_and_hostile_shapes_are_left_alone() {
        let tensor = |shape: &[u64], len_bytes| Tensor {
            name: "blk.0.ffn_up_exps.weight".into(),
            dtype: super::super::Dtype::U8,
            shape: shape.to_vec(),
            file: 1,
            offset_bytes: 100,
            len_bytes,
        };
        let parts = slices(&tensor(&[4, 3, 5], 60)).unwrap();
        let places: Vec<_> = parts.iter().map(|part| (part.offset_bytes, part.len_bytes)).collect();
        assert_eq!(places, [(100, 15), (115, 15), (130, 15), (145, 15)]);
        assert!(parts.iter().all(|part| part.shape == [3, 5] && part.file == 1));
        assert_eq!(parts[2].name, "blk.0.ffn_up_exps.2.weight");
        for (shape, len_bytes) in
            [(&[][..], 1), (&[4], 4), (&[0, 3], 0), (&[4, 0], 0), (&[1 << 40, 2], 1 << 41)]
        {
            assert_eq!(slices(&tensor(shape, len_bytes)), None, "{shape:?}");
        }
    }
}
