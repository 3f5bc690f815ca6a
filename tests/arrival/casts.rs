//! Storage in one type, computation in another, for what is streamed and what stays.

use half::{bf16, f16};
use riverbed::Error;
use riverbed::offload::{LoadOptions, LoadedModel};
use riverbed::weights::{Dtype, Model};

use crate::streaming::{MIB, assert_says, host};
use crate::world::{Entry, f16_bytes, f32_bytes, load, numbers, shown, write};

/// Layers and a rest in each float type, with a tensor of none.
fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    for layer in 0..7_u64 {
        let values = numbers(layer, 300 * 250);
        let bytes = |dtype| match dtype {
            "F32" => f32_bytes(&values),
            "F16" => f16_bytes(&values),
            _ => values.iter().map(|&v| float8::F8E4M3::from_f32(v).to_bits()).collect(),
        };
        for (name, dtype) in [("a", "F32"), ("b", "F16"), ("c", "F8_E4M3")] {
            let name =
                if layer == 6 { format!("rest.{name}") } else { format!("layers.{layer}.{name}") };
            entries.push((name, dtype, vec![300, 250], bytes(dtype)));
        }
    }
    entries.push(("rest.ids".into(), "I32", vec![4], (0..16).collect()));
    entries
}

/// What bf16 holds of the tensor.
fn as_bf16(dtype: &str, bytes: &[u8]) -> Vec<u8> {
    let number = |code: &[u8]| match dtype {
        "F32" => f32::from_le_bytes(code.try_into().unwrap()),
        "F16" => f16::from_le_bytes(code.try_into().unwrap()).to_f32(),
        _ => float8::F8E4M3::from_bits(code[0]).to_f32(),
    };
    let size = match dtype {
        "F32" => 4,
        "F16" => 2,
        _ => 1,
    };
    bytes.chunks(size).flat_map(|code| bf16::from_f32(number(code)).to_le_bytes()).collect()
}

#[test]
fn every_float_is_leased_in_the_type_layers_compute_in() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let entries = entries();
    write(&path, &entries);
    let streamed =
        load(&path, 4 * MIB, |options| options.arrival.compute = Some(Dtype::BF16)).unwrap();
    let found = shown(&streamed);
    assert_eq!(found.len(), entries.len());
    for (name, dtype, shape, bytes) in &entries {
        let shown = &found[name];
        assert_eq!(shown.shape, *shape);
        if *dtype == "I32" {
            assert_eq!((shown.dtype, &shown.bytes), (Dtype::I32, bytes));
        } else {
            assert_eq!(shown.dtype, Dtype::BF16);
            assert!(shown.bytes == as_bf16(dtype, bytes), "{name}");
        }
    }
    assert!(found.keys().filter(|name| name.starts_with("rest")).count() == 4);
    assert_eq!(streamed.units().len(), 6, "the rest stays");
    // Of the residents each was cast once, however many passes there were.
    let cast = streamed.arrival().unwrap().stats().cast;
    let loads = streamed.prefetcher().stats().loads;
    assert!(loads > 6, "the ring holds fewer than all");
    assert_eq!(cast, 3 + 3 * loads);
}

#[test]
fn a_model_loaded_whole_is_cast_in_as_little_room_as_its_limit_leaves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let entries = entries();
    write(&path, &entries);
    let model = std::sync::Arc::new(Model::open(&path).unwrap());
    let with = |limit_mib| {
        let mut options = LoadOptions::default();
        options.limit_bytes = Some(limit_mib * MIB);
        options.arrival.compute = Some(Dtype::BF16);
        LoadedModel::load(&host(64).0, model.clone(), options, |_| true)
    };
    // 21 tensors of 150,000 bytes, and raw bytes of 300,000 of the largest, in pages of 2 MiB.
    for limit_mib in [6, 16] {
        let loaded = with(limit_mib).unwrap();
        for (name, dtype, _, bytes) in entries.iter().filter(|entry| entry.1 != "I32") {
            assert!(loaded.tensors().bytes(name).unwrap() == as_bf16(dtype, bytes), "{name}");
        }
        assert!(loaded.allocator().stats().reserved_bytes.all.peak <= limit_mib * MIB);
    }
    for limit_mib in [2, 4] {
        let error = with(limit_mib).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    write(&path, &entries());
    let error = load(&path, 8 * MIB, |options| options.arrival.compute = Some(Dtype::I8));
    assert_says(&error.unwrap_err().to_string(), &["compute type", "I8", "BF16"]);
    let error = load(&path, 8 * MIB, |options| {
        options.arrival.compute = Some(Dtype::F16);
        let cast = riverbed::prefetch::Cast { from: None, to: Dtype::F16, saturate: false };
        options.transform = Some(std::sync::Arc::new(cast));
    });
    assert_says(&error.unwrap_err().to_string(), &["transform", "arrival", "one of the two"]);
    // Less than the largest unit takes, with the raw bytes it is made of.
    let error = load(&path, 2 * MIB, |options| options.arrival.compute = Some(Dtype::F32));
    assert!(matches!(error.unwrap_err(), Error::TooLarge { .. }));
}
