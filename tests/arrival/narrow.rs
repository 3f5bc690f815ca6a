//! Weights that are cast to a narrower type once, when they are read.

use half::{bf16, f16};
use riverbed::weights::{Dtype, Grouping, Model};

use crate::streaming::{MIB, assert_says};
use crate::world::{Entry, f32_bytes, load_model, numbers, shown, write};

/// Numbers with those around which fp8 and f16 end among them.
fn values(seed: u64, count: u64) -> Vec<f32> {
    let mut values = numbers(seed, count);
    let ends = [0.0, -0.0, 448.0, 463.9, 464.1, -1000.0, 57344.0, 1e6, -1e30, 65504.0, 65521.0];
    values[7..7 + ends.len()].copy_from_slice(&ends);
    values
}

/// What PyTorch, from 2.12 on, `half` and `float8` make of a number.
fn narrowed(value: f32, to: Dtype) -> Vec<u8> {
    match to {
        Dtype::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        Dtype::F8_E4M3 => {
            vec![float8::F8E4M3::from_f32(value.clamp(-448.0, 448.0)).to_bits()]
        }
        _ => vec![float8::F8E5M2::from_f32(value.clamp(-57344.0, 57344.0)).to_bits()],
    }
}

/// A tensor by its name, with its type and numbers.
type Kept = (String, &'static str, Vec<f32>);

/// Layers of an odd size and a rest, of F32, and a bias of BF16 beside each.
fn model(folder: &tempfile::TempDir) -> (Model, Vec<Kept>) {
    let (mut entries, mut kept) = (Vec::<Entry>::new(), Vec::new());
    for layer in 0..4_u64 {
        let name = if layer == 3 { "rest".to_owned() } else { format!("layers.{layer}") };
        let weights = values(layer, 101 * 333);
        let bias: Vec<f32> =
            values(layer + 9, 333).iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
        let bias_bytes = bias.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
        entries.push((format!("{name}.w"), "F32", vec![101, 333], f32_bytes(&weights)));
        entries.push((format!("{name}.b"), "BF16", vec![333], bias_bytes));
        kept.push((format!("{name}.w"), "F32", weights));
        kept.push((format!("{name}.b"), "BF16", bias));
    }
    let path = folder.path().join("model.safetensors");
    write(&path, &entries);
    (Model::open(path).unwrap(), kept)
}

#[test]
fn what_is_kept_narrower_is_cast_once_and_crosses_the_link_so() {
    let folder = tempfile::tempdir().unwrap();
    let (model, kept) = model(&folder);
    for to in [Dtype::BF16, Dtype::F16, Dtype::F8_E4M3, Dtype::F8_E5M2] {
        for keep_in_ram in [false, true] {
            let narrow = model.narrowed_to(to).unwrap();
            assert!(narrow.total_bytes() < model.total_bytes() * 11 / 20);
            let streamed = load_model(narrow, 4 * MIB, |options| {
                options.prefetch.keep_in_ram = keep_in_ram;
                // What is loaded ahead goes round, so that homes are filled and used.
                options.prefetch.depth = 1;
                options.loader.chunk_bytes = 64 << 10;
            })
            .unwrap();
            let found = shown(&streamed);
            for (name, dtype, values) in &kept {
                let found = &found[name];
                let stays = *dtype == "BF16" && matches!(to, Dtype::BF16 | Dtype::F16);
                let to = if stays { Dtype::BF16 } else { to };
                assert_eq!(found.dtype, to);
                let wanted: Vec<u8> = values.iter().flat_map(|&v| narrowed(v, to)).collect();
                let wrong = found.bytes.iter().zip(&wanted).position(|(a, b)| a != b);
                assert!(found.bytes == wanted, "{name} as {to}: byte {wrong:?}");
            }
            let loads = streamed.prefetcher().stats();
            let units = streamed.prefetcher().units();
            let residents = streamed.residents().unwrap().len_bytes();
            assert_eq!(loads.bytes_moved, loads.loads * units[0].1 + residents);
            assert!(4 * units[0].1 < model.total_bytes() * 11 / 20);
        }
    }
}

#[test]
fn storage_and_computation_may_each_have_a_type() {
    let folder = tempfile::tempdir().unwrap();
    let (model, kept) = model(&folder);
    let weights_alone =
        |tensor: &riverbed::weights::Tensor| (tensor.shape.len() > 1).then_some(Dtype::F8_E4M3);
    let narrow = model.narrowed(weights_alone).unwrap();
    assert_eq!((narrow.tensors()[0].dtype, narrow.file_dtype(0)), (Dtype::F8_E4M3, Dtype::F32));
    let joined = Model::join(&[("one", &model), ("two", &narrow)]).unwrap();
    assert_eq!(joined.file_dtype(kept.len()), Dtype::F32);
    let streamed =
        load_model(narrow, 4 * MIB, |options| options.arrival.compute = Some(Dtype::F16)).unwrap();
    let found = shown(&streamed);
    for (name, dtype, values) in &kept {
        let kept = |v: f32| match *dtype {
            "F32" => float8::F8E4M3::from_f32(v.clamp(-448.0, 448.0)).to_f32(),
            _ => v,
        };
        let wanted: Vec<u8> =
            values.iter().flat_map(|&v| f16::from_f32(kept(v)).to_le_bytes()).collect();
        assert!(found[name].bytes == wanted, "{name}");
    }
}

#[test]
fn only_narrower_floats_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let (model, _) = model(&folder);
    for (to, words) in [
        (Dtype::F32, ["narrower type", "F32", "BF16"]),
        (Dtype::Q8_0, ["narrower type", "Q8_0", "BF16"]),
    ] {
        assert_says(&model.narrowed_to(to).unwrap_err().to_string(), &words);
    }
    let error = model.narrowed(|_| Some(Dtype::F16)).unwrap_err().to_string();
    assert_says(&error, &["layers.0.b", "BF16", "F8_E4M3"]);
    // Narrower still, and from what the file has.
    let twice = model.narrowed_to(Dtype::BF16).unwrap().narrowed_to(Dtype::F8_E5M2).unwrap();
    assert_eq!(twice.file_dtype(0), Dtype::F32);
    assert!(Grouping::by_pattern(&twice, "layers.{i}.").unwrap().layers[0].bytes < 101 * 333 + 400);
}
