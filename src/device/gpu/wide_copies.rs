//! Copies in batches, of rows, and between devices.

use std::any::Any;

use super::driver::GpuDriver;
use super::vendor::Vendor;
use crate::base::DeviceError;
use crate::device::calls::Call;
use crate::device::contract::{Copy2d, CopyH2d, DevicePtr, DeviceResult, Driver, Place, StreamId};

/// Handles up to this name default streams.
const LAST_DEFAULT_STREAM: u64 = 2;

impl<V: Vendor> GpuDriver<V> {
    /// [`Driver::copy_h2d_batch`](crate::device::Driver::copy_h2d_batch).
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn enqueue_batch(
        &self,
        stream: StreamId,
        copies: &[CopyH2d],
    ) -> DeviceResult<()> {
        let copies: Vec<&CopyH2d> = copies.iter().filter(|copy| copy.bytes > 0).collect();
        // Default streams take no batches.
        let batched = self.card.vendor.copies_batches() && stream.raw() > LAST_DEFAULT_STREAM;
        self.run(Call::CopyBatch, |calls| {
            if batched && !copies.is_empty() {
                let mut targets: Vec<u64> = copies.iter().map(|copy| copy.dst.0).collect();
                let mut sources: Vec<u64> = copies.iter().map(|copy| copy.src as u64).collect();
                let mut sizes: Vec<usize> = copies.iter().map(|copy| copy.bytes as usize).collect();
                let stream = stream.raw();
                // SAFETY: the caller's.
                return unsafe {
                    self.card.vendor.copy_batch(stream, &mut targets, &mut sources, &mut sizes)
                };
            }
            copies.iter().try_for_each(|copy| {
                // SAFETY: the caller's.
                unsafe {
                    calls.copy_h2d(copy.dst.0, copy.src.cast(), copy.bytes as usize, stream.raw())
                }
            })
        })
    }

    /// [`Driver::copy_2d`](crate::device::Driver::copy_2d).
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn enqueue_rows(&self, stream: StreamId, copy: &Copy2d) -> DeviceResult<()> {
        let on_host = matches!((copy.dst, copy.src), (Place::Host(_), Place::Host(_)));
        let Some((span, _)) = copy.spans().filter(|_| !on_host) else {
            return self.refused(Call::Copy2d, DeviceError::INVALID_VALUE);
        };
        self.run(Call::Copy2d, |_| match span {
            0 => Ok(()),
            // SAFETY: the caller's.
            _ => unsafe { self.card.vendor.copy_2d(stream.raw(), copy) },
        })
    }

    /// [`Driver::copy_peer`](crate::device::Driver::copy_peer).
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn enqueue_peer_copy(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        from: &dyn Driver,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()> {
        let Some(peer) = (from as &dyn Any).downcast_ref::<Self>() else {
            return self.refused(Call::CopyPeer, DeviceError::NOT_SUPPORTED);
        };
        let (to, from) = ((dst.0, self.card.context), (src.0, peer.card.context));
        self.run(Call::CopyPeer, |_| match bytes {
            0 => Ok(()),
            // SAFETY: the caller's.
            _ => unsafe { self.card.vendor.copy_peer(stream.raw(), to, from, bytes as usize) },
        })
    }
}
