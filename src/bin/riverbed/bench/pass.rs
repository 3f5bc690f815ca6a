//! `riverbed bench pass`: a streamed pass beside max(compute, copies), for FLUX's shape and for
//! equal layers.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use riverbed::base::{GIB, MIB, format_bytes, parse_bytes, parse_bytes_per_second};
use riverbed::device::{Device, Event, Priority, Stream};
use riverbed::offload::{StreamOptions, StreamedModel};
use riverbed::weights::{Grouping, Model};

use super::flux::{self, Shape};
use super::{Common, Source, check, spinner};
use crate::Failure;
use crate::text::{print, print_json, table};

/// A streamed pass of a generated model beside the larger of its compute and its copies
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    riverbed bench pass --generate 2GB --link 2GB/s\n  \
    riverbed bench pass --generate 500MB --link 1GB/s --ring 100MB --rounds 3 --json")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// The host device's link
    #[arg(long, value_name = "RATE", default_value = "2GB/s", value_parser = parse_bytes_per_second)]
    link: u64,
    /// Device memory for the ring [default: a fifth of the model]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    ring: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// Time to copy a block over the time it computes, of FLUX.1 on an RTX 4090: a double block, a
/// single block.
const FLUX_RATIOS: (f64, f64) = (1.88, 0.78);
/// The same of blocks that are all alike.
const UNIFORM_RATIOS: [f64; 3] = [0.6, 1.0, 1.9];

/// The host device's pages, of which a ring is made.
const PAGE_BYTES: u64 = 2 * MIB;

/// One kind of pass.
#[derive(Debug, serde::Serialize)]
struct Case {
    name: String,
    ring_bytes: u64,
    copy_seconds: f64,
    compute_seconds: f64,
    /// max(compute, copies).
    bound_seconds: f64,
    /// Of every steady pass.
    seconds: Vec<f64>,
    median_seconds: f64,
    /// The median over the bound.
    ratio: f64,
}

/// All cases. Times in seconds, sizes in bytes.
#[derive(Debug, serde::Serialize)]
struct Report {
    version: u32,
    model_bytes: u64,
    link_bytes_per_second: u64,
    rounds: u32,
    cases: Vec<Case>,
}

pub(super) fn run(args: &Args, interrupted: &AtomicBool) -> Result<(), Failure> {
    let bench =
        Bench { link: args.link, rounds: args.common.rounds as usize, interrupted, bar: spinner() };
    let mut cases = Vec::new();
    let flux = args.source.write(Shape::Flux, GIB / 2)?;
    let model = Arc::new(Model::open(flux.path())?);
    let model_bytes = model.total_bytes();
    let ring = args.ring.unwrap_or((model_bytes / 5).next_multiple_of(PAGE_BYTES));
    cases.push(bench.case("FLUX.1".into(), &model, ring, |unit| {
        let (double, single) = FLUX_RATIOS;
        if unit.contains("double") { double } else { single }
    })?);
    drop(flux);
    let uniform = args.source.write(Shape::Uniform, GIB / 2)?;
    let model = Arc::new(Model::open(uniform.path())?);
    let two_slots = 2 * model.total_bytes() / flux::LAYERS as u64;
    for ratio in UNIFORM_RATIOS {
        let ring = two_slots.next_multiple_of(PAGE_BYTES);
        cases.push(bench.case(format!("equal layers, {ratio}"), &model, ring, |_| ratio)?);
    }
    bench.bar.finish_and_clear();
    let report = Report {
        version: 1,
        model_bytes,
        link_bytes_per_second: args.link,
        rounds: args.common.rounds,
        cases,
    };
    if args.common.json { print_json(&report) } else { print(&report.for_people()) }
}

/// Passes that are not measured: what the first one read before there was memory to keep it is
/// read again by the second.
const FIRST_PASSES: usize = 2;

/// What the cases share.
struct Bench<'a> {
    link: u64,
    rounds: usize,
    interrupted: &'a AtomicBool,
    bar: indicatif::ProgressBar,
}

impl Bench<'_> {
    /// Streams `model` through a ring of `ring_bytes` on a host device with the link asked for;
    /// `ratio` gives a unit's copy time over its compute time.
    fn case(
        &self,
        name: String,
        model: &Arc<Model>,
        ring_bytes: u64,
        ratio: impl Fn(&str) -> f64,
    ) -> Result<Case, Failure> {
        self.bar.set_message(name.clone());
        let device = Device::open(&format!("host:h2d={}B/s", self.link))?;
        let grouping = Grouping::by_preset(model)?;
        let mut options = StreamOptions::new(ring_bytes);
        options.working_bytes = 0;
        options.prefetch.depth = grouping.layers.len();
        let streamed = StreamedModel::load(&device, Arc::clone(model), &grouping, options)?;
        let stream = Stream::new(&device, Priority::Normal)?;
        let copy = |bytes: u64| bytes as f64 / self.link as f64;
        let units: Vec<(f64, u64)> = streamed
            .prefetcher()
            .units()
            .into_iter()
            .map(|(name, bytes)| (copy(bytes), (copy(bytes) / ratio(&name) * 1e9) as u64))
            .collect();
        // The first passes read the file, to keep it in memory that is pinned meanwhile; the last
        // one has nothing to load ahead for.
        let mut ends = Vec::with_capacity(FIRST_PASSES + self.rounds + 1);
        for pass in 0..FIRST_PASSES + self.rounds + 1 {
            check(self.interrupted)?;
            if pass == 1 {
                streamed.prefetcher().wait_for_homes();
            }
            for (unit, &(_, compute_ns)) in units.iter().enumerate() {
                let lease = streamed.acquire(unit, &stream)?;
                lease.stream().busy(compute_ns)?;
            }
            let end = Event::with_timing(&device)?;
            end.record(&stream)?;
            ends.push(end);
            // Two passes ahead of the device at most, so that Ctrl-C ends within one.
            if let Some(before) = ends.len().checked_sub(2) {
                ends[before].synchronize()?;
            }
        }
        streamed.finish_pass(&stream)?.into_result()?;
        let passes = ends.windows(2).skip(FIRST_PASSES - 1).take(self.rounds);
        let seconds = passes.map(|pair| Ok(pair[1].elapsed_ns_since(&pair[0])? as f64 / 1e9));
        let seconds = seconds.collect::<Result<Vec<f64>, Failure>>()?;
        let mut sorted = seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let median_seconds = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        let copy_seconds: f64 = units.iter().map(|unit| unit.0).sum();
        let compute_seconds = units.iter().map(|unit| unit.1 as f64 / 1e9).sum::<f64>();
        let bound_seconds = copy_seconds.max(compute_seconds);
        Ok(Case {
            name,
            ring_bytes: streamed.placement().ring_bytes,
            copy_seconds,
            compute_seconds,
            bound_seconds,
            median_seconds,
            ratio: median_seconds / bound_seconds,
            seconds,
        })
    }
}

impl Report {
    fn for_people(&self) -> String {
        let mut lines = vec![
            ["", "ring", "copies", "compute", "bound", "a pass", "x bound"]
                .map(String::from)
                .into(),
        ];
        lines.extend(self.cases.iter().map(|case| {
            let seconds = |seconds: f64| format!("{seconds:.3} s");
            vec![
                case.name.clone(),
                format_bytes(case.ring_bytes),
                seconds(case.copy_seconds),
                seconds(case.compute_seconds),
                seconds(case.bound_seconds),
                seconds(case.median_seconds),
                format!("{:.3}", case.ratio),
            ]
        }));
        format!(
            "{} over {}/s\n\n{}",
            format_bytes(self.model_bytes),
            format_bytes(self.link_bytes_per_second),
            table(&lines, &[1, 2, 3, 4, 5, 6])
        )
    }
}
