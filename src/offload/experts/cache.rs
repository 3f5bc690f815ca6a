//! The cache of experts as its users see it.

use std::sync::{Arc, Mutex, MutexGuard};

use super::lease::ExpertLease;
use super::slots::{Expert, ExpertStats, Layer, Slots, too_small};
use crate::base::{Error, Result, lock, sync::try_lock};
use crate::device::{Event, Stream};
use crate::fence::EventPool;
use crate::pool::{Allocator, Buffer};
use crate::transfer::{Loader, Urgency};
use crate::weights::{ExpertLayer, Model, UnitLayout};

/// Settings of an [`ExpertCache`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpertOptions {
    /// The device memory it may take, in bytes, of the allocator's limit. It is taken at once, and
    /// never more.
    pub bytes: u64,
    /// Keep experts in pinned memory after their first read, as far as the pinned budget (and the
    /// loader's [cache](crate::offload::RamCache)) goes.
    pub keep_in_ram: bool,
}

impl ExpertOptions {
    /// So many bytes of device memory, and experts kept in host memory.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self { bytes, keep_in_ram: true }
    }

    /// The same, with experts kept in host memory or read from their files whenever they come.
    #[must_use]
    pub fn keep_in_ram(mut self, keeps: bool) -> Self {
        self.keep_in_ram = keeps;
        self
    }
}

/// Experts on the device: those that are routed to most stay, in slots of one size, taken at once.
/// A miss gives up the expert that is worth least: by how often it was routed to, the latest times
/// counting most. Clones share it. Methods may be called from any thread; none blocks, and no host
/// waits for a device.
///
/// For each layer of a token: [`acquire`](Self::acquire) the experts it is routed to, and have
/// those of a later layer [loaded ahead](Self::load_ahead) meanwhile, as the token before used
/// them.
///
/// ```no_run
/// # fn main() -> riverbed::Result<()> {
/// # use std::sync::Arc;
/// # use riverbed::{device::{Device, Priority, Stream}, pinned::PinnedPool, pool::Allocator};
/// # use riverbed::offload::{ExpertCache, ExpertOptions};
/// # use riverbed::transfer::{Files, Loader, LoaderOptions};
/// # use riverbed::weights::Model;
/// let device = Device::open("host")?;
/// let model = Arc::new(Model::open("mixture.gguf")?.with_experts_apart());
/// let layers = model.expert_layers()?;
/// let allocator = Allocator::builder(&device).limit_bytes(2 << 30)?.build()?;
/// let pinned = PinnedPool::new(&device, allocator.conf());
/// let loader = Loader::new(&device, &pinned, Files::open(&model)?, LoaderOptions::default())?;
/// let options = ExpertOptions::new(1 << 30);
/// let experts = ExpertCache::new(model, &layers, &allocator, loader, options)?;
/// let stream = Stream::new(&device, Priority::Normal)?;
/// let lease = experts.acquire(0, 7, &stream)?;
/// experts.load_ahead(1)?;
/// // enqueue the expert's work on `stream`, with the addresses of `lease.tensors()`
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ExpertCache(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) memory: Buffer<u8>,
    pub(super) events: EventPool,
    slots: Mutex<Slots>,
    /// Ends of leases that were dropped while the lock was taken: whoever holds it next takes them
    /// back. Held for a push or a swap only.
    returned: Mutex<Vec<(usize, Event)>>,
}

impl ExpertCache {
    /// An empty cache for the experts of `layers`, of `model`. Experts of which some are larger
    /// than others have slots of the largest one's size.
    ///
    /// # Errors
    /// No experts; a budget smaller than one; a limit that leaves less than the budget; what the
    /// driver says.
    pub fn new(
        model: Arc<Model>,
        layers: &[ExpertLayer],
        allocator: &Allocator,
        mut loader: Loader,
        options: ExpertOptions,
    ) -> Result<Self> {
        let layers = layers.iter().map(|layer| plan(&model, layer, &loader));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let experts = || layers.iter().flat_map(|layer| &layer.experts);
        let slot_bytes = experts().map(|expert| expert.layout.len_bytes).max().unwrap_or(0);
        if slot_bytes == 0 || layers.iter().any(|layer| layer.experts.is_empty()) {
            let expected = "give layers with experts, and experts with bytes";
            return Err(Error::invalid("layers", layers.len(), expected));
        }
        // The allocator takes whole pages for it.
        let page_bytes = allocator.device().info().granularity_bytes.max(1);
        let usable_bytes = options.bytes / page_bytes * page_bytes;
        let count = experts().count() as u64;
        let slots = usize::try_from((usable_bytes / slot_bytes).min(count)).unwrap_or(usize::MAX);
        if slots == 0 {
            return Err(too_small(slot_bytes, options.bytes, page_bytes));
        }
        let copies = experts().map(|expert| expert.plan.copies()).max().unwrap_or(1);
        loader.reserve(slots, slots.saturating_mul(copies))?;
        let home = loader.stream().clone();
        let memory = allocator.alloc_dedicated::<u8>(slot_bytes as usize * slots, &home)?;
        memory.record_use(loader.stream_for(Urgency::Demand))?;
        let events = EventPool::new(allocator.device());
        let places = (memory.ptr(), slot_bytes, slots);
        let slots = Slots::new(model, layers, places, loader, options.keep_in_ram)?;
        let (slots, returned) = (Mutex::new(slots), Mutex::default());
        Ok(Self(Arc::new(Shared { memory, events, slots, returned })))
    }

    /// Leases an expert of a layer (both by their place in the layers given) for work on `stream`:
    /// what is enqueued there from now on finds its weights. Counts as one use of it. The host does
    /// not wait; the stream does, on the device.
    ///
    /// # Errors
    /// No such layer or expert; [`Error::RingHeld`] when every slot is leased; a load already known
    /// to have failed (asking again tries again); another device; what the driver says.
    pub fn acquire(&self, layer: usize, expert: usize, stream: &Stream) -> Result<ExpertLease> {
        let shared = &self.0;
        shared.memory.stream().device().same_as(stream.device(), "stream")?;
        shared.memory.record_use(stream)?;
        let granted = shared.enter().lease(layer, expert, stream, &shared.events)?;
        Ok(ExpertLease {
            shared: Arc::clone(shared),
            slot: granted.slot,
            view: granted.view,
            status: granted.status,
            stream: stream.clone(),
        })
    }

    /// Loads what the token before used of a layer, and is not there, into slots of what is worth
    /// less; gives how many loads were begun.
    ///
    /// # Errors
    /// No such layer; what the driver says.
    pub fn load_ahead(&self, layer: usize) -> Result<usize> {
        self.0.enter().load_ahead(layer, &self.0.events)
    }

    /// Waits until all memory that experts are to be kept in is pinned or refused. Blocks.
    pub fn wait_for_homes(&self) {
        let pinner = Arc::clone(self.0.enter().loader().pinner());
        pinner.wait();
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> ExpertStats {
        self.0.enter().stats()
    }

    /// Proves that the books agree.
    ///
    /// # Errors
    /// What does not agree; that is a defect of this crate.
    pub fn check(&self) -> Result<(), String> {
        self.0.enter().check()
    }
}

fn plan(model: &Model, layer: &ExpertLayer, loader: &Loader) -> Result<Layer> {
    let experts = layer.experts.iter().map(|unit| {
        let layout = UnitLayout::new(model, unit)?;
        let plan = loader.plan(&layout);
        Ok(Expert { name: unit.name.clone(), layout, plan, home: None, slot: None })
    });
    Ok(Layer::new(experts.collect::<Result<_>>()?))
}

impl Shared {
    /// The lock, with returned leases taken back.
    fn enter(&self) -> MutexGuard<'_, Slots> {
        let mut slots = lock(&self.slots);
        self.take_back(&mut slots);
        slots
    }

    fn take_back(&self, slots: &mut Slots) {
        let returned = std::mem::take(&mut *lock(&self.returned));
        for (slot, end) in returned {
            slots.give_back(slot, end, &self.events);
        }
    }

    /// Takes the end of a lease back without ever waiting.
    pub(super) fn give_back(&self, slot: usize, end: Event) {
        lock(&self.returned).push((slot, end));
        if let Some(mut slots) = try_lock(&self.slots) {
            self.take_back(&mut slots);
        }
    }
}
