//! Sentence embeddings with candle, the model's weights streamed through a VRAM limit that the
//! model does not fit into.
//!
//! ```text
//! scripts/fetch-models MiniLM
//! cargo run --release --example minilm_embeddings -- --vram 64MiB
//! ```
//!
//! all-MiniLM-L6-v2 is a BERT of six layers. Each layer is built from the weights of a lease, run,
//! and let go, while the layers after it are loaded. The result is compared, bit for bit, with
//! candle's own `BertModel` that has all weights in memory.

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use candle_core::Device::Cpu;
use candle_core::{D, DType, Tensor};
use candle_nn::{Embedding, LayerNorm, Module, VarBuilder};
use candle_transformers::models::bert::{BertEncoder, BertModel, Config};
use riverbed::base::{format_bytes, parse_bytes};
use riverbed::device::{Device, Priority, Stream};
use riverbed::offload::{StreamOptions, StreamedModel};
use riverbed::prefetch::{Lease, TensorRef};
use riverbed::weights::{Grouping, Model};
use tokenizers::{PaddingParams, Tokenizer};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The first two pairs mean nearly the same; the last sentence is about something else.
const SENTENCES: [&str; 5] = [
    "A cat is sleeping on the windowsill.",
    "The kitten naps by the window.",
    "The central bank raised interest rates again.",
    "Borrowing became more expensive after the bank's decision.",
    "She plays the violin in an orchestra.",
];
const SIMILAR: [(usize, usize); 2] = [(0, 1), (2, 3)];

fn run(options: &Options) -> Result<()> {
    let weights = options.model.join("model.safetensors");
    if !weights.exists() {
        let weights = weights.display();
        return Err(format!("{weights} is missing: run scripts/fetch-models MiniLM").into());
    }
    let config: Config =
        serde_json::from_reader(std::fs::File::open(options.model.join("config.json"))?)?;
    let batch = Batch::new(&options.model)?;

    // What streaming takes: a device, the model's header, what its layers are, and a limit.
    let device = Device::open(&options.device)?;
    let model = Arc::new(Model::open(&weights)?);
    let layers = Grouping::by_preset(&model)?;
    let limits = StreamOptions::new(options.vram);
    let streamed = StreamedModel::load(&device, Arc::clone(&model), &layers, limits)?;
    let hidden = forward_streamed(&streamed, &batch, &config)?;
    let embeddings = embed(&hidden, &batch.mask)?;

    let peak = streamed.allocator().stats().reserved_bytes.all.peak;
    println!("model          {} in {}", format_bytes(model.total_bytes()), weights.display());
    println!("limit          {}", format_bytes(options.vram));
    println!("peak reserved  {}", format_bytes(peak));

    // The same with everything in memory.
    let tensors = candle_core::safetensors::load(&weights, &Cpu)?;
    let whole = BertModel::load(VarBuilder::from_tensors(tensors, DType::F32, &Cpu), &config)?;
    let hidden = whole.forward(&batch.ids, &batch.ids.zeros_like()?, Some(&batch.mask))?;
    let expected = embed(&hidden, &batch.mask)?;
    let (embeddings, expected) = (embeddings.to_vec2::<f32>()?, expected.to_vec2::<f32>()?);
    let bits = |rows: &[Vec<f32>]| -> Vec<u32> {
        rows.iter().flatten().map(|value| value.to_bits()).collect()
    };
    let equal = bits(&embeddings) == bits(&expected);
    let verdict = if equal { "equal, bit for bit," } else { "DIFFER from" };
    println!("embeddings     {verdict} those of the whole model in memory");

    let cosine = |a: usize, b: usize| dot(&embeddings[a], &embeddings[b]);
    print_beginnings(&embeddings, &expected);
    print_cosines(&cosine);

    let pairs = || (0..SENTENCES.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
    let of = |similar| {
        let chosen = pairs().filter(move |pair| SIMILAR.contains(pair) == similar);
        chosen.map(|(a, b)| cosine(a, b))
    };
    let least_similar = of(true).fold(f32::INFINITY, f32::min);
    let most_dissimilar = of(false).fold(f32::NEG_INFINITY, f32::max);
    let normal = |row: &Vec<f32>| row.len() == 384 && (dot(row, row) - 1.0).abs() < 1e-5;
    check(options.vram < model.total_bytes(), "a limit the model fits into shows nothing")?;
    check(peak <= options.vram, "more memory was reserved than the limit allows")?;
    check(equal, "the streamed embeddings differ from the whole model's")?;
    check(embeddings.iter().all(normal), "an embedding is not of 384 numbers and length 1")?;
    check(least_similar > most_dissimilar, "similar sentences do not score above the others")
}

/// The first numbers of every embedding, from streamed weights and from weights in memory.
fn print_beginnings(streamed: &[Vec<f32>], whole: &[Vec<f32>]) {
    let beginning = |row: &[f32]| -> String {
        row.iter().take(6).map(|value| format!(" {value:>10.7}")).collect()
    };
    println!();
    for (number, (streamed, whole)) in streamed.iter().zip(whole).enumerate() {
        println!("{} streamed {} ...", number + 1, beginning(streamed));
        println!("  whole    {} ...", beginning(whole));
    }
}

/// The model's forward pass, with one layer's weights at a time.
fn forward_streamed(streamed: &StreamedModel, batch: &Batch, config: &Config) -> Result<Tensor> {
    // On a GPU the layers' kernels would be enqueued here, and leases would make this stream wait
    // for their copies. candle's CPU kernels are on no stream: `wait_host` waits in their place.
    let stream = Stream::new(streamed.allocator().device(), Priority::Normal)?;
    // There is one pass only: nothing follows the last layer.
    streamed.prefetcher().set_wraps(false);

    let mut hidden = embed_tokens(streamed, &stream, batch, config)?;
    // As in `BertModel`: what is added to the attention scores keeps padding out of them.
    let mask = batch.mask.unsqueeze(1)?.unsqueeze(1)?.to_dtype(DType::F32)?;
    let mask = (mask.ones_like()? - mask)?.broadcast_mul(&Tensor::new(f32::MIN, &Cpu)?)?;

    let one_layer = Config { num_hidden_layers: 1, ..config.clone() };
    for number in 0..config.num_hidden_layers {
        let layer = format!("encoder.layer.{number}");
        let lease = acquire(streamed, &layer, &stream)?;
        let weights = lease.wait_host()?;
        let mut tensors = HashMap::new();
        for tensor in lease.tensors() {
            // An encoder of one layer looks for that layer as number 0.
            let name = format!("layer.0{}", &tensor.name[layer.len()..]);
            tensors.insert(name, to_candle(&tensor, weights.bytes(tensor.name)?)?);
        }
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Cpu);
        hidden = BertEncoder::load(weights, &one_layer)?.forward(&hidden, &mask)?;
        // Here the lease ends, and its room is free for a layer further on.
    }
    streamed.finish_pass(&stream)?.into_result()?;
    Ok(hidden)
}

/// The embeddings of the tokens, from the weights outside the layers. Those stay on the device
/// as far as they fit; under a tighter limit the largest are streamed like layers.
fn embed_tokens(
    streamed: &StreamedModel,
    stream: &Stream,
    batch: &Batch,
    config: &Config,
) -> Result<Tensor> {
    let weight = |name: &str| -> Result<Tensor> {
        let name = format!("embeddings.{name}");
        if let Some(residents) = streamed.residents()
            && let Ok(tensor) = residents.tensor(&name)
        {
            return to_candle(&tensor, residents.bytes(&name)?);
        }
        let lease = acquire(streamed, &name, stream)?;
        to_candle(&lease.tensor(&name)?, lease.wait_host()?.bytes(&name)?)
    };
    let table = |name| weight(name).map(|table| Embedding::new(table, config.hidden_size));
    let words = table("word_embeddings.weight")?.forward(&batch.ids)?;
    let types = table("token_type_embeddings.weight")?.forward(&batch.ids.zeros_like()?)?;
    let positions = Tensor::arange(0, batch.ids.dim(1)? as u32, &Cpu)?;
    let positions = table("position_embeddings.weight")?.forward(&positions)?;
    let sum = (words + types)?.broadcast_add(&positions)?;
    let (scale, bias) = (weight("LayerNorm.weight")?, weight("LayerNorm.bias")?);
    Ok(LayerNorm::new(scale, bias, config.layer_norm_eps).forward(&sum)?)
}

/// Leases the streamed unit called `name`.
fn acquire(streamed: &StreamedModel, name: &str, stream: &Stream) -> Result<Lease> {
    let unit = streamed.units().iter().position(|unit| unit.name == name);
    Ok(streamed.acquire(unit.ok_or_else(|| format!("the model has no {name}"))?, stream)?)
}

/// The weights as candle has them. This copies: candle's CPU tensors own their memory.
fn to_candle(tensor: &TensorRef<'_>, bytes: &[u8]) -> Result<Tensor> {
    let dtype: DType = tensor.dtype.name().to_lowercase().parse()?;
    let shape: Vec<usize> = tensor.shape.iter().map(|&len| len as usize).collect();
    Ok(Tensor::from_raw_buffer(bytes, dtype, &shape, &Cpu)?)
}

/// The sentences as token ids, padded to one length, and where the tokens are no padding.
struct Batch {
    ids: Tensor,
    mask: Tensor,
}

impl Batch {
    fn new(model: &Path) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_file(model.join("tokenizer.json"))?;
        tokenizer.with_padding(Some(PaddingParams::default()));
        let encodings = tokenizer.encode_batch(SENTENCES.to_vec(), true)?;
        let ids: Vec<&[u32]> = encodings.iter().map(|encoding| encoding.get_ids()).collect();
        let mask: Vec<_> = encodings.iter().map(|encoding| encoding.get_attention_mask()).collect();
        Ok(Self { ids: Tensor::new(ids, &Cpu)?, mask: Tensor::new(mask, &Cpu)? })
    }
}

/// The embeddings of the sentences: the mean over the tokens that are no padding, of length 1.
fn embed(hidden: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let mask = mask.to_dtype(DType::F32)?.unsqueeze(D::Minus1)?;
    let mean = hidden.broadcast_mul(&mask)?.sum(1)?.broadcast_div(&mask.sum(1)?)?;
    Ok(mean.broadcast_div(&mean.sqr()?.sum_keepdim(1)?.sqrt()?)?)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn print_cosines(cosine: &impl Fn(usize, usize) -> f32) {
    let all = 0..SENTENCES.len();
    let numbers: String = all.clone().map(|b| format!("{:>7}", b + 1)).collect();
    println!("\n  {:<58}{numbers}   most similar", "cosines");
    for (a, sentence) in SENTENCES.iter().enumerate() {
        let row: String = all.clone().map(|b| format!("{:>7.3}", cosine(a, b))).collect();
        let others = all.clone().filter(|&b| b != a);
        let nearest = others.max_by(|&b, &c| cosine(a, b).total_cmp(&cosine(a, c)));
        println!("{} {sentence:<58}{row}   {}", a + 1, nearest.unwrap_or(a) + 1);
    }
}

fn check(holds: bool, otherwise: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

struct Options {
    model: PathBuf,
    vram: u64,
    device: String,
}

impl Options {
    fn parse() -> Result<Self> {
        let models = std::env::var_os("RIVERBED_MODELS").map(PathBuf::from);
        let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
        let models = models.unwrap_or_else(|| home.join(".cache/riverbed/models"));
        let mut options =
            Self { model: models.join("MiniLM"), vram: 64 << 20, device: "host".into() };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let value = args.next();
            match (arg.as_str(), value) {
                ("--model", Some(value)) => options.model = value.into(),
                ("--vram", Some(value)) => options.vram = parse_bytes(&value)?,
                ("--device", Some(value)) => options.device = value,
                _ => return Err("usage: [--model DIR] [--vram SIZE] [--device NAME]".into()),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    match Options::parse().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
