//! The right to use a unit, wherever its tensors are.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::offloaded::Offloaded;
use crate::base::{Error, Result};
use crate::device::{Event, Kernel, Stream};
use crate::pool::Buffer;
use crate::prefetch::{HostView, Lease, TensorRef, UnitView};
use crate::transfer::LoadStatus;

/// The weights of one unit for work on one stream: those that stay on the device and those in
/// the ring, by name. What is enqueued on the stream while the lease lives finds them. Dropping
/// it never waits.
#[derive(Debug)]
pub struct UnitLease {
    parts: Vec<Part>,
    /// What tensor names begin with in the joined model, and not here.
    prefix: usize,
    stream: Stream,
    live: Live,
    /// What its residents lie in stays as long as the lease, whoever else lets go of it.
    _keeper: Offloaded,
}

/// Some of a unit's tensors.
#[derive(Debug)]
pub(super) enum Part {
    Resident(ResidentPart),
    Ring(Lease),
}

/// Tensors that stay on the device.
#[derive(Debug, Clone)]
pub(super) struct ResidentPart {
    pub(super) view: UnitView,
    /// The end of their load; none once it is known to be over.
    pub(super) ready: Option<Arc<Event>>,
    pub(super) status: Arc<LoadStatus>,
}

/// Counts a lease of a unit for as long as it lives.
#[derive(Debug)]
pub(super) struct Live(Arc<AtomicU32>);

impl Live {
    pub(super) fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Part {
    fn view(&self) -> &UnitView {
        match self {
            Self::Resident(part) => &part.view,
            Self::Ring(lease) => lease,
        }
    }
}

impl UnitLease {
    pub(super) fn new(
        (parts, live): (Vec<Part>, Live),
        prefix: usize,
        stream: &Stream,
        keeper: Offloaded,
    ) -> Self {
        Self { parts, prefix, stream: stream.clone(), live, _keeper: keeper }
    }

    /// The stream it was acquired for.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The unit's tensors with their addresses: those streamed first, then those that stay, each
    /// in file order.
    pub fn tensors(&self) -> impl Iterator<Item = TensorRef<'_>> {
        let tensors = self.parts.iter().flat_map(|part| part.view().tensors());
        tensors.map(|tensor| self.named(tensor))
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// The unit has no such tensor; the error lists some that it has.
    pub fn tensor(&self, name: &str) -> Result<TensorRef<'_>> {
        self.tensors().find(|tensor| tensor.name == name).ok_or_else(|| self.unknown(name))
    }

    /// Its size in bytes, padding included.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.view().len_bytes()).sum()
    }

    /// How many of its bytes stay on the device.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let resident = self.parts.iter().filter(|part| matches!(part, Part::Resident(_)));
        resident.map(|part| part.view().len_bytes()).sum()
    }

    /// Whether a load of it is known to have failed by now; after the stream has run this is
    /// final.
    ///
    /// # Errors
    /// Why it failed: file and offset, or [`Error::Cancelled`].
    pub fn status(&self) -> Result<()> {
        self.parts.iter().try_for_each(|part| match part {
            Part::Resident(part) => part.status.check(),
            Part::Ring(lease) => lease.status(),
        })
    }

    /// Enqueues the [checksum](crate::device::checksum()) of a tensor, written to element `slot`
    /// of `out`. Never blocks.
    ///
    /// # Errors
    /// No such tensor or slot; what the driver says.
    pub fn checksum(&self, tensor: &str, out: &Buffer<u64>, slot: usize) -> Result<()> {
        let part = self.part_of(tensor)?;
        let found = part.view().tensors().find(|other| self.named(*other).name == tensor);
        let Some(found) = found else { return Err(self.unknown(tensor)) };
        if let Part::Ring(lease) = part {
            return lease.checksum(found.name, out, slot);
        }
        if slot >= out.len() {
            return Err(Error::invalid("slot", slot, format!("there are {}", out.len())));
        }
        let (src, bytes) = (found.ptr, found.len_bytes);
        let kernel = Kernel::Checksum { src, bytes, out: out.ptr().offset(8 * slot as u64) };
        out.in_order(&self.stream, || {
            // SAFETY: a resident keeps its content and its memory while the lease lives, and until
            // its streams have run what they were given by then. The slot lies in `out`, which
            // this stream is ordered for.
            Ok(unsafe { self.stream.device().driver().launch(self.stream.id(), &kernel) }?)
        })
    }

    /// Blocks until the weights are there, and shows them to the CPU.
    ///
    /// # Errors
    /// The load failed; the device's memory is not the CPU's to read; what the driver says.
    pub fn wait_host(&self) -> Result<UnitHostView<'_>> {
        let info = self.stream.device().info();
        if !info.host_accessible {
            return Err(Error::Unsupported {
                what: "reading device memory from the CPU".into(),
                by: info.name.clone(),
                way_out: "copy it to the host".into(),
            });
        }
        let rings = self.parts.iter().map(|part| match part {
            Part::Ring(lease) => lease.wait_host().map(Some),
            Part::Resident(part) => {
                if let Some(ready) = &part.ready {
                    ready.synchronize()?;
                }
                part.status.check().map(|()| None)
            }
        });
        let rings = rings.collect::<Result<Vec<_>>>()?;
        Ok(UnitHostView { lease: self, rings })
    }

    fn part_of(&self, name: &str) -> Result<&Part> {
        let has =
            |part: &&Part| part.view().tensors().any(|tensor| self.named(tensor).name == name);
        self.parts.iter().find(has).ok_or_else(|| self.unknown(name))
    }

    fn named<'a>(&self, tensor: TensorRef<'a>) -> TensorRef<'a> {
        TensorRef { name: tensor.name.get(self.prefix..).unwrap_or(tensor.name), ..tensor }
    }

    fn unknown(&self, name: &str) -> Error {
        let names: Vec<_> = self.tensors().map(|tensor| tensor.name).take(8).collect();
        Error::invalid("tensor", name, format!("this unit has {}", names.join(", ")))
    }
}

impl Drop for UnitLease {
    fn drop(&mut self) {
        // The unit counts as leased until the ring has its ends.
        self.parts.clear();
        let _ = &self.live;
    }
}

/// A leased unit as the CPU sees it.
#[derive(Debug)]
pub struct UnitHostView<'a> {
    lease: &'a UnitLease,
    /// By part: its view, if it lies in the ring.
    rings: Vec<Option<HostView<'a>>>,
}

impl<'a> UnitHostView<'a> {
    /// The bytes of a tensor of the unit.
    ///
    /// # Errors
    /// No such tensor.
    pub fn bytes(&self, tensor: &str) -> Result<&'a [u8]> {
        for (part, ring) in self.lease.parts.iter().zip(&self.rings) {
            let mut tensors = part.view().tensors();
            let found = tensors.find(|other| self.lease.named(*other).name == tensor);
            let Some(found) = found else { continue };
            if let Some(ring) = ring {
                return ring.bytes(found.name);
            }
            if found.len_bytes == 0 {
                return Ok(&[]);
            }
            let (start, len) = (found.ptr.0 as *const u8, found.len_bytes as usize);
            // SAFETY: the device's memory is the CPU's to read and the load was waited for (both
            // by `wait_host`); nothing writes a resident again, and its memory stays while the
            // lease, borrowed here, lives.
            return Ok(unsafe { std::slice::from_raw_parts(start, len) });
        }
        Err(self.lease.unknown(tensor))
    }
}
