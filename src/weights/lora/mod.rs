//! Files of low-rank factors (LoRA): which pairs they hold, and which tensors of a model these
//! are for. From headers alone.

mod keys;
mod targets;

use std::collections::BTreeMap;

use super::dtype::Dtype;
use super::model::Model;
use super::tensor::{Tensor, shown};
use crate::base::{FileError, Result};
use keys::{Role, role};
pub use targets::LoraTargets;

/// A pair of factors of a LoRA file: the product `up * down` is what is added to a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoraPair {
    /// The module it is for, as the file calls it, without what the kind of file appends.
    pub module: String,
    /// Index into [`Model::tensors`] of the factor with a row for each of the weight's rows
    /// (`lora_B`, `lora_up`).
    pub up: usize,
    /// Index of the factor with a column for each of the weight's others (`lora_A`, `lora_down`).
    pub down: usize,
    /// Index of the number that the product is multiplied with, over the rank; where there is
    /// none it is the rank.
    pub alpha: Option<usize>,
    /// Rows of the weight.
    pub rows: u64,
    /// The weight's elements a row.
    pub columns: u64,
    /// Columns of `up`, rows of `down`.
    pub rank: u64,
}

/// What is known of a module while keys are read.
#[derive(Default)]
struct Found {
    up: Option<usize>,
    down: Option<usize>,
    alpha: Option<usize>,
}

impl LoraPair {
    /// The pairs of a LoRA file, by module, and the names of tensors that belong to none.
    ///
    /// Keys of PEFT and diffusers (`X.lora_A.weight`, `X.lora.down.weight`,
    /// `X.processor.to_q_lora.down.weight`) and of kohya (`lora_unet_X.lora_down.weight`,
    /// `.alpha`).
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File): no pairs; a factor without its other half, or of
    /// another rank; a type other than F32, F16 or BF16; what is no product of two factors (DoRA,
    /// LoHa, LoKr, whole differences), by its key.
    pub fn of(file: &Model) -> Result<(Vec<Self>, Vec<String>)> {
        let refuse = |name: &str, reason: &str| {
            let reason = format!("tensor '{}': {reason}", shown(name));
            FileError::new(file.path(), reason)
        };
        let (mut modules, mut others) = (BTreeMap::<String, Found>::new(), Vec::new());
        for (index, tensor) in file.tensors().iter().enumerate() {
            let (module, place): (String, fn(&mut Found) -> &mut Option<usize>) =
                match role(&tensor.name) {
                    Role::Up(module) => (module, |found| &mut found.up),
                    Role::Down(module) => (module, |found| &mut found.down),
                    Role::Alpha(module) => (module, |found| &mut found.alpha),
                    Role::Unsupported(kind) => {
                        let reason = format!("{kind} is not supported, only pairs of factors are");
                        return Err(refuse(&tensor.name, &reason).into());
                    }
                    Role::Other => {
                        others.push(tensor.name.clone());
                        continue;
                    }
                };
            if place(modules.entry(module).or_default()).replace(index).is_some() {
                return Err(refuse(&tensor.name, "its module has two of them").into());
            }
        }
        let mut pairs = Vec::with_capacity(modules.len());
        for (module, found) in modules {
            match found {
                Found { up: Some(up), down: Some(down), alpha } => {
                    let pair = Self::new(file.tensors(), module, (up, down, alpha));
                    pairs.push(pair.map_err(|(name, reason)| refuse(&name, &reason))?);
                }
                Found { up: Some(one), .. } | Found { down: Some(one), .. } => {
                    let name = &file.tensors()[one].name;
                    return Err(refuse(name, "the file has no other factor to it").into());
                }
                Found { alpha: Some(alpha), .. } => others.push(file.tensors()[alpha].name.clone()),
                Found { .. } => {}
            }
        }
        if pairs.is_empty() {
            let names: Vec<String> = others.iter().take(6).map(|name| shown(name)).collect();
            let reason = format!(
                "no pairs of low-rank factors among {} tensors ({}): keys end like \
                 '.lora_A.weight', '.lora_down.weight' or '.lora.down.weight'",
                file.tensors().len(),
                names.join(", ")
            );
            return Err(FileError::new(file.path(), reason).into());
        }
        Ok((pairs, others))
    }

    /// Checks types and shapes; what is wrong comes with the tensor's name.
    fn new(
        tensors: &[Tensor],
        module: String,
        (up, down, alpha): (usize, usize, Option<usize>),
    ) -> Result<Self, (String, String)> {
        for &index in [up, down].iter().chain(&alpha) {
            let Tensor { name, dtype, .. } = &tensors[index];
            if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                let reason = format!("factors in {dtype} are not supported; F32, F16 and BF16 are");
                return Err((name.clone(), reason));
            }
        }
        let (up_shape, down_shape) = (&tensors[up].shape, &tensors[down].shape);
        let elements =
            |shape: &[u64]| shape.iter().fold(1, |all: u64, &dim| all.saturating_mul(dim));
        let (Some(&rows), Some(&rank)) = (up_shape.first(), down_shape.first()) else {
            return Err((tensors[up].name.clone(), "a scalar is no factor".into()));
        };
        // Those of convolutions have dimensions of 1 behind.
        if up_shape.get(1) != Some(&rank) || up_shape.iter().skip(2).any(|&dim| dim != 1) {
            let reason = format!("its shape {up_shape:?} does not go with {down_shape:?}");
            return Err((tensors[up].name.clone(), reason));
        }
        if let Some(alpha) = alpha.filter(|&alpha| elements(&tensors[alpha].shape) != 1) {
            return Err((tensors[alpha].name.clone(), "it is not one number".into()));
        }
        let columns = elements(&down_shape[1..]);
        Ok(Self { module, up, down, alpha, rows, columns, rank })
    }
}
