//! An opened LoRA file.

use std::path::Path;

use crate::base::{Error, FileError, Result};
use crate::device::{FloatFormat, cast_bits};
use crate::transfer::{Files, float_format};
use crate::weights::{LoraPair, Model};

/// Low-rank factors to be added to weights: a file of safetensors, of which the header is read and
/// the `alpha`s are. The factors themselves are read when they go to the device.
#[derive(Debug)]
pub struct Lora {
    name: String,
    pub(super) file: Model,
    pub(super) files: Files,
    pub(super) pairs: Vec<LoraPair>,
    /// What each pair's product is multiplied with at strength 1.
    pub(super) scales: Vec<f32>,
    others: Vec<String>,
}

impl Lora {
    /// Opens the file at `path`; the LoRA is called by the file's name without its extension.
    ///
    /// # Errors
    /// As [`LoraPair::of`]; a file that cannot be read; an alpha that is not finite.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = Model::open(path.as_ref())?;
        let (pairs, others) = LoraPair::of(&file)?;
        let files = Files::open(&file)?;
        let scale = |pair: &LoraPair| match pair.alpha {
            Some(alpha) => Ok(number(&file, &files, alpha)? / pair.rank.max(1) as f32),
            None => Ok(1.0),
        };
        let scales = pairs.iter().map(scale).collect::<Result<_>>()?;
        let name = path.as_ref().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, file, files, pairs, scales, others })
    }

    /// The same by another name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The same with one alpha for all pairs that have none in the file: PEFT keeps it in
    /// `adapter_config.json` (`lora_alpha`).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for one that is not finite.
    pub fn with_alpha(mut self, alpha: f32) -> Result<Self> {
        if !alpha.is_finite() {
            return Err(Error::invalid("alpha", alpha, "it must be finite"));
        }
        for (pair, scale) in self.pairs.iter().zip(&mut self.scales) {
            if pair.alpha.is_none() {
                *scale = alpha / pair.rank.max(1) as f32;
            }
        }
        Ok(self)
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pairs, by module.
    #[must_use]
    pub fn pairs(&self) -> &[LoraPair] {
        &self.pairs
    }

    /// Tensors of the file that belong to no pair, and are not used.
    #[must_use]
    pub fn others(&self) -> &[String] {
        &self.others
    }

    /// The bytes of one of its factors in `format`, or as they are kept if that is it.
    pub(super) fn factor(&self, index: usize, format: FloatFormat) -> Result<Vec<u8>> {
        let tensor = &self.file.tensors()[index];
        let unknown = || Error::invalid("factor", &tensor.name, "F32, F16 and BF16 are supported");
        let kept = float_format(tensor.dtype).ok_or_else(unknown)?;
        let len = usize::try_from(tensor.len_bytes).map_err(|_| unknown())?;
        let mut bytes = vec![0; len];
        self.files.read(tensor.file, tensor.offset_bytes, &mut bytes)?;
        if kept == format {
            return Ok(bytes);
        }
        let count = len / kept.size_bytes() as usize;
        let mut converted = vec![0; count * format.size_bytes() as usize];
        crate::device::cast(&bytes, &mut converted, kept, format, false);
        Ok(converted)
    }

    /// How a pair's factors are kept, if both are alike.
    pub(super) fn format(&self, pair: usize) -> Option<FloatFormat> {
        let LoraPair { up, down, .. } = self.pairs[pair];
        let [up, down] = [up, down].map(|index| self.file.tensors()[index].dtype);
        if up == down { float_format(up) } else { None }
    }
}

/// The one number of a tensor.
fn number(file: &Model, files: &Files, index: usize) -> Result<f32> {
    let tensor = &file.tensors()[index];
    let refuse = |reason: &str| {
        FileError::at(file.path(), tensor.offset_bytes, format!("'{}' {reason}", tensor.name))
    };
    let format = float_format(tensor.dtype).ok_or_else(|| refuse("is no float"))?;
    let mut code = [0; 4];
    let bytes = code.get_mut(..tensor.len_bytes as usize).ok_or_else(|| refuse("is too long"))?;
    files.read(tensor.file, tensor.offset_bytes, bytes)?;
    let code = u32::from_le_bytes(code);
    let number = match format {
        FloatFormat::F32 => f32::from_bits(code),
        _ => f32::from_bits(cast_bits(code, format, FloatFormat::F32, false)),
    };
    if number.is_finite() { Ok(number) } else { Err(refuse("is not finite").into()) }
}
