//! Which tensor of a model a module of a LoRA file is.

use std::collections::HashMap;

use super::super::model::Model;
use super::super::tensor::shown;
use super::LoraPair;
use crate::base::{Error, Result};

/// What modules of LoRA files begin with that names of models may not: with the components of
/// a [joined](Model::join) model it stands for.
const PREFIXES: [(&str, &[&str]); 12] = [
    ("base_model.model.", &[]),
    ("model.diffusion_model.", &["transformer", "unet"]),
    ("diffusion_model.", &["transformer", "unet"]),
    ("transformer.", &["transformer"]),
    ("unet.", &["unet"]),
    ("text_encoder.", &["text_encoder"]),
    ("text_encoder_2.", &["text_encoder_2"]),
    ("lora_unet_", &["unet", "transformer"]),
    ("lora_transformer_", &["transformer"]),
    ("lora_te_", &["text_encoder"]),
    ("lora_te1_", &["text_encoder"]),
    ("lora_te2_", &["text_encoder_2"]),
];

/// Names that components of pipelines have: a module for one is none of another's.
const COMPONENTS: [&str; 6] =
    ["transformer", "unet", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"];

/// The weights of a model by the names LoRA files may call them. Dots are as good as
/// underscores, as kohya's files have it, and what stands before a module's path is left out.
#[derive(Debug)]
pub struct LoraTargets<'a> {
    model: &'a Model,
    /// By whole name.
    whole: HashMap<String, usize>,
    /// By all that follows a dot; `Err` with two where that is no one tensor's.
    endings: HashMap<String, Result<usize, (usize, usize)>>,
}

impl<'a> LoraTargets<'a> {
    /// The targets in `model`: tensors of two dimensions or more.
    #[must_use]
    pub fn new(model: &'a Model) -> Self {
        let (mut whole, mut endings) = (HashMap::new(), HashMap::new());
        for (index, tensor) in model.tensors().iter().enumerate() {
            if tensor.shape.len() < 2 {
                continue;
            }
            let name = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
            whole.insert(squashed(name), index);
            for (dot, _) in name.match_indices('.') {
                let ending = endings.entry(squashed(&name[dot + 1..])).or_insert(Ok(index));
                if let Ok(other) = *ending
                    && other != index
                {
                    *ending = Err((other, index));
                }
            }
        }
        Self { model, whole, endings }
    }

    /// The tensor that `pair` is for, by its index; `None` when no name of the model is like the
    /// module's.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: the module may be either of two tensors, or the tensor has
    /// another shape than the product.
    pub fn find(&self, pair: &LoraPair) -> Result<Option<usize>> {
        let Some(index) = self.named(&pair.module)? else { return Ok(None) };
        let tensor = &self.model.tensors()[index];
        let rows = tensor.shape.first().copied().unwrap_or(0);
        let columns = tensor.shape.iter().skip(1).fold(1, |all: u64, &dim| all.saturating_mul(dim));
        if (rows, columns) != (pair.rows, pair.columns) {
            return Err(Error::invalid(
                "LoRA module",
                shown(&pair.module),
                format!(
                    "its factors make {} x {} but '{}' has the shape {:?}: it is for another model",
                    pair.rows,
                    pair.columns,
                    shown(&tensor.name),
                    tensor.shape
                ),
            ));
        }
        Ok(Some(index))
    }

    fn named(&self, module: &str) -> Result<Option<usize>> {
        if let Some(index) = self.look_up(module, &[])? {
            return Ok(Some(index));
        }
        for (prefix, components) in PREFIXES {
            let Some(rest) = module.strip_prefix(prefix) else { continue };
            for component in components {
                if let Some(&index) = self.whole.get(&squashed(&format!("{component}.{rest}"))) {
                    return Ok(Some(index));
                }
            }
            // Prefixes of wrappers stand before others.
            let found = match components.is_empty() {
                true => self.named(rest)?,
                false => self.look_up(rest, components)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The tensor of this name, or whose name ends in it; of these components, if there are any.
    fn look_up(&self, module: &str, components: &[&str]) -> Result<Option<usize>> {
        let key = squashed(module);
        if let Some(&index) = self.whole.get(&key) {
            return Ok(Some(index));
        }
        let name = |index: usize| &self.model.tensors()[index].name[..];
        match self.endings.get(&key) {
            None => Ok(None),
            Some(&Ok(index)) => {
                let first = name(index).split('.').next().unwrap_or_default();
                let elsewhere = COMPONENTS.contains(&first) && !components.contains(&first);
                Ok(Some(index).filter(|_| components.is_empty() || !elsewhere))
            }
            Some(&Err((one, other))) => Err(Error::invalid(
                "LoRA module",
                shown(module),
                format!(
                    "it may be '{}' or '{}'; name the component it is for",
                    shown(name(one)),
                    shown(name(other))
                ),
            )),
        }
    }
}

fn squashed(name: &str) -> String {
    name.replace('.', "_")
}
