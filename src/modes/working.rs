//! How much memory an operation works in: a hook, and the constants that are known.
//!
//! An [`Estimator`] answers for the operations it knows; [`Known`] is one from InvokeAI's table
//! (`backend/util/vae_working_memory.py`, August 2026), which its authors measured. What comes
//! out is asked of the device as working memory, never less than the default
//! ([`reserve_bytes`]): InvokeAI's 3 GiB do not cover the decoding of one picture of 1024 x 1024.
//!
//! ```
//! use riverbed::modes::working::{Estimator, Family, Known, Operation, Work, reserve_bytes};
//! let decode = Work::picture(Operation::Decode, Family::Flux, 1024, 1024, 2);
//! let asked = Known.bytes(&decode).unwrap_or(0);
//! assert_eq!(asked, 1024 * 1024 * 2 * 2200);
//! assert_eq!(reserve_bytes(asked, 3 << 30), asked);
//! ```

use crate::base::MIB;

/// Added where the VAE computes in fp32, in bytes.
const FP32_BYTES: u64 = 250 * MIB;
/// Tiles overlap: a quarter more than one of them, as numerator and denominator.
const TILED: (u64, u64) = (5, 4);
/// Bytes of an element of fp32.
const FP32_ELEMENT: u64 = 4;
/// Copies of the whole clip, and channels of a picture.
const CLIP: u64 = 2 * 3;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// From latents to pixels.
    Decode,
    /// From pixels to latents.
    Encode,
}

/// Whose VAE it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// Stable Diffusion 1.5.
    Sd15,
    /// SDXL.
    Sdxl,
    /// Stable Diffusion 3.
    Sd3,
    /// FLUX.
    Flux,
    /// CogView4.
    CogView4,
    /// Wan, one frame.
    WanFrame,
    /// Wan A14B, a clip.
    WanA14b,
    /// Wan TI2V-5B, a clip.
    WanTi2v5b,
    /// Qwen-Image on CUDA.
    QwenImage,
    /// Qwen-Image on ROCm, which has no fused attention there.
    QwenImageRocm,
}

/// One operation, by its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// What is done.
    pub operation: Operation,
    /// Whose VAE does it.
    pub family: Family,
    /// Height in pixels.
    pub height: u64,
    /// Width in pixels.
    pub width: u64,
    /// Frames; 1 for a picture.
    pub frames: u64,
    /// Bytes of an element of the type it computes in.
    pub element_bytes: u64,
    /// The side of a tile in pixels, where it works in tiles.
    pub tile: Option<u64>,
}

/// What an operation works in. Closures are estimators too.
pub trait Estimator {
    /// In bytes; `None` for an operation that is not known.
    fn bytes(&self, work: &Work) -> Option<u64>;
}

impl<F: Fn(&Work) -> Option<u64>> Estimator for F {
    fn bytes(&self, work: &Work) -> Option<u64> {
        self(work)
    }
}

/// InvokeAI's constants.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known;

/// Bytes for each byte of a picture's pixels (height x width x bytes of an element).
struct Constant {
    family: Family,
    decode: u64,
    /// `None` where InvokeAI has none.
    encode: Option<u64>,
    /// Whether copies of the whole clip come on top.
    is_clip: bool,
}

const fn picture(family: Family, decode: u64, encode: u64) -> Constant {
    Constant { family, decode, encode: Some(encode), is_clip: false }
}

const fn clip(family: Family, decode: u64) -> Constant {
    Constant { family, decode, encode: None, is_clip: true }
}

const KNOWN: &[Constant] = &[
    picture(Family::Sd15, 2200, 1100),
    picture(Family::Sdxl, 2200, 1100),
    picture(Family::Sd3, 2200, 1100),
    picture(Family::Flux, 2200, 1100),
    picture(Family::CogView4, 2200, 1100),
    picture(Family::WanFrame, 2900, 1450),
    clip(Family::WanA14b, 6500),
    clip(Family::WanTi2v5b, 7000),
    picture(Family::QwenImage, 2900, 1600),
    // Grows with the square of the area; measured at 1024 x 1024.
    picture(Family::QwenImageRocm, 5500, 6300),
];

impl Work {
    /// One picture, not in tiles.
    #[must_use]
    pub fn picture(
        operation: Operation,
        family: Family,
        height: u64,
        width: u64,
        element_bytes: u64,
    ) -> Self {
        Self { operation, family, height, width, frames: 1, element_bytes, tile: None }
    }
}

impl Estimator for Known {
    fn bytes(&self, work: &Work) -> Option<u64> {
        let constant = KNOWN.iter().find(|constant| constant.family == work.family)?;
        let factor = match work.operation {
            Operation::Decode => constant.decode,
            Operation::Encode => constant.encode?,
        };
        let frame = product(&[work.height, work.width, work.element_bytes]);
        let at_once = match work.tile {
            Some(side) => {
                let tile = product(&[side, side, work.element_bytes, factor, TILED.0]);
                tile / TILED.1
            }
            None => product(&[frame, factor]),
        };
        let clip = if constant.is_clip { product(&[frame, work.frames, CLIP]) } else { 0 };
        let fp32 = if work.element_bytes == FP32_ELEMENT { FP32_BYTES } else { 0 };
        Some(at_once.saturating_add(clip).saturating_add(fp32))
    }
}

/// What is to be kept free: what was asked for, and the default at least. In bytes.
#[must_use]
pub fn reserve_bytes(requested_bytes: u64, default_bytes: u64) -> u64 {
    requested_bytes.max(default_bytes)
}

fn product(factors: &[u64]) -> u64 {
    factors.iter().copied().fold(1, u64::saturating_mul)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::GIB;

    fn decode(family: Family, side: u64, element_bytes: u64) -> Work {
        Work::picture(Operation::Decode, family, side, side, element_bytes)
    }

    /// In GB, to one decimal.
    fn gb(work: &Work) -> f64 {
        (Known.bytes(work).unwrap() as f64 / 1e8).round() / 10.0
    }

    #[test]
    fn known_constants_give_the_known_figures() {
        assert_eq!(gb(&decode(Family::Sdxl, 1024, 2)), 4.6);
        assert_eq!(gb(&decode(Family::Flux, 1024, 4)), 9.5);
        assert_eq!(gb(&decode(Family::Sd3, 2048, 2)), 18.5);
        assert_eq!(gb(&decode(Family::QwenImage, 1024, 2)), 6.1);
        assert_eq!(gb(&decode(Family::QwenImageRocm, 1024, 2)), 11.5);
        let encode = Work { operation: Operation::Encode, ..decode(Family::Sd15, 1024, 2) };
        assert_eq!(gb(&encode), 2.3);
    }

    #[test]
    fn tiles_bound_it_and_clips_add_copies() {
        let tiled = Work { tile: Some(512), ..decode(Family::Sdxl, 4096, 2) };
        assert_eq!(Known.bytes(&tiled), Some(512 * 512 * 2 * 2200 * 5 / 4));
        let frame = Work { height: 480, width: 832, ..decode(Family::WanA14b, 0, 2) };
        let clip = Work { frames: 81, ..frame };
        let more = Known.bytes(&clip).unwrap() - Known.bytes(&frame).unwrap();
        assert_eq!(more, 80 * 480 * 832 * 2 * 6);
        let encode = Work { operation: Operation::Encode, ..clip };
        assert_eq!(Known.bytes(&encode), None);
    }

    #[test]
    fn nothing_overflows() {
        assert_eq!(Known.bytes(&decode(Family::Flux, u64::MAX, 4)), Some(u64::MAX));
    }

    #[test]
    fn a_reserve_is_never_below_the_default() {
        assert_eq!(reserve_bytes(GIB, 3 * GIB), 3 * GIB);
        assert_eq!(reserve_bytes(4 * GIB, 3 * GIB), 4 * GIB);
    }

    #[test]
    fn a_closure_is_an_estimator() {
        let flat = |work: &Work| Some(work.width);
        assert_eq!(flat.bytes(&decode(Family::Flux, 7, 2)), Some(7));
    }
}
