//! A model that runs under a limit: residents on the device, everything else through the ring.

use std::sync::Arc;

use super::placement::Placement;
use super::residents::Residents;
use crate::base::{MIB, Result};
use crate::conf::{Conf, Pytorch};
use crate::device::{Device, Priority, Stream};
use crate::pinned::PinnedPool;
use crate::pool::Allocator;
use crate::prefetch::{Lease, PassReport, PrefetchOptions, Prefetcher};
use crate::transfer::{Files, Loader, LoaderOptions};
use crate::weights::{Grouping, Model, Unit, UnitLayout};

/// Settings of a [`StreamedModel`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StreamOptions {
    /// The hard limit on device memory: residents, ring, and what the caller allocates.
    pub limit_bytes: u64,
    /// How much of the limit is left to the caller.
    pub working_bytes: u64,
    /// How the ring loads ahead.
    pub prefetch: PrefetchOptions,
    /// How files are read.
    pub loader: LoaderOptions,
    /// Settings of the allocator and the pinned pool, over those of `RIVERBED_ALLOC_CONF`. The
    /// limit above counts beside its own.
    pub conf: Conf,
}

impl StreamOptions {
    /// Defaults under a limit: 2 MiB to work in.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            working_bytes: 2 * MIB,
            prefetch: PrefetchOptions::default(),
            loader: LoaderOptions::default(),
            conf: Conf::default(),
        }
    }
}

/// A model whose layers are streamed through a hard limit.
///
/// ```no_run
/// use std::sync::Arc;
/// use riverbed::device::{Device, Priority, Stream};
/// use riverbed::offload::{StreamOptions, StreamedModel};
/// use riverbed::weights::{Grouping, Model};
///
/// let device = Device::open("host")?;
/// let model = Arc::new(Model::open("model.safetensors")?);
/// let layers = Grouping::by_preset(&model)?;
/// let streamed = StreamedModel::load(&device, model, &layers, StreamOptions::new(64 << 20))?;
/// let stream = Stream::new(&device, Priority::Normal)?;
/// for unit in 0..streamed.units().len() {
///     let lease = streamed.acquire(unit, &stream)?;
///     // enqueue the layer's work on `stream`, with the addresses of `lease.tensors()`
/// }
/// streamed.finish_pass(&stream)?.into_result()?;
/// # Ok::<(), riverbed::Error>(())
/// ```
#[derive(Debug)]
pub struct StreamedModel {
    model: Arc<Model>,
    placement: Placement,
    allocator: Allocator,
    pinned: PinnedPool,
    residents: Option<Residents>,
    prefetcher: Prefetcher,
}

impl StreamedModel {
    /// Places the model, takes its memory and loads the residents. Blocks until these are
    /// there; the layers are not read yet.
    ///
    /// # Errors
    /// A limit that is too small, with one that would do; a pinned budget that is; a file that
    /// cannot be read; what the driver says. Everything taken is given back.
    pub fn load(
        device: &Device,
        model: Arc<Model>,
        grouping: &Grouping,
        options: StreamOptions,
    ) -> Result<Self> {
        let conf = options.conf.over_env(Pytorch::Ignore)?;
        let limit_bytes = options.limit_bytes.min(conf.limit_bytes.unwrap_or(u64::MAX));
        let placement = Placement::new(
            &model,
            grouping,
            limit_bytes.min(device.info().total_bytes),
            options.working_bytes,
            device.info().granularity_bytes,
            options.prefetch.depth,
        )?;
        let pinned = PinnedPool::new(device, &conf);
        let allocator = Allocator::builder(device).conf(conf).limit_bytes(limit_bytes)?.build()?;
        let mut loader = Loader::new(device, &pinned, Files::open(&model)?, options.loader)?;
        let residents = if placement.residents.is_empty() {
            None
        } else {
            let unit = Unit::of(&model, "residents", placement.residents.clone());
            let layout = UnitLayout::new(&model, &unit)?;
            Some(Residents::load(&model, layout, &allocator, &mut loader, |_| true)?)
        };
        let home = Stream::new(device, Priority::Normal)?;
        let ring = allocator.alloc_dedicated::<u8>(placement.ring_bytes as usize, &home)?;
        let prefetcher = Prefetcher::new(
            Arc::clone(&model),
            &placement.streamed,
            ring,
            loader,
            options.prefetch,
        )?;
        Ok(Self { model, placement, allocator, pinned, residents, prefetcher })
    }

    /// Leases streamed unit number `unit`; see [`Prefetcher::acquire`].
    ///
    /// # Errors
    /// As [`Prefetcher::acquire`].
    pub fn acquire(&self, unit: usize, stream: &Stream) -> Result<Lease> {
        self.prefetcher.acquire(unit, stream)
    }

    /// Ends a pass; see [`Prefetcher::finish_pass`]. Blocks.
    ///
    /// # Errors
    /// As [`Prefetcher::finish_pass`].
    pub fn finish_pass(&self, stream: &Stream) -> Result<PassReport> {
        self.prefetcher.finish_pass(stream)
    }

    /// The streamed units, in the order of a pass.
    #[must_use]
    pub fn units(&self) -> &[Unit] {
        &self.placement.streamed
    }

    /// What stays on the device, if anything does.
    #[must_use]
    pub fn residents(&self) -> Option<&Residents> {
        self.residents.as_ref()
    }

    /// What lives where.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
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

    /// The pinned pool weights pass through.
    #[must_use]
    pub fn pinned(&self) -> &PinnedPool {
        &self.pinned
    }

    /// The ring.
    #[must_use]
    pub fn prefetcher(&self) -> &Prefetcher {
        &self.prefetcher
    }
}
