//! Weights that stay on the device.
#![allow(unsafe_code)]

use std::ops::{Deref, Range};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;

use crate::base::{Error, Result};
use crate::device::Stream;
use crate::pool::{Allocator, Buffer};
use crate::prefetch::{PlannedUnit, Prefetcher, Transform, UnitView};
use crate::transfer::{LoadStatus, Loader, Urgency};
use crate::weights::{Model, Unit, UnitLayout};

/// How often a load is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How far a load has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadProgress {
    /// Bytes on the device, padding between tensors included.
    pub arrived_bytes: u64,
    /// Bytes to load.
    pub total_bytes: u64,
}

/// Tensors of a model in a segment of their own, changed once on arrival if a transform says so,
/// and not written while anybody can see them.
#[derive(Debug)]
pub struct Residents {
    buffer: Buffer<u8>,
    view: UnitView,
    plan: ResidentPlan,
}

/// Where residents come from.
#[derive(Debug)]
pub(super) struct ResidentPlan {
    pub(super) model: Arc<Model>,
    pub(super) unit: Unit,
    pub(super) transform: Option<Arc<dyn Transform>>,
    /// How much device memory may be taken for raw bytes meanwhile, if a transform needs any.
    pub(super) staging_bytes: u64,
}

/// Residents that are loaded at once: consecutive ones.
struct Batch {
    unit: PlannedUnit,
    /// From the residents' start.
    offset_bytes: u64,
}

impl Residents {
    /// Loads the tensors of a plan. Blocks until they are there, or `watch`, called now and
    /// then, says `false`.
    ///
    /// # Errors
    /// No room; what the transform says; a failed read, with file and offset;
    /// [`Error::Cancelled`]; what the driver says.
    pub(super) fn load(
        plan: ResidentPlan,
        allocator: &Allocator,
        loader: &mut Loader,
        watch: impl FnMut(LoadProgress) -> bool,
    ) -> Result<Self> {
        let whole = PlannedUnit::new(&plan.model, &plan.unit, plan.transform.as_ref())?;
        let place_bytes = whole.sizes().place_bytes;
        let len = usize::try_from(place_bytes)
            .map_err(|_| Error::invalid("residents", place_bytes, "they exceed memory"))?;
        let buffer = allocator.alloc_dedicated::<u8>(len, loader.stream())?;
        let view = whole.view(&plan.model, buffer.ptr());
        let residents = Self { buffer, view, plan };
        let staging_bytes = residents.plan.staging_bytes;
        let batches = residents.plan.batches(whole, |_| true, staging_bytes)?;
        let staging = staging_for(&batches, allocator, loader.stream())?;
        let enqueued = residents.enqueue(&batches, staging.as_ref(), loader);
        residents.watch(&batches, enqueued, loader, watch)?;
        Ok(residents)
    }

    /// Loads those that `which` names again, by the ring's loader, for a transform that does
    /// something else from now on. Blocks. The caller's work on them must be over. Gives how many
    /// there were.
    ///
    /// # Errors
    /// As [`load`](Self::load); they are then not to be used.
    pub(super) fn remake(
        &mut self,
        allocator: &Allocator,
        prefetcher: &Prefetcher,
        which: impl Fn(&str) -> bool,
    ) -> Result<usize> {
        let plan = &self.plan;
        let whole = PlannedUnit::new(&plan.model, &plan.unit, plan.transform.as_ref())?;
        let name = |at: usize| &plan.model.tensors()[plan.unit.tensors[at]].name;
        let count = (0..plan.unit.tensors.len()).filter(|&at| which(name(at))).count();
        if count == 0 {
            return Ok(0);
        }
        // Of what nobody has: other memory is not given back for this.
        let room_bytes = allocator.limit_bytes().map_or(u64::MAX, |limit_bytes| {
            limit_bytes.saturating_sub(allocator.stats().reserved_bytes.all.current)
        });
        let staging_bytes = plan.staging_bytes.min(room_bytes);
        let batches = plan.batches(whole, |at| which(name(at)), staging_bytes)?;
        let stream = prefetcher.with_loader(|loader| loader.stream().clone());
        let staging = staging_for(&batches, allocator, &stream)?;
        let enqueued =
            prefetcher.with_loader(|loader| self.enqueue(&batches, staging.as_ref(), loader));
        stream.synchronize()?;
        enqueued?.iter().try_for_each(|status| status.check())?;
        Ok(count)
    }

    /// Enqueues the loads and changes of batches, one after the other.
    fn enqueue(
        &self,
        batches: &[Batch],
        staging: Option<&Buffer<u8>>,
        loader: &mut Loader,
    ) -> Result<Vec<Arc<LoadStatus>>> {
        let stream = loader.stream().clone();
        self.buffer.use_on(&stream)?;
        let mut statuses = Vec::with_capacity(batches.len());
        for Batch { unit, offset_bytes } in batches {
            let place = self.buffer.ptr().offset(*offset_bytes);
            let staging = staging.filter(|_| unit.sizes().staging_bytes > 0);
            let raw = staging.map_or(place, Buffer::ptr);
            let plan = loader.plan(&unit.layout);
            let home = loader.resident_home(&plan);
            // SAFETY: the place lies in the buffer, and raw bytes in a staging part that holds the
            // largest. Both are this stream's, one batch after the other, and outlive what it is
            // given: it allocated the one and is noted to use the other.
            unsafe {
                statuses.push(loader.load(raw, &plan, home.as_ref(), Urgency::Ahead)?);
                unit.enqueue(&self.plan.model, &stream, raw, place)?;
            }
            loader.note_resident(&plan);
        }
        Ok(statuses)
    }

    /// Waits until what was enqueued has run, and tells how far it is.
    fn watch(
        &self,
        batches: &[Batch],
        enqueued: Result<Vec<Arc<LoadStatus>>>,
        loader: &mut Loader,
        mut watch: impl FnMut(LoadProgress) -> bool,
    ) -> Result<()> {
        let stream = loader.stream().clone();
        let total_bytes = batches.iter().map(|batch| batch.unit.sizes().raw_bytes).sum();
        let failure = || match &enqueued {
            Ok(statuses) => statuses.iter().find_map(|status| status.check().err()),
            Err(error) => Some(error.clone()),
        };
        // The stream itself says when it is through, so that nobody looks too late.
        let (through, end) = crossbeam_channel::bounded::<()>(0);
        stream.launch_host(Box::new(move || drop(through)))?;
        while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            let arrived_bytes = loader.arrived_bytes();
            if !watch(LoadProgress { arrived_bytes, total_bytes }) || failure().is_some() {
                loader.cancel();
            }
        }
        stream.synchronize()?;
        failure().map_or(Ok(()), Err)
    }

    /// Enqueues on `stream` the [checksum](crate::device::checksum()) of a range of a tensor's
    /// bytes, written to element `slot` of `out`. Never blocks.
    ///
    /// # Errors
    /// No such tensor, range or slot; what the driver says.
    pub fn checksum(
        &self,
        tensor: &str,
        range: Range<u64>,
        out: &Buffer<u64>,
        slot: usize,
        stream: &Stream,
    ) -> Result<()> {
        let tensor = self.view.tensor(tensor)?;
        if range.start > range.end || range.end > tensor.len_bytes {
            let expected = format!("{} has {} bytes", tensor.name, tensor.len_bytes);
            return Err(Error::invalid("range", format_args!("{range:?}"), expected));
        }
        let offset = tensor.ptr.0 - self.buffer.ptr().0 + range.start;
        self.buffer.checksum(offset, range.end - range.start, out, slot, stream)
    }

    /// The bytes of a tensor as the CPU sees them.
    ///
    /// # Errors
    /// No such tensor; the device's memory is not the CPU's to read.
    pub fn bytes(&self, tensor: &str) -> Result<&[u8]> {
        let info = self.buffer.stream().device().info();
        if !info.host_accessible {
            return Err(Error::Unsupported {
                what: "reading device memory from the CPU".into(),
                by: info.name.clone(),
                way_out: "copy it to the host".into(),
            });
        }
        let tensor = self.view.tensor(tensor)?;
        if tensor.len_bytes == 0 {
            return Ok(&[]);
        }
        // SAFETY: the device's memory is the CPU's to read. The load was waited for by `watch` or `remake`;
        // nothing else writes the buffer, when it is made or for whoever may change it.
        Ok(unsafe {
            std::slice::from_raw_parts(tensor.ptr.0 as *const u8, tensor.len_bytes as usize)
        })
    }
}

impl Deref for Residents {
    type Target = UnitView;

    fn deref(&self) -> &UnitView {
        &self.view
    }
}

/// Room for the raw bytes of the largest batch that needs it.
fn staging_for(
    batches: &[Batch],
    allocator: &Allocator,
    stream: &Stream,
) -> Result<Option<Buffer<u8>>> {
    let bytes = batches.iter().map(|batch| batch.unit.sizes().staging_bytes).max().unwrap_or(0);
    let len = usize::try_from(bytes)
        .map_err(|_| Error::invalid("residents", bytes, "their raw bytes exceed memory"))?;
    if len == 0 { Ok(None) } else { allocator.alloc_dedicated(len, stream).map(Some) }
}

impl ResidentPlan {
    /// The residents that `wanted` names by their number, in as many pieces as staging needs.
    fn batches(
        &self,
        whole: PlannedUnit,
        wanted: impl Fn(usize) -> bool,
        staging_bytes: u64,
    ) -> Result<Vec<Batch>> {
        let count = self.unit.tensors.len();
        if whole.sizes().staging_bytes == 0 && (0..count).all(&wanted) {
            return Ok(vec![Batch { unit: whole, offset_bytes: 0 }]);
        }
        let planned = |tensors: &[usize]| {
            let unit = Unit::of(&self.model, "residents", tensors.to_vec());
            PlannedUnit::new(&self.model, &unit, self.transform.as_ref())
        };
        let (mut batches, mut at) = (Vec::new(), 0);
        while at < count {
            if !wanted(at) {
                at += 1;
                continue;
            }
            let mut unit = planned(&self.unit.tensors[at..=at])?;
            let needed = unit.sizes().staging_bytes;
            if needed > staging_bytes {
                return Err(Error::TooLarge {
                    what: "the raw bytes of a resident that is changed on arrival".into(),
                    requested_bytes: needed,
                    available_bytes: staging_bytes,
                    way_out: "raise the limit, or free memory before they are made again".into(),
                });
            }
            let (first, mut raw_bytes) = (at, unit.layout.len_bytes);
            at += 1;
            while at < count && wanted(at) {
                let more = UnitLayout::new(
                    &self.model,
                    &Unit::of(&self.model, "resident", vec![self.unit.tensors[at]]),
                )?;
                raw_bytes = raw_bytes.saturating_add(more.len_bytes);
                if raw_bytes > staging_bytes {
                    break;
                }
                at += 1;
            }
            if at > first + 1 {
                unit = planned(&self.unit.tensors[first..at])?;
            }
            let offset_bytes = whole.offset_bytes(first).unwrap_or(0);
            batches.push(Batch { unit, offset_bytes });
        }
        Ok(batches)
    }
}
