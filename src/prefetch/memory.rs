//! Device memory of a ring: one that goes round where the device maps memory, else one stretch.
#![allow(unsafe_code)]

use super::unit::UnitPlan;
use crate::base::{Error, Result, align_up};
use crate::device::{Device, DevicePtr, Stream};
use crate::pool::{Allocator, Buffer, MirroredSpace};
use crate::weights::ALIGN_BYTES;

/// What a ring is made of, with the raw bytes of transforms beside it.
///
/// From an allocator it is memory that can be [resized](super::Prefetcher::resize), within the
/// allocator's limit. Where the device maps memory, its end is followed by its start: units lie
/// contiguously across it, and no byte is wasted there. From a buffer it is what the buffer has.
#[derive(Debug)]
pub struct RingMemory(Source);

#[derive(Debug)]
enum Source {
    Buffer(Buffer<u8>),
    Allocator { allocator: Allocator, bytes: u64, home: Stream },
}

impl RingMemory {
    /// `bytes` of the allocator's, rounded down to whole pages where the device maps memory. It is
    /// taken by the prefetcher that gets it. `home` is a stream of the device.
    #[must_use]
    pub fn of(allocator: &Allocator, bytes: u64, home: &Stream) -> Self {
        Self(Source::Allocator { allocator: allocator.clone(), bytes, home: home.clone() })
    }
}

impl From<Buffer<u8>> for RingMemory {
    fn from(buffer: Buffer<u8>) -> Self {
        Self(Source::Buffer(buffer))
    }
}

/// Where the ring is, and where the raw bytes of transforms go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) base: DevicePtr,
    /// For places.
    pub(super) ring_bytes: u64,
    /// Whether it shows a second time behind its end.
    pub(super) goes_round: bool,
    pub(super) staging: DevicePtr,
    pub(super) staging_bytes: u64,
}

/// What of a ring's size is not a choice.
#[derive(Debug, Clone)]
pub(super) struct Needs {
    pub(super) largest: String,
    pub(super) largest_bytes: u64,
    pub(super) staging_bytes: u64,
}

impl Needs {
    /// Those of some units.
    pub(super) fn of<'a>(plans: impl Iterator<Item = &'a UnitPlan> + Clone) -> Result<Self> {
        let largest = plans.clone().max_by_key(|plan| plan.place_bytes());
        let largest =
            largest.ok_or_else(|| Error::invalid("units", "none", "give at least one"))?;
        let staging_bytes = plans.clone().map(UnitPlan::staging_bytes).max().unwrap_or(0);
        // Sums over all units are made elsewhere; none may wrap.
        let all = plans.clone().try_fold(staging_bytes, |sum, plan| {
            sum.checked_add(plan.place_bytes())?.checked_add(ALIGN_BYTES)
        });
        if all.is_none() {
            return Err(Error::invalid("units", "all", "they make more than 2^64 bytes"));
        }
        let (largest, largest_bytes) = (largest.name.clone(), largest.place_bytes());
        Ok(Self { largest, largest_bytes, staging_bytes })
    }

    /// Refuses places that the largest unit does not fit in.
    pub(super) fn check(&self, places_bytes: u64, ring_bytes: u64) -> Result<()> {
        if self.largest_bytes <= places_bytes {
            return Ok(());
        }
        let raw = if self.staging_bytes > 0 { " and the raw bytes of a transform" } else { "" };
        Err(Error::TooLarge {
            what: format!("the largest unit ('{}'){raw}", self.largest),
            requested_bytes: ring_bytes - places_bytes + self.largest_bytes,
            available_bytes: ring_bytes,
            way_out: "make the ring larger".into(),
        })
    }
}

/// The memory itself.
#[derive(Debug)]
pub(super) enum Memory {
    /// One stretch, with the staging part at its end. Resized only with whom it came from.
    Line { buffer: Buffer<u8>, of: Option<Allocator> },
    /// One that goes round.
    Round { space: MirroredSpace, staging: Option<Buffer<u8>>, allocator: Allocator },
}

impl Memory {
    /// Takes it.
    ///
    /// # Errors
    /// Too little for what is needed; no room; what the driver says.
    pub(super) fn take(source: RingMemory, needs: &Needs) -> Result<Self> {
        let (allocator, bytes, home) = match source.0 {
            Source::Buffer(buffer) => return Ok(Self::Line { buffer, of: None }),
            Source::Allocator { allocator, bytes, home } => (allocator, bytes, home),
        };
        let page_bytes = allocator.device().info().granularity_bytes;
        let staged = align_up(needs.staging_bytes, page_bytes).unwrap_or(u64::MAX);
        let ring_bytes = bytes.saturating_sub(staged) / page_bytes * page_bytes;
        if let Some(mut space) = allocator.mirrored_space()? {
            needs.check(ring_bytes, bytes)?;
            let staging = staging(&allocator, needs.staging_bytes, &home)?;
            let mut growth = space.prepare(ring_bytes)?;
            if growth.is_none() {
                allocator.trim();
                growth = space.prepare(ring_bytes)?;
            }
            if let Some(growth) = growth {
                // SAFETY: nobody has had any of its addresses yet.
                unsafe { space.grow(growth) }?;
                return Ok(Self::Round { space, staging, allocator });
            }
        }
        // Without room, this says why.
        let buffer = allocator.alloc_dedicated::<u8>(bytes_of(bytes)?, &home)?;
        Ok(Self::Line { buffer, of: Some(allocator) })
    }

    /// Where what lies.
    ///
    /// # Errors
    /// Too little for what is needed.
    pub(super) fn stretch(&self, needs: &Needs) -> Result<Stretch> {
        let staging_bytes = needs.staging_bytes;
        let stretch = match self {
            Self::Line { buffer, .. } => {
                // The staging part begins aligned as units are.
                let left = buffer.size_bytes().saturating_sub(staging_bytes);
                let below = left / ALIGN_BYTES * ALIGN_BYTES;
                let ring_bytes = if staging_bytes == 0 { left } else { below };
                let (base, goes_round) = (buffer.ptr(), false);
                let staging = base.offset(ring_bytes);
                Stretch { base, ring_bytes, goes_round, staging, staging_bytes }
            }
            Self::Round { space, staging, .. } => Stretch {
                base: space.ptr(),
                ring_bytes: space.len_bytes(),
                goes_round: true,
                staging: staging.as_ref().map_or(DevicePtr::default(), Buffer::ptr),
                staging_bytes: staging.as_ref().map_or(0, Buffer::size_bytes),
            },
        };
        needs.check(stretch.ring_bytes, self.len_bytes())?;
        Ok(stretch)
    }

    /// Bytes of it in all.
    pub(super) fn len_bytes(&self) -> u64 {
        match self {
            Self::Line { buffer, .. } => buffer.size_bytes(),
            Self::Round { space, staging, .. } => {
                space.len_bytes() + staging.as_ref().map_or(0, Buffer::size_bytes)
            }
        }
    }

    /// The device it is on.
    pub(super) fn device(&self) -> &Device {
        match self {
            Self::Line { buffer, .. } => buffer.stream().device(),
            Self::Round { allocator, .. } => allocator.device(),
        }
    }

    /// Makes `stream` wait for what was enqueued on it before, and notes that it is used there.
    ///
    /// # Errors
    /// As [`Buffer::use_on`].
    pub(super) fn use_on(&self, stream: &Stream) -> Result<()> {
        match self {
            Self::Line { buffer, .. } => buffer.use_on(stream),
            Self::Round { space, staging, .. } => {
                staging.as_ref().map_or(Ok(()), |staging| staging.use_on(stream))?;
                space.record_use(stream)
            }
        }
    }

    /// Notes that work on `stream` uses it, and orders nothing.
    ///
    /// # Errors
    /// A stream of another device.
    pub(super) fn record_use(&self, stream: &Stream) -> Result<()> {
        match self {
            Self::Line { buffer, .. } => buffer.record_use(stream),
            Self::Round { space, .. } => space.record_use(stream),
        }
    }
}

fn staging(allocator: &Allocator, bytes: u64, home: &Stream) -> Result<Option<Buffer<u8>>> {
    match bytes {
        0 => Ok(None),
        _ => allocator.alloc_dedicated::<u8>(bytes_of(bytes)?, home).map(Some),
    }
}

fn bytes_of(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| Error::invalid("ring", bytes, "it exceeds memory"))
}
