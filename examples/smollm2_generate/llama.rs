//! The forward pass of a Llama in candle's quantised kernels, one layer's weights at a time.

use std::path::Path;

use candle_core::Device::Cpu;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{IndexOp, Module, Tensor};
use candle_transformers::quantized_nn::RmsNorm;
use candle_transformers::utils::{build_causal_mask, repeat_kv};

use crate::Result;
use crate::sources::{Part, Weights};

/// Positions the model was trained for.
const MOST_POSITIONS: u32 = 2048;

/// What the header says of the model.
pub(crate) struct Llama {
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    epsilon: f64,
    cos: Tensor,
    sin: Tensor,
}

/// Keys and values of a layer so far.
pub(crate) type Cache = Option<(Tensor, Tensor)>;

/// The weights of one layer, for as long as it runs.
pub(crate) struct Layer {
    query: QMatMul,
    key: QMatMul,
    value: QMatMul,
    output: QMatMul,
    gate: QMatMul,
    up: QMatMul,
    down: QMatMul,
    before_attention: RmsNorm,
    before_feed_forward: RmsNorm,
}

impl Layer {
    /// Takes the layer's tensors by their names behind `blk.N.`.
    pub(crate) fn new(epsilon: f64, tensor: impl Fn(&str) -> Result<QTensor>) -> Result<Self> {
        let matrix = |name: &str| -> Result<QMatMul> {
            Ok(QMatMul::from_qtensor(tensor(&format!("{name}.weight"))?)?)
        };
        let norm = |name: &str| -> Result<RmsNorm> {
            Ok(RmsNorm::from_qtensor(tensor(&format!("{name}.weight"))?, epsilon)?)
        };
        Ok(Self {
            query: matrix("attn_q")?,
            key: matrix("attn_k")?,
            value: matrix("attn_v")?,
            output: matrix("attn_output")?,
            gate: matrix("ffn_gate")?,
            up: matrix("ffn_up")?,
            down: matrix("ffn_down")?,
            before_attention: norm("attn_norm")?,
            before_feed_forward: norm("ffn_norm")?,
        })
    }
}

impl Llama {
    /// Reads the header of a GGUF file.
    pub(crate) fn open(file: &Path) -> Result<Self> {
        let content = Content::read(&mut std::fs::File::open(file)?)?;
        let value = |key: &str| -> Result<&Value> {
            let key = format!("llama.{key}");
            Ok(content.metadata.get(&key).ok_or_else(|| format!("the file does not say {key}"))?)
        };
        let count = |key: &str| -> Result<usize> { Ok(value(key)?.to_u32()? as usize) };
        let heads = count("attention.head_count")?;
        let head_dim = count("embedding_length")? / heads.max(1);
        let base = value("rope.freq_base").and_then(|base| Ok(base.to_f32()?)).unwrap_or(10_000.0);
        let (cos, sin) = rotations(head_dim, base)?;
        Ok(Self {
            layers: count("block_count")?,
            heads,
            kv_heads: count("attention.head_count_kv")?,
            head_dim,
            epsilon: f64::from(value("attention.layer_norm_rms_epsilon")?.to_f32()?),
            cos,
            sin,
        })
    }

    /// Empty caches, one a layer.
    pub(crate) fn caches(&self) -> Vec<Cache> {
        vec![None; self.layers]
    }

    /// The scores of the token behind `tokens`, which stand at `position` on.
    pub(crate) fn forward(
        &self,
        tokens: &[u32],
        position: usize,
        caches: &mut [Cache],
        weights: &mut dyn Weights,
    ) -> Result<Tensor> {
        let mask = match tokens.len() {
            1 => None,
            count => Some(build_causal_mask(count, position, &Cpu)?),
        };
        let mut hidden = weights.embed(tokens)?.unsqueeze(0)?;
        for (number, cache) in caches.iter_mut().enumerate() {
            weights.layer(number, self.epsilon, &mut |layer| {
                hidden = self.run(layer, &hidden, mask.as_ref(), position, cache)?;
                Ok(())
            })?;
        }
        let norm = RmsNorm::from_qtensor(weights.part(Part::OutputNorm)?, self.epsilon)?;
        let last = norm.forward(&hidden)?.i((.., tokens.len() - 1, ..))?.contiguous()?;
        let logits = weights.head(&last)?;
        weights.end_pass()?;
        Ok(logits)
    }

    fn run(
        &self,
        layer: &Layer,
        hidden: &Tensor,
        mask: Option<&Tensor>,
        position: usize,
        cache: &mut Cache,
    ) -> Result<Tensor> {
        let normed = layer.before_attention.forward(hidden)?;
        let hidden = (self.attend(layer, &normed, mask, position, cache)? + hidden)?;
        let normed = layer.before_feed_forward.forward(&hidden)?;
        let gate = candle_nn::ops::silu(&layer.gate.forward(&normed)?)?;
        let up = layer.up.forward(&normed)?;
        Ok((layer.down.forward(&(gate * up)?)? + hidden)?)
    }

    fn attend(
        &self,
        layer: &Layer,
        normed: &Tensor,
        mask: Option<&Tensor>,
        position: usize,
        cache: &mut Cache,
    ) -> Result<Tensor> {
        let (batch, count, width) = normed.dims3()?;
        let by_head = |tensor: Tensor, heads: usize| -> Result<Tensor> {
            let tensor = tensor.reshape((batch, count, heads, self.head_dim))?;
            Ok(tensor.transpose(1, 2)?.contiguous()?)
        };
        let (cos, sin) =
            (self.cos.narrow(0, position, count)?, self.sin.narrow(0, position, count)?);
        let rotated =
            |tensor| -> Result<Tensor> { Ok(candle_nn::rotary_emb::rope_i(&tensor, &cos, &sin)?) };
        let query = rotated(by_head(layer.query.forward(normed)?, self.heads)?)?;
        let mut key = rotated(by_head(layer.key.forward(normed)?, self.kv_heads)?)?;
        let mut value = by_head(layer.value.forward(normed)?, self.kv_heads)?;
        if let Some((keys, values)) = cache.as_ref() {
            key = Tensor::cat(&[keys, &key], 2)?;
            value = Tensor::cat(&[values, &value], 2)?;
        }
        *cache = Some((key.clone(), value.clone()));
        let shared = self.heads / self.kv_heads;
        let (key, value) = (repeat_kv(key, shared)?, repeat_kv(value, shared)?);
        let mut scores = (query.matmul(&key.t()?)? / (self.head_dim as f64).sqrt())?;
        if let Some(mask) = mask {
            let never = Tensor::new(f32::NEG_INFINITY, &Cpu)?.broadcast_as(scores.shape())?;
            scores = mask.broadcast_as(scores.shape())?.where_cond(&never, &scores)?;
        }
        let shares = candle_nn::ops::softmax_last_dim(&scores)?;
        let mixed = shares.matmul(&value.contiguous()?)?.transpose(1, 2)?;
        Ok(layer.output.forward(&mixed.reshape((batch, count, width))?)?)
    }
}

/// Cosines and sines of the positions' rotations.
fn rotations(head_dim: usize, base: f32) -> Result<(Tensor, Tensor)> {
    let turn = |at: usize| 1.0 / base.powf(at as f32 / head_dim as f32);
    let turns: Vec<f32> = (0..head_dim).step_by(2).map(turn).collect();
    let turns = Tensor::new(turns, &Cpu)?.unsqueeze(0)?;
    let positions = Tensor::arange(0, MOST_POSITIONS, &Cpu)?.to_dtype(candle_core::DType::F32)?;
    let angles = positions.unsqueeze(1)?.matmul(&turns)?;
    Ok((angles.cos()?, angles.sin()?))
}
