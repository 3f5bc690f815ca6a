//! Weights that stay on the device.
#![allow(unsafe_code)]

use std::ops::{Deref, Range};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;

use crate::base::{Error, Result};
use crate::device::Stream;
use crate::pool::{Allocator, Buffer};
use crate::prefetch::UnitView;
use crate::transfer::{Loader, Urgency};
use crate::weights::{Model, UnitLayout};

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

/// Tensors of a model in a segment of their own, loaded once and never written again.
#[derive(Debug)]
pub struct Residents {
    buffer: Buffer<u8>,
    view: UnitView,
}

impl Residents {
    /// Loads the tensors of `layout`. Blocks until they are there, or `watch`, called now and
    /// then, says `false`.
    ///
    /// # Errors
    /// No room; a failed read, with file and offset; [`Error::Cancelled`]; what the driver says.
    pub(super) fn load(
        model: &Arc<Model>,
        layout: UnitLayout,
        allocator: &Allocator,
        loader: &mut Loader,
        mut watch: impl FnMut(LoadProgress) -> bool,
    ) -> Result<Self> {
        let len = usize::try_from(layout.len_bytes)
            .map_err(|_| Error::invalid("residents", layout.len_bytes, "they exceed memory"))?;
        let stream = loader.stream().clone();
        let buffer = allocator.alloc_dedicated::<u8>(len, &stream)?;
        let plan = loader.plan(&layout);
        let home = loader.resident_home(&plan);
        let status = loader.load_buffer(&buffer, &plan, home.as_ref(), Urgency::Ahead)?;
        // The stream itself says when it is through, so that nobody looks too late.
        let (through, end) = crossbeam_channel::bounded::<()>(0);
        stream.launch_host(Box::new(move || drop(through)))?;
        while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            let arrived_bytes = loader.arrived_bytes();
            let goes_on = watch(LoadProgress { arrived_bytes, total_bytes: layout.len_bytes });
            if !goes_on || status.check().is_err() {
                loader.cancel();
            }
        }
        stream.synchronize()?;
        status.check()?;
        loader.note_resident(&plan);
        let view = UnitView::new(Arc::clone(model), &layout, buffer.ptr());
        Ok(Self { buffer, view })
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
        // SAFETY: the device's memory is the CPU's to read. The load was waited for by `load`,
        // and nothing can write the buffer again: it is private, and read-only kernels are all
        // that is enqueued on it.
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
