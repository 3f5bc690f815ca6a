//! A model that runs under a limit: residents on the device, everything else through the ring.

use std::collections::HashSet;
use std::sync::Arc;

use super::changes::{Changes, Repatched};
use super::placement::Placement;
use super::residents::{ResidentPlan, Residents};
use crate::base::{Error, MIB, Result, align_up};
use crate::conf::{Conf, Pytorch};
use crate::device::{Device, Priority, Stream};
use crate::pinned::PinnedPool;
use crate::pool::Allocator;
use crate::prefetch::{
    Arrival, ArrivalOptions, Lease, PassReport, PrefetchOptions, Prefetcher, Transform,
};
use crate::transfer::{Files, Loader, LoaderOptions, RamCache, RamLease};
use crate::weights::{Grouping, Model, Unit};

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
    /// What becomes of tensors on the device, streamed and resident ones alike. Factors of LoRAs
    /// stay on the device, within the limit.
    pub arrival: ArrivalOptions,
    /// A transform of the caller's own, in place of `arrival`.
    pub transform: Option<Arc<dyn Transform>>,
    /// A cache of weights in host memory, shared with other models and devices, and what this
    /// model is called there. Its pinned pool is used, and the model is in use there for as long
    /// as it is loaded.
    pub ram: Option<(RamCache, String)>,
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
            arrival: ArrivalOptions::default(),
            transform: None,
            ram: None,
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
    changes: Changes,
    _in_use: Option<RamLease>,
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
        let changes = Changes::new(&model, options.arrival, options.transform)?;
        let transform = changes.transform();
        let page_bytes = device.info().granularity_bytes;
        let factors_bytes = align_up(changes.device_bytes(), page_bytes).unwrap_or(u64::MAX);
        let mut placement = Placement::with_transform(
            (&model, grouping),
            limit_bytes.min(device.info().total_bytes),
            options.working_bytes.saturating_add(factors_bytes),
            page_bytes,
            options.prefetch.depth,
            transform.as_ref(),
        )?;
        placement.working_bytes = placement.working_bytes.saturating_sub(factors_bytes);
        let ram = options.ram.as_ref().map(|(cache, name)| (cache, name.as_str()));
        let pinned = match ram {
            Some((cache, _)) => cache.pinned(device, &conf),
            None => PinnedPool::new(device, &conf),
        };
        let in_use = ram.map(|(cache, name)| cache.begin(name));
        let allocator = Allocator::builder(device).conf(conf).limit_bytes(limit_bytes)?.build()?;
        changes.settle(&allocator, &pinned)?;
        let files = Files::open(&model)?;
        let mut loader = match ram {
            Some(ram) => Loader::with_ram(device, &pinned, files, options.loader, ram)?,
            None => Loader::new(device, &pinned, files, options.loader)?,
        };
        let residents = if placement.residents.is_empty() {
            None
        } else {
            let plan = ResidentPlan {
                model: Arc::clone(&model),
                unit: Unit::of(&model, "residents", placement.residents.clone()),
                transform: transform.clone(),
                // The ring is taken after them.
                staging_bytes: placement.ring_bytes,
            };
            Some(Residents::load(plan, &allocator, &mut loader, |_| true)?)
        };
        let home = Stream::new(device, Priority::Normal)?;
        let ring = allocator.alloc_dedicated::<u8>(placement.ring_bytes as usize, &home)?;
        let (units, prefetch) = (&placement.streamed, options.prefetch);
        let prefetcher = match &transform {
            Some(transform) => Prefetcher::with_transform(
                Arc::clone(&model),
                units,
                ring,
                loader,
                prefetch,
                transform,
            )?,
            None => Prefetcher::new(Arc::clone(&model), units, ring, loader, prefetch)?,
        };
        Ok(Self {
            model,
            placement,
            allocator,
            pinned,
            residents,
            prefetcher,
            changes,
            _in_use: in_use,
        })
    }

    /// What happens to weights on arrival, if `arrival` was asked for.
    #[must_use]
    pub fn arrival(&self) -> Option<&Arc<Arrival>> {
        self.changes.arrival()
    }

    /// Changes the strength of a LoRA between passes: 0 takes it away. Streamed units that are
    /// in the ring are loaded again before their next use, and residents it is for at once: from
    /// their files or the page cache. Blocks until the residents are there. Work on residents must
    /// be over; units that are leased keep what they have, and are counted.
    ///
    /// # Errors
    /// As [`Arrival::set_strength`]; residents that cannot be loaded again (they are then not to
    /// be used).
    pub fn set_lora_strength(&mut self, lora: &str, strength: f32) -> Result<Repatched> {
        let Some(arrival) = self.changes.arrival() else {
            return Err(Error::invalid("LoRA", lora, "there are none"));
        };
        if arrival.strengths().iter().any(|(name, old)| name == lora && *old == strength) {
            return Ok(Repatched::default());
        }
        arrival.set_strength(lora, strength)?;
        let patched: HashSet<&str> = arrival.patched_by(lora).collect();
        let (tensors, units) = (self.model.tensors(), &self.placement.streamed);
        let is_patched = |unit: &Unit| {
            unit.tensors.iter().any(|&tensor| patched.contains(&tensors[tensor].name[..]))
        };
        let ring = self.prefetcher.forget(|unit| units.get(unit).is_some_and(is_patched))?;
        let residents = match &mut self.residents {
            Some(residents) => residents
                .remake(&self.allocator, &self.prefetcher, |name| patched.contains(name))?,
            None => 0,
        };
        Ok(Repatched { residents, ring })
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
