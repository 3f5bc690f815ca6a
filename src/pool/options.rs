//! What a request may say about itself, for reports.

use std::fmt;
use std::sync::Arc;

use bytemuck::Pod;

use super::allocator::{Allocator, Inner};
use super::buffer::Buffer;
use super::heap::Heap;
use super::ladder::{Placement, Served};
use super::stats::Stat;
use super::stream_allocator::StreamAllocator;
use crate::base::{Error, Result};
use crate::device::{DevicePtr, Stream};

/// How long a block is meant to live, roughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Lifetime {
    /// As long as the model.
    Weight,
    /// Within one pass.
    Activation,
    /// Within one operation.
    Scratch,
    /// Until somebody needs the room: key-value caches and the like.
    Cache,
}

impl Lifetime {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Weight, Self::Activation, Self::Scratch, Self::Cache];
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weight => "weight",
            Self::Activation => "activation",
            Self::Scratch => "scratch",
            Self::Cache => "cache",
        })
    }
}

/// What a request says about itself. It changes nothing about where the block is placed, and is
/// seen in [`Allocator::live_blocks`], in reports of leaks and of memory that ran out, and in
/// [`Allocator::lifetimes`]. Requests that say nothing pay nothing.
///
/// ```
/// use riverbed::device::{Device, Priority, Stream};
/// use riverbed::pool::{AllocOptions, Allocator, Lifetime};
///
/// let device = Device::open("host:vram=64MiB")?;
/// let stream = Stream::new(&device, Priority::Normal)?;
/// let allocator = Allocator::builder(&device).build()?;
/// let options = AllocOptions::default().lifetime(Lifetime::Weight).tag("blocks.0.attn");
/// let weight = allocator.alloc_with::<f32>(1000, &stream, &options)?;
/// let live = allocator.live_blocks();
/// assert_eq!((live[0].ptr, live[0].tag.as_deref()), (weight.ptr(), Some("blocks.0.attn")));
/// # Ok::<(), riverbed::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllocOptions {
    pub(super) lifetime: Option<Lifetime>,
    pub(super) tag: Option<Arc<str>>,
}

/// Bytes of blocks of one lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct LifetimeStats {
    /// Which.
    pub lifetime: Lifetime,
    /// Bytes handed out, in blocks.
    pub allocated_bytes: Stat,
}

impl AllocOptions {
    /// Says how long the block is meant to live.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// Says what the block is for. One `Arc<str>` may serve many requests.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<Arc<str>>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for AllocOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.lifetime, &self.tag) {
            (Some(lifetime), Some(tag)) => write!(f, "{lifetime} '{tag}'"),
            (Some(lifetime), None) => write!(f, "{lifetime}"),
            (None, Some(tag)) => write!(f, "'{tag}'"),
            (None, None) => f.write_str("unlabelled"),
        }
    }
}

impl Allocator {
    /// As [`alloc`](Self::alloc), with what `options` say noted.
    ///
    /// # Errors
    /// As there.
    pub fn alloc_with<T: Pod>(
        &self,
        len: usize,
        stream: &Stream,
        options: &AllocOptions,
    ) -> Result<Buffer<T>> {
        let heap = self.heap(stream)?;
        self.inner().buffer_with(heap, len, stream, options)
    }

    /// As [`alloc_raw`](Self::alloc_raw), with what `options` say noted.
    ///
    /// # Errors
    /// As there.
    pub fn alloc_raw_with(
        &self,
        bytes: u64,
        stream: &Stream,
        options: &AllocOptions,
    ) -> Result<DevicePtr> {
        let heap = self.heap(stream)?;
        self.inner().raw_with(heap, bytes, stream, options)
    }

    /// What is handed out to requests that said how long it is to live, by lifetime.
    #[must_use]
    pub fn lifetimes(&self) -> [LifetimeStats; Lifetime::ALL.len()] {
        // Frees that other threads left to be done count.
        self.inner().poll();
        self.inner().shared.lifetimes()
    }
}

impl StreamAllocator {
    /// As [`Allocator::alloc_with`].
    ///
    /// # Errors
    /// As [`Allocator::alloc`].
    pub fn alloc_with<T: Pod>(&self, len: usize, options: &AllocOptions) -> Result<Buffer<T>> {
        self.inner.buffer_with(&self.heap, len, self.stream(), options)
    }

    /// As [`Allocator::alloc_raw_with`].
    ///
    /// # Errors
    /// As [`Allocator::alloc`].
    pub fn alloc_raw_with(&self, bytes: u64, options: &AllocOptions) -> Result<DevicePtr> {
        self.inner.raw_with(&self.heap, bytes, self.stream(), options)
    }
}

impl Inner {
    fn buffer_with<T: Pod>(
        &self,
        heap: &Arc<Heap>,
        len: usize,
        stream: &Stream,
        options: &AllocOptions,
    ) -> Result<Buffer<T>> {
        let bytes = Self::bytes_of::<T>(len)?;
        if bytes == 0 {
            return Ok(Buffer::empty(stream));
        }
        let Served { heap, taken, .. } = self.labelled(heap, bytes, stream, options)?;
        Ok(Buffer::new(Arc::clone(heap), taken, len, stream))
    }

    fn raw_with(
        &self,
        heap: &Arc<Heap>,
        bytes: u64,
        stream: &Stream,
        options: &AllocOptions,
    ) -> Result<DevicePtr> {
        if bytes == 0 {
            return Ok(DevicePtr::default());
        }
        let Served { taken, mut state, .. } = self.labelled(heap, bytes, stream, options)?;
        state.note_raw(taken);
        Ok(taken.ptr)
    }

    fn labelled<'a>(
        &'a self,
        heap: &'a Arc<Heap>,
        bytes: u64,
        stream: &Stream,
        options: &AllocOptions,
    ) -> Result<Served<'a>> {
        let served = self.allocate(heap, bytes, stream, Placement::Policy);
        let mut served = served.map_err(|mut error| {
            if let Error::OutOfMemory(short) = &mut error {
                short.label = (!options.is_empty()).then(|| options.to_string());
            }
            error
        })?;
        if !options.is_empty() {
            served.state.label(&self.shared, served.taken, options);
        }
        Ok(served)
    }
}
