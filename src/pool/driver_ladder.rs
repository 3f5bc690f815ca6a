//! The ladder under `policy:mempool`: ask the driver's pool; then wait for the stream's frees and
//! trim the pool, for what is cached in pieces goes back to the device and comes again in one;
//! then ask for what callbacks free; then do the same as for the stream for every stream.

use std::sync::Arc;

use super::allocator::Inner;
use super::driver_pool::DriverPool;
use super::heap::{DEDICATED_CLASS, Heap};
use super::ladder::{Growth, Placement, Served};
use super::reclaim::may_go;
use crate::base::{Error, Result, align_up};
use crate::device::Stream;
use crate::fence::StreamKey;
use crate::policy::Request;

impl Inner {
    /// Serves `request` from the driver's pool, or says why not.
    pub(super) fn climb_driver_pool<'a>(
        &'a self,
        pool: &DriverPool,
        heap: &'a Arc<Heap>,
        request: Request,
        stream: &Stream,
    ) -> Result<Served<'a>> {
        let shared = &self.shared;
        if StreamKey::is_per_thread(stream) {
            return Err(Error::Unsupported {
                what: "the per-thread default stream".into(),
                by: "policy:mempool".into(),
                way_out: "what another thread frees would be freed on its own stream: make a \
                          stream, or choose policy:caching"
                    .into(),
            });
        }
        let Request { requested_bytes, block_bytes, .. } = request;
        // The pool holds whole pages, which count against the limit.
        let held_bytes = align_up(block_bytes, shared.device.info().granularity_bytes);
        if held_bytes.is_none_or(|bytes| bytes > shared.most_bytes()) {
            let needed_bytes = held_bytes.unwrap_or(u64::MAX);
            return Err(self.refuse(requested_bytes, needed_bytes, heap.enter()?.key));
        }
        let request = Request { class: DEDICATED_CLASS, ..request };
        let growth = Growth {
            request,
            segment_bytes: block_bytes,
            placement: Placement::Dedicated,
            maps: false,
        };
        self.return_finished(heap)?;
        if let Some(served) = self.grow(heap, stream, &growth)? {
            return Ok(served);
        }
        self.last_rungs(pool, heap, stream, &growth)
    }

    #[cold]
    fn last_rungs<'a>(
        &'a self,
        pool: &DriverPool,
        heap: &'a Arc<Heap>,
        stream: &Stream,
        growth: &Growth,
    ) -> Result<Served<'a>> {
        let shared = &self.shared;
        let mut tried = vec!["the driver's pool".to_string()];
        shared.count(|stats| stats.num_alloc_retries += 1);
        self.wait_for_frees(pool, &[heap.number])?;
        pool.trim()?;
        tried.push("waiting for the stream and trimming the pool".into());
        if let Some(served) = self.grow(heap, stream, growth)? {
            return Ok(served);
        }
        if let Some(served) = self.ask_callbacks(heap, stream, growth, &mut tried)? {
            return Ok(served);
        }
        shared.count(|stats| stats.num_sync_all_streams += 1);
        let waited = self.wait_for_retired()?;
        self.return_all_finished()?;
        let waited = waited + self.wait_for_frees(pool, &pool.freed_on())?;
        self.release_cached(may_go, None);
        shared.wait_released();
        pool.trim()?;
        tried.push(format!("waiting for {waited} stream(s) and trimming again"));
        if let Some(served) = self.grow(heap, stream, growth)? {
            return Ok(served);
        }
        Err(self.out_of_memory(heap, growth, tried))
    }

    /// Gives what the pool does not use back to the device, waiting for the streams it was freed
    /// on and for those that still use it. Gives the bytes released.
    pub(super) fn trim_driver_pool(&self, pool: &DriverPool) -> u64 {
        let before = pool.reserved_bytes();
        let trimmed = self.wait_for_retired().and_then(|_| {
            self.return_all_finished()?;
            self.release_cached(may_go, None);
            self.wait_for_frees(pool, &pool.freed_on())?;
            Ok(pool.trim()?)
        });
        if let Err(error) = trimmed {
            tracing::warn!(%error, "the driver's pool was not trimmed");
        }
        before.saturating_sub(pool.reserved_bytes())
    }

    /// Waits until the frees on the streams of `heaps` have run. Gives how many were waited for.
    fn wait_for_frees(&self, pool: &DriverPool, heaps: &[u32]) -> Result<usize> {
        let mut waited = 0;
        for &number in heaps {
            // Noted anew by whatever is freed while this waits.
            if !pool.take_freed_on(number) {
                continue;
            }
            let Some(heap) = self.heaps.get(number) else { continue };
            let Some(stream) = heap.enter()?.stream.clone() else { continue };
            stream.synchronize().inspect_err(|_| pool.note_freed_on(number))?;
            waited += 1;
        }
        Ok(waited)
    }

    /// Gives blocks that are out of use back to the pool.
    fn return_finished(&self, heap: &Arc<Heap>) -> Result<()> {
        let mut state = heap.enter()?;
        state.poll(&self.shared);
        if state.finished {
            heap.reap_finished(&mut state);
        }
        Ok(())
    }

    fn return_all_finished(&self) -> Result<()> {
        self.heaps.all().try_for_each(|heap| self.return_finished(heap))
    }
}
