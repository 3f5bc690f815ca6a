//! Requests that fail: counted, shown, and put into words.

use super::allocator::Inner;
use super::heap::{Heap, HeapState};
use super::hooks::Shortage;
use super::ladder::Growth;
use super::reclaim::may_go;
use crate::base::{BiasedGuard, Error, MIB, OutOfMemory, format_bytes};
use crate::conf::EXPANDABLE;
use crate::event::TraceEvent;
use crate::policy::{Request, names};

impl Inner {
    /// The error for a request that no freeing could serve, counted and shown.
    #[cold]
    pub(super) fn refuse(&self, requested_bytes: u64, segment_bytes: u64, stream: u64) -> Error {
        let shared = &self.shared;
        shared.count(|stats| stats.num_ooms += 1);
        self.note_failure(requested_bytes, stream);
        let error = Error::TooLarge {
            what: format!(
                "{}: a request for {}",
                shared.device.info().name,
                format_bytes(requested_bytes)
            ),
            requested_bytes: segment_bytes,
            available_bytes: shared.most_bytes(),
            way_out: match shared.limit_bytes {
                Some(_) => "raise the limit or ask for less".into(),
                None => "ask for less or take a larger device".into(),
            },
        };
        shared.hooks.tell(|| self.shortage(requested_bytes, segment_bytes, stream), &error);
        error
    }

    /// What callbacks and observers are told.
    pub(super) fn shortage(
        &self,
        requested_bytes: u64,
        segment_bytes: u64,
        stream: u64,
    ) -> Shortage {
        let shared = &self.shared;
        let info = shared.device.info();
        Shortage {
            device: info.name.clone(),
            requested_bytes,
            segment_bytes,
            allowed_bytes: shared.limit_bytes.unwrap_or(info.total_bytes),
            device_free_bytes: shared.device.memory().map_or(0, |memory| memory.free_bytes),
            stream,
        }
    }

    /// Shows a failed request to the recorder; gives what the device has free.
    fn note_failure(&self, requested_bytes: u64, stream: u64) -> u64 {
        let shared = &self.shared;
        let device_free_bytes = shared.device.memory().map_or(0, |memory| memory.free_bytes);
        shared.note(|| TraceEvent::OutOfMemory { requested_bytes, device_free_bytes, stream });
        device_free_bytes
    }

    #[cold]
    pub(super) fn out_of_memory(
        &self,
        heap: &Heap,
        growth: &Growth,
        mut tried: Vec<String>,
    ) -> Error {
        let shared = &self.shared;
        tried.extend(shared.take_refusal());
        shared.count(|stats| stats.num_ooms += 1);
        let Request { requested_bytes, class, .. } = growth.request;
        let (stream, largest_free_bytes) = heap
            .enter()
            .map_or((0, 0), |state| (state.key, state.ledger.largest_free_bytes(class)));
        let device_free_bytes = self.note_failure(requested_bytes, stream);
        let stats = self.stats();
        let lifetimes = shared
            .lifetimes()
            .into_iter()
            .map(|one| (one.lifetime.to_string(), one.allocated_bytes.current));
        let mut short = OutOfMemory {
            device: shared.device.info().name.clone(),
            requested_bytes,
            segment_bytes: growth.segment_bytes,
            limit_bytes: shared.limit_bytes,
            reserved_bytes: stats.reserved_bytes.all.current,
            active_bytes: stats.allocated_bytes.all.current + shared.paged_bytes(),
            retired_bytes: stats.retired_bytes,
            largest_free_bytes,
            device_free_bytes,
            private_free_bytes: self.private_free_bytes(),
            by_lifetime: lifetimes.filter(|&(_, bytes)| bytes > 0).collect(),
            label: None,
            tried,
            hint: None,
        };
        short.hint = self.hint(&short);
        let error = Error::OutOfMemory(Box::new(short));
        let segment_bytes = growth.segment_bytes;
        shared.hooks.tell(|| self.shortage(requested_bytes, segment_bytes, stream), &error);
        error
    }

    /// Free in private pools that keep it to themselves.
    fn private_free_bytes(&self) -> u64 {
        let free = |mut state: BiasedGuard<'_, HeapState>| {
            state.settle_pending(&self.shared);
            let keeps = !may_go(state.pool.as_deref());
            if keeps { state.ledger.totals().cached_bytes() } else { 0 }
        };
        let in_heaps: u64 = self.heaps.all().filter_map(|heap| heap.enter().ok()).map(free).sum();
        let books = self.books(|pool| !may_go(pool));
        let unowned =
            books.iter().filter_map(|book| book.book().ok()).map(|book| book.unowned_bytes());
        in_heaps + unowned.sum::<u64>()
    }

    /// A conf string that helps against what `short` shows to be the trouble.
    fn hint(&self, short: &OutOfMemory) -> Option<String> {
        let conf = &self.shared.conf;
        if short.is_fragmented() {
            let request_mib = short.requested_bytes / MIB;
            let least_mib = conf.large_segment_size_bytes.div_ceil(MIB);
            return if conf.policy() != EXPANDABLE && names().iter().any(|name| name == EXPANDABLE) {
                Some("expandable_segments:True".into())
            } else if conf.max_split_size_bytes.is_none() && request_mib >= least_mib {
                Some(format!("max_split_size_mb:{request_mib}"))
            } else {
                None
            };
        }
        let wanted_bytes = short.reserved_bytes.checked_add(short.segment_bytes)?;
        short.is_limited().then(|| format!("limit_mb:{}", wanted_bytes.div_ceil(MIB)))
    }
}
