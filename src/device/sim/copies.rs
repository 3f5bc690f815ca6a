//! Copies of the simulator: checked as on other devices, then priced.

use std::any::Any;

use super::driver::SimDriver;
use super::state::State;
use super::timeline::{Op, Timeline};
use crate::base::{DeviceError, lock};
use crate::device::arena::Status;
use crate::device::calls::Call;
use crate::device::contract::{Copy2d, CopyH2d, DevicePtr, DeviceResult, Driver, Place, StreamId};

impl SimDriver {
    pub(super) fn enqueue_copy(
        &self,
        call: Call,
        stream: StreamId,
        copy: &Copy2d,
    ) -> DeviceResult<()> {
        self.enqueue(call, stream, |state| self.checked(state, stream, copy))
    }

    pub(super) fn enqueue_batch(&self, stream: StreamId, copies: &[CopyH2d]) -> DeviceResult<()> {
        self.run(Call::CopyBatch, |state| {
            let lane = *state.streams.get(stream.raw())?;
            let mut ops = Vec::with_capacity(copies.len());
            for copy in copies {
                let row = Copy2d::row(copy.dst, copy.src.cast_mut(), copy.bytes);
                ops.push(self.checked(state, stream, &row)?);
            }
            ops.into_iter().for_each(|op| state.time.push(lane, op));
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
        // Asked before this device is locked, so that two that copy to each other never wait
        // for each other.
        let there = peer.is_some_and(|peer| {
            std::ptr::eq(peer, self) || lock(&peer.state).arena.is_mapped(src.0, bytes)
        });
        self.enqueue(Call::CopyPeer, stream, |state| {
            let peer = peer.ok_or(DeviceError::NOT_SUPPORTED)?;
            let own = std::ptr::eq(peer, self);
            let there = if own { state.holds(stream, src, bytes) } else { there };
            if bytes > 0 && !(there && state.holds(stream, dst, bytes)) {
                return Err(DeviceError::INVALID_VALUE);
            }
            // Between devices it goes over this one's link.
            Ok(Op::ToDevice(bytes))
        })
    }

    fn checked(&self, state: &mut State, stream: StreamId, copy: &Copy2d) -> Result<Op, Status> {
        let (dst_span, src_span) = copy.spans().ok_or(DeviceError::INVALID_VALUE)?;
        // The product is at most a span.
        let bytes = if dst_span == 0 { 0 } else { copy.width * copy.height };
        let op = match (copy.dst, copy.src) {
            (Place::Device(_), Place::Host(_)) => Op::ToDevice(bytes),
            (Place::Host(_), Place::Device(_)) => Op::ToHost(bytes),
            (Place::Device(_), Place::Device(_)) => {
                // Every byte is read and written.
                Timeline::work(bytes, self.profile.memory_gb_per_s.value * 1e9 / 2.0)
            }
            (Place::Host(_), Place::Host(_)) => return Err(DeviceError::INVALID_VALUE),
        };
        let reached = [(copy.dst, dst_span), (copy.src, src_span)].into_iter().all(
            |(place, span)| match place {
                _ if span == 0 => true,
                Place::Device(at) => state.holds(stream, at, span),
                Place::Host(at) => state.pinned.holds(at as u64, span),
            },
        );
        if reached { Ok(op) } else { Err(DeviceError::INVALID_VALUE) }
    }
}
