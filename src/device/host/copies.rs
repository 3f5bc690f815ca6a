//! Copies of the host device: what they may touch is checked, then a worker carries them.

use std::any::Any;
use std::sync::Arc;

use super::driver::{HostDriver, Memory};
use super::link::Link;
use super::worker::{Address, Op};
use crate::base::{DeviceError, lock};
use crate::device::arena::Status;
use crate::device::calls::Call;
use crate::device::contract::{Copy2d, CopyH2d, DevicePtr, DeviceResult, Driver, Place, StreamId};
use crate::device::stripes::Gathered;

impl HostDriver {
    pub(super) fn enqueue_copy(
        &self,
        call: Call,
        stream: StreamId,
        copy: &Copy2d,
    ) -> DeviceResult<()> {
        self.run(call, || {
            let queue = self.streams.get(stream.raw())?;
            if let Some(op) = self.checked(stream, copy)? {
                queue.push(op);
            }
            Ok(())
        })
    }

    pub(super) fn enqueue_batch(&self, stream: StreamId, copies: &[CopyH2d]) -> DeviceResult<()> {
        self.run(Call::CopyBatch, || {
            let queue = self.streams.get(stream.raw())?;
            // All are looked at before the first is enqueued.
            for copy in copies {
                self.checked(stream, &Copy2d::row(copy.dst, copy.src.cast_mut(), copy.bytes))?;
            }
            let copies: Vec<&CopyH2d> = copies.iter().filter(|copy| copy.bytes > 0).collect();
            // What comes to lie side by side is as fast as if it had come from one place.
            let are_neighbours =
                |one: &&CopyH2d, next: &&CopyH2d| one.dst.0 + one.bytes == next.dst.0;
            for run in copies.chunk_by(are_neighbours) {
                queue.push(gather(Arc::clone(&self.h2d), run));
            }
            Ok(())
        })
    }

    pub(super) fn enqueue_peer_copy(
        &self,
        stream: StreamId,
        dst: DevicePtr,
        from: &dyn Driver,
        src: DevicePtr,
        bytes: u64,
    ) -> DeviceResult<()> {
        let peer = (from as &dyn Any).downcast_ref::<Self>();
        self.run(Call::CopyPeer, || {
            let queue = self.streams.get(stream.raw())?;
            let peer = peer.ok_or(DeviceError::NOT_SUPPORTED)?;
            let here = self.reaches(stream, Place::Device(dst), bytes);
            if bytes > 0 && !(here && peer.memory.is_mapped(src, bytes)) {
                return Err(DeviceError::INVALID_VALUE);
            }
            if bytes > 0 {
                queue.push(op(None, &Copy2d::row(dst, src, bytes))?);
            }
            Ok(())
        })
    }

    /// The work of a copy; `None` for a copy of nothing.
    fn checked(&self, stream: StreamId, copy: &Copy2d) -> Result<Option<Op>, Status> {
        let (dst_span, src_span) = copy.spans().ok_or(DeviceError::INVALID_VALUE)?;
        if dst_span == 0 {
            return Ok(None);
        }
        let link = match (copy.dst, copy.src) {
            (Place::Device(_), Place::Host(_)) => Some(&self.h2d),
            (Place::Host(_), Place::Device(_)) => Some(&self.d2h),
            (Place::Device(_), Place::Device(_)) => None,
            (Place::Host(_), Place::Host(_)) => return Err(DeviceError::INVALID_VALUE),
        };
        let reached =
            self.reaches(stream, copy.dst, dst_span) && self.reaches(stream, copy.src, src_span);
        if !reached {
            return Err(DeviceError::INVALID_VALUE);
        }
        op(link.map(Arc::clone), copy).map(Some)
    }

    /// Whether work enqueued on `stream` may touch `bytes` from `place`.
    fn reaches(&self, stream: StreamId, place: Place, bytes: u64) -> bool {
        match place {
            Place::Device(at) => {
                self.memory.is_mapped(at, bytes) && self.pools_allow(stream, at, bytes)
            }
            Place::Host(at) => lock(&self.memory.pinned).holds(at as u64, bytes),
        }
    }
}

impl Memory {
    fn is_mapped(&self, at: DevicePtr, bytes: u64) -> bool {
        lock(&self.arena).is_mapped(at.0, bytes)
    }
}

/// Copies of a batch that lie side by side on the device, one at least.
fn gather(link: Arc<Link>, run: &[&CopyH2d]) -> Op {
    let mut at = 0;
    let pieces = run.iter().map(|copy| {
        let piece = Gathered { src: copy.src as u64, at, bytes: copy.bytes as usize };
        at += piece.bytes;
        piece
    });
    let pieces = pieces.collect();
    let dst = Address(run.first().map_or(0, |first| first.dst.0) as *mut u8);
    Op::Gather { link, dst, pieces }
}

fn op(link: Option<Arc<Link>>, copy: &Copy2d) -> Result<Op, Status> {
    let size = |bytes| usize::try_from(bytes).map_err(|_| DeviceError::INVALID_VALUE);
    let address = |place| match place {
        Place::Device(at) => Address(at.0 as *mut u8),
        Place::Host(at) => Address(at),
    };
    Ok(Op::Copy {
        link,
        dst: address(copy.dst),
        src: address(copy.src),
        pitches: (size(copy.dst_pitch)?, size(copy.src_pitch)?),
        width: size(copy.width)?,
        height: size(copy.height)?,
        to_device: matches!(copy.dst, Place::Device(_)),
    })
}
