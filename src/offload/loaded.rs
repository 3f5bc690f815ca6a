//! A whole model on the device: the baseline for everything that streams.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::changes::Changes;
use super::residents::{LoadProgress, ResidentPlan, Residents};
use crate::base::{Error, Result, align_up};
use crate::conf::{Conf, Pytorch};
use crate::device::Device;
use crate::pinned::PinnedPool;
use crate::pool::Allocator;
use crate::prefetch::{ArrivalOptions, Transform, UnitSizes};
use crate::transfer::{DiskReport, Files, Loader, LoaderOptions};
use crate::weights::{Model, Unit};

/// Settings of a [`LoadedModel`].
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The hard limit on device memory, in bytes; `None` is all of the device.
    pub limit_bytes: Option<u64>,
    /// How files are read.
    pub loader: LoaderOptions,
    /// Settings of the allocator and the pinned pool, over those of `RIVERBED_ALLOC_CONF`. The
    /// limit above counts beside its own.
    pub conf: Conf,
    /// What becomes of tensors on the device.
    pub arrival: ArrivalOptions,
    /// A transform of the caller's own, in place of `arrival`.
    pub transform: Option<Arc<dyn Transform>>,
}

/// Every tensor of a model in device memory, in one segment, each aligned to
/// [`ALIGN_BYTES`](crate::weights::ALIGN_BYTES).
///
/// ```no_run
/// use std::sync::Arc;
/// use riverbed::device::Device;
/// use riverbed::offload::{LoadOptions, LoadedModel};
/// use riverbed::weights::Model;
///
/// let device = Device::open("host")?;
/// let model = Arc::new(Model::open("model.safetensors")?);
/// let loaded = LoadedModel::load(&device, model, LoadOptions::default(), |progress| {
///     eprintln!("{} of {} bytes", progress.arrived_bytes, progress.total_bytes);
///     true
/// })?;
/// let weight = loaded.tensors().tensor("embed.weight")?;
/// println!("{:?}: {} bytes", weight.ptr, weight.len_bytes);
/// # Ok::<(), riverbed::Error>(())
/// ```
#[derive(Debug)]
pub struct LoadedModel {
    model: Arc<Model>,
    tensors: Residents,
    allocator: Allocator,
    pinned: PinnedPool,
    elapsed: Duration,
    link_busy: Duration,
    disk: DiskReport,
}

impl LoadedModel {
    /// Loads all of `model` in one pass over its files, in file order, through a pinned window.
    /// Blocks until it is there. `watch` is called on this thread now and then; when it says
    /// `false`, loading ends with [`Error::Cancelled`].
    ///
    /// # Errors
    /// A model that does not fit in the limit; a pinned budget without room for a window; a file
    /// that cannot be read, with the offset; what the driver says. Everything taken is given
    /// back.
    pub fn load(
        device: &Device,
        model: Arc<Model>,
        options: LoadOptions,
        watch: impl FnMut(LoadProgress) -> bool,
    ) -> Result<Self> {
        let begun = Instant::now();
        let conf = options.conf.over_env(Pytorch::Ignore)?;
        let total_bytes = device.info().total_bytes;
        let limit_bytes = [options.limit_bytes, conf.limit_bytes, Some(total_bytes)];
        let limit_bytes = limit_bytes.into_iter().flatten().min().unwrap_or(total_bytes);
        let changes = Changes::new(&model, options.arrival, options.transform)?;
        let (unit, transform) = (Unit::whole(&model), changes.transform());
        let place_bytes = UnitSizes::of(&model, &unit, transform.as_ref())?.place_bytes;
        let pages = |bytes| align_up(bytes, device.info().granularity_bytes).unwrap_or(u64::MAX);
        let needed_bytes = match changes.device_bytes() {
            0 => place_bytes,
            factors_bytes => place_bytes.saturating_add(pages(factors_bytes)),
        };
        if needed_bytes > limit_bytes {
            return Err(Error::TooLarge {
                what: "the whole model".into(),
                requested_bytes: needed_bytes,
                available_bytes: limit_bytes,
                way_out: "stream it (StreamedModel, or 'riverbed stream --vram ...')".into(),
            });
        }
        let pinned = PinnedPool::new(device, &conf);
        let allocator = Allocator::builder(device).conf(conf).limit_bytes(limit_bytes)?.build()?;
        let mut loader = Loader::new(device, &pinned, Files::open(&model)?, options.loader)?;
        changes.settle(&allocator, &pinned)?;
        // What a transform reads from, a tensor or several at a time, goes when it has run.
        let staging_bytes = limit_bytes.saturating_sub(pages(needed_bytes));
        let plan = ResidentPlan { model: Arc::clone(&model), unit, transform, staging_bytes };
        let tensors = Residents::load(plan, &allocator, &mut loader, watch)?;
        let link_busy = Duration::from_nanos(loader.busy_ns());
        let (disk, elapsed) = (loader.disk().clone(), begun.elapsed());
        Ok(Self { model, tensors, allocator, pinned, elapsed, link_busy, disk })
    }

    /// The tensors by name, with their addresses.
    #[must_use]
    pub fn tensors(&self) -> &Residents {
        &self.tensors
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The allocator that holds the limit: take working memory from it.
    #[must_use]
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// The pinned pool the weights passed through.
    #[must_use]
    pub fn pinned(&self) -> &PinnedPool {
        &self.pinned
    }

    /// How long loading took, from the call to the last byte on the device.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// How its files were read, and why so.
    #[must_use]
    pub fn disk(&self) -> &DiskReport {
        &self.disk
    }

    /// For how much of that the link was busy.
    #[must_use]
    pub fn link_busy(&self) -> Duration {
        self.link_busy
    }
}
