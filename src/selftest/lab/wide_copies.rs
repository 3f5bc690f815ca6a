//! Copies of rows, batches and between devices.
#![allow(unsafe_code)]

use super::pinned::HostPtr;
use super::{Found, Lab};
use crate::device::{Copy2d, CopyH2d, DevicePtr, Place, Stream};

/// An end of a copy of rows.
#[derive(Debug, Clone, Copy)]
pub(in crate::selftest) enum End {
    Device(DevicePtr),
    Host(HostPtr),
}

/// Rows a pitch apart, sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub(in crate::selftest) struct Rows {
    pub(in crate::selftest) at: End,
    pub(in crate::selftest) pitch: u64,
}

impl Lab {
    /// Copies `height` rows of `width` bytes.
    pub(in crate::selftest) fn copy_rows(
        &self,
        stream: &Stream,
        to: Rows,
        from: Rows,
        (width, height): (u64, u64),
    ) -> Found {
        for rows in [to, from] {
            let bytes = if height > 0 { rows.pitch * (height - 1) + width } else { 0 };
            match rows.at {
                End::Device(at) => self.holds(at, bytes)?,
                End::Host(at) => self.holds_host(at, bytes)?,
            }
        }
        let place = |end| match end {
            End::Device(at) => Place::Device(at),
            End::Host(at) => Place::Host(at.as_ptr()),
        };
        let (dst, dst_pitch) = (place(to.at), to.pitch);
        let (src, src_pitch) = (place(from.at), from.pitch);
        let copy = Copy2d { dst, dst_pitch, src, src_pitch, width, height };
        // SAFETY: both ends are held, and the lab gives nothing back before streams have run.
        Ok(unsafe { self.driver().copy_2d(stream.id(), &copy) }?)
    }

    /// Copies many pieces to the device in one call.
    pub(in crate::selftest) fn batch(
        &self,
        stream: &Stream,
        pieces: &[(DevicePtr, HostPtr, u64)],
    ) -> Found {
        for &(to, from, bytes) in pieces {
            self.holds(to, bytes)?;
            self.holds_host(from, bytes)?;
        }
        let copies: Vec<CopyH2d> = pieces
            .iter()
            .map(|&(dst, src, bytes)| CopyH2d { dst, src: src.as_ptr(), bytes })
            .collect();
        // SAFETY: as above.
        Ok(unsafe { self.driver().copy_h2d_batch(stream.id(), &copies) }?)
    }

    /// Copies as between devices, from this one to itself.
    pub(in crate::selftest) fn copy_from_itself(
        &self,
        stream: &Stream,
        to: DevicePtr,
        from: DevicePtr,
        bytes: u64,
    ) -> Found {
        self.holds(to, bytes)?;
        self.holds(from, bytes)?;
        // SAFETY: as above.
        Ok(unsafe { self.driver().copy_peer(stream.id(), to, self.driver(), from, bytes) }?)
    }
}
