//! ggml's blocks: as candle dequantises them, on every way to the device, or opaque.

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device as Candle, Tensor};
use riverbed::device::{BlockFormat, FloatFormat, dequantise};
use riverbed::weights::Dtype;

use crate::model_files::{GgufTensor, gguf};
use crate::streaming::{MIB, Random, assert_says};
use crate::world::{f16_bytes, f32_bytes, load, numbers, shown};

/// Our format, candle's, ggml's number and our type.
const FORMATS: [(BlockFormat, GgmlDType, u32, Dtype); 10] = [
    (BlockFormat::Q4_0, GgmlDType::Q4_0, 2, Dtype::Q4_0),
    (BlockFormat::Q4_1, GgmlDType::Q4_1, 3, Dtype::Q4_1),
    (BlockFormat::Q5_0, GgmlDType::Q5_0, 6, Dtype::Q5_0),
    (BlockFormat::Q5_1, GgmlDType::Q5_1, 7, Dtype::Q5_1),
    (BlockFormat::Q8_0, GgmlDType::Q8_0, 8, Dtype::Q8_0),
    (BlockFormat::Q2_K, GgmlDType::Q2K, 10, Dtype::Q2_K),
    (BlockFormat::Q3_K, GgmlDType::Q3K, 11, Dtype::Q3_K),
    (BlockFormat::Q4_K, GgmlDType::Q4K, 12, Dtype::Q4_K),
    (BlockFormat::Q5_K, GgmlDType::Q5K, 13, Dtype::Q5_K),
    (BlockFormat::Q6_K, GgmlDType::Q6K, 14, Dtype::Q6_K),
];

/// What candle makes of blocks.
fn by_candle(bytes: &[u8], dtype: GgmlDType, count: u64) -> Vec<f32> {
    let storage = QStorage::from_data(bytes.into(), &Candle::Cpu, dtype).unwrap();
    let tensor = QTensor::new(storage, count as usize).unwrap();
    tensor.dequantize(&Candle::Cpu).unwrap().to_vec1().unwrap()
}

#[test]
fn any_bytes_become_what_candle_makes_of_them() {
    let mut random = Random::new(3);
    for (format, candle, ..) in FORMATS {
        let (blocks, count) = (200, 200 * format.block_numbers());
        let bytes: Vec<u8> =
            (0..blocks * format.block_bytes()).map(|_| (random.next() >> 33) as u8).collect();
        let mut found = vec![0; 4 * count as usize];
        dequantise(&bytes, &mut found, format, FloatFormat::F32, false);
        let wanted = by_candle(&bytes, candle, count);
        let mut finite = 0;
        for (found, wanted) in found.as_chunks().0.iter().zip(wanted) {
            let found = f32::from_le_bytes(*found);
            // Which NaN it is has no meaning.
            let same = found.to_bits() == wanted.to_bits() || (found.is_nan() && wanted.is_nan());
            assert!(same, "{format:?}: {found} and not {wanted}");
            finite += u64::from(wanted.is_finite());
        }
        assert!(finite > count / 2, "{format:?}: mostly numbers");
    }
}

/// A tensor by its name, with its type and blocks.
type Quantised = (String, GgmlDType, Vec<u8>);

/// Weights as a GGUF file has them, a layer for each format and another behind the layers.
fn file() -> (Vec<u8>, Vec<Quantised>) {
    let (mut tensors, mut kept) = (Vec::new(), Vec::new());
    for (number, (_, candle, ggml_type, _)) in FORMATS.into_iter().enumerate() {
        let rows = if number == 4 { 64 } else { 32 };
        let weights = numbers(number as u64, 256 * rows);
        let weights = Tensor::from_vec(weights, (rows as usize, 256), &Candle::Cpu).unwrap();
        let data = QTensor::quantize(&weights, candle).unwrap().data().unwrap().to_vec();
        for name in [format!("layers.{number}.w"), format!("rest.{number}")] {
            tensors.push(GgufTensor::new(&name, &[256, rows], ggml_type, &data));
            kept.push((name, candle, data.clone()));
        }
    }
    (gguf(3, &[], &tensors), kept)
}

#[test]
fn blocks_of_a_file_are_dequantised_on_arrival_or_pass_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let (bytes, kept) = file();
    std::fs::write(&path, bytes).unwrap();
    for to in [None, Some(Dtype::F16), Some(Dtype::BF16), Some(Dtype::F32)] {
        let streamed = load(&path, 4 * MIB, |options| options.arrival.dequantise = to).unwrap();
        assert!(streamed.residents().is_some(), "the rest stays");
        let found = shown(&streamed);
        for (name, candle, bytes) in &kept {
            let shown = &found[name];
            let wanted = by_candle(bytes, *candle, shown.shape.iter().product());
            let wanted = match to {
                None => bytes.clone(),
                Some(Dtype::F16) => f16_bytes(&wanted),
                Some(Dtype::BF16) => crate::world::bf16_bytes(&wanted),
                Some(_) => f32_bytes(&wanted),
            };
            assert!(shown.bytes == wanted, "{name} as {to:?}");
            assert_eq!(shown.shape[1], 256);
            assert!(to.is_none_or(|to| to == shown.dtype));
        }
        let dequantised = streamed.arrival().map_or(0, |arrival| arrival.stats().dequantised);
        assert_eq!(dequantised == 0, to.is_none());
    }
}

#[test]
fn types_that_are_not_dequantised_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let tensor = GgufTensor::new("layers.0.w", &[256], 23, &[0; 136]);
    std::fs::write(&path, gguf(3, &[], &[tensor])).unwrap();
    let error = load(&path, 2 * MIB, |options| options.arrival.dequantise = Some(Dtype::F16));
    assert_says(&error.unwrap_err().to_string(), &["layers.0.w", "IQ4_XS", "Q8_0", "as they are"]);
    let error = load(&path, 2 * MIB, |options| options.arrival.dequantise = Some(Dtype::Q8_0));
    assert_says(&error.unwrap_err().to_string(), &["dequantise", "Q8_0", "BF16"]);
    load(&path, 2 * MIB, |_| {}).unwrap();
}
