//! LoRAs added to weights on arrival, held against weights that were patched here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device as Candle, Tensor};
use riverbed::prefetch::Lora;
use riverbed::weights::Dtype;

use crate::streaming::{MIB, assert_says};
use crate::world::{
    Entry, bf16_bytes, bf16s, f16_bytes, f32_bytes, f32s, load, numbers, shown, write,
};

/// Modules of the model: layers of two weights each, and one behind them; rows and columns.
pub const MODULES: [(&str, u64, u64); 5] = [
    ("layers.0.attn.to_q", 48, 64),
    ("layers.0.ff.0", 65, 33),
    ("layers.1.attn.to_q", 48, 64),
    ("layers.1.ff.0", 65, 33),
    ("proj_out", 24, 16),
];

/// Bytes of numbers in a type.
pub fn bytes_of(dtype: &str, numbers: &[f32]) -> Vec<u8> {
    match dtype {
        "F32" => f32_bytes(numbers),
        "F16" => f16_bytes(numbers),
        "BF16" => bf16_bytes(numbers),
        _ => numbers.iter().map(|&v| float8::F8E4M3::from_f32(v).to_bits()).collect(),
    }
}

/// The numbers that a type holds of these.
pub fn rounded(dtype: &str, numbers: &[f32]) -> Vec<f32> {
    match dtype {
        "F32" => numbers.to_vec(),
        "F16" => numbers.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect(),
        "BF16" => bf16s(&bf16_bytes(numbers)),
        _ => numbers.iter().map(|&v| float8::F8E4M3::from_f32(v).to_f32()).collect(),
    }
}

/// A model of these modules in a type, with a bias that nothing patches.
pub fn model(folder: &Path, dtype: &'static str) -> PathBuf {
    let path = folder.join("model.safetensors");
    let mut entries: Vec<Entry> = Vec::new();
    for (number, (name, rows, columns)) in MODULES.into_iter().enumerate() {
        let weights = numbers(number as u64, rows * columns);
        let bytes = bytes_of(dtype, &weights);
        entries.push((format!("{name}.weight"), dtype, vec![rows, columns], bytes));
        entries.push((
            format!("{name}.bias"),
            "F32",
            vec![rows],
            f32_bytes(&weights[..rows as usize]),
        ));
    }
    write(&path, &entries);
    path
}

/// Factors for a module: rank, alpha, and both as `f32`s that their type holds.
pub struct Factors {
    pub module: usize,
    pub rank: u64,
    pub alpha: Option<f32>,
    pub up: Vec<f32>,
    pub down: Vec<f32>,
}

impl Factors {
    pub fn new(seed: u64, module: usize, rank: u64, alpha: Option<f32>, dtype: &str) -> Self {
        let (_, rows, columns) = MODULES[module];
        let up = rounded(dtype, &numbers(seed, rows * rank));
        let down = rounded(dtype, &numbers(seed + 50, rank * columns));
        Self { module, rank, alpha, up, down }
    }

    fn scale(&self, strength: f32) -> f32 {
        strength * self.alpha.map_or(1.0, |alpha| alpha / self.rank as f32)
    }
}

/// How a LoRA file calls its tensors: down, up, alpha.
type Names = fn(&str) -> [String; 3];

pub const PEFT: Names = |module| {
    let of = |what| format!("base_model.model.{module}.{what}");
    [of("lora_A.weight"), of("lora_B.weight"), of("alpha")]
};

const DIFFUSERS: Names = |module| {
    let of = |what| format!("transformer.{module}.{what}");
    [of("lora.down.weight"), of("lora.up.weight"), of("alpha")]
};

pub const KOHYA: Names = |module| {
    let module = module.replace('.', "_");
    let of = |what| format!("lora_unet_{module}.{what}");
    [of("lora_down.weight"), of("lora_up.weight"), of("alpha")]
};

/// Writes a LoRA file in a type.
pub fn lora(path: &Path, factors: &[Factors], dtype: &'static str, names: Names) -> Lora {
    let mut entries: Vec<Entry> = Vec::new();
    for of in factors {
        let (module, rows, columns) = MODULES[of.module];
        let [down, up, alpha] = names(module);
        entries.push((down, dtype, vec![of.rank, columns], bytes_of(dtype, &of.down)));
        entries.push((up, dtype, vec![rows, of.rank], bytes_of(dtype, &of.up)));
        if let Some(value) = of.alpha {
            entries.push((alpha, dtype, vec![], bytes_of(dtype, &[value])));
        }
    }
    write(path, &entries);
    Lora::open(path).unwrap()
}

/// The weight of a module patched here, in `f32` and in the order the kernels are said to have.
pub fn patched(module: usize, kept: &str, loras: &[(&[Factors], f32)]) -> Vec<f32> {
    let (_, rows, columns) = MODULES[module];
    let weights = rounded(kept, &numbers(module as u64, rows * columns));
    let mut result = Vec::new();
    for row in 0..rows {
        for column in 0..columns {
            // Where nothing is added, a negative zero stays one.
            let mut sum = -0.0_f32;
            for (factors, strength) in loras {
                for of in factors.iter().filter(|of| of.module == module && *strength != 0.0) {
                    for r in 0..of.rank {
                        let up = of.scale(*strength) * of.up[(row * of.rank + r) as usize];
                        sum += up * of.down[(r * columns + column) as usize];
                    }
                }
            }
            result.push(weights[(row * columns + column) as usize] + sum);
        }
    }
    result
}

#[test]
fn weights_are_patched_as_if_it_was_done_before() {
    let folder = tempfile::tempdir().unwrap();
    // What weights are kept in, what they become, and what the factors are kept in.
    for (kept, compute, factors, names) in [
        ("F32", None, "F32", PEFT),
        ("F16", None, "F16", KOHYA),
        ("BF16", None, "BF16", DIFFUSERS),
        ("BF16", None, "F32", KOHYA),
        ("F8_E4M3", Some((Dtype::BF16, "BF16")), "F16", PEFT),
        ("F32", Some((Dtype::F16, "F16")), "BF16", PEFT),
    ] {
        let path = model(folder.path(), kept);
        let of = [0, 1, 3, 4].map(|m| Factors::new(m as u64, m, 4 + m as u64, Some(8.0), factors));
        let lora = lora(&folder.path().join("style.safetensors"), &of, factors, names);
        let streamed = load(&path, 6 * MIB, |options| {
            options.arrival.loras.push((Arc::new(lora), 0.75));
            options.arrival.compute = compute.map(|(dtype, _)| dtype);
        })
        .unwrap();
        assert!(streamed.residents().is_some());
        let found = shown(&streamed);
        let result = compute.map_or(kept, |(_, name)| name);
        for (module, (name, ..)) in MODULES.into_iter().enumerate() {
            let wanted = patched(module, kept, &[(&of, 0.75)]);
            let found = &found[&format!("{name}.weight")];
            assert!(found.bytes == bytes_of(result, &wanted), "{name}, {kept}, {factors}");
        }
        let stats = streamed.arrival().unwrap().stats();
        assert!(stats.patched >= 4, "{stats:?}");
        let bytes = std::fs::read(&path).unwrap();
        drop(streamed);
        assert!(std::fs::read(&path).unwrap() == bytes, "the file is as it was");
    }
}

#[test]
fn the_sum_is_that_of_matrix_products() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path(), "F32");
    let of = [Factors::new(9, 0, 16, Some(4.0), "F32")];
    let lora = lora(&folder.path().join("one.safetensors"), &of, "F32", PEFT);
    let streamed =
        load(&path, 6 * MIB, |options| options.arrival.loras.push((Arc::new(lora), 1.5))).unwrap();
    let found = f32s(&shown(&streamed)["layers.0.attn.to_q.weight"].bytes);
    let (_, rows, columns) = MODULES[0];
    let matrix = |values: Vec<f32>, rows, columns| {
        Tensor::from_vec(values, (rows as usize, columns as usize), &Candle::Cpu).unwrap()
    };
    let weights = matrix(numbers(0, rows * columns), rows, columns);
    let (up, down) = (matrix(of[0].up.clone(), rows, 16), matrix(of[0].down.clone(), 16, columns));
    let product = (up.matmul(&down).unwrap() * (1.5 * 4.0 / 16.0)).unwrap();
    let wanted = (weights + product).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() <= 1e-5, "{found} and not {wanted}");
    }
}

#[test]
fn several_loras_are_added_and_the_sum_is_rounded_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path(), "BF16");
    let one = [Factors::new(1, 0, 4, Some(2.0), "F16"), Factors::new(2, 4, 2, None, "F16")];
    let two = [Factors::new(3, 0, 8, None, "BF16"), Factors::new(4, 2, 3, Some(3.0), "BF16")];
    let loras = [
        (Arc::new(lora(&folder.path().join("one.safetensors"), &one, "F16", KOHYA)), 0.5),
        (Arc::new(lora(&folder.path().join("two.safetensors"), &two, "BF16", PEFT)), -1.25),
    ];
    let streamed =
        load(&path, 6 * MIB, |options| options.arrival.loras.extend(loras.clone())).unwrap();
    let found = shown(&streamed);
    for (module, (name, ..)) in MODULES.into_iter().enumerate() {
        let wanted = patched(module, "BF16", &[(&one, 0.5), (&two, -1.25)]);
        assert!(found[&format!("{name}.weight")].bytes == bf16_bytes(&wanted), "{name}");
        assert!(found[&format!("{name}.bias")].dtype == Dtype::F32, "{name} has its bias");
    }
    let factors = streamed.arrival().unwrap().device_bytes();
    assert!(streamed.placement().ring_bytes + factors <= 6 * MIB);
}

#[test]
fn an_alpha_of_peft_is_told_by_its_own_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path(), "F32");
    let mut of = [Factors::new(1, 0, 4, None, "F32"), Factors::new(2, 1, 4, Some(1.0), "F32")];
    let file = folder.path().join("adapter_model.safetensors");
    let lora = lora(&file, &of, "F32", PEFT).with_alpha(16.0).unwrap().named("voice");
    assert_eq!(lora.name(), "voice");
    let streamed =
        load(&path, 6 * MIB, |options| options.arrival.loras.push((Arc::new(lora), 1.0))).unwrap();
    of[0].alpha = Some(16.0);
    let found = shown(&streamed);
    for module in [0, 1] {
        let wanted = f32_bytes(&patched(module, "F32", &[(&of, 1.0)]));
        assert!(found[&format!("{}.weight", MODULES[module].0)].bytes == wanted);
    }
}

#[test]
fn loras_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("style.safetensors");
    let load_with = |kept, lora: Lora| {
        load(&model(folder.path(), kept), 6 * MIB, |options| {
            options.arrival.loras.push((Arc::new(lora), 1.0));
        })
        .map(drop)
    };
    let of = || [Factors::new(1, 0, 4, None, "F32")];
    let foreign: Names = |module| PEFT(module).map(|name| name.replace("layers", "blocks"));
    let error = load_with("F32", lora(&file, &of(), "F32", foreign)).unwrap_err().to_string();
    assert_says(&error, &["style", "none of its 1 modules", "blocks.0.attn.to_q", "layers.0"]);
    // Part of it is for something else: that is left out.
    let mixed: Names =
        |module| PEFT(module).map(|name| name.replace("layers.1", "text_model.layers.1"));
    let both = [Factors::new(1, 0, 4, None, "F32"), Factors::new(2, 2, 4, None, "F32")];
    load_with("F32", lora(&file, &both, "F32", mixed)).unwrap();
    let error = load_with("F8_E4M3", lora(&file, &of(), "F32", PEFT)).unwrap_err().to_string();
    assert_says(&error, &["layers.0.attn.to_q.weight", "F8_E4M3", "type to compute in"]);
    let other: Names = |module| PEFT(module).map(|name| name.replace("attn.to_q", "ff.0"));
    let error = load_with("F32", lora(&file, &of(), "F32", other)).unwrap_err().to_string();
    assert_says(&error, &["layers.0.ff.0", "48 x 64", "[65, 33]", "another model"]);
    let vague: Names = |module| PEFT(module).map(|name| name.replace("layers.0.", ""));
    let error = load_with("F32", lora(&file, &of(), "F32", vague)).unwrap_err().to_string();
    assert_says(&error, &["attn.to_q", "layers.0.attn.to_q.weight", "layers.1.attn.to_q.weight"]);
}

#[test]
fn files_that_hold_no_pairs_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("odd.safetensors");
    let tensor = |name: &str, dtype, shape: &[u64]| -> Entry {
        let bytes = shape.iter().product::<u64>() * if dtype == "F32" { 4 } else { 1 };
        (name.to_owned(), dtype, shape.to_vec(), vec![0; bytes as usize])
    };
    for (entries, words) in [
        (vec![tensor("a.weight", "F32", &[2, 2])], ["no pairs", "a.weight", "lora_A"]),
        (vec![tensor("a.lora_A.weight", "F32", &[2, 2])], ["a.lora_A.weight", "no other", "odd"]),
        (vec![tensor("a.hada_w1_a", "F32", &[2, 2])], ["a.hada_w1_a", "LoHa", "not supported"]),
        (vec![tensor("a.dora_scale", "F32", &[2, 2])], ["dora_scale", "DoRA", "not supported"]),
        (
            vec![
                tensor("a.lora_A.weight", "F32", &[2, 8]),
                tensor("a.lora_B.weight", "F32", &[8, 3]),
            ],
            ["a.lora_B.weight", "[8, 3]", "[2, 8]"],
        ),
        (
            vec![
                tensor("a.lora_A.weight", "I8", &[2, 8]),
                tensor("a.lora_B.weight", "I8", &[8, 2]),
            ],
            ["I8", "BF16", "not supported"],
        ),
    ] {
        write(&file, &entries);
        assert_says(&Lora::open(&file).unwrap_err().to_string(), &words);
    }
}
