//! The right to use an expert that is on the device.
#![allow(unsafe_code)]

use std::ops::Deref;
use std::sync::Arc;

use super::cache::Shared;
use crate::base::{Error, Result};
use crate::device::{Kernel, Stream};
use crate::pool::Buffer;
use crate::prefetch::UnitView;
use crate::transfer::LoadStatus;

/// The weights of one expert, for work on one stream: what is enqueued there while the lease lives
/// finds them. Dropping it records where that work ends, and only then the room is used again.
/// Dropping never waits.
#[derive(Debug)]
pub struct ExpertLease {
    pub(super) shared: Arc<Shared>,
    pub(super) slot: usize,
    pub(super) view: UnitView,
    pub(super) status: Arc<LoadStatus>,
    pub(super) stream: Stream,
}

impl ExpertLease {
    /// The stream it was acquired for.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Whether the load is known to have failed by now. After the stream has run this is final.
    ///
    /// # Errors
    /// Why it failed: file and offset, or [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn status(&self) -> Result<()> {
        self.status.check()
    }

    /// Enqueues on the lease's stream the [checksum](crate::device::checksum()) of a tensor's
    /// bytes, written to element `slot` of `out`. Never blocks.
    ///
    /// # Errors
    /// No such tensor or slot; what the driver says.
    pub fn checksum(&self, tensor: &str, out: &Buffer<u64>, slot: usize) -> Result<()> {
        let tensor = self.view.tensor(tensor)?;
        if slot >= out.len() {
            return Err(Error::invalid("slot", slot, format!("there are {}", out.len())));
        }
        let kernel = Kernel::Checksum {
            src: tensor.ptr,
            bytes: tensor.len_bytes,
            out: out.ptr().offset(8 * slot as u64),
        };
        out.in_order(&self.stream, || {
            // SAFETY: the tensor lies in the leased slot, which keeps its content until this
            // stream has run what is enqueued while the lease lives. The sum lies in `out`, which
            // this stream is ordered for.
            Ok(unsafe { self.stream.device().driver().launch(self.stream.id(), &kernel) }?)
        })
    }
}

impl Deref for ExpertLease {
    type Target = UnitView;

    fn deref(&self) -> &UnitView {
        &self.view
    }
}

impl Drop for ExpertLease {
    fn drop(&mut self) {
        match self.shared.events.record(&self.stream) {
            Ok(end) => self.shared.give_back(self.slot, end),
            // Nobody can tell when the use ends, so the slot is never used again.
            Err(error) => tracing::error!(%error, "the end of a lease cannot be recorded"),
        }
    }
}
