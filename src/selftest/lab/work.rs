//! Bytes there and back again.

use super::{Found, Lab};
use crate::device::{DevicePtr, Stream};

impl Lab {
    /// Copies `bytes` to the device and waits.
    pub(in crate::selftest) fn upload(
        &self,
        stream: &Stream,
        at: DevicePtr,
        bytes: &[u8],
    ) -> Found {
        let pinned = self.pinned_with(bytes)?;
        self.h2d(stream, at, pinned, bytes.len() as u64)?;
        self.sync(stream)?;
        self.free_pinned(pinned)
    }

    /// Copies `len` bytes from the device and waits.
    pub(in crate::selftest) fn download(
        &self,
        stream: &Stream,
        at: DevicePtr,
        len: usize,
    ) -> Found<Vec<u8>> {
        let pinned = self.pinned(len.max(1))?;
        self.d2h(stream, pinned, at, len as u64)?;
        self.sync(stream)?;
        let bytes = self.read(pinned, len)?;
        self.free_pinned(pinned)?;
        Ok(bytes)
    }

    /// True when the device holds `bytes` at `at`, or holds no bytes at all.
    pub(in crate::selftest) fn shows(
        &self,
        stream: &Stream,
        at: DevicePtr,
        bytes: &[u8],
    ) -> Found<bool> {
        let found = self.download(stream, at, bytes.len())?;
        Ok(self.info().simulated || found == bytes)
    }
}
