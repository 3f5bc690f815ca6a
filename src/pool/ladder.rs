//! The ladder a request climbs: cached blocks, garbage, growth, room made by the policy, and
//! on the last rung the host waits for the streams, searches again, gives everything cached
//! back and grows.

use std::sync::{Arc, MutexGuard};

use super::allocator::Shared;
use super::core::{Core, KEPT_CLASS};
use crate::base::{Error, OutOfMemory, Result, align_up, format_bytes, lock, wait};
use crate::device::{DevicePtr, Stream};
use crate::event::TraceEvent;
use crate::fence::StreamKey;
use crate::policy::{Pressure, Request};

/// How a request is served when nothing cached fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// By the policy, cached and split.
    Policy,
    /// By a segment of its own, rounded to the device's granularity alone.
    Dedicated,
}

impl Shared {
    /// Serves a request for `bytes` (above 0), or says why not.
    pub(super) fn allocate(
        self: &Arc<Self>,
        bytes: u64,
        stream: &Stream,
        placement: Placement,
    ) -> Result<DevicePtr> {
        self.device.same_as(stream.device(), "stream")?;
        let mut core = self.enter();
        let Some((request, segment_bytes)) = self.request(&core, bytes, stream, placement) else {
            return Err(self.refuse(&mut core, bytes, bytes, stream));
        };
        let reuse = |core: &mut Core| match placement {
            Placement::Policy => core.reuse(&request),
            Placement::Dedicated => None,
        };
        if let Some(ptr) = reuse(&mut core) {
            return Ok(ptr);
        }
        let mut tried = vec!["cached blocks".to_string()];
        if segment_bytes > self.most_bytes() {
            return Err(self.refuse(&mut core, bytes, segment_bytes, stream));
        }
        if self.conf.throw_on_cudamalloc_oom && self.is_over_limit(&core, segment_bytes) {
            core.stats.num_oom_rejections += 1;
            tried.push("nothing more, as throw_on_cudamalloc_oom asks".into());
            return Err(self.out_of_memory(&mut core, &request, segment_bytes, tried));
        }
        if let Some(limit_bytes) = self.limit_bytes {
            let pressure = Pressure { reserved_bytes: core.reserved_bytes(), limit_bytes };
            let Core { policy, ledger, .. } = &mut *core;
            let garbage = policy.garbage(ledger, &pressure);
            core = self.release(core, garbage);
        }
        if let Some(ptr) = self.grow(&mut core, stream, &request, segment_bytes, placement)? {
            return Ok(ptr);
        }
        tried.push(format!("a segment of {}", format_bytes(segment_bytes)));

        let Core { policy, ledger, .. } = &mut *core;
        let room = policy.make_room(ledger, &request, segment_bytes);
        if !room.is_empty() {
            tried.push(format!("releasing {} oversize segment(s)", room.len()));
            core = self.release(core, room);
            if let Some(ptr) = self.grow(&mut core, stream, &request, segment_bytes, placement)? {
                return Ok(ptr);
            }
        }

        tracing::debug!(bytes, reserved_bytes = core.reserved_bytes(), "waiting for streams");
        // The last rung. The host waits, without the lock: what the streams run may need it.
        core.stats.num_alloc_retries += 1;
        core.stats.num_sync_all_streams += 1;
        let pending = core.retired.pending();
        tried.push(format!("waiting for {} stream(s)", pending.len()));
        drop(core);
        for event in pending {
            event.synchronize()?;
        }
        core = self.enter();
        if let Some(ptr) = reuse(&mut core) {
            return Ok(ptr);
        }
        let cached = core.releasable();
        tried.push(format!("releasing all {} cached segment(s)", cached.len()));
        core = self.release(core, cached);
        core = self.wait_released(core);
        if let Some(ptr) = reuse(&mut core) {
            return Ok(ptr);
        }
        if let Some(ptr) = self.grow(&mut core, stream, &request, segment_bytes, placement)? {
            return Ok(ptr);
        }
        Err(self.out_of_memory(&mut core, &request, segment_bytes, tried))
    }

    /// The request as the policy sizes it, with the segment it needs; `None` if too large to
    /// be counted.
    fn request(
        &self,
        core: &Core,
        bytes: u64,
        stream: &Stream,
        placement: Placement,
    ) -> Option<(Request, u64)> {
        let key = StreamKey::of(stream).raw();
        let granularity = self.device.info().granularity_bytes;
        match placement {
            Placement::Policy => {
                let request = core.policy.request(bytes, key)?;
                // A policy may be anybody's: a request it makes smaller is refused.
                let sound = request.requested_bytes == bytes
                    && request.block_bytes >= bytes
                    && request.stream == key
                    && request.class < KEPT_CLASS;
                let wanted_bytes = core.policy.segment_bytes(&request).max(request.block_bytes);
                // What the device really takes counts against the limit.
                let segment_bytes = align_up(wanted_bytes, granularity).unwrap_or(u64::MAX);
                sound.then_some((request, segment_bytes))
            }
            Placement::Dedicated => align_up(bytes, granularity).map(|block_bytes| {
                let request =
                    Request { requested_bytes: bytes, block_bytes, class: 0, stream: key };
                (request, block_bytes)
            }),
        }
    }

    /// The error for a request that no freeing could serve, counted and shown.
    #[cold]
    fn refuse(&self, core: &mut Core, bytes: u64, segment_bytes: u64, stream: &Stream) -> Error {
        core.stats.num_ooms += 1;
        self.note_failure(core, bytes, StreamKey::of(stream).raw());
        self.too_large(bytes, segment_bytes)
    }

    /// Shows a failed request to the recorder; gives what the device has free.
    fn note_failure(&self, core: &Core, requested_bytes: u64, stream: u64) -> u64 {
        let device_free_bytes = self.device.memory().map_or(0, |memory| memory.free_bytes);
        core.note(|| TraceEvent::OutOfMemory { requested_bytes, device_free_bytes, stream });
        device_free_bytes
    }

    fn too_large(&self, requested_bytes: u64, segment_bytes: u64) -> Error {
        Error::TooLarge {
            what: format!(
                "{}: a request for {}",
                self.device.info().name,
                format_bytes(requested_bytes)
            ),
            requested_bytes: segment_bytes,
            available_bytes: self.most_bytes(),
            way_out: match self.limit_bytes {
                Some(_) => "raise the limit or ask for less".into(),
                None => "ask for less or take a larger device".into(),
            },
        }
    }

    /// The most that could ever be reserved.
    fn most_bytes(&self) -> u64 {
        self.device.info().total_bytes.min(self.limit_bytes.unwrap_or(u64::MAX))
    }

    fn is_over_limit(&self, core: &Core, segment_bytes: u64) -> bool {
        self.limit_bytes
            .is_some_and(|limit| core.reserved_bytes().saturating_add(segment_bytes) > limit)
    }

    /// Grows within the limit; `None` if limit or device say "full".
    fn grow(
        &self,
        core: &mut Core,
        stream: &Stream,
        request: &Request,
        segment_bytes: u64,
        placement: Placement,
    ) -> Result<Option<DevicePtr>> {
        if self.is_over_limit(core, segment_bytes) {
            return Ok(None);
        }
        let grown = match placement {
            Placement::Policy => core.grow(&self.device, stream, request, segment_bytes),
            Placement::Dedicated => core.grow_dedicated(&self.device, stream, request),
        };
        match grown {
            Ok(ptr) => Ok(Some(ptr)),
            Err(Error::Device(error)) if error.is_out_of_memory() => Ok(None),
            Err(error) => Err(error),
        }
    }

    #[cold]
    fn out_of_memory(
        &self,
        core: &mut Core,
        request: &Request,
        segment_bytes: u64,
        tried: Vec<String>,
    ) -> Error {
        core.stats.num_ooms += 1;
        let totals = core.ledger.totals();
        let device_free_bytes = self.note_failure(core, request.requested_bytes, request.stream);
        Error::OutOfMemory(Box::new(OutOfMemory {
            device: self.device.info().name.clone(),
            requested_bytes: request.requested_bytes,
            segment_bytes,
            limit_bytes: self.limit_bytes,
            reserved_bytes: core.reserved_bytes(),
            active_bytes: totals.active_bytes,
            retired_bytes: totals.retired_bytes,
            largest_free_bytes: core.ledger.largest_free_bytes(request.class, request.stream),
            device_free_bytes,
            tried,
        }))
    }

    /// The lock, with everything done that others left to be done: frees from other threads,
    /// and blocks whose uses are over.
    pub(super) fn enter(self: &Arc<Self>) -> MutexGuard<'_, Core> {
        let mut core = lock(&self.core);
        self.drain_mailbox(&mut core);
        core.poll(&self.events);
        self.reap_dedicated(&mut core);
        core
    }

    /// Waits until every segment on its way back to the driver has arrived.
    pub(super) fn wait_released<'a>(&self, mut core: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
        while core.releasing_bytes > 0 {
            core = wait(&self.released, core);
        }
        core
    }
}
