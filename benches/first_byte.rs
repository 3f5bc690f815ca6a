//! How long does somebody who opens a model wait for its first byte on the device, while the memory
//! that is to keep its weights is being pinned behind? The model is opened, streamed under a limit of
//! two and a half of its layers, and its first layer asked for; the page cache has the file.
//!
//! Prints the median of seven rounds and their range, of the whole and of its parts, and what was
//! pinned by then. `RIVERBED_IO_MODEL` names a model; else one of `RIVERBED_IO_BYTES` (256 MiB) is
//! made in `RIVERBED_IO_DIR` (the system's temporary directory).

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use riverbed::device::{Device, Priority, Stream, settle};
use riverbed::offload::{StreamOptions, StreamedModel};
use riverbed::weights::{Grouping, Model};
use safetensors::tensor::{Dtype, TensorView};

/// The longest a user should wait, in milliseconds.
const BAR_MS: f64 = 20.0;
const LAYERS: usize = 16;
/// Between two looks at what has arrived.
const LOOK: Duration = Duration::from_micros(20);

fn main() {
    // Run as a test, it shows only that it works.
    let is_test = std::env::args().any(|argument| argument == "--test")
        || !std::env::args().any(|argument| argument == "--bench");
    let device = common::device("host");
    let directory = std::env::var_os("RIVERBED_IO_DIR").map(PathBuf::from);
    let directory = tempfile::tempdir_in(directory.unwrap_or_else(std::env::temp_dir));
    let directory = directory.expect("a directory");
    let path = match std::env::var_os("RIVERBED_IO_MODEL") {
        Some(path) => path.into(),
        None => generate(directory.path(), if is_test { 16 << 20 } else { 256 << 20 }),
    };
    let mut file = std::fs::File::open(&path).expect("the model");
    std::io::copy(&mut file, &mut std::io::sink()).expect("reads");
    let rounds: Vec<Round> = (0..if is_test { 1 } else { 7 })
        .map(|_| {
            let round = Round::run(&device, &path);
            assert!(settle(Duration::from_secs(60)), "what was dropped is given back");
            round
        })
        .collect();
    report("open to first byte", &rounds, Round::whole_ms);
    report("  the header is read", &rounds, |round| round.open_ms);
    report("  placed, window and ring are there", &rounds, |round| round.load_ms);
    report("  the first layer is leased", &rounds, |round| round.acquire_ms);
    report("  its first bytes are on the device", &rounds, |round| round.arrive_ms);
    report("pinned or about to be by then, in MiB", &rounds, |round| round.pinned_mib);
    let whole = median(&rounds, Round::whole_ms).0;
    let verdict = if whole <= BAR_MS { "kept" } else { "missed" };
    println!("the bar of {BAR_MS} ms is {verdict}");
}

/// What each part of a round took, in milliseconds.
struct Round {
    open_ms: f64,
    load_ms: f64,
    acquire_ms: f64,
    arrive_ms: f64,
    pinned_mib: f64,
}

impl Round {
    fn run(device: &Device, path: &Path) -> Self {
        let stream = Stream::new(device, Priority::Normal).expect("a stream");
        let mut at = Instant::now();
        let mut lap_ms = || {
            let now = Instant::now();
            (now - std::mem::replace(&mut at, now)).as_secs_f64() * 1e3
        };
        let model = Arc::new(Model::open(path).expect("a model"));
        let open_ms = lap_ms();
        let layers = Grouping::by_preset(&model).expect("layers");
        let largest = layers.layers.iter().map(|layer| layer.bytes).max().expect("a layer");
        let options = StreamOptions::new(largest * 5 / 2 + (8 << 20));
        let streamed = StreamedModel::load(device, model, &layers, options).expect("a limit");
        let load_ms = lap_ms();
        let lease = streamed.acquire(0, &stream).expect("a lease");
        let acquire_ms = lap_ms();
        while streamed.prefetcher().stats().arrived_bytes == 0 {
            std::thread::sleep(LOOK);
        }
        let arrive_ms = lap_ms();
        let pinned_mib = streamed.pinned().stats().reserved_bytes as f64 / f64::from(1 << 20);
        drop(lease);
        Self { open_ms, load_ms, acquire_ms, arrive_ms, pinned_mib }
    }

    fn whole_ms(&self) -> f64 {
        self.open_ms + self.load_ms + self.acquire_ms + self.arrive_ms
    }
}

/// A model of about `default_bytes`, unless told otherwise.
fn generate(directory: &Path, default_bytes: usize) -> PathBuf {
    let size = std::env::var("RIVERBED_IO_BYTES").ok();
    let bytes = size.map_or(default_bytes, |size| {
        riverbed::base::parse_bytes(&size).expect("RIVERBED_IO_BYTES: a size") as usize
    });
    // All tensors show the same bytes.
    let data = vec![7u8; bytes / LAYERS / 4];
    let tensors = (0..LAYERS * 4).map(|at| {
        let view = TensorView::new(Dtype::U8, vec![data.len()], &data).expect("a tensor");
        (format!("layers.{}.w{}", at / 4, at % 4), view)
    });
    let path = directory.join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &path).expect("a file");
    path
}

/// The median of a figure over all rounds, and the range.
fn median(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> (f64, f64, f64) {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    (figures[figures.len() / 2], figures[0], figures[figures.len() - 1])
}

fn report(what: &str, rounds: &[Round], figure: impl Fn(&Round) -> f64) {
    let (median, least, most) = median(rounds, figure);
    println!("{what:38} {median:9.2} ({least:.2} to {most:.2})");
}
