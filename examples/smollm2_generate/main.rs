//! A language model that generates text under a memory limit it does not fit into, in any of the
//! low-VRAM modes people know.
//!
//! ```text
//! scripts/fetch-models SmolLM2
//! cargo run --release --example smollm2_generate -- --vram 44MiB --mode auto
//! ```
//!
//! SmolLM2-135M is a Llama of thirty layers in four bits. Its kernels are candle's for quantised
//! weights on the CPU. The same tokens are generated three times: with all weights in memory,
//! with the weights of each layer leased while the next ones are loaded, and with each layer read
//! from the file, computed and dropped. They have to be the same.

mod llama;
mod sources;
mod text;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use candle_core::{IndexOp, Tensor};
use riverbed::base::{format_bytes, parse_bytes};

use llama::Llama;
use sources::{InMemory, Naive, Streamed, Weights};
use text::Text;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// What was generated, and how fast.
struct Generated {
    tokens: Vec<u32>,
    /// From the first generated token to the last: the prompt is another kind of work.
    elapsed: Duration,
}

impl Generated {
    fn tokens_per_second(&self) -> f64 {
        self.tokens.len().saturating_sub(1) as f64 / self.elapsed.as_secs_f64()
    }
}

fn run(options: &Options) -> Result<()> {
    let file = options.model.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    if !file.exists() {
        let file = file.display();
        return Err(format!("{file} is missing: run scripts/fetch-models SmolLM2").into());
    }
    let text = Text::open(&file)?;
    let prompt = text.encode(&options.prompt)?;

    let mut streamed = Streamed::open(&file, options)?;
    println!("{}", streamed.describe());
    let generated = generate(&Llama::open(&file)?, &mut streamed, &prompt, options.tokens)?;
    println!("{}{}\n", options.prompt, text.decode(&generated.tokens)?);

    let mut in_memory = InMemory::open(&file)?;
    let expected = generate(&Llama::open(&file)?, &mut in_memory, &prompt, options.tokens)?;
    let mut naive = Naive::open(&file)?;
    let dropped = generate(&Llama::open(&file)?, &mut naive, &prompt, options.tokens)?;

    let speed = |what: &str, generated: &Generated| {
        println!("{what:<30} {:>6.1} tokens/s", generated.tokens_per_second());
    };
    speed("all weights in memory", &expected);
    speed(&format!("{} under {}", streamed.mode(), format_bytes(options.vram)), &generated);
    speed("load, compute, drop", &dropped);
    println!("peak reserved {} of {}", format_bytes(streamed.peak()), format_bytes(options.vram));

    let same = generated.tokens == expected.tokens && dropped.tokens == expected.tokens;
    check(same, "the tokens differ from those of the model in memory")?;
    check(streamed.peak() <= options.vram, "more memory was reserved than the limit allows")
}

/// Generates the most likely token again and again.
fn generate(
    llama: &Llama,
    weights: &mut dyn Weights,
    prompt: &[u32],
    count: usize,
) -> Result<Generated> {
    let mut caches = llama.caches();
    let mut tokens = Vec::new();
    let mut input = prompt.to_vec();
    let mut position = 0;
    let mut first = Instant::now();
    for _ in 0..count {
        let logits = llama.forward(&input, position, &mut caches, weights)?;
        position += input.len();
        let token = most_likely(&logits)?;
        if tokens.is_empty() {
            first = Instant::now();
        }
        tokens.push(token);
        input = vec![token];
    }
    Ok(Generated { tokens, elapsed: first.elapsed() })
}

fn most_likely(logits: &Tensor) -> Result<u32> {
    Ok(logits.i(0)?.argmax(0)?.to_scalar::<u32>()?)
}

fn check(holds: bool, otherwise: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

/// What the command line says.
struct Options {
    model: PathBuf,
    device: String,
    vram: u64,
    mode: String,
    tokens: usize,
    prompt: String,
}

const HELP: &str = "smollm2_generate [--model DIR] [--device host] [--vram 44MiB] [--mode auto] \
                    [--tokens 24] [--prompt TEXT]";

impl Options {
    fn parse() -> Result<Self> {
        let models = std::env::var_os("RIVERBED_MODELS").map(PathBuf::from).or_else(|| {
            Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/riverbed/models"))
        });
        let mut options = Self {
            model: models.ok_or("neither RIVERBED_MODELS nor HOME is set")?.join("SmolLM2"),
            device: "host".into(),
            vram: 44 << 20,
            mode: "auto".into(),
            tokens: 24,
            prompt: "The river runs through".into(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            if argument == "--help" {
                return Err(HELP.into());
            }
            let value =
                arguments.next().ok_or_else(|| format!("{argument} needs a value: {HELP}"))?;
            match argument.as_str() {
                "--model" => options.model = value.into(),
                "--device" => options.device = value,
                "--vram" => {
                    options.vram =
                        parse_bytes(&value).map_err(|error| format!("--vram: {error}"))?;
                }
                "--mode" => options.mode = value,
                "--tokens" => {
                    let count = value.parse().ok().filter(|count| (1..=1000).contains(count));
                    options.tokens = count.ok_or("--tokens is a number from 1 to 1000")?;
                }
                "--prompt" => options.prompt = value,
                _ => return Err(format!("{argument} is not known: {HELP}").into()),
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
