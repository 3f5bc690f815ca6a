//! The right to use a unit that is in the ring.
#![allow(unsafe_code)]

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::prefetcher::Shared;
use super::ring::{Granted, Returned};
use super::timing::DoneMark;
use super::view::UnitView;
use crate::base::{Error, Result};
use crate::device::{Kernel, Stream};
use crate::fence::StreamKey;
use crate::pool::Buffer;
use crate::transfer::LoadStatus;

/// The weights of one unit, for work on one stream, or [several](Self::also_on). What is enqueued
/// there while the lease lives finds them; dropping it records, on each stream, where that work
/// ends, and only then the room is used again. Dropping never waits. One lease may cover any
/// number of calls.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    unit: usize,
    view: UnitView,
    stream: Stream,
    /// The other streams it is for.
    others: Vec<Stream>,
    /// Whether it keeps bytes in the ring.
    holds: bool,
    status: Arc<LoadStatus>,
    /// Marks the end of its work, where passes are timed.
    done: Option<DoneMark>,
}

impl Lease {
    pub(super) fn new(
        shared: Arc<Shared>,
        unit: usize,
        granted: Granted,
        view: UnitView,
        stream: &Stream,
    ) -> Self {
        let Granted { status, done, holds, .. } = granted;
        let (stream, others) = (stream.clone(), Vec::new());
        Self { shared, unit, view, stream, others, holds, status, done }
    }

    /// The stream it was acquired for.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Lets work on another stream use the weights too: what is enqueued there from now on finds
    /// them, and their room is kept until it has run. The host does not wait.
    ///
    /// # Errors
    /// A stream of another device; what the driver says.
    pub fn also_on(&mut self, stream: &Stream) -> Result<()> {
        if *stream == self.stream || self.others.contains(stream) {
            return Ok(());
        }
        self.shared.record_use(stream)?;
        // The entry keeps its place, and so its event, while this lease lives.
        if let Some(ready) = self.shared.ready(self.unit) {
            stream.wait(&ready)?;
        }
        self.others.push(stream.clone());
        Ok(())
    }

    /// Whether the load is known to have failed by now. Without a failure it may still be under
    /// way; after the stream has run this is final.
    ///
    /// # Errors
    /// Why it failed: file and offset, or [`Error::Cancelled`].
    pub fn status(&self) -> Result<()> {
        self.status.check()
    }

    /// Enqueues the [checksum](crate::device::checksum()) of a tensor of the unit, written to
    /// element `slot` of `out`. Never blocks.
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
            // SAFETY: the tensor lies in the leased place, which keeps its content until this
            // stream has run what is enqueued while the lease lives. The slot lies in `out`,
            // which this stream is ordered for.
            Ok(unsafe { self.stream.device().driver().launch(self.stream.id(), &kernel) }?)
        })
    }

    /// Blocks until the weights are there, and shows them to the CPU. Counted apart, for this is
    /// the one way in which a pass makes the host wait.
    ///
    /// # Errors
    /// The load failed; the device's memory is not the CPU's to read; what the driver says.
    pub fn wait_host(&self) -> Result<HostView<'_>> {
        let info = self.stream.device().info();
        if !info.host_accessible {
            return Err(Error::Unsupported {
                what: "reading device memory from the CPU".into(),
                by: info.name.clone(),
                way_out: "copy it to the host".into(),
            });
        }
        self.shared.host_waits.fetch_add(1, Ordering::Relaxed);
        // The entry keeps its place, and so its event, while this lease lives.
        if let Some(ready) = self.shared.ready(self.unit) {
            ready.synchronize()?;
        }
        self.status.check()?;
        Ok(HostView { lease: self })
    }
}

impl Deref for Lease {
    type Target = UnitView;

    fn deref(&self) -> &UnitView {
        &self.view
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let unit = self.unit;
        let mut done = self.done.take().map(|mut done| {
            done.record(&self.stream);
            (done, StreamKey::of(&self.stream))
        });
        if !self.holds {
            if done.is_some() {
                self.shared.give_back(Returned { unit, end: None, done, last: true });
            }
            return;
        }
        // Its own stream comes last, and takes the hold off the place.
        for stream in self.others.iter().chain([&self.stream]) {
            let last = *stream == self.stream;
            match self.shared.events.record(stream) {
                Ok(end) => {
                    let done = if last { done.take() } else { None };
                    self.shared.give_back(Returned { unit, end: Some(end), done, last });
                }
                // Nobody can tell when the use ends, so the place is never used again.
                Err(error) => {
                    tracing::error!(%error, "the end of a lease cannot be recorded");
                    return;
                }
            }
        }
    }
}

/// Leased weights as the CPU sees them.
#[derive(Debug, Clone, Copy)]
pub struct HostView<'a> {
    lease: &'a Lease,
}

impl<'a> HostView<'a> {
    /// The bytes of a tensor of the unit.
    ///
    /// # Errors
    /// No such tensor.
    pub fn bytes(&self, tensor: &str) -> Result<&'a [u8]> {
        let tensor = self.lease.view.tensor(tensor)?;
        let start = tensor.ptr.0 as *const u8;
        if tensor.len_bytes == 0 {
            return Ok(&[]);
        }
        // SAFETY: the device's memory is the CPU's to read (checked by `wait_host`), the load is
        // done, and nothing writes the place before the lease, borrowed here, is dropped.
        Ok(unsafe { std::slice::from_raw_parts(start, tensor.len_bytes as usize) })
    }
}
