//! Which of a model's types the device's kernels know.

use crate::device::{BlockFormat, FloatFormat};
use crate::weights::Dtype;

/// The format of a type that is cast.
pub(crate) fn float_format(dtype: Dtype) -> Option<FloatFormat> {
    Some(match dtype {
        Dtype::F8_E4M3 => FloatFormat::F8E4M3,
        Dtype::F8_E5M2 => FloatFormat::F8E5M2,
        Dtype::F16 => FloatFormat::F16,
        Dtype::BF16 => FloatFormat::Bf16,
        Dtype::F32 => FloatFormat::F32,
        _ => return None,
    })
}

/// The format of a type that is dequantised.
pub(crate) fn block_format(dtype: Dtype) -> Option<BlockFormat> {
    Some(match dtype {
        Dtype::Q4_0 => BlockFormat::Q4_0,
        Dtype::Q4_1 => BlockFormat::Q4_1,
        Dtype::Q5_0 => BlockFormat::Q5_0,
        Dtype::Q5_1 => BlockFormat::Q5_1,
        Dtype::Q8_0 => BlockFormat::Q8_0,
        Dtype::Q2_K => BlockFormat::Q2_K,
        Dtype::Q3_K => BlockFormat::Q3_K,
        Dtype::Q4_K => BlockFormat::Q4_K,
        Dtype::Q5_K => BlockFormat::Q5_K,
        Dtype::Q6_K => BlockFormat::Q6_K,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_large_as_their_types() {
        for &dtype in Dtype::ALL {
            if let Some(format) = block_format(dtype) {
                let block = (format.block_numbers(), format.block_bytes());
                assert_eq!(block, (dtype.block_elements(), dtype.block_bytes()), "{dtype}");
            }
            if let Some(format) = float_format(dtype) {
                assert_eq!(format.size_bytes(), dtype.block_bytes(), "{dtype}");
            }
        }
    }
}
