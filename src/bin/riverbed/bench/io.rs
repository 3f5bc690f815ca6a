//! `riverbed bench io`: a file to the device, beside what the disk gives and what others would do.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use riverbed::base::{Error, FileError, format_bytes, parse_bytes};
use riverbed::device::{Device, Priority, Stream};
use riverbed::offload::{LoadOptions, LoadedModel};
use riverbed::pinned::PinnedPool;
use riverbed::pool::Allocator;
use riverbed::transfer::Transfer;
use riverbed::weights::Model;

use super::flux::Shape;
use super::raw::{Setting, drop_cache, fill_cache, reads_directly};
use super::rounds::{Row, Subject, for_people, measure};
use super::{Common, Source, check, spinner};
use crate::Failure;
use crate::model_path::resolve;
use crate::text::{print, print_json};

/// A model's file to the device: cold and from the page cache, beside plain direct reads
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    riverbed bench io model.safetensors\n  \
    riverbed bench io --generate 6GB --dir /data --json")]
pub(super) struct Args {
    /// The model to load [default: a generated one of 1 GB]
    #[arg(value_name = "MODEL", conflicts_with = "generate")]
    model: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
    /// The device to load to
    #[arg(long, value_name = "DEVICE", default_value = "host")]
    device: String,
    /// Hard limit on pinned host memory
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    ram: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// All figures. Sizes in bytes, rates in bytes a second; the ratios of `cold` are to the best of
/// `disk`, those of `warm` to a read and a copy by one thread.
#[derive(Debug, serde::Serialize)]
struct Report {
    version: u32,
    model: String,
    model_bytes: u64,
    device: String,
    rounds: u32,
    disk: Vec<Row>,
    cold: Vec<Row>,
    warm: Vec<Row>,
}

/// What a file is copied through where a read and a copy is all there is.
const READ_BYTES: u64 = 16 << 20;

pub(super) fn run(args: &Args, interrupted: &AtomicBool) -> Result<(), Failure> {
    let device = Device::open(&args.device)?;
    if device.info().simulated {
        return Err(Error::Unsupported {
            what: "reading files to it".into(),
            by: format!("device '{}', which holds no bytes", device.info().name),
            way_out: "use 'host'".into(),
        }
        .into());
    }
    let generated = match &args.model {
        Some(_) => None,
        None => Some(args.source.write(Shape::Flux, 1_000_000_000)?),
    };
    let path = match (&args.model, &generated) {
        (Some(model), _) => resolve(model),
        (None, Some(generated)) => generated.path().to_path_buf(),
        (None, None) => PathBuf::new(),
    };
    let model = Arc::new(Model::open(&path)?);
    let direct = model.files().iter().all(|file| reads_directly(&file.path));
    let bench = Bench { device, model, ram: args.ram, direct };
    let rounds = args.common.rounds as usize;
    let bar = spinner();
    let begins = |what: &str, round: usize| bar.set_message(format!("round {}: {what}", round + 1));
    let disk = measure(&mut bench.disk(interrupted), rounds.min(3), 0, begins)?;
    let best = disk.iter().max_by(|a, b| a.bytes_per_second.total_cmp(&b.bytes_per_second));
    let best = best.map_or_else(String::new, |row| row.name.clone());
    let mut cold = bench.cold(interrupted, &best);
    let cold = measure(&mut cold, rounds, 0, begins)?;
    bench.files().try_for_each(fill_cache)?;
    let warm = measure(&mut bench.warm(interrupted), rounds, 0, begins)?;
    bar.finish_and_clear();
    let report = Report {
        version: 1,
        model: path.display().to_string(),
        model_bytes: bench.model.total_bytes(),
        device: bench.device.info().name.clone(),
        rounds: args.common.rounds,
        disk,
        cold,
        warm,
    };
    if args.common.json { print_json(&report) } else { print(&report.for_people()) }
}

impl Report {
    fn for_people(&self) -> String {
        format!(
            "{}, {} to {}\n\ndisk\n{}\ncold cache\n{}\nwarm cache\n{}",
            self.model,
            format_bytes(self.model_bytes),
            self.device,
            for_people(&self.disk, "first"),
            for_people(&self.cold, "disk"),
            for_people(&self.warm, "read"),
        )
    }
}

/// What the subjects share.
struct Bench {
    device: Device,
    model: Arc<Model>,
    ram: Option<u64>,
    /// Whether the files can be read past the page cache.
    direct: bool,
}

impl Bench {
    fn files(&self) -> impl Iterator<Item = &Path> {
        self.model.files().iter().map(|file| file.path.as_path())
    }

    fn file_bytes(&self) -> u64 {
        self.model.files().iter().map(|file| file.len_bytes).sum()
    }

    /// Plain direct reads, by setting.
    fn disk<'a>(&'a self, interrupted: &'a AtomicBool) -> Vec<Subject<'a>> {
        Setting::ALL.map(|setting| self.raw(setting, interrupted)).into()
    }

    fn raw<'a>(&'a self, setting: Setting, interrupted: &'a AtomicBool) -> Subject<'a> {
        let run = move || {
            check(interrupted)?;
            self.files().map(|path| setting.read(path, self.direct)).sum()
        };
        Subject { name: setting.name(self.direct), bytes: self.file_bytes(), run: Box::new(run) }
    }

    /// Everything with the cache dropped before each run, the disk's best setting first.
    fn cold<'a>(&'a self, interrupted: &'a AtomicBool, best: &str) -> Vec<Subject<'a>> {
        let mut settings = Setting::ALL.into_iter();
        let best = settings.find(|setting| setting.name(self.direct) == best);
        let mut subjects = vec![self.raw(best.unwrap_or(Setting::ALL[0]), interrupted)];
        for (name, run) in self.ways() {
            let run = move || {
                check(interrupted)?;
                self.files().try_for_each(drop_cache)?;
                run(self)
            };
            subjects.push(Subject {
                name: name.into(),
                bytes: self.model.total_bytes(),
                run: Box::new(run),
            });
        }
        subjects
    }

    /// Everything from the page cache, a read and a copy first.
    fn warm<'a>(&'a self, interrupted: &'a AtomicBool) -> Vec<Subject<'a>> {
        let subject = |(name, run): (&'static str, Way)| {
            let run = move || {
                check(interrupted)?;
                run(self)
            };
            Subject { name: name.into(), bytes: self.model.total_bytes(), run: Box::new(run) }
        };
        self.ways().into_iter().rev().map(subject).collect()
    }

    fn ways(&self) -> [(&'static str, Way); 2] {
        [("riverbed load", Self::load), ("read + copy, one thread", Self::read_and_copy)]
    }

    fn load(&self) -> Result<f64, Failure> {
        let mut options = LoadOptions::default();
        if let Some(bytes) = self.ram {
            options.conf = options.conf.with_pinned_limit_bytes(bytes)?;
        }
        let loaded = LoadedModel::load(&self.device, Arc::clone(&self.model), options, |_| true)?;
        Ok(loaded.elapsed().as_secs_f64())
    }

    /// Reads each file piece by piece and copies each piece, one after the other.
    fn read_and_copy(&self) -> Result<f64, Failure> {
        let begun = Instant::now();
        let stream = Stream::new(&self.device, Priority::Normal)?;
        let allocator = Allocator::builder(&self.device).build()?;
        let pinned = PinnedPool::new(&self.device, &"pinned_limit_mb:64".parse()?);
        let transfer = Transfer::new(&self.device)?;
        let buffer = allocator.alloc_dedicated::<u8>(self.file_bytes() as usize, &stream)?;
        let mut done = 0;
        for file in self.model.files() {
            let open = File::open(&file.path).map_err(|error| broken(&file.path, &error))?;
            for at in (0..file.len_bytes).step_by(READ_BYTES as usize) {
                let len = READ_BYTES.min(file.len_bytes - at);
                let mut block = pinned.alloc(len as usize)?;
                open.read_exact_at(&mut block, at).map_err(|error| broken(&file.path, &error))?;
                transfer.upload(block, &buffer, done)?.wait()?;
                done += len;
            }
        }
        Ok(begun.elapsed().as_secs_f64())
    }
}

/// One way to bring the model to the device; gives the seconds it took.
type Way = fn(&Bench) -> Result<f64, Failure>;

fn broken(path: &Path, error: &std::io::Error) -> Failure {
    Failure::from(Error::from(FileError::new(path, error.to_string())))
}
