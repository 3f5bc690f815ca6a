//! Loads that go past the ring, to memory of somebody else, by the ring's own copy stream and
//! pinned window: weights that are to stay on the device.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::prefetcher::Prefetcher;
use crate::base::Result;
use crate::device::{DevicePtr, Event, Stream};
use crate::transfer::{LoadStatus, Urgency};
use crate::weights::UnitLayout;

/// A load past the ring.
#[derive(Debug)]
pub(crate) struct AsideLoad {
    /// Reached when the bytes are there, or never will be.
    pub(crate) ready: Event,
    /// Which of the two, once it is reached.
    pub(crate) status: Arc<LoadStatus>,
}

impl Prefetcher {
    /// The stream such loads run on.
    pub(crate) fn copy_stream(&self) -> Stream {
        self.0.enter().loader.stream().clone()
    }

    /// Enqueues loading what `layout`, of the model this streams, describes to `dst`, behind
    /// everything that is being loaded by now. Never blocks.
    ///
    /// # Errors
    /// The loader was cancelled; what the driver says. Nothing writes `dst` then.
    ///
    /// # Safety
    /// `dst` has room for it and stays valid until the load is ready; nothing touches it before.
    pub(crate) unsafe fn load_aside(
        &self,
        layout: &UnitLayout,
        dst: DevicePtr,
    ) -> Result<AsideLoad> {
        let mut ring = self.0.enter();
        let plan = ring.loader.plan(layout);
        let stream = ring.loader.stream().clone();
        let ready = Event::new(stream.device())?;
        // SAFETY: the caller's promise.
        let status = unsafe { ring.loader.load(dst, &plan, None, Urgency::Ahead) };
        let loaded = status.and_then(|status| {
            ready.record(&stream)?;
            Ok(AsideLoad { ready, status })
        });
        // What was enqueued of a load that failed half-way is waited for: the driver is failing.
        loaded.inspect_err(|_| drop(stream.synchronize()))
    }
}
