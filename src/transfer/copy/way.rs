//! Which way bytes go, and the driver call that moves them.
#![allow(unsafe_code)]

use super::packing::{BATCH_BELOW_BYTES, takes_batches};
use super::span::Span;
use crate::base::Result;
use crate::device::{CopyH2d, DevicePtr, Stream};

/// A direction of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    ToDevice,
    ToHost,
}

impl Way {
    /// Enqueues copying `spans` on `stream`; gives how many calls that took. When one fails
    /// those before it are enqueued.
    ///
    /// # Safety
    /// Every span is valid on both sides until the copies have run, no two targets overlap, and
    /// no work that `stream` is not ordered with touches a target or writes a source.
    pub(super) unsafe fn enqueue(self, stream: &Stream, spans: &[Span]) -> Result<u64> {
        let batches = self == Self::ToDevice && spans.len() > 1 && takes_batches(stream.device());
        let (mut batch, mut calls) = (Vec::new(), 0);
        for span in spans {
            if batches && span.bytes < BATCH_BELOW_BYTES {
                let (dst, src) = (DevicePtr(span.device), span.host as *const u8);
                batch.push(CopyH2d { dst, src, bytes: span.bytes });
                continue;
            }
            // SAFETY: by this function's own contract.
            unsafe { self.copy(stream, *span) }?;
            calls += 1;
        }
        if !batch.is_empty() {
            let driver = stream.device().driver();
            // SAFETY: likewise.
            unsafe { driver.copy_h2d_batch(stream.id(), &batch) }?;
            calls += 1;
        }
        Ok(calls)
    }

    /// # Safety
    /// As [`enqueue`](Self::enqueue), of one span.
    pub(super) unsafe fn copy(self, stream: &Stream, span: Span) -> Result<()> {
        let (driver, device) = (stream.device().driver(), DevicePtr(span.device));
        let host = span.host as *mut u8;
        // SAFETY: by this function's own contract.
        unsafe {
            match self {
                Self::ToDevice => driver.copy_h2d(stream.id(), device, host, span.bytes)?,
                Self::ToHost => driver.copy_d2h(stream.id(), host, device, span.bytes)?,
            }
        }
        Ok(())
    }
}
