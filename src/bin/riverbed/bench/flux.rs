//! Generated models of any size: of FLUX.1's shape, its tensors' names and their sizes in
//! proportion; or of layers that are all alike.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use riverbed::base::{FileError, format_bytes};
use safetensors::{Dtype, View};

use crate::Failure;

/// Rows and columns of each weight of a double block, per stream (`img`, `txt`), in units of the
/// hidden size.
const DOUBLE: [(&str, usize, usize); 5] =
    [("mod.lin", 6, 1), ("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.0", 4, 1), ("mlp.2", 1, 4)];
/// The same of a single block.
const SINGLE: [(&str, usize, usize); 3] =
    [("linear1", 7, 1), ("linear2", 1, 5), ("modulation.lin", 3, 1)];
/// Blocks of each kind.
const DOUBLES: usize = 19;
const SINGLES: usize = 38;
/// Weights of the blocks, in squares of the hidden size: 19 x 2 x 18 + 38 x 15.
const SQUARES: usize = 2 * DOUBLES * 18 + SINGLES * 15;
/// Layers where all are alike.
pub(super) const LAYERS: usize = 16;
/// Bytes of a bf16.
const ELEMENT_BYTES: usize = 2;

/// What a generated model looks like.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Flux,
    /// Equal layers of one weight each.
    Uniform,
}

/// A tensor whose bytes are made when they are written.
struct Made {
    shape: Vec<usize>,
    seed: u64,
}

impl View for &Made {
    fn dtype(&self) -> Dtype {
        Dtype::BF16
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // Numbers that do not compress (SplitMix64).
        let mut state = self.seed;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)).to_le_bytes()
        };
        let mut bytes = vec![0; self.data_len()];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&next()[..chunk.len()]);
        }
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * ELEMENT_BYTES
    }
}

/// A generated model, removed with its owner.
pub(super) struct Generated(PathBuf);

impl Generated {
    /// Writes about `bytes` of weights into a new file in `directory`, and has it reach the disk.
    pub(super) fn write(directory: &Path, shape: Shape, bytes: u64) -> Result<Self, Failure> {
        let name = format!("riverbed-bench-{}.safetensors", std::process::id());
        // From here on the file is removed whatever happens.
        let owned = Self(directory.join(name));
        let tensors = match shape {
            Shape::Flux => flux(bytes),
            Shape::Uniform => uniform(bytes),
        };
        let failed = |error: String| {
            let way_out = format!(
                "it takes {}; choose another directory with --dir or a smaller --generate",
                format_bytes(bytes)
            );
            let reason = format!("cannot be written: {error}; {way_out}");
            Failure::from(riverbed::Error::from(FileError::new(&owned.0, reason)))
        };
        let views = tensors.iter().map(|(name, made)| (name.as_str(), made));
        safetensors::serialize_to_file(views, None, &owned.0)
            .map_err(|error| failed(error.to_string()))?;
        // Only what is on the disk can be dropped from the cache.
        let synced = std::fs::File::open(&owned.0).and_then(|file| file.sync_all());
        synced.map_err(|error| failed(error.to_string()))?;
        Ok(owned)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Generated {
    fn drop(&mut self) {
        // Nothing is there where writing failed early.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Equal layers.
fn uniform(bytes: u64) -> Vec<(String, Made)> {
    let rows = (bytes as usize / LAYERS / ELEMENT_BYTES / 256).max(1);
    let layer = |layer| {
        let shape = vec![rows, 256];
        (format!("layers.{layer}.weight"), Made { shape, seed: layer as u64 })
    };
    (0..LAYERS).map(layer).collect()
}

/// The tensors of every block.
fn flux(bytes: u64) -> Vec<(String, Made)> {
    let hidden = ((bytes as f64 / (SQUARES * ELEMENT_BYTES) as f64).sqrt() as usize).max(16);
    let mut all = Vec::new();
    let mut add = |block: &str, name: &str, rows: usize, columns: usize| {
        let shapes =
            [("weight", vec![rows * hidden, columns * hidden]), ("bias", vec![rows * hidden])];
        for (kind, shape) in shapes {
            let seed = all.len() as u64 + 1;
            all.push((format!("{block}.{name}.{kind}"), Made { shape, seed }));
        }
    };
    for block in 0..DOUBLES {
        for stream in ["img", "txt"] {
            for (name, rows, columns) in DOUBLE {
                add(&format!("double_blocks.{block}"), &format!("{stream}_{name}"), rows, columns);
            }
        }
    }
    for block in 0..SINGLES {
        for (name, rows, columns) in SINGLE {
            add(&format!("single_blocks.{block}"), name, rows, columns);
        }
    }
    all
}
